# Many rows: the worker's memory does not grow with the rows that wait, and rows
# that are settled do not slow a run: its plans find by an index what they need.
#
# EKKSYNC_PENDING and EKKSYNC_SYNCED say how many rows (default 30,000 and
# 150,000).  The plans are those that the worker has used, by auto_explain.

use strict;
use warnings;
use Test::More;
use EkkSync;
use PostgreSQL::Test::Utils ();

use constant {
	MEMBERS      => 600,
	FEW          => 1_000,
	PENDING      => $ENV{EKKSYNC_PENDING} // 30_000,
	SYNCED       => $ENV{EKKSYNC_SYNCED} // 150_000,
	MEMORY_SLACK => 8 * 1024,		# kB
};

my $queue = 'membership_membersyncqueue';
my $db = EkkSync->new(
	members => MEMBERS,
	conf    => <<'CONF');
shared_preload_libraries = 'ekksync,auto_explain'
log_statement = none
auto_explain.log_min_duration = -1
max_wal_size = 4GB
autovacuum = off
CONF
is($db->run->{status}, 'success', 'the first run');

sub last_run { return $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1'); }

# So many rows of all members, older than their own.
sub add_rows
{
	my ($n, $status) = @_;
	my $members = MEMBERS;
	$db->sql(<<"SQL");
INSERT INTO $queue (member_id, ssn, action, fields_changed, created_at, synced_at, sync_status)
SELECT id, ssn, 'update', '{"name": "x"}', now() - interval '20 days' + i * interval '1 millisecond',
	CASE WHEN '$status' = 'synced' THEN now() END, '$status'
FROM generate_series(1, $n) AS i JOIN membership_comrade ON id = 1 + i % $members
SQL
	return;
}

# ------------------------------------------------------------------ memory

my %peak;
for my $n (FEW, PENDING)
{
	add_rows($n, 'pending');
	my $run = $db->run;
	is("@$run{qw(status to_firestore to_django conflicts failed)}", 'success 0 0 0 0', "a run over $n pending rows");
	is($db->sql(qq{SELECT count(*) FROM $queue WHERE sync_status <> 'synced'}), 0, '... settles them');
	$peak{$n} = last_run()->{peak_memory_kb};
	note("$n pending rows: $run->{duration}, $peak{$n} kB");
}
cmp_ok($peak{ +PENDING } - $peak{ +FEW }, '<=', MEMORY_SLACK, "memory is flat: @peak{FEW, PENDING} kB");
$db->sql("DELETE FROM $queue");

# One member with more rows than are looked at for a batch is whole all the
# same, and so are those behind it.
{
	my ($key, $next) = split /\n/, $db->sql('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C" LIMIT 2');
	$db->sql(<<"SQL");
INSERT INTO $queue (ssn, action, fields_changed, created_at, sync_status)
SELECT '$key', 'update', '{"name": "x"}', now(), 'pending' FROM generate_series(1, 6000);
UPDATE membership_comrade SET name = 'Nafn ' || id WHERE ssn IN ('$key', '$next');
SQL
	is($db->run->{to_firestore}, 2, 'a member with 6,000 rows, and one behind it');
	is($db->sql(qq{SELECT count(*) FROM $queue WHERE sync_status <> 'synced'}), 0, '... are settled');
}

# ------------------------------------------------------------------- plans

# Entries, conflicts, writes of long ago, of all members.
sub add_history
{
	my ($n) = @_;
	my $members = MEMBERS;
	$db->admin_sql(<<"SQL");
INSERT INTO ekksync.inbox (doc_id, key, action, stamp, status, done_at, run, gone)
SELECT 'd' || i, ssn, 'update', now(), 'closed', now() - interval '1 day', 1, false
FROM generate_series(1, $n) AS i JOIN membership_comrade ON id = 1 + i % $members;
INSERT INTO ekksync.change_log (run, key, side, changes, changed_at)
SELECT 1, ssn, 'django', '{}', now() - interval '1 day' FROM generate_series(1, $n) AS i JOIN membership_comrade ON id = 1 + i % $members;
INSERT INTO ekksync.conflict (run, key, field, winner, rule, created_at)
SELECT 1, ssn, 'name', 'django', 'policy', now() - interval '1 day' FROM generate_series(1, $n) AS i JOIN membership_comrade ON id = 1 + i % $members;
INSERT INTO ekksync.member (key, due, first_contact) SELECT '9' || to_char(i, 'FM000000000'), false, false FROM generate_series(1, $n) AS i;
SQL
	return;
}

is($db->sql('SELECT synced FROM ekksync_status()'), $db->sql(qq{SELECT count(*) FROM $queue WHERE sync_status = 'synced'}), 'few synced rows are counted');
add_rows(SYNCED, 'synced');
add_history(20_000);
$db->admin_sql('ANALYZE');

# Of many it is known about how many they are, without reading them all.
{
	my ($said, $rows) = split /\n/, $db->admin_sql(<<"SQL");
BEGIN;
SELECT synced FROM ekksync_status();
SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = '$queue';
COMMIT;
SQL
	my $synced = $db->sql(qq{SELECT count(*) FROM $queue WHERE sync_status = 'synced'});
	cmp_ok(abs($said - $synced), '<=', $synced * 0.02, "the status says about how many synced rows there are: $said of $synced");
	cmp_ok($rows, '<=', 110_000, '... without looking at all');
}

# Rows of a table that scans from end to end have read.
sub scanned
{
	my %rows = map { split /\|/, $_ } split /\n/, $db->admin_sql(<<'SQL');
SELECT relname, seq_tup_read FROM pg_stat_user_tables
WHERE relname ~ 'queue|inbox|change_log|conflict|^member$'
SQL
	return \%rows;
}

$db->admin_sql(q{ALTER SYSTEM SET auto_explain.log_min_duration = 0});
$db->admin_sql(q{ALTER SYSTEM SET auto_explain.log_nested_statements = on});
$db->admin_sql('SELECT pg_reload_conf()');
my $key = $db->sql('SELECT ssn FROM membership_comrade WHERE id = 5');
my $log = -s $db->node->logfile;
$db->sql('UPDATE membership_comrade SET name = $$Breytt $$ || id WHERE id < 40');
$db->profile_edit($key, 'facebook', 'https://facebook.example/nr5');
$db->sql(q{UPDATE membership_comrade SET ssn = '1503704559' WHERE id = 50});
$db->sql(q{INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (7000, 'Nýr', '0102034569', now())});
$db->sql(qq{UPDATE $queue SET sync_status = 'synced' WHERE ssn = (SELECT ssn FROM membership_comrade WHERE id = 7)});
my $before = scanned();
my $run = $db->run;
is($run->{status}, 'success', "a run beside ${\SYNCED} synced rows");
cmp_ok($run->{to_firestore}, '>=', 40, '... that has all kinds of changes');
note("$run->{duration}");
$db->wait_for(sub { 1 });
my $after = scanned();
for my $table (sort keys %$after)
{
	cmp_ok($after->{$table} - $before->{$table}, '<', 5_000, "$table: not read from end to end");
}

# Each plan over the queue, by what the statement is for.
my $text = PostgreSQL::Test::Utils::slurp_file($db->node->logfile, $log);
my @plans = $text =~ /LOG:  duration: .* ms  plan:\n((?:\t.*\n)+)/g;
cmp_ok(scalar @plans, '>=', 30, 'the plans are known');
my @bad = grep { /Seq Scan on (?:membership_membersyncqueue|inbox|change_log|conflict|member)\b/ } @plans;
is(scalar @bad, 0, 'no plan reads one of the large tables from end to end') or diag($bad[0]);
my %index = (
	'sum\(count\(\*\)\) OVER.*membership_membersyncqueue' => qr/membership_membersyncqueue_ssn_idx/,
	'LATERAL \(SELECT \* FROM \S+ p WHERE.*q ORDER BY k\.n' => qr/membership_membersyncqueue_ssn_idx/,
	'WITH free AS'                                        => qr/membership_membersyncqueue_pkey/,
	'SELECT id::int8, created_at, ssn'                    => qr/membership_membersyncqueue_sync_status_created_at_idx/,
	'JOIN ekksync\.inbox i'                               => qr/inbox_staged/,
	'ekksync\.change_log l, jsonb_each'                   => qr/change_log_key/,
	'WHERE due AND key'                                   => qr/member_due/,
	'DELETE FROM ekksync\.inbox WHERE doc_id'             => qr/inbox_done|inbox_kept/,
	'DELETE FROM ekksync\.change_log'                     => qr/change_log_changed/,
	'DELETE FROM ekksync\.conflict'                       => qr/conflict_created/);
for my $what (sort keys %index)
{
	my @of = grep { /$what/s } @plans;
	cmp_ok(scalar @of, '>=', 1, "there is a plan of: $what");
	is((grep { $_ !~ $index{$what} } @of), 0, '... it uses the index') or diag($of[0]);
}

# The trigger of the application finds the row to coalesce with by an index.
my @captured = grep { /INSERT INTO public\.membership_membersyncqueue/ && /VALUES|SELECT/ } @plans;
cmp_ok(scalar @captured, '>=', 1, 'the trigger has queued');
is((grep { /Seq Scan on membership_membersyncqueue/ } @captured), 0, '... by an index');

done_testing();
