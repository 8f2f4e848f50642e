# What a run that is at work shows: the view ekksync_progress, which is empty
# without one, be it that a run died; its process in pg_stat_activity; then what
# each phase took and cost; the metrics, and the queries for postgres_exporter;
# NOTIFY.  All of it for a role that has pg_monitor and may see no member.

use strict;
use warnings;
use utf8;
use Test::More;
use CPAN::Meta::YAML ();
use EkkSync;
use FaultProxy;
use JSON::PP ();
use PostgreSQL::Test::Utils qw(slurp_file);
use Session;

my $members = 620;				# a batch of 500, and a second one
my $push = qr{:commit.*/documents/members/}s;

my $db = EkkSync->new(members => $members);
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$db->use_host($proxy->host);
$db->admin_sql('CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
my @keys = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C"');

# ------------------------------------------------------------------- helpers

# As the role that may watch: (status, stdout, stderr) or the output.
sub watch
{
	my ($sql) = @_;
	my @result = $db->_psql('watcher', $db->database, $sql);
	return wantarray ? @result : $result[0] == 0 ? $result[1] : $result[2];
}

sub progress { return scalar watch('SELECT phase, done, total FROM ekksync_progress'); }

# The worker of a run, as pg_stat_activity has it.
sub worker { return $db->admin_sql("SELECT $_[0] FROM pg_stat_activity WHERE backend_type = 'ekksync run'"); }

# Is this what processes of such a type wait for?  Events have names since 17.
my $named = $db->sql("SELECT current_setting('server_version_num')::int >= 170000") eq 't';
sub waits_for
{
	my ($who, $event, $name) = @_;
	my $is = '';
	ok($db->wait_for(sub {
		$is = $db->admin_sql("SELECT wait_event_type || ' ' || wait_event FROM pg_stat_activity WHERE $who");
		return $is eq 'Extension ' . ($named ? $event : 'Extension');
	}), $name) or diag("it waits for $is");
	return;
}

sub no_worker { return $db->wait_for(sub { return worker('count(*)') == 0 }); }

# Widest line of what psql prints for a query.
sub width
{
	my ($sql) = @_;
	my ($widest) = sort { $b <=> $a } map { length } split /\n/, $db->_psql(undef, $db->database, undef,
		-P => 'format=aligned', -P => 'tuples_only=off', -P => 'footer=off', -c => $sql);
	return $widest;
}

sub metric
{
	my ($name, $labels) = @_;
	return watch("SELECT value FROM ekksync_metrics WHERE name = 'ekksync_$name' AND labels @> '" . ($labels // '{}') . q('));
}

# What was notified since the last call: events, decoded.
my $listener = Session->new($db);
$listener->sql('LISTEN ekksync');
sub heard
{
	my $out = join '', map { $listener->sql('SELECT') } 1 .. 2;
	return [ map { JSON::PP->new->decode($_) } $out =~ /with payload "(\{.*?\})" received/g ];
}

# ------------------------------------------------------------- a run at work

is(progress(), '', 'without a run there is no progress');
is(metric('running'), 0, '... nor a run in the metrics');

$proxy->start(fault => 'delay', match => $push, nth => 2);
my $caller = Session->new($db);
$caller->send('SELECT status FROM ekksync_run()');
ok($proxy->wait_fired, 'a run is at work, and waits for the answer to its second batch');
is(progress(), 'members|500|620', 'the view says how far it is');
is(watch(q(SELECT run, mode, direction, rate > 0, eta >= '0', elapsed >= '0' FROM ekksync_progress)),
	'1|sync|both|t|t|t', '... at what pace, and how long it may take');
is(watch('SELECT pid FROM ekksync_progress'), worker('pid'), '... and which process it is');
is(worker('query'), 'ekksync run 1: members, 500 of 620', 'pg_stat_activity says the same');
is(worker('state'), 'active', '... of an active process');
waits_for("backend_type = 'ekksync run'", 'EkksyncFirestore', 'it waits for Firestore');
waits_for('pid = ' . $caller->pid, 'EkksyncRun', '... and its caller for the run');
is(metric('running'), 1, 'the metrics know that a run is at work');
cmp_ok(width('SELECT * FROM ekksync_progress'), '<=', 120, 'the view is no wider than 120 columns');
my $rate = watch('SELECT rate FROM ekksync_progress');
ok($db->wait_for(sub { return watch('SELECT rate FROM ekksync_progress') < $rate }), 'the rate falls while nothing comes');
$proxy->resume;
is($caller->answer, 'success', 'it goes on to its end');
ok(no_worker(), '... and its process ends');
is(progress(), '', '... and there is no progress any more');
is_deeply(heard(), [], 'nobody is told of a success after nothing');

# ------------------------------------------------------------ what it took

is(watch(q(SELECT string_agg(phase, ' ') FROM ekksync_phases WHERE run = 1)),
	'start stage scan survey members close clean end', 'the phases of the run, in their order');
is($db->sql(<<'SQL'), 't|t|t|t|t|t', 'their cost is that of the run, nothing is missing and nothing double');
SELECT sum(p.requests) = r.requests, sum(p.docs_read) = r.docs_read, sum(p.docs_written) = r.docs_written,
	sum(p.bytes_sent) = r.bytes_sent, sum(p.bytes_received) = r.bytes_received, sum(p.retries) = r.retries
FROM ekksync_phases AS p JOIN ekksync_runs AS r USING (run) WHERE run = 1
GROUP BY r.requests, r.docs_read, r.docs_written, r.bytes_sent, r.bytes_received, r.retries
SQL
is($db->sql(q(SELECT done, docs_written, requests > 0, bytes_sent > 0 FROM ekksync_phases WHERE run = 1 AND phase = 'members')),
	"$members|$members|t|t", 'that of the members has written them');
is($db->sql(q(SELECT sum(p.duration) <= r.duration AND min(p.duration) > '0' AND r.duration - sum(p.duration) < r.duration / 2
	FROM ekksync_phases AS p JOIN ekksync_runs AS r USING (run) WHERE run = 1 GROUP BY r.duration)),
	't', 'the durations add up to that of the run');
cmp_ok(width('SELECT * FROM ekksync_phases'), '<=', 120, 'the view is no wider than 120 columns');

# ---------------------------------------------------------- the other phases

# A run that is stopped at a step: what the view says then, and, when it ended,
# the numbers of its phases.
sub stopped_at
{
	my ($step, %arg) = @_;
	$db->stop_at($step);
	my $session = Session->new($db);
	$session->send('SELECT status FROM ' . ($arg{call} // 'ekksync_run()'));
	$db->wait_stopped or diag("no run comes to step $step");
	my $progress = progress();
	my $mode = watch('SELECT mode FROM ekksync_progress');
	waits_for("backend_type = 'ekksync run'", 'EkksyncStep', "at step $step it waits for the test");
	$db->go_on;
	$session->answer;
	$session->end;
	no_worker();
	return "$progress $mode";
}

$db->queue_entry(docId => $keys[$_], changes => { 'profile.facebook' => "fb$_" }) for 0 .. 4;
is(stopped_at('staged'), 'stage|0| sync', 'entries are staged: how many there are is not known');
is($db->sql(q(SELECT done FROM ekksync_phases WHERE run = 2 AND phase = 'stage')), 5, '... but counted');
is($db->sql(q(SELECT done FROM ekksync_phases WHERE run = 2 AND phase = 'close')), 5, '... and closed');
$db->queue_entry(docId => $keys[$_], changes => { 'profile.facebook' => "fb2 $_" }) for 0 .. 4;
is(stopped_at('closed', call => 'ekksync_run(force => true)'), 'close|0|5 sync', 'entries are closed: of how many');
$db->admin_sql('ALTER DATABASE socialism SET ekksync.scan = full');
is(stopped_at('scanned', call => 'ekksync_run(dry_run => true)'), "scan|0|$members dry run", 'a full scan: of all members');
is($db->sql(q(SELECT done FROM ekksync_phases WHERE phase = 'scan' ORDER BY run DESC LIMIT 1)), $members, '... and counted');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.scan');
is(stopped_at('in_read', call => q((SELECT count(*) AS status FROM ekksync_diff()) AS d)), "compare|0|$members diff", 'a comparison');
is($db->sql(q(SELECT done FROM ekksync_phases WHERE phase = 'compare')), $members, '... of all of them');
$db->admin_sql('UPDATE membership_comrade SET name = name || $$ II$$');
is(stopped_at('in_read', call => 'ekksync_run()'), "survey|0|$members sync", 'where all may lose something they are looked at first');
is($db->sql(q(SELECT string_agg(done::text, ' ') FROM ekksync_phases WHERE run = (SELECT max(run) FROM ekksync_runs) AND phase IN ('survey', 'members'))),
	"$members $members", '... and then worked on');
is_deeply(heard(), [], 'of none of that anybody is told');

# -------------------------------------------------------- waiting for better

$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_retries = 20');
$proxy->start(fault => 'answer', status => 503, error => 'UNAVAILABLE', text => 'later', retry_after => 60, times => 0);
$caller->send('SELECT status FROM ekksync_run()');
ok($proxy->wait_fired, 'Firestore asks to come again later');
waits_for("backend_type = 'ekksync run'", 'EkksyncRetry', 'a run waits to do so');
is(progress(), 'start||', '... in its first phase, of which no more is known yet');
is(worker('query'), 'ekksync run 7: start', '... which pg_stat_activity says as well');
$db->admin_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ekksync run'");
eval { $caller->answer };
no_worker();
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.max_retries');
$proxy->start;

# --------------------------------------------------------------- a run died

is($db->run->{status}, 'success', 'the next one is well');
is_deeply([ map { "$_->{event} $_->{run}" } @{ heard() } ], [ 'failure 7', 'recovery 8' ], 'somebody is told of both');

$db->admin_sql('UPDATE membership_comrade SET name = name || $$ I$$');
$proxy->start(fault => 'delay', match => $push, nth => 2);
$db->sql('SELECT ekksync_run(wait => false)');
ok($proxy->wait_fired, 'a run is at work');
is(progress(), 'members|500|620', '... and shows it');
$db->admin_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ekksync run'");
ok(no_worker(), '... and dies');
$proxy->start;
is($db->sql('SELECT status FROM ekksync_runs ORDER BY run DESC LIMIT 1'), 'running', 'its record does not say so');
is(progress(), '', '... but the view does');
is(watch('SELECT last_run_status, health, reasons FROM ekksync_status()'), 'interrupted|degraded|{run_interrupted}', '... and the status');
is(metric('running'), 0, '... and the metrics');
is_deeply(heard(), [], 'nobody is there who could tell of it');

$db->stop_at('locked');
$caller = Session->new($db);
$caller->send('SELECT status FROM ekksync_run()');
$db->wait_stopped;
is(progress(), '', 'nor is it taken for the one that is at work next');
$db->go_on;
is($caller->answer, 'success', 'which goes on from there');
is($db->sql(q(SELECT status, phase FROM ekksync_runs WHERE run = 9)), 'interrupted|members', 'the record of the dead one is closed');
is($db->sql(q(SELECT done FROM ekksync_phases WHERE run = 9 AND phase = 'members')), 500, '... and says how far it was');
is_deeply(heard(),
	[ { event => 'failure', run => 9, status => 'interrupted', sqlstate => undef, phase => 'members', changes => 0 },
		{ event => 'recovery', run => 10, after => 1 } ],
	'somebody is told that it died, and that all is well again');
no_worker();

# ------------------------------------------------------------------- NOTIFY

$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_retries = 0');
$proxy->stop;
$db->run for 1 .. 2;
is_deeply([ map { { %$_, run => 0 } } @{ heard() } ],
	[ ({ event => 'failure', run => 0, status => 'failed', sqlstate => '08006', phase => 'start', changes => 0 }) x 2 ],
	'somebody is told of each failure');
is($db->run(dry_run => 1)->{status}, 'failed', 'a dry run fails as well');
is_deeply(heard(), [], '... and is the affair of its caller');
$proxy->start;
is($db->run(only => [ $keys[4] ])->{status}, 'success', 'a run for one member');
is_deeply(heard(), [], '... says nothing of the others');
my $key = $keys[3];
my $bad = $db->queue_entry(docId => $key, changes => { 'profile.nonsense' => 'Leyndó' });
my $run = $db->run->{run};
is_deeply(heard(),
	[ { event => 'failure', run => $run, status => 'success', sqlstate => undef, phase => 'end', changes => 1 },
		{ event => 'recovery', run => $run, after => 2 } ],
	'of a run that succeeds again, and of a change that fails in it');
is($db->run->{status}, 'success', 'the next one');
is_deeply(heard(), [], '... is nothing new');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.max_retries');

# ------------------------------------------------------------------ metrics

is(metric('runs_total', '{"mode": "sync", "status": "failed"}'), 2, 'runs are counted: failed ones');
is(metric('runs_total', '{"mode": "sync", "status": "interrupted"}'), 2, '... interrupted ones');
is(metric('runs_total', '{"mode": "dry_run"}'), "1\n1\n0\n0", '... dry ones');
is(metric('runs_total', '{"mode": "diff", "status": "success"}'), 1, '... and comparisons');
is(metric('failed_changes', '{"side": "firestore"}'), 1, 'what has failed');
is(metric('degraded_by', '{"reason": "changes_failed"}'), 1, '... and that it degrades');
is(metric('health_status', '{"state": "degraded"}') . metric('health_status', '{"state": "ok"}'), '10', '... which is the state');
is(metric('last_run_success'), 1, 'the last run was a success');
is(watch("SELECT abs(value - extract(epoch FROM now())) < 600 FROM ekksync_metrics WHERE name LIKE '%timestamp%'"),
	"t\nt\nt", 'times are seconds since 1970');
my %sum = (requests_total => 'requests', retries_total => 'retries', 'documents_total{"op": "written"}' => 'docs_written',
	'documents_total{"op": "read"}' => 'docs_read', 'bytes_total{"direction": "sent"}' => 'bytes_sent',
	'bytes_total{"direction": "received"}' => 'bytes_received', conflicts_total => 'conflicts',
	'members_written_total{"side": "firestore"}' => 'CASE WHEN dry_run THEN 0 ELSE to_firestore END');
for my $name (sort keys %sum)
{
	is(metric($name =~ /^(\w+)(.*)$/ ? ($1, $2 || '{}') : ()), $db->sql("SELECT sum($sum{$name}) FROM ekksync_runs"), "the sum of all runs: $name");
}
my $requests = metric('requests_total');
$db->admin_sql('DELETE FROM ekksync.run WHERE id < 5');
is(metric('requests_total'), $requests, 'counters never fall, whatever becomes of old records');
is(watch(q(SELECT count(*) FROM ekksync_metrics WHERE value IS NULL OR help = '' OR type NOT IN ('gauge', 'counter')
	OR (type = 'counter') <> (name LIKE '%\_total'))), 0, 'each has a value, a type and help');
is(watch('SELECT count(*) - count(DISTINCT (name, labels)) FROM ekksync_metrics'), 0, 'none is there twice');
cmp_ok(width('SELECT name, labels, value FROM ekksync_metrics'), '<=', 120, 'names and values are no wider than 120 columns');

# The reference names each of them, with its labels, and no other.
my $reference = slurp_file("$ENV{EKKSYNC_TOP}/docs/reference.md");
my %documented = $reference =~ /^\| `(ekksync_\w+)` \| ((?:`\w+`(?:, )?)*) \|/mg;
is_deeply([ map { "$_ " . $documented{$_} =~ s/[`,]//gr } sort keys %documented ],
	[ split /\n/, watch(q(SELECT DISTINCT name || ' ' || coalesce((SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(labels) AS k), '')
		COLLATE "C" FROM ekksync_metrics ORDER BY 1)) ],
	'the reference has all metrics and their labels');

# ------------------------------------------------------- postgres_exporter

# The file is what postgres_exporter reads: each query gives its columns, and
# all of them together give the metrics.
my $queries = CPAN::Meta::YAML->read("$ENV{EKKSYNC_TOP}/docs/postgres_exporter.yml")->[0];
my %collected;
for my $space (sort keys %$queries)
{
	my $query = $queries->{$space};
	my %usage = map { my ($column) = keys %$_; ($column => $_->{$column}{usage}) } @{ $query->{metrics} };
	my ($status, $out, $error) = watch("WITH q AS ($query->{query}) SELECT row_to_json(q) FROM q");
	is($status, 0, "the query of $space runs") or diag($error);
	my @rows = map { JSON::PP->new->decode($_) } split /\n/, $out;
	is_deeply([ sort keys %{ $rows[0] } ], [ sort keys %usage ], '... and gives what the file says');
	for my $row (@rows)
	{
		my $labels = join ',', map { "$_=$row->{$_}" } grep { $usage{$_} eq 'LABEL' } sort keys %usage;
		$collected{"${space}_$_ $labels"} = $usage{$_} for grep { $usage{$_} ne 'LABEL' } keys %usage;
	}
}
is_deeply(\%collected, { map { split /\|/ } split /\n/, watch(<<'SQL') }, 'together they give all metrics, by their names');
SELECT name || ' ' || coalesce((SELECT string_agg(key || '=' || value, ',' ORDER BY key) FROM jsonb_each_text(labels)), ''), upper(type)
FROM ekksync_metrics
SQL

# ------------------------------------------------------------ who sees what

$db->stop_at('unstaged');
$db->sql('SELECT ekksync_run(dry_run => true, wait => false)');
$db->wait_stopped;
is(metric('running'), 1, 'a dry run is at work as well');
$db->go_on;
no_worker();
is(metric('running'), 0, '... until it has ended');

$db->sql("UPDATE membership_comrade SET name = 'Leyndarnafn' WHERE ssn = '$key'");
$proxy->start(fault => 'delay', match => $push);
$db->sql('SELECT ekksync_run(wait => false)');
$proxy->wait_fired;
my $seen = join "\n", map { scalar watch("SELECT * FROM $_") }
  qw(ekksync_status() ekksync_progress ekksync_phases ekksync_metrics), "pg_stat_activity WHERE backend_type = 'ekksync run'";
cmp_ok(length $seen, '>', 2000, 'who has pg_monitor sees much');
is(join(' ', grep { index($seen, $_) >= 0 } @keys, 'Leynd'), '', '... and no member');
$proxy->resume;
no_worker();
like(scalar watch("SELECT * FROM $_"), qr/permission denied/, "... nor $_")
  for qw(ekksync_runs ekksync_conflicts ekksync_pending ekksync_failed ekksync_plan membership_comrade ekksync.member);

# A run's error may quote a value: who may not see members gets its SQLSTATE.
$db->admin_sql(q(UPDATE ekksync.run SET status = 'failed', sqlstate = '22P02', error = 'invalid input: "Leyndarnafn"'
	WHERE id = (SELECT max(id) FROM ekksync.run)));
like(scalar watch('SELECT reason FROM ekksync_status()'), qr/^the last run failed: SQLSTATE 22P02; its message is in ekksync_runs/, 'an error is told to him by its SQLSTATE');
like($db->sql('SELECT reason FROM ekksync_status()'), qr/^the last run failed: invalid input: "Leyndarnafn"/, '... and to the owner in full');

$listener->end;
done_testing();
