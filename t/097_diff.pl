# ekksync_diff(): where the two sides differ now, and why.  Nothing is written,
# differences of every kind are found, and no others; all documents are read
# once; who waits holds nothing up.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;

my $db = EkkSync->new(members => 40);
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

# What it finds: {member => {field ('' for all) => "why: detail"}}.
my @rows;
sub found
{
	@rows = $db->rows('SELECT * FROM ekksync_diff()');
	my %found;
	$found{ $_->{member} }{ $_->{field} // '' } = "$_->{why}: $_->{detail}" for @rows;
	return \%found;
}

sub is_found
{
	my ($expected, $name) = @_;
	my $found = found();
	is_deeply([ sort keys %$found ], [ sort keys %$expected ], "$name: these members") or diag(explain($found));
	for my $key (sort keys %$expected)
	{
		my $fields = $expected->{$key};
		is_deeply([ sort keys %{ $found->{$key} // {} } ], [ sort keys %$fields ], "$name: $key: these fields");
		like($found->{$key}{$_} // 'nothing', $fields->{$_}, "$name: $key $_") for sort keys %$fields;
	}
	return;
}

sub in_step { my ($name) = @_; return is_found({}, $name); }
sub values_of { my ($key) = @_; return [ map { ($_->{django_value}, $_->{firestore_value}) } grep { $_->{member} eq $key } @rows ]; }
sub set_name { my ($key, $name) = @_; $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'"); }

# Without triggers, as a careless restore would.
sub unseen { my ($sql) = @_; $db->admin_sql("SET session_replication_role = replica; $sql"); }

# The base of a member is what the document holds now, as if a run had made it.
sub known
{
	my ($key) = @_;
	$db->admin_sql("UPDATE ekksync.member SET doc_update_time = '" . $db->doc_update_time($key) . "' WHERE key = '$key'");
	return;
}

sub everything
{
	my %seen;
	for my $collection (qw(members sync_queue sync_logs))
	{
		$seen{"$collection/$_->{name}"} = $_ for $db->raw_docs($collection);
	}
	for my $table (split /\n/, $db->admin_sql("SELECT t FROM (SELECT format('%I.%I', schemaname, tablename) AS t "
			. "FROM pg_tables WHERE schemaname IN ('public', 'ekksync')) s "
			. "WHERE t NOT IN ('ekksync.run', 'ekksync.total', 'ekksync.cost', 'ekksync.diff', 'ekksync.inbox') ORDER BY 1"))
	{
		$seen{$table} = $db->admin_sql("SELECT ctid, xmin, t::text FROM $table t ORDER BY ctid");
	}
	return \%seen;
}

# ------------------------------------------------------------------ in step

is_found({ map { ($_ => { '' => qr/^pending: there is no document: first contact/ }) } @key }, 'before the first run');
is($db->run->{status}, 'success', 'a first run');
in_step('after it');

# Other forms of the same values, and what is not mapped, are no differences.
$db->patch_doc($key[0], { 'profile.gender' => $db->sql("SELECT gender FROM membership_comrade WHERE ssn = '$key[0]'") + 0, 'their.own' => 1 });
in_step('other forms of the same values');

# --------------------------------------------------------------- one of each

my ($row, $entry, $seen, $late, $behind, $both, $field, $refused, $nobody, $gone, $left, $came, $back, $failed, $oneway) = @key[ 1 .. 15 ];
set_name($row, 'Bíður');
$db->profile_edit($entry, name => 'Úr vafra');
$db->patch_doc($seen, { 'profile.name' => 'Úr stjórnborði' });
$db->sql("SELECT ekksync_map('facebook', 'profile.facebook', 'text', 'membership_contactinfo', 'facebook', 'comrade_id', policy => 'manual')");
$db->sql("UPDATE membership_contactinfo SET facebook = 'fyrst' WHERE comrade_id IN (SELECT id FROM membership_comrade WHERE ssn IN ('$both', '$refused'))");
is($db->run->{status}, 'success', 'a run with what is so far');
in_step('after it');

# pending
set_name($row, 'Bíður enn');
$db->profile_edit($entry, name => 'Úr vafra aftur');
$db->patch_doc($seen, { 'profile.name' => 'Úr stjórnborði aftur' });
$db->patch_doc($oneway, { 'metadata.django_id' => -5, 'membership.titles' => ['Enginn'] });
# conflict: a field that is held until a person decides
$db->sql("UPDATE membership_contactinfo SET facebook = 'röð' WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$both')");
$db->profile_edit($both, facebook => 'skjal');
$db->run(only => [$both]);
# failed: PostgreSQL cannot take the value
$db->queue_entry(docId => $failed, changes => { 'profile.birthday' => 'ekki dagur' });
$db->patch_doc($failed, { 'profile.birthday' => 'ekki dagur' });
$db->run(only => [$failed]);
$db->admin_sql("DELETE FROM ekksync.conflict WHERE key = '$failed'");
# unexplained
unseen("UPDATE membership_comrade SET name = 'Hljóðlaust' WHERE ssn = '$late'");
$db->patch_doc($behind, { 'profile.name' => 'Hljóðlaust skjal' });
known($behind);
unseen("UPDATE membership_comrade SET name = 'Hljóðlaust' WHERE ssn = '$field'");
$db->patch_doc($field, { 'profile.name' => 'Annað hljóðlaust' });
known($field);
# members and documents that one side does not have
$db->delete_doc($gone);
unseen("UPDATE membership_comrade SET ssn = '0101805479' WHERE ssn = '$left'");
$db->set_doc('0101302989', { profile => { name => 'Ókunn' } });
# held: a key that two rows have, and none at all
my $doubled = $key[16];
unseen("UPDATE membership_comrade SET ssn = '$doubled' WHERE ssn = '$key[17]'");
unseen("UPDATE membership_comrade SET ssn = 'ekki' WHERE ssn = '$key[18]'");

my $before = everything();
is_found(
	{
		$row        => { name => qr/^pending: queue row \d+$/ },
		$entry      => { name => qr/^pending: entry \w+ of sync_queue$/ },
		$seen       => { name => qr/^pending: the document has changed since a run saw it$/ },
		$oneway     => { id => qr/^pending: the document has changed/, titles => qr/^pending: the document has changed/ },
		$both       => { facebook => qr/^conflict: conflict \d+: policy$/ },
		$failed     => { birthday => qr/^failed: profile\.birthday: / },
		$late       => { name => qr/^unexplained: changed in PostgreSQL, and no queue row says so$/ },
		$behind     => { name => qr/^unexplained: changed in Firestore, and a run has seen the document since$/ },
		$field      => { name => qr/^unexplained: changed on both sides, and nothing says so$/ },
		$gone       => { '' => qr/^pending: there is no document: the document has gone since a run saw it$/ },
		$left       => { '' => qr/^unexplained: deleted in PostgreSQL, not in Firestore: no queue row says so$/ },
		'0101805479' => { '' => qr/^unexplained: there is no document: no queue row says so$/ },
		'0101302989' => { '' => qr/^unknown member: PostgreSQL knows no such member$/ },
		$doubled    => { '' => qr/^held: kennitala is held by 2 rows$/ },
		$key[17]    => { '' => qr/^unexplained: deleted in PostgreSQL/ },
		ekki        => { '' => qr/^held: kennitala is malformed$/ },
		$key[18]    => { '' => qr/^unexplained: deleted in PostgreSQL/ },
	},
	'one of each');
is_deeply(values_of($row), [ 'Bíður enn', 'Bíður' ], 'both values are shown');
is_deeply(values_of($both), [ 'röð', 'skjal' ], '... of a conflict');
is_deeply(values_of($failed)->[1], 'ekki dagur', '... and one that the field cannot take');
is_deeply(everything(), $before, 'nothing is written');
my $record = $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1');
is_deeply([ @$record{qw(mode dry_run status docs_written)} ], [ 'diff', JSON::PP::true, 'success', 0 ], 'its record says what it was');
is($record->{docs_read}, $db->count_docs('members') + 1, 'each document is read once (and the queue)');
isnt($db->sql('SELECT last_run FROM ekksync_status()'), $record->{run}, 'it is no run for the status');

# It is let through a pause, and writes nothing then either.
$db->sql('SELECT ekksync_pause()');
cmp_ok(scalar keys %{ found() }, '>', 10, 'it is allowed while runs are paused');
$db->sql('SELECT ekksync_resume()');

# ----------------------------------------------- suspended fields, other kinds

$db->sql('ALTER TABLE membership_comrade RENAME COLUMN groupable TO grouped');
my $found = found();
is(scalar(grep { ($found->{$_}{groupable} // '') =~ /^held: the field is suspended: / } keys %$found),
	scalar(grep { !exists $found->{$_}{''} } keys %$found), 'a suspended field is held for all');
$db->sql('ALTER TABLE membership_comrade RENAME COLUMN grouped TO groupable');

# Rows that a person marked synced: the next run looks at them.
$db->run;
set_name($key[20], 'Merkt');
$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced', synced_at = now() WHERE ssn = '$key[20]' AND sync_status = 'pending'");
like(found()->{ $key[20] }{name}, qr/^pending: queue row \d+ was marked synced by hand$/, 'a row marked synced by hand is pending');
set_name($key[21], 'Eytt');
$db->sql("DELETE FROM membership_membersyncqueue WHERE ssn = '$key[21]' AND sync_status = 'pending'");
like(found()->{ $key[21] }{name}, qr/^pending: a queue row was settled or deleted by hand$/, '... and so is one whose row was deleted');

# A member that went, and waits for the next run.
$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable) VALUES ('Ný', '2010805559', now(), true, true)");
like(found()->{'2010805559'}{''}, qr/^pending: there is no document: queue row \d+$/, 'a new member');
$db->run;
$db->sql("DELETE FROM membership_comrade WHERE ssn = '2010805559'");
like(found()->{'2010805559'}{''}, qr/^pending: deleted in PostgreSQL, not in Firestore: queue row \d+$/, 'a member that was deleted');
$db->run;
ok(!exists found()->{'2010805559'}, '... and is inactive then: in step');

# ------------------------------------------------------------ many documents

# More than a page of documents, more than a batch of members, and keys that
# only one side has between them.
$db->set_docs('members', map { [ sprintf('%010d', 9900000000 + $_), { profile => { name => "Ókunn $_" } } ] } 1 .. 2300);
my %unknown = map { $_->{member} => 1 } $db->rows("SELECT * FROM ekksync_diff() WHERE why = 'unknown member'");
is(scalar keys %unknown, 2301, 'every document that PostgreSQL does not know is found');
$db->sql(q(INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable)
	SELECT 'Ný ' || i, i, now(), true, true FROM (SELECT generate_series(9800000001, 9800000100)
		UNION SELECT generate_series(9900000500, 9900003500)) k(i)));
my %all;
push @{ $all{ $_->{why} }{ $_->{whole} } }, $_->{member}
  for $db->rows('SELECT DISTINCT member, why, CASE WHEN field IS NULL THEN 1 ELSE 0 END AS whole FROM ekksync_diff()');
is(scalar @{ $all{'unknown member'}{1} }, 500, 'with members among them');
is(scalar(grep { /^9[89]/ } @{ $all{pending}{0} }), 1801, '... all that both sides have are compared');
is(scalar(grep { /^9[89]/ } @{ $all{pending}{1} }), 1300, '... and all that have no document are found');
is($db->sql('SELECT docs_read FROM ekksync_runs ORDER BY run DESC LIMIT 1'), $db->count_docs('members') + 1, '... each document read once');

# --------------------------------------------------------- others at work

# A run is in progress.
my $proxy = FaultProxy->new(to => $db->host);
$db->use_host($proxy->host);
$proxy->start(fault => 'delay', verb => 'batchGet');
$db->sql('SELECT ekksync_run(wait => false)');
ok($proxy->wait_fired, 'while a run is in progress');
my ($status, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\nSELECT * FROM ekksync_diff()");
like($error, qr/ERROR:  55006: run \d+ is in progress/, '... it is an error');
$proxy->resume;
$db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0 });

# Firestore cannot be reached.
$proxy->stop;
$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_retries = 0');
($status, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\nSELECT * FROM ekksync_diff()");
like($error, qr/ERROR:  08006: could not compare the two sides: no answer from Firestore/, 'without Firestore it fails, and says why');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.max_retries');

# While it waits for Firestore it has no snapshot and no lock on the tables.
$proxy->start(fault => 'delay', verb => 'runQuery', nth => 2);
my $pid = fork // BAIL_OUT('fork');
unless ($pid)
{
	exec 'psql', '-X', '-q', '-o', '/dev/null', -U => 'socialism', -d => $db->node->connstr('socialism'), -c => 'SELECT * FROM ekksync_diff()';
}
ok($proxy->wait_fired, 'while it waits for Firestore');
is($db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run' AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL)"),
	0, '... its worker has no transaction');
$db->sql("SET lock_timeout = '1s'; BEGIN; LOCK TABLE membership_comrade, membership_membersyncqueue IN ACCESS EXCLUSIVE MODE; COMMIT");
pass('... and nobody waits for it');
$proxy->resume;
waitpid $pid, 0;
is($?, 0, '... and it comes to its end');

done_testing();
