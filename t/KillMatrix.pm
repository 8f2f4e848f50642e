# KillMatrix.pm: what can end or disturb a run, tried at each of its steps
# (src/steps.h) and while each of its requests hangs; afterwards one run must
# leave what it leaves where nothing happened.
#
# A cell is a registry of its own, in one cluster: synced once, then changed on
# both sides in every way that a run treats differently.  Its disturbed run is
# brought to its place, then struck.  All cells of a kind of death are at their
# places at the same time, so that one crash of the server meets them all.
#
# The places are not listed anywhere: the steps are read from the source, and an
# undisturbed run must come to each of them; the requests are counted there.

package KillMatrix;

use strict;
use warnings;
use utf8;
use EkkSync qw(timestamp true);
use Exporter qw(import);
use FaultProxy;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use Session;
use Test::More;
use Time::HiRes qw(sleep time);
use Time::Local qw(timegm);

our @EXPORT_OK = qw(call_too drop_databases emptied end_waiters execute order_workers sides signal_server);

# Seconds in which an order is obeyed.
use constant PROMPT => 2;

my $json = JSON::PP->new->canonical->allow_nonref;
my $MEMBERS = 24;
my $NEW_KEY = '0102034569';		# of the member that is inserted
my $MOVED_KEY = '1503704559';	# of the one whose kennitala is changed
my $UNKNOWN_KEY = '3112999989';

# A cluster, its proxy, and the outcome of an undisturbed run.
sub new
{
	my ($class) = @_;
	my $db = EkkSync->new(members => $MEMBERS, conf => <<'CONF');
max_connections = 200
max_worker_processes = 100
restart_after_crash = on
ekksync.scan = full
ekksync.max_retries = 0
ekksync.request_timeout = 600000
CONF
	my $self = bless { db => $db, proxy => FaultProxy->new(to => $db->host, record => 1), cells => 0 }, $class;
	$self->{proxy}->start;
	$db->use_host($self->{proxy}->host);
	$db->sql(<<'SQL');
INSERT INTO membership_contactinfo (comrade_id) SELECT id FROM membership_comrade ON CONFLICT DO NOTHING;
UPDATE membership_contactinfo SET phone = '555-' || 1000 + comrade_id, email = 'nr' || comrade_id || '@example.is',
	facebook = 'https://facebook.example/nr' || comrade_id;
SQL
	$self->{key} = [ undef, split /\n/, $db->sql('SELECT ssn FROM membership_comrade ORDER BY id') ];
	$self->learn;
	return $self;
}

# ---------------------------------------------------------------- the scenario

# Change both sides of a registry that is in step.
sub edit
{
	my ($self, $cell) = @_;
	my $key = $self->{key};
	my $part = sub { push @{ $cell->{life} }, [ $_[0], time ]; };
	my $page = sub {			# as the profile page does it
		my ($id, $field, $value) = @_;
		return [ $key->[$id], { "profile.$field" => $value, updated_at => timestamp() }, 1 ],
		  [ "sync_queue/e$id", entry($cell, $key->[$id], $field, $value) ];
	};

	# here alone, or before the other side: 1 to 7
	$part->('first changes here');
	$cell->{db}->sql(<<"SQL");
UPDATE membership_comrade SET name = 'Æsa Þöll Breytt' WHERE id = 1;
UPDATE membership_contactinfo SET facebook = 'https://facebook.example/breytt' WHERE comrade_id = 2;
INSERT INTO membership_comrade (id, name, ssn, birthday, date_joined)
	VALUES (1001, 'Nýr Félagi', '$NEW_KEY', '2003-02-01', '2024-05-01 12:00:00+00');
INSERT INTO membership_contactinfo VALUES (1001, '555-0003', 'nyr\@example.is', '');
BEGIN;
DELETE FROM membership_contactinfo WHERE comrade_id = 4;
DELETE FROM membership_comrade_emails WHERE comrade_id = 4;
DELETE FROM membership_unionmembership WHERE comrade_id = 4;
DELETE FROM membership_comradetitle WHERE comrade_id = 4;
DELETE FROM membership_newlocaladdress WHERE comrade_id = 4;
DELETE FROM membership_comrade WHERE id = 4;
COMMIT;
UPDATE membership_contactinfo SET phone = '555-0005' WHERE comrade_id = 5;
UPDATE membership_comrade SET gender = 3 WHERE id = 6;
UPDATE membership_comrade SET ssn = '$MOVED_KEY' WHERE id = 7;
SQL

	# there: the same field, another field; with an entry, without one; a value
	# that cannot be, a path that is not theirs; an entry alone, one of nobody;
	# a document that is deleted
	$part->('changes there');
	$cell->{db}->commit(
		$page->(5, phone => '555-5555'),
		$page->(6, email => 'sex@example.is'),
		$page->(8, email => 'atta@example.is'),
		($page->(9, facebook => 'https://facebook.example/niu'))[0],
		$page->(10, facebook => 'https://facebook.example/fyrst'),
		$page->(11, birthday => 'um vorið'),
		$page->(12, kennitala => $UNKNOWN_KEY),
		($page->(13, email => 'threttan@example.is'))[1],
		[ 'sync_queue/unknown', entry($cell, $UNKNOWN_KEY, email => 'enginn@example.is') ],
		[ $key->[14] ]);

	# here, after the other side
	$part->('last change here');
	$cell->{db}->sql("UPDATE membership_contactinfo SET facebook = 'https://facebook.example/seinna' WHERE comrade_id = 10");
	$part->('the run');
	return;
}

sub entry
{
	my ($cell, $key, $field, $value) = @_;
	return $cell->{db}->entry_fields(docId => $key, changes => { "profile.$field" => $value });
}

# -------------------------------------------------------------------- the state

my $TABLES = <<'SQL';
SELECT json_build_object(
	'rows', (SELECT json_agg(to_jsonb(m) || coalesce(to_jsonb(c), '{}') ORDER BY id)
		FROM membership_comrade m LEFT JOIN membership_contactinfo c ON comrade_id = id),
	'queue', (SELECT json_agg(json_build_array(member_id, ssn, action, fields_changed, created_at, sync_status,
			error_message, retry_count, synced_at) ORDER BY created_at, id) FROM membership_membersyncqueue),
	'inbox', (SELECT json_object_agg(doc_id, json_build_array(key, action, stamp, status, error_message, note,
			retry_count, done_at)) FROM ekksync.inbox),
	'members', (SELECT json_object_agg(key, json_build_object('due', due, 'first contact', first_contact,
			'in flight', in_flight, 'tombstone', tombstone, 'document', doc_update_time,
			'base', (SELECT json_object_agg(f, json_build_array(b -> 'v', b -> 'o', to_timestamp((b ->> 't')::float8 / 1e6)))
				FROM jsonb_each(base) AS e (f, b)))) FROM ekksync.member),
	'conflicts', (SELECT json_agg(json_build_array(key, field, django_value, firestore_value, winner, rule, potential,
			django_time, firestore_time_from, firestore_time) ORDER BY key, field) FROM ekksync.conflict),
	'changes', (SELECT json_object_agg(key, sides) FROM (
		SELECT key, json_agg(json_build_array(side, changes) ORDER BY side, changes) AS sides
		FROM ekksync.change_log WHERE run > (SELECT min(id) FROM ekksync.run) GROUP BY key) AS t),
	'state', (SELECT json_build_array(paused, paused_reason, refused, accepted, fence_next, last_scan) FROM ekksync.state),
	'runs', (SELECT json_agg(json_build_object('run', id, 'status', status, 'log', log_document, 'end', finished_at)
			ORDER BY id) FROM ekksync.run))
SQL

# Seconds since the epoch.
sub epoch
{
	my ($time) = @_;
	my ($y, $m, $d, $H, $M, $S, $fraction) =
	  $time =~ /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(?:Z|\+00:00)$/ or return;
	return timegm($S, $M, $H, $d, $m - 1, $y) + ($fraction // 0);
}

# Times in a cell's state, those of the invented members aside, become the
# part of its life that they are in.
sub without_times
{
	my ($value, $life) = @_;
	return { map { ($_ => without_times($value->{$_}, $life)) } keys %$value } if ref $value eq 'HASH';
	return [ map { without_times($_, $life) } @$value ] if ref $value eq 'ARRAY';
	return $value if ref $value || !defined $value;
	my $time = epoch($value) // return $value;
	return $value if $time < $life->[0][1] - 3600;
	my $part = 'before';
	for (@$life)
	{
		$part = $_->[0] if $time >= $_->[1];
	}
	return "time: $part";
}

# All that runs have left of the members and their changes; and the runs, with
# their documents.
sub state_of
{
	my ($cell) = @_;
	my $state = $json->decode($cell->{db}->admin_sql($TABLES));
	my %seen = map { ($_->{name} =~ s{.*/}{}r => $_->{updateTime}) } $cell->{db}->raw_docs('members');
	for my $key (keys %{ $state->{members} })
	{
		my $member = $state->{members}{$key};
		my $seen = delete $member->{document};
		$member->{document} =
			!defined $seen             ? 'never seen'
		  : !$seen{$key}               ? 'gone'
		  : epoch($seen) == epoch($seen{$key}) ? 'seen as it is'
		  :                              'seen as it was';
	}
	my $runs = delete $state->{runs};
	my $logs = $cell->{db}->docs('sync_logs');
	$_->{document} = defined $_->{log} ? $logs->{ $_->{log} } : undef for @$runs;
	$state->{documents} = $cell->{db}->docs('members');
	delete $_->{metadata}{sync_write} for values %{ $state->{documents} };	# which run wrote
	$state->{entries} = $cell->{db}->docs('sync_queue');
	return (without_times($state, $cell->{life}), $runs);
}

# What is not the same on both sides, or not as the changes want it, whoever won
# where both had changed the same.  That a change there has lost may be told, by a conflict or
# in the note on its entry, where what both had agreed on was forgotten.
sub missing
{
	my ($self, $cell, $contacts) = @_;
	my $key = $self->{key};
	my $document = $cell->{db}->docs('members');
	my $told = $cell->{db}->admin_sql("SELECT string_agg(told, '\n') FROM (SELECT firestore_value::text FROM ekksync.conflict"
		  . " UNION ALL SELECT changes::text FROM ekksync.inbox WHERE note IS NOT NULL) AS t (told)");
	my @missing;
	for my $row ($cell->{db}->rows('SELECT * FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id'))
	{
		my $profile = $document->{ $row->{ssn} }{profile};
		push @missing, map { "$_ of $row->{ssn} differs" }
		  grep { ($row->{$_} || '') ne ($profile->{$_} // '') } qw(name email phone facebook);
	}
	my $want = sub {
		my ($whose, $path, $value, $or_told) = @_;
		my ($group, $field) = split /\./, $path;
		my $is = $document->{$whose}{$group}{$field} // 'nothing';
		push @missing, "$path of $whose is $is" unless $is eq $value || $or_told && $told =~ /\Q$value\E/;
	};
	$want->($key->[1], 'profile.name', 'Æsa Þöll Breytt');
	$want->($NEW_KEY, 'profile.name', 'Nýr Félagi');
	$want->($_, 'membership.status', 'inactive') for @$key[ 4, 7 ];
	$want->($key->[6], 'profile.gender', 'other');
	$want->($MOVED_KEY, 'membership.status', 'active');
	return @missing unless $contacts;
	$want->($key->[2], 'profile.facebook', 'https://facebook.example/breytt');
	$want->($key->[6], 'profile.email', 'sex@example.is', 1);
	$want->($key->[8], 'profile.email', 'atta@example.is', 1);
	$want->($key->[9], 'profile.facebook', 'https://facebook.example/niu', 1);
	$want->($key->[13], 'profile.email', 'threttan@example.is', 1);
	$want->($key->[14], 'profile.facebook', 'https://facebook.example/nr14');
	return @missing;
}

# Everything in a state, a line each: where it is, and what.
sub lines
{
	my ($at, $value) = @_;
	return map { lines("$at/$_", $value->{$_}) } sort keys %$value if ref $value eq 'HASH' && %$value;
	return map { lines("$at/$_", $value->[$_]) } 0 .. $#$value if ref $value eq 'ARRAY' && @$value;
	return "$at: " . $json->encode($value);
}

# The lines in which two states differ.
sub differences
{
	my ($got, $expected) = @_;
	my %count;
	my @got = lines('', $got);
	my @expected = lines('', $expected);
	$count{$_}++ for @got;
	$count{$_}-- for @expected;
	return join "\n", (map { "got $_" } grep { $count{$_} > 0 } @got),
	  map { "expected $_" } grep { $count{$_} < 0 } @expected;
}

# ------------------------------------------------------------------------ cells

# psql at work: finish() awaits its end.
sub session
{
	my ($cell, $sql, $database) = @_;
	my $session = { out => '', err => '' };
	utf8::encode($sql);
	$session->{harness} = IPC::Run::start(
		[
			'psql', qw(-X -A -t -q -v ON_ERROR_STOP=1 -d),
			$cell->{db}->node->connstr($database // $cell->{db}->database), -c => $sql
		],
		'<', \undef, '>', \$session->{out}, '2>', \$session->{err}, IPC::Run::timeout(180));
	return $session;
}

sub finish
{
	my ($session) = @_;
	IPC::Run::finish($session->{harness});
	chomp @$session{qw(out err)};
	return $session;
}

sub is_busy
{
	my ($session) = @_;
	return eval { $session->{harness}->pump_nb; $session->{harness}->pumpable };
}

# A run in each cell, all at the same time; returns what the sessions say.
sub run_all
{
	my (@cells) = @_;
	return map { finish($_) } map { session($_, 'SELECT status, message FROM ekksync_run()') } @cells;
}

# Cells, one for each place: in step, then changed on both sides.
sub cells
{
	my ($self, @places) = @_;
	my @copies = $self->{db}->copies(map { 'cell' . ++$self->{cells} } @places);
	my @cells = map { { place => $_, db => shift @copies, life => [] } } @places;
	$self->{proxy}->start;
	for (run_all(@cells))
	{
		die "the first run: $_->{out} $_->{err}" if $_->{out} ne 'success|';
	}
	$self->edit($_) for @cells;
	return @cells;
}

# The cells' databases are not needed any more.
sub drop
{
	my ($self, @cells) = @_;
	$self->{db}->node->safe_psql('postgres', join '', map { 'DROP DATABASE IF EXISTS ' . $_->{db}->database . ";\n" } @cells);
	return;
}

# What an undisturbed run leaves; and the places, which are all steps of a run
# and all of its requests.
sub learn
{
	my ($self) = @_;
	my ($cell) = $self->cells('nowhere');
	$cell->{db}->steps;
	$self->{proxy}->start;
	my ($run) = run_all($cell);
	is($run->{out}, 'success|', 'an undisturbed run succeeds') or diag($run->{err});
	my %reached = map { ($_ => 1) } $cell->{db}->steps;
	my @steps = EkkSync::step_names();
	is_deeply([ grep { !$reached{$_} } @steps ], [], '... and comes to every step');
	my $n = 0;
	@{ $self->{places} } =
	  ((map { { step => $_, name => "at step $_" } } @steps),
		map { $n++; { request => $n, name => "at request $n, $_->{verb}" } } $self->{proxy}->requests);
	run_all($cell);
	($self->{expected}) = state_of($cell);
	$self->drop($cell);
	return;
}

# ----------------------------------------------------------------------- deaths

# Bring a run in each cell to its place.
sub bring
{
	my ($self, @cells) = @_;
	my @hang = grep { $_->{place}{request} } @cells;
	$self->{proxy}->start(
		map { { fault => 'delay', match => 'projects/' . $_->{db}->project . '/', nth => $_->{place}{request} } } @hang);
	for my $cell (@cells)
	{
		$cell->{db}->stop_at($cell->{place}{step}) if $cell->{place}{step};
		$cell->{session} = session($cell, 'SELECT status, message FROM ekksync_run()');
	}
	for my $cell (@cells)
	{
		my $there = $cell->{place}{step} ? $cell->{db}->wait_stopped : $self->{proxy}->wait_fired;
		die "no run comes $cell->{place}{name}" unless $there;
	}
	my %pid = map { split /\|/ } split /\n/,
	  $self->{db}->admin_sql("SELECT datname, pid FROM pg_stat_activity WHERE backend_type = 'ekksync run'");
	$_->{worker} = $pid{ $_->{db}->database } // die "no worker $_->{place}{name}" for @cells;
	return;
}

# Let runs go on.
sub release
{
	my ($self, @cells) = @_;
	$_->{db}->go_on for @cells;
	$self->{proxy}->resume;
	return;
}

# Has a process ended?
sub is_gone
{
	my ($pid) = @_;
	open my $stat, '<', "/proc/$pid/stat" or return 1;
	return (<$stat> // return 1) =~ /\) Z /;
}

# The processes end, within the time in which an order is obeyed.
sub obeyed
{
	my ($self, $name, @pids) = @_;
	my $start = time;
	until (!(@pids = grep { !is_gone($_) } @pids) || time - $start > 60)
	{
		sleep 0.01;
	}
	cmp_ok(time - $start, '<', PROMPT, $name);
	return;
}

# Try a kind of death at each place.  strike is called as a method, with the
# cells, when their runs are there; after it and what it has let go their
# workers must end.  Then before($cell) of each cell, and the check.
sub try
{
	my ($self, $kind, $strike, %arg) = @_;
	my @cells = $self->cells(@{ $self->{places} });
	$self->bring(@cells);
	$self->$strike(@cells);
	$self->release(@cells) if $arg{goes_on};
	$_->{said} = finish($_->{session}) for @cells;
	ok($self->{db}->wait_for(sub { !grep { !is_gone($_->{worker}) } @cells }), "$kind: no worker is left");
	$_->{db}->go_on for @cells;
	$self->{proxy}->start;
	if ($arg{before})
	{
		$arg{before}->($_) for @cells;
	}
	my $check = $arg{check} // 'check';
	$self->$check($kind, @cells);
	$self->drop(@cells);
	return;
}

# One run in each cell, after which all is as if nothing had happened.
sub check
{
	my ($self, $kind, @cells) = @_;
	my @runs = run_all(@cells);
	for my $cell (@cells)
	{
		my $name = "$kind $cell->{place}{name}";
		my $run = shift @runs;
		is("$run->{out}$run->{err}", 'success|', "$name: the next run succeeds");
		my ($state, $runs) = state_of($cell);
		is(differences($state, $self->{expected}), '', '... and leaves what an undisturbed run leaves');
		is_closed($runs);
	}
	return;
}

# Where more has happened than the death of a run: one run, by force if it would
# blank what was truncated, after which a dry run finds nothing to write, and
# no change is missing.
sub sides
{
	my ($contacts) = @_;
	return sub {
		my ($self, $kind, @cells) = @_;
		my $force = $contacts ? 'false' : 'true';
		my @runs = map { finish($_) } map { session($_, "SELECT status, message FROM ekksync_run(force => $force)") } @cells;
		for my $cell (@cells)
		{
			my $name = "$kind $cell->{place}{name}";
			my $run = shift @runs;
			is("$run->{out}$run->{err}", 'success|', "$name: the next run succeeds");
			is($cell->{db}->admin_sql("SELECT member, side, field, old_value, new_value FROM ekksync_run(dry_run => true)"
					  . " WHERE status <> 'success' AND side IS DISTINCT FROM 'none'"),
				'', '... and leaves both sides equal');
			is(join("\n", $self->missing($cell, $contacts)), '', '... indeed, with all changes');
			is($cell->{db}->sql('SELECT count(*) FROM ekksync_pending') + grep({ $_->{sync_status} eq 'pending' } values %{ $cell->{db}->docs('sync_queue') }),
				0, '... and nothing pending');
		}
		return;
	};
}

# Where the members are gone: a run refuses to say so there, and one by force
# leaves every document inactive, and nothing to do.
sub emptied
{
	my ($self, $kind, @cells) = @_;
	my @refused = map { finish($_) } map { session($_, 'SELECT status, message FROM ekksync_run()') } @cells;
	my @forced = map { finish($_) } map { session($_, 'SELECT status, message FROM ekksync_run(force => true)') } @cells;
	for my $cell (@cells)
	{
		my $name = "$kind $cell->{place}{name}";
		my ($refused, $forced) = (shift @refused, shift @forced);
		like($refused->{out} . $refused->{err}, qr/^failed\|the run would delete \d+ of \d+ members/,
			"$name: the next run refuses");
		is("$forced->{out}$forced->{err}", 'success|', '... one by force succeeds');
		my $documents = $cell->{db}->docs('members');
		cmp_ok(scalar keys %$documents, '>=', $MEMBERS - 1, '... with the documents all there');
		is_deeply([ grep { $documents->{$_}{membership}{status} ne 'inactive' } sort keys %$documents ],
			[], '... and inactive');
		is($cell->{db}->admin_sql('SELECT count(*) FROM ekksync.member WHERE tombstone IS NULL'), 0, '... known as deleted');
		is($cell->{db}->sql('SELECT count(*) FROM ekksync_pending') + grep({ $_->{sync_status} eq 'pending' } values %{ $cell->{db}->docs('sync_queue') }),
			0, '... and nothing pending');
	}
	return;
}

# Every run has ended, and so says its document.  A document may be that of a
# later run, if the one that it was meant for did not come to create it.
sub is_closed
{
	my ($runs) = @_;
	my @open;
	for my $run (@$runs)
	{
		my $document = $run->{document};
		my $status = $run == $runs->[-1] ? qr/^success$/ : qr/^(?:success|failed|interrupted)$/;
		my $closed = $document && ($document->{run} > $run->{run} || $document->{completed_at}
			&& $document->{status} =~ /^(?:success|failed|skipped)$/);
		push @open, $run unless $run->{status} =~ $status && $run->{end} && (!defined $run->{log} || $closed);
	}
	is($json->encode(\@open), '[]', '... and every run is closed, on both sides');
	return;
}

# --------------------------------------------------------------- kinds of death

# An administration function is called on the workers, and they obey.
sub order_workers
{
	my ($function) = @_;
	return sub {
		my ($self, @cells) = @_;
		my @pids = map { $_->{worker} } @cells;
		$self->{proxy}->freeze;		# from now on nothing is answered to anybody
		$self->{db}->admin_sql("SELECT $function(unnest('{" . join(',', @pids) . "}'::int[]))");
		return $self->obeyed("$function: the workers obey", @pids);
	};
}

# Their sessions end, and the runs go on.
sub end_waiters
{
	my ($name, $end) = @_;
	return sub {
		my ($self, @cells) = @_;
		my %waiter = map { split /\|/ } split /\n/, $self->{db}->admin_sql(
			"SELECT datname, pid FROM pg_stat_activity WHERE query LIKE '%FROM ekksync_run()' AND backend_type = 'client backend'");
		my @pids = map { $waiter{ $_->{db}->database } } @cells;
		$self->$end(\@pids, @cells);
		$self->obeyed("$name: the sessions end", @pids);
		is(scalar(grep { is_gone($_->{worker}) } @cells), 0, '... and no worker does');
		return;
	};
}

# A signal to the postmaster, or to the workers of one.  Whatever is left of the
# server goes, and it comes back.
sub signal_server
{
	my ($name, $signal, $to) = @_;
	return sub {
		my ($self, @cells) = @_;
		my $node = $self->{db}->node;
		my @workers = map { $_->{worker} } @cells;
		my @all = split /\n/, $self->{db}->admin_sql('SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
		my ($postmaster) = PostgreSQL::Test::Utils::slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
		kill $signal => $to eq 'workers' ? @workers : $postmaster;
		$self->obeyed("$name: the workers end", @workers);
		$self->obeyed('... and all other processes', @all);
		if ($to eq 'workers')
		{
			$self->{db}->wait_for(sub { ($self->{db}->admin_err('SELECT 1'))[0] == 0 }) or die 'no restart';
			return;
		}
		$self->obeyed('... and the server', $postmaster);
		$self->{db}->wait_for(sub { !kill 0 => $postmaster }) or die 'nobody reaps the server';
		$node->{_pid} = undef;
		$_->{db}->go_on for @cells;
		$node->start;
		return;
	};
}

# The databases are dropped; nobody else notices.
sub drop_databases
{
	my ($self, @cells) = @_;
	my $other = Session->new($self->{db});
	my @sessions = map { session($_, 'DROP DATABASE ' . $_->{db}->database . ' WITH (FORCE)', 'postgres') } @cells;
	$self->obeyed('DROP DATABASE: the workers end', map { $_->{worker} } @cells);
	is(join('', map { finish($_)->{err} } @sessions), '', '... and the databases are dropped');
	is($other->sql('SELECT 1'), 1, '... and the server runs on');
	return;
}

# Somebody else asks for a run, or a dry run, too; both get what they want, or
# are told at once.
sub call_too
{
	my ($dry) = @_;
	my $call = $dry ? 'ekksync_run(dry_run => true) LIMIT 1' : 'ekksync_run()';
	return sub {
		my ($self, @cells) = @_;
		$_->{second} = session($_, "SELECT status, message FROM $call") for @cells;
		my @waiting = @cells;
		@waiting = grep { $_->{place}{name} =~ /step (?:locked|ended)$/ } @cells if $dry;
		$self->{db}->wait_for(sub { $self->waiting(@waiting) == @waiting }) or die 'nobody waits';
		for my $cell (@cells)
		{
			my $waits = grep { $_ == $cell } @waiting;
			my $said = $waits ? next : finish($cell->{second})->{err};
			like($said, qr/ERROR:  run \d+ is in progress/, "a dry run $cell->{place}{name} is told so");
		}
		$self->release(@cells);
		for my $cell (@waiting)
		{
			like(finish($cell->{second})->{out}, qr/^success\|(?:joined a run that was in progress)?$/,
				"a second call $cell->{place}{name} has its run");
		}
		return;
	};
}

# A statement in each database.  Where a transaction of the run is open, it may
# have to wait for that, and then no longer.
sub execute
{
	my ($name, $statement) = @_;
	return sub {
		my ($self, @cells) = @_;
		my @inside = grep { ($_->{place}{step} // '') =~ /^in_/ } @cells;
		my @outside = grep { ($_->{place}{step} // '') !~ /^in_/ } @cells;
		for ([ 'outside a transaction', @outside ], [ 'after the transaction', @inside ])
		{
			my ($when, @these) = @$_;
			my @sessions = map { session($_, $statement) } @these;
			if ($when =~ /after/)
			{
				$self->{db}->wait_for(sub {
					my $done = grep { !is_busy($_) } @sessions;
					return $self->waiting(@these) + $done == @these;
				}) or die "$name: neither done nor waiting";
				$_->{db}->go_on for @these;
			}
			my $start = time;
			finish($_) for @sessions;
			cmp_ok(time - $start, '<', PROMPT, "$name is done, $when");
			is(join('', map { $_->{err} } @sessions), '', '... without an error');
		}
		return;
	};
}

# How many of the cells have a session that waits for a worker's lock.
sub waiting
{
	my ($self, @cells) = @_;
	my $workers = join ',', map { $_->{worker} } @cells;
	return $self->{db}->admin_sql(
		"SELECT count(*) FROM pg_stat_activity WHERE pg_blocking_pids(pid) && '{$workers}' AND backend_type = 'client backend'");
}

1;
