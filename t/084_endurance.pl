# "200 runs with faults: memory, file descriptors and curl handles flat": one
# worker process does them one after the other, each beside edits on both sides
# and with faults at requests chosen by lot.  At the end, without faults, both
# sides are equal.  Then runs that are called from one session, each with a
# worker of its own: they leave nothing behind in the session or the server.
# Give the seed in EKKSYNC_SEED to have the same lots again, and the number of
# runs in EKKSYNC_RUNS.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use FaultProxy;
use IPC::Run ();
use PostgreSQL::Test::Utils qw(slurp_file);

my $runs = $ENV{EKKSYNC_RUNS} // 200;
my $seed = $ENV{EKKSYNC_SEED} // time;
srand $seed;
# The server's malloc gives back at once what was freed, and maps large blocks
# apart: what a process holds is then what it has touched and not freed, not
# what the order of its allocations has left between others, nor the next
# megabyte that the server's caches have set aside.
$ENV{MALLOC_MMAP_THRESHOLD_} = $ENV{MALLOC_TRIM_THRESHOLD_} = 32 * 1024;
note("EKKSYNC_SEED=$seed EKKSYNC_RUNS=$runs");

my $db = EkkSync->new(members => 40, conf => 'dynamic_shared_memory_type = mmap');
my $relay = FaultProxy->new(to => $db->host);
$relay->start;
$db->use_host($relay->host);
is($db->run->{status}, 'success', 'a first run');
$db->admin_sql("ALTER DATABASE socialism SET ekksync.$_")
  for 'max_retries = 1', 'request_timeout = 10000', 'max_delete_percent = 100';
my @keys = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY ssn');

# --------------------------------------------------------------------- lots

sub one_of { return $_[ rand @_ ]; }

# A rule for the proxy: a fault at one of the first requests of a kind.
sub lot
{
	my $fault = one_of(qw(drop lose lose_and_gone cut answer answer answer tear broken fewer shape html huge delay duplicate));
	my %rule = (fault => $fault, nth => 1 + int rand 3);
	$rule{verb} = one_of(qw(runQuery batchGet commit)) if rand() < 0.8;
	$rule{times} = 1 + int rand 2;
	if ($fault eq 'answer')
	{
		my @answers = ([ 401, 'UNAUTHENTICATED' ], [ 403, 'PERMISSION_DENIED' ], [ 409, 'ABORTED' ],
			[ 429, 'RESOURCE_EXHAUSTED' ], [ 500, 'INTERNAL' ], [ 503, 'UNAVAILABLE' ]);
		@rule{qw(status error)} = @{ one_of(@answers) };
		$rule{applied} = int rand 2;
	}
	$rule{seconds} = 0.05 if $fault eq 'delay';
	$rule{mib} = 33 if $fault eq 'huge';
	return \%rule;
}

my $edits = 0;
sub edit_both_sides
{
	$edits++;
	my ($ours, $theirs, $both) = map { one_of(@keys) } 1 .. 3;
	$db->sql(<<"SQL");
UPDATE membership_comrade SET name = 'Heima $edits' WHERE ssn IN ('$ours', '$both');
UPDATE membership_contactinfo SET facebook = 'heima-$edits'
	WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$ours');
SQL
	$db->profile_edit($theirs, 'name', "Úti $edits");
	$db->profile_edit($both, 'facebook', "uti-$edits", entry => rand() < 0.5);
	return;
}

# ------------------------------------------------------------------- samples

# What a process holds: private memory in kB, threads, and open files that are
# not the database's (of those the server keeps some open for later).
sub sample
{
	my ($pid) = @_;
	my ($memory) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
	my @files = map { readlink($_) // '' } glob "/proc/$pid/fd/*";
	my @threads = glob "/proc/$pid/task/*";
	return { memory => $memory, threads => scalar @threads, files => scalar(grep { !m{/(?:base|global|pg_wal|pg_xact)/} } @files) };
}

sub largest
{
	my ($what, @samples) = @_;
	my ($max) = sort { $b <=> $a } map { $_->{$what} } @samples;
	return $max;
}

# ---------------------------------------------------- many runs of one worker

$db->run_again(1);
$db->stop_at('locked');
my $session = IPC::Run::start(
	[ qw(psql -X -A -t -q -U socialism -d), $db->node->connstr('socialism'), '-c', 'SELECT status FROM ekksync_run()' ],
	'<', \undef, '>', \my $out, '2>', \my $err);
my $pid = $db->wait_stopped or die 'no run has begun';
my @samples;
my $struck = 0;
for my $run (1 .. $runs)
{
	edit_both_sides();
	$relay->start(map { lot() } 1 .. 1 + int rand 3);
	$db->stop_at('ended');
	is($db->wait_stopped, $pid, "run $run ends in the same process") or last;
	$struck += $_ for values %{ $relay->counts->{struck} };
	$db->stop_at('locked');
	$db->wait_stopped == $pid or last;
	push @samples, sample($pid);
}
cmp_ok($struck, '>=', $runs / 2, "faults struck: $struck");
is(scalar @samples, $runs, 'all runs were done');

my $early = int @samples / 4;
my @first = @samples[ $early / 2 .. $early ];
my @last = @samples[ -$early .. -1 ];
note(join ' ', map { sprintf '%s %d -> %d', $_, largest($_, @first), largest($_, @last) } sort keys %{ $samples[0] });
for my $what (qw(files threads))
{
	is(largest($what, @last), largest($what, @first), "$what: not one more at the end than at the beginning");
}
note('memory: ' . join ' ', map { $samples[$_]{memory} } grep { $_ % 10 == 9 } 0 .. $#samples);
cmp_ok(largest('memory', @last), '<=', largest('memory', @first) * 1.05, 'memory: no more at the end than at the beginning');

# The worker ends; then all is made up.
$relay->start;
$db->run_again(0);
$db->go_on;
$session->finish;
ok($db->wait_for(sub { !kill 0, $pid }), 'the worker ends');
is($db->run->{status}, 'success', 'a run without faults');
my $docs = $db->docs('members');
my @rows = $db->rows('SELECT ssn, name, coalesce(facebook, \'\') AS facebook FROM membership_comrade'
	  . ' LEFT JOIN membership_contactinfo ON comrade_id = id');
is_deeply([ grep { $docs->{ $_->{ssn} }{profile}{name} ne $_->{name}
			|| ($docs->{ $_->{ssn} }{profile}{facebook} // '') ne $_->{facebook} } @rows ],
	[], '... and both sides are equal');
is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE sync_status <> 'synced'"), 0, '... with nothing pending or failed');
is($db->admin_sql("SELECT count(*) FROM ekksync.member WHERE due OR in_flight <> '[]'"), 0, '... and nothing in flight');
is($db->admin_sql("SELECT count(*) FROM ekksync.run WHERE status = 'running'"), 0, '... and every run closed');
my $quiet = $db->run;
is($quiet->{to_firestore} + $quiet->{to_django}, 0, '... and quiet');

# --------------------------------------------- runs that a session has called

my $sql = <<'SQL';
DO $$
BEGIN
	FOR i IN 1 .. %d LOOP
		PERFORM ekksync_run();
	END LOOP;
END
$$;
SELECT sum(total_bytes) FROM pg_backend_memory_contexts;
SQL
sub segments { return scalar(my @files = glob $db->node->data_dir . '/pg_dynshmem/*'); }
my $segments = segments();
my @bytes = split /\n/, $db->admin_sql(join '', map { sprintf $sql, $_ } 5, 20);
cmp_ok($bytes[1], '<=', $bytes[0] * 1.05, 'a session that calls runs keeps nothing of them');
is($db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'"), 0, '... and no worker stays');
is(segments(), $segments, '... nor shared memory');

done_testing();
