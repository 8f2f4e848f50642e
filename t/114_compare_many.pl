# "A bounded-memory comparison of 50,000 members": ekksync_diff() and
# ekksync_repair() over many members that all differ need no more memory than
# over few, neither in the worker nor in the session that asks.
#
# EKKSYNC_MANY says how many members (default 5,000).  The worker's memory is
# what its record has (peak_memory_kb, see t/030_bulk.pl); the session's is the
# largest resident memory of its process (VmHWM), of which shared buffers, 16 MB
# at most, are a part.

use strict;
use warnings;
use Test::More;
use EkkSync;
use Session;

use constant {
	FEW          => 1_000,
	MANY         => $ENV{EKKSYNC_MANY} // 5_000,
	WORKER_SLACK => 8 * 1024,		# kB
	CALLER_SLACK => 12 * 1024,
};

my $db = EkkSync->new(members => FEW, conf => <<'CONF');
shared_buffers = 16MB
work_mem = 1MB
log_statement = none
max_wal_size = 4GB
CONF

# Documents of all members, that differ from the rows in most fields; a document
# more of somebody unknown for each tenth.
my %has;
sub make_documents
{
	my @new = grep { !$has{$_}++ } map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade');
	$db->set_docs('members', map { [ $_, { profile => { name => 'Annað', email => 'annad@example.is' }, their => { own => 'x' x 200 } } ] } @new);
	my $n = @new / 10;
	$db->set_docs('members', map { [ sprintf('99%08d', keys(%has) - $_), { profile => { name => 'Ókunn' } } ] } 1 .. $n);
	return;
}

# Rows that it finds, and what the worker and the session needed for it.
sub compare
{
	my ($sql) = @_;
	my $session = Session->new($db, $db->admin_sql('SELECT current_user'));
	my $found = $session->sql("SELECT count(*) FROM $sql");
	my $status = $session->sql(q{SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s+(\d+)')});
	$session->end;
	my $run = $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1');
	is($run->{status}, 'success', "$sql over $run->{docs_read} documents");
	note("$sql: $found rows, $run->{duration}, worker $run->{peak_memory_kb} kB, session $status kB, $run->{docs_read} documents");
	return ($found, $run->{peak_memory_kb}, $status, $run);
}

my @calls = ('ekksync_diff()', "ekksync_repair('django', dry_run => true)");
my %few;
make_documents();
$few{$_} = [ compare($_) ] for @calls;

my $more = MANY - FEW;
$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable) "
	  . "SELECT 'Ný ' || i, to_char(3300000000 + i, 'FM0000000000'), now(), true, true FROM generate_series(1, $more) i");
make_documents();
for my $sql (@calls)
{
	my ($found, $worker, $session, $run) = compare($sql);
	cmp_ok($found, '>=', 3 * MANY, '... finds something in each field');
	cmp_ok($worker, '<=', $few{$sql}[1] + WORKER_SLACK, '... and its worker needs no more memory than for few');
	cmp_ok($session, '<=', $few{$sql}[2] + CALLER_SLACK, '... nor does the session');
}
is($db->sql(q{SELECT count(*) FROM ekksync_diff() WHERE why = 'unknown member'}), $db->count_docs('members') - MANY, 'all that is there is compared');

done_testing();
