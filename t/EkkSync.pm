# EkkSync.pm: a cluster with the member registry, attached to a Firestore
# project of its own on the emulator in FIRESTORE_EMULATOR_HOST, for the TAP
# tests.  Run by dev/check.sh, which says where things are in EKKSYNC_TOP and
# EKKSYNC_CONF.
#
# Firestore Values.  Where a method takes fields, a plain Perl value becomes
# the Value one expects (undef, JSON booleans, numbers, strings, arrays,
# hashes), and a hash with one key that is the name of a Value type, as
# {timestampValue => '...'}, is taken as it stands.  What methods return is
# plain again, save what raw_doc gives.

package EkkSync;

use strict;
use warnings;
use B ();
use Carp qw(croak);
use Exporter qw(import);
use HTTP::Tiny;
use IO::Socket::INET;
use IPC::Run ();
use JSON::PP ();
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils ();
use Test::Builder;
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(timestamp to_value from_value true false);

use constant {
	ROLE       => 'socialism',
	MAX_WRITES => 500,
	PATIENCE   => $ENV{PG_TEST_TIMEOUT_DEFAULT} // 300,	# seconds for one call of psql
};

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $serial = 0;

# Where only it is of interest whether a test fails, as with mutants, it ends
# with its first failure.
if ($ENV{EKKSYNC_FIRST_FAILURE})
{
	no warnings 'redefine';
	my $ok = Test::Builder->can('ok');
	*Test::Builder::ok = sub {
		my ($self, @args) = @_;
		local $Test::Builder::Level = $Test::Builder::Level + 1;
		my $is_good = $ok->($self, @args);
		exit 1 unless $is_good || $self->in_todo;
		return $is_good;
	};
}

sub true  { return JSON::PP::true; }
sub false { return JSON::PP::false; }

# ------------------------------------------------------------------ a registry

sub _new_project { return sprintf('demo-ekksync-%d-%d-%d', $$, time, ++$serial); }

# A running cluster with role and database "socialism", and the registry.
#	name		of the cluster (default "main")
#	members		how many invented members (default 0)
#	preload		library in shared_preload_libraries (default 1)
#	conf		more lines for postgresql.conf
#	clock		what the launcher's clock shows, see set_clock()
#	extension	create the extension and grant it to the role (default 1)
#	attach		call ekksync_attach (default 1)
#	attach_args	arguments after the table, as SQL: "initial => 'newest'"
#	project		0: leave ekksync.project unset (default 1)
sub new
{
	my ($class, %arg) = @_;
	my $self = bless {
		name     => $arg{name} // 'main',
		database => ROLE,
		project  => _new_project(),
		host     => $ENV{FIRESTORE_EMULATOR_HOST}
		  // croak('FIRESTORE_EMULATOR_HOST is not set; run make check'),
		http     => HTTP::Tiny->new(timeout => 60, keep_alive => 1, http_proxy => undef),
	}, $class;
	my $top = $ENV{EKKSYNC_TOP} // croak('EKKSYNC_TOP is not set; run make check');

	# Servers get the emulator from their setting alone.
	local %ENV = %ENV;
	delete $ENV{FIRESTORE_EMULATOR_HOST};

	my $node = $self->{node} = PostgreSQL::Test::Cluster->new($self->{name});
	$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
	$node->append_conf('postgresql.conf', $ENV{EKKSYNC_CONF} // '');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ekksync'")
	  if $arg{preload} // 1;
	$node->append_conf('postgresql.conf', "timezone = 'UTC'");
	$node->append_conf('postgresql.conf', $arg{conf}) if $arg{conf};
	$self->set_clock($arg{clock}) if defined $arg{clock};
	$node->start;

	$self->_psql('postgres', 'postgres', undef,
		-v => 'role=' . ROLE, -v => "project=$self->{project}",
		-v => "emulator=$self->{host}", -f => "$top/dev/database.sql");
	$self->admin_sql("ALTER DATABASE $self->{database} RESET ekksync.project")
	  unless $arg{project} // 1;
	$self->create_registry($arg{members} // 0);
	$self->create_extension if $arg{extension} // 1;
	$self->attach($arg{attach_args}) if $arg{attach} // 1;
	return $self;
}

# The registry's tables, as Django's migrations make them, with members.
sub create_registry
{
	my ($self, $members) = @_;
	$self->_psql(ROLE, $self->{database}, undef, -v => "members=$members",
		map { (-f => "$ENV{EKKSYNC_TOP}/dev/$_.sql") } qw(registry members));
	return;
}

sub create_extension
{
	my ($self) = @_;
	$self->_psql(undef, $self->{database}, undef, -o => '/dev/null', -v => 'role=' . ROLE,
		-f => "$ENV{EKKSYNC_TOP}/dev/extension.sql");
	return;
}

# Attach as the registry's role; returns what ekksync_attach says, as rows.
sub attach
{
	my ($self, $args) = @_;
	return $self->rows("SELECT * FROM ekksync_attach('membership_comrade'"
		  . ($args ? ", $args" : '') . ')');
}

# Other registries in the same cluster: databases of these names, copies of this
# one, each with a Firestore project of its own, by the same host.
sub copies
{
	my ($self, @names) = @_;
	my $host = $self->{sync_host} // $self->{host};
	my @copies = map {
		bless {
			(map { ($_ => $self->{$_}) } qw(name node host sync_host http)),
			database => $_,
			project  => _new_project()
		}, ref $self
	} @names;
	$self->_psql(undef, 'postgres', join '',
		map { "CREATE DATABASE $_->{database} TEMPLATE $self->{database} OWNER " . ROLE . ";\n"
			  . "ALTER DATABASE $_->{database} SET ekksync.project = '$_->{project}';\n"
			  . "ALTER DATABASE $_->{database} SET ekksync.emulator_host = '$host';\n" } @copies);
	return @copies;
}

sub node     { return $_[0]{node}; }
sub database { return $_[0]{database}; }
sub project  { return $_[0]{project}; }
sub host     { return $_[0]{host}; }

# Let the database sync through another host:port, or to another project.
sub use_host
{
	my ($self, $host) = @_;
	$self->admin_sql("ALTER DATABASE $self->{database} SET ekksync.emulator_host = '$host'");
	$self->{sync_host} = $host;
	return;
}

sub use_project
{
	my ($self, $project) = @_;
	$self->admin_sql("ALTER DATABASE $self->{database} SET ekksync.project = '$project'");
	$self->{project} = $project;
	return;
}

# ------------------------------------------------------------------------- SQL

# Run psql on a database as a role (undef: the superuser); returns its output,
# or in list context (status, stdout, stderr) without dying.
sub _psql
{
	my ($self, $role, $db, $sql, @param) = @_;
	my $node = $self->{node};
	my @user = defined $role && $role ne 'postgres' ? (-U => $role) : ();
	my ($out, $err) = ('', '');
	my @in = defined $sql ? (-f => '-') : ();
	my $in = $sql // '';
	utf8::encode($in) if utf8::is_utf8($in);
	my $run = IPC::Run::run(
		[
			'psql', qw(-X -A -t -q -v ON_ERROR_STOP=1),
			@user, -d => $node->connstr($db), @param, @in
		],
		'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(PATIENCE));
	my $status = $? >> 8;
	chomp($out, $err);
	utf8::decode($_) for $out, $err;
	return ($status, $out, $err) if wantarray;
	croak("psql failed ($status): $err\nquery: " . ($sql // "@param")) unless $run;
	return $out;
}

# As the registry's role; dies on error.
sub sql
{
	my ($self, $sql) = @_;
	return scalar $self->_psql(ROLE, $self->{database}, $sql);
}

# As the registry's role: (status, stdout, stderr).
sub sql_err
{
	my ($self, $sql) = @_;
	my @result = $self->_psql(ROLE, $self->{database}, $sql);
	return @result;
}

# As the superuser; dies on error.
sub admin_sql
{
	my ($self, $sql) = @_;
	return scalar $self->_psql(undef, $self->{database}, $sql);
}

# As the superuser: (status, stdout, stderr).
sub admin_err
{
	my ($self, $sql) = @_;
	my @result = $self->_psql(undef, $self->{database}, $sql);
	return @result;
}

# The rows of a query, or of a statement with RETURNING, as hashes.
sub rows
{
	my ($self, $sql) = @_;
	my $out = $self->sql("WITH q AS ($sql) SELECT row_to_json(q) FROM q");
	return map { JSON::PP->new->decode($_) } split /\n/, $out;
}

# The only row of a query.
sub row
{
	my ($self, $sql) = @_;
	my @rows = $self->rows($sql);
	croak(scalar(@rows) . " rows instead of one: $sql") unless @rows == 1;
	return $rows[0];
}

# A literal for SQL.
sub quote
{
	my ($self, $text) = @_;
	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return $text =~ s/\\/\\\\/g ? " E'$text'" : "'$text'";
}

# ekksync_run with named arguments (only => [keys]); all its rows.
sub run_rows
{
	my ($self, %arg) = @_;
	my @args;
	for my $name (sort keys %arg)
	{
		my $value = $arg{$name};
		push @args, $name eq 'only'
		  ? '"only" => ARRAY[' . join(', ', map { $self->quote($_) } @$value) . ']::text[]'
		  : $name eq 'direction' ? "direction => " . $self->quote($value)
		  : "$name => " . ($value ? 'true' : 'false');
	}
	return $self->rows('SELECT * FROM ekksync_run(' . join(', ', @args) . ')');
}

# The first row of such a run: its figures.
sub run
{
	my ($self, %arg) = @_;
	my @rows = $self->run_rows(%arg);
	return $rows[0];
}

# Delete a member and all that refers to it, as Django does.
sub delete_member
{
	my ($self, $key) = @_;
	my $id = $self->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'");
	$self->sql(join ';', (map { "DELETE FROM membership_$_ WHERE comrade_id = $id" }
			qw(contactinfo comrade_emails unionmembership comradetitle newlocaladdress)), "DELETE FROM membership_comrade WHERE id = $id");
	return;
}

# Call $code until it returns true; false after $seconds (default 60).
sub wait_for
{
	my ($self, $code, $seconds) = @_;
	my $end = time + ($seconds // 60);
	until ($code->())
	{
		return 0 if time > $end;
		sleep 0.02;
	}
	return 1;
}

# ----------------------------------------------------------- the steps of a run

# The names of the steps, in their order: src/steps.h.
sub step_names
{
	my $header = PostgreSQL::Test::Utils::slurp_file("$ENV{EKKSYNC_TOP}/src/steps.h");
	return $header =~ /^\tstep\((\w+)\)/mg;
}

# A file by which worker and test speak, see src/steps.c.
sub _step_file
{
	my ($self, $name) = @_;
	$self->{oid} //= $self->admin_sql('SELECT oid FROM pg_database WHERE datname = current_database()');
	return $self->{node}->data_dir . "/base/$self->{oid}/ekksync.$name";
}

sub _write_step_file
{
	my ($self, $name, $text) = @_;
	my $file = $self->_step_file($name);
	open my $to, '>', "$file.new" or croak("$file.new: $!");
	print $to $text;
	close $to or croak("$file.new: $!");
	rename "$file.new", $file or croak("$file: $!");
	return;
}

# Let the next run stop at a step.
sub stop_at
{
	my ($self, $step) = @_;
	croak("there is no step $step") unless grep { $_ eq $step } step_names();
	unlink $self->_step_file('stopped');
	$self->_write_step_file(stop => "$step\n");
	return;
}

# Await that a worker has stopped; returns its process id, or 0.
sub wait_stopped
{
	my ($self, $seconds) = @_;
	my $file = $self->_step_file('stopped');
	$self->wait_for(sub { -e $file }, $seconds) or return 0;
	return PostgreSQL::Test::Utils::slurp_file($file) =~ /^\w+ (\d+)$/m ? $1 : 0;
}

# Let it go on; nobody stops from here on.
sub go_on
{
	my ($self) = @_;
	return unless $self->{oid};		# nobody was to stop
	unlink $self->_step_file('stop'), $self->_step_file('stopped');
	return;
}

# Let a worker that has ended a run begin the next at once, or no longer.
sub run_again
{
	my ($self, $again) = @_;
	$self->_write_step_file(again => '') if $again;
	unlink $self->_step_file('again') unless $again;
	return;
}

# The steps that were reached since the last such call; the first one begins
# to record them.
sub steps
{
	my ($self) = @_;
	my $file = $self->_step_file('steps');
	my @steps = -e $file ? split /\n/, PostgreSQL::Test::Utils::slurp_file($file) : ();
	$self->_write_step_file(steps => '');
	return @steps;
}

# ---------------------------------------------------------------- the launcher

# Let the launcher's clock show this time, in seconds since 1970, and stand
# still; see src/steps.c.  Everybody else's goes on.
sub set_clock
{
	my ($self, $epoch) = @_;
	my $file = $self->{node}->data_dir . '/ekksync.clock';
	open my $to, '>', "$file.new" or croak("$file.new: $!");
	print $to "$epoch\n";
	close $to or croak("$file.new: $!");
	rename "$file.new", $file or croak("$file: $!");
	return;
}

# Await the end of the run for a time of the schedule, given as text; returns
# its record, or undef.
sub scheduled_run
{
	my ($self, $time, $seconds) = @_;
	my $query = "SELECT * FROM ekksync_runs WHERE scheduled = '$time' AND status NOT IN ('running', 'interrupted')";
	my @rows;
	$self->wait_for(sub { @rows = $self->rows($query) }, $seconds);
	return $rows[0];
}

# ---------------------------------------------------------------------- values

# The Value of a moment: seconds since the epoch, or text; now by default.
sub timestamp
{
	my ($when) = @_;
	$when //= time;
	return { timestampValue => $when } unless $when =~ /^[\d.]+$/;
	return {
		timestampValue => POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime $when)
		  . sprintf('.%06dZ', ($when - int $when) * 1e6)
	};
}

sub to_value
{
	my ($value) = @_;
	return { nullValue => undef } unless defined $value;
	return { booleanValue => $value } if JSON::PP::is_bool($value);
	return { arrayValue => { values => [ map { to_value($_) } @$value ] } }
	  if ref $value eq 'ARRAY';
	if (ref $value eq 'HASH')
	{
		my @keys = keys %$value;
		return $value if @keys == 1 && $keys[0] =~ /^[a-z]+(?:Point)?Value$/;
		return { mapValue => { fields => to_fields($value) } };
	}
	return { stringValue => $value }
	  if B::svref_2object(\$value)->FLAGS & B::SVf_POK;
	return $value =~ /^-?\d+$/ ? { integerValue => "$value" } : { doubleValue => $value };
}

sub to_fields
{
	my ($fields) = @_;
	return { map { $_ => to_value($fields->{$_}) } keys %$fields };
}

sub from_value
{
	my ($value) = @_;
	my ($type) = keys %$value;
	my $inner = $value->{$type};
	return undef if $type eq 'nullValue';
	return $inner + 0 if $type eq 'integerValue';
	return from_fields($inner->{fields}) if $type eq 'mapValue';
	return [ map { from_value($_) } @{ $inner->{values} // [] } ]
	  if $type eq 'arrayValue';
	return $inner;
}

sub from_fields
{
	my ($fields) = @_;
	return { map { $_ => from_value($fields->{$_}) } keys %{ $fields // {} } };
}

# {"profile.email" => 'x', "a.`b.c`" => 1} as nested fields.
sub _nest
{
	my ($flat) = @_;
	my %nested;
	for my $path (keys %$flat)
	{
		my @keys = $path =~ /(`(?:[^`\\]|\\.)*`|[^.`]+)(?:\.|$)/g;
		for (@keys)
		{
			s/^`(.*)`$/$1/s and s/\\(.)/$1/gs;
		}
		my $last = pop @keys;
		my $at = \%nested;
		$at = $at->{$_} //= {} for @keys;
		$at->{$last} = $flat->{$path};
	}
	return \%nested;
}

# ------------------------------------------------------------------- documents

sub _root
{
	my ($self) = @_;
	return "projects/$self->{project}/databases/(default)/documents";
}

# One REST call, as one who may do all; returns the decoded answer, undef for
# 404, dies on others.
sub _call
{
	my ($self, $method, $url, $body) = @_;
	my $answer = $self->{http}->request($method, "http://$self->{host}$url",
		{
			headers => { 'content-type' => 'application/json', authorization => 'Bearer owner' },
			defined $body ? (content => $json->encode($body)) : ()
		});
	return undef if $answer->{status} == 404;
	croak("$method $url: $answer->{status} $answer->{content}")
	  unless $answer->{success};
	return $json->decode($answer->{content});
}

sub _url
{
	my ($self, $path, @query) = @_;
	my $encode = sub {
		my ($text) = @_;
		utf8::encode($text) if utf8::is_utf8($text);
		$text =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge;
		return $text;
	};
	my $url = '/v1/' . $self->_root . '/'
	  . join('/', map { $encode->($_) } split m{/}, $path);
	my @pairs;
	while (my ($name, $value) = splice @query, 0, 2)
	{
		push @pairs, $name . '=' . $encode->($value);
	}
	return @pairs ? $url . '?' . join('&', @pairs) : $url;
}

sub _path
{
	my ($path) = @_;
	return $path =~ m{/} ? $path : "members/$path";
}

# A document as Firestore gives it: name, fields (typed), createTime,
# updateTime.  A path without a collection is a member's key.
sub raw_doc
{
	my ($self, $path) = @_;
	return $self->_call(GET => $self->_url(_path($path)));
}

# A document's fields, plain; undef when there is no such document.
sub doc
{
	my ($self, $path) = @_;
	my $doc = $self->raw_doc($path);
	return $doc && from_fields($doc->{fields});
}

sub doc_update_time
{
	my ($self, $path) = @_;
	my $doc = $self->raw_doc($path);
	return $doc && $doc->{updateTime};
}

# Replace or create a document.
sub set_doc
{
	my ($self, $path, $fields) = @_;
	return $self->_call(PATCH => $self->_url(_path($path)), { fields => to_fields($fields) });
}

# Write some paths of a document: {"profile.email" => 'x'}; paths in @delete
# are removed.  exists => 1 as in the SDK's updateDoc.
sub patch_doc
{
	my ($self, $path, $changes, %opt) = @_;
	return $self->_call(
		PATCH => $self->_url(
			_path($path),
			(map { ('updateMask.fieldPaths' => $_) } keys %$changes, @{ $opt{delete} // [] }),
			$opt{exists} ? ('currentDocument.exists' => 'true') : ()),
		{ fields => to_fields(_nest($changes)) })
	  // croak("there is no document $path");
}

sub delete_doc
{
	my ($self, $path) = @_;
	$self->_call(DELETE => $self->_url(_path($path)));
	return;
}

# Add a document with an automatic id; returns the id.
sub add_doc
{
	my ($self, $collection, $fields) = @_;
	my $doc = $self->_call(POST => $self->_url($collection), { fields => to_fields($fields) });
	return $doc->{name} =~ s{.*/}{}r;
}

# Write many documents at once: [id => {fields}], ...
sub set_docs
{
	my ($self, $collection, @docs) = @_;
	while (my @page = splice @docs, 0, MAX_WRITES)
	{
		$self->commit(map { [ "$collection/$_->[0]", $_->[1] ] } @page);
	}
	return;
}

# Write documents in one request: [path, {fields}] replaces or creates one,
# [path, {"profile.email" => 'x'}, 1] writes some paths, [path] deletes it.
sub commit
{
	my ($self, @writes) = @_;
	$self->_call(
		POST => '/v1/' . $self->_root . ':commit',
		{
			writes => [
				map {
					my ($path, $fields, $some) = @$_;
					my $name = $self->_root . '/' . _path($path);
					$fields
					  ? {
						update => { name => $name, fields => to_fields($some ? _nest($fields) : $fields) },
						$some ? (updateMask => { fieldPaths => [ keys %$fields ] }) : ()
					  }
					  : { delete => $name };
				} @writes
			]
		});
	return;
}

# Documents of a collection, as Firestore gives them; where => [field, value];
# select => [paths] for some of their fields, ['__name__'] for none.
sub raw_docs
{
	my ($self, $collection, %opt) = @_;
	my %query = (from => [ { collectionId => $collection } ]);
	$query{where} = {
		fieldFilter => {
			field => { fieldPath => $opt{where}[0] },
			op    => 'EQUAL',
			value => to_value($opt{where}[1])
		}
	  } if $opt{where};
	$query{select} = { fields => [ map { { fieldPath => $_ } } @{ $opt{select} } ] } if $opt{select};
	my $answer = $self->_call(POST => '/v1/' . $self->_root . ':runQuery',
		{ structuredQuery => \%query });
	return map { $_->{document} // () } @$answer;
}

# Writes as a request has them, each on its own, by :batchWrite; returns the
# answer.
sub batch_write
{
	my ($self, $writes) = @_;
	return $self->_call(POST => '/v1/' . $self->_root . ':batchWrite', { writes => $writes });
}

# Of these documents those that there are, as Firestore gives them, with some of
# their fields: {path => document}.
sub get_docs
{
	my ($self, $paths, @fields) = @_;
	my $root = $self->_root;
	my $answer = $self->_call(
		POST => "/v1/$root:batchGet",
		{ documents => [ map { "$root/$_" } @$paths ], mask => { fieldPaths => \@fields } });
	return { map { ($_->{found}{name} =~ s{^\Q$root\E/}{}r => $_->{found}) } grep { $_->{found} } @$answer };
}

# The documents of a collection as {id => fields}, plain.
sub docs
{
	my ($self, @query) = @_;
	return { map { ($_->{name} =~ s{.*/}{}r => from_fields($_->{fields})) } $self->raw_docs(@query) };
}

sub count_docs
{
	my ($self, $collection) = @_;
	my $answer = $self->_call(
		POST => '/v1/' . $self->_root . ':runAggregationQuery',
		{
			structuredAggregationQuery => {
				structuredQuery => { from => [ { collectionId => $collection } ] },
				aggregations    => [ { alias => 'n', count => {} } ]
			}
		});
	return $answer->[0]{result}{aggregateFields}{n}{integerValue} + 0;
}

# Remove every document of this project.
sub wipe
{
	my ($self) = @_;
	$self->_call(DELETE => "/emulator/v1/projects/$self->{project}/databases/(default)/documents");
	return;
}

# Security rules of this project, for clients that are not trusted.
sub set_rules
{
	my ($self, $rules) = @_;
	$self->_call(PUT => "/emulator/v1/projects/$self->{project}:securityRules",
		{ rules => { files => [ { name => 'security.rules', content => $rules } ] } });
	return;
}

# --------------------------------------------------------------- the other side

# Fields of a sync_queue document; all can be overridden.
sub entry_fields
{
	my ($self, %entry) = @_;
	my $key = $entry{docId} // $entry{kennitala};
	return {
		source      => 'firestore',
		target      => 'django',
		collection  => 'members',
		docId       => $key,
		kennitala   => $key,
		action      => 'update',
		changes     => {},
		created_at  => timestamp(),
		synced_at   => undef,
		sync_status => 'pending',
		%entry
	};
}

# Add a sync_queue document; returns its id.
sub queue_entry
{
	my ($self, %entry) = @_;
	return $self->add_doc('sync_queue', $self->entry_fields(%entry));
}

# A sync_queue document, plain.
sub entry
{
	my ($self, $id) = @_;
	return $self->doc("sync_queue/$id");
}

# Save a field as the profile page does: update the document, then add an
# entry.  A field without a dot is one of the profile.  Options: created_at (a
# Value) of the entry; document => 0 or entry => 0 to leave one of them out.
# Returns the entry's id.
sub profile_edit
{
	my ($self, $key, $field, $value, %opt) = @_;
	my $path = $field =~ /\./ ? $field : "profile.$field";
	my $now = timestamp();
	$self->patch_doc("members/$key", { $path => $value, updated_at => $now }, exists => 1)
	  if $opt{document} // 1;
	return unless $opt{entry} // 1;
	return $self->queue_entry(
		docId      => $key,
		changes    => { $path => $value },
		created_at => $opt{created_at} // $now);
}

# ------------------------------------------------------------------------ port

sub free_port
{
	for (1 .. 200)
	{
		my $port = 20000 + int rand 12000;
		return $port
		  if IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1);
	}
	croak('no free port on 127.0.0.1');
}

1;
