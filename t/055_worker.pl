# A run's worker: it works with and without preload; a server that accepts and
# hangs blocks nobody: cancel, termination, shutdown and deadlines are served
# at once, no transaction and no row lock is held, and an interrupted run is
# marked and made good by the next one.  Who waits for a run, who may start
# one, and where not.  User code in a run works as the member table's owner
# and cannot become anybody else.  No kennitala and no name reaches the server
# log.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use FaultProxy;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils qw(slurp_file);
use Time::HiRes qw(sleep time);

my $prompt = 5;					# seconds for what must not wait for the server
my $push = qr{:commit.*/documents/members/}s;
my $worker = "backend_type = 'ekksync run'";

my $db = EkkSync->new(
	members => 30,
	conf    => <<'CONF');
log_statement = none
log_replication_commands = off
wal_level = replica
max_wal_senders = 4
CONF
$db->admin_sql('CREATE ROLE nobody LOGIN');
$db->admin_sql("ALTER DATABASE socialism SET ekksync.$_")
  for 'scan = off', 'max_retries = 1', 'request_timeout = 600000';
my $proxy = FaultProxy->new(to => $db->host);
$proxy->start;
$db->use_host($proxy->host);
my %person;						# whatever must not be in the log
sub note_people
{
	@person{ map { ($_->{ssn}, $_->{name}) } $db->rows('SELECT ssn, name FROM membership_comrade') } = ();
	return;
}
note_people();
my ($ssn, $other) = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id LIMIT 2');

# ------------------------------------------------------------------- helpers

# Run SQL in a session of its own, named $name; finish() waits for it and gives
# psql's status, output and errors.
sub session
{
	my ($name, $sql) = @_;
	local $ENV{PGAPPNAME} = $name;
	my $self = { name => $name, out => '', err => '' };
	$self->{harness} = IPC::Run::start(
		[
			'psql', qw(-X -A -t -q -v ON_ERROR_STOP=1 -U socialism -d),
			$db->node->connstr('socialism'), -c => $sql
		],
		'<', \undef, '>', \$self->{out}, '2>', \$self->{err}, IPC::Run::timeout(60));
	return $self;
}

sub finish
{
	my ($session) = @_;
	IPC::Run::finish($session->{harness});
	return ($? >> 8, @$session{qw(out err)});
}

sub pid_of
{
	my ($where) = @_;
	my $pid;
	$db->wait_for(sub {
		$pid = $db->admin_sql("SELECT pid FROM pg_stat_activity WHERE $where");
	}) or die "nobody is there: $where";
	return $pid;
}

sub last_run
{
	return $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1');
}

# Change the two members, and let a session wait for a run that hangs while
# their documents are to be written.
my $edits = 0;
sub hang
{
	my ($name, $call) = @_;
	$edits++;
	$db->sql("UPDATE membership_comrade SET housing_situation = $edits % 7"
		  . " WHERE ssn IN ('$ssn', '$other')");
	$proxy->start(fault => 'hang', match => $push);
	my $session = session($name, $call // 'SELECT run, status, message FROM ekksync_run()');
	$proxy->wait_fired or die 'the run did not come to write';
	return $session;
}

sub is_gone
{
	my ($pid, $name) = @_;
	my $start = time;
	my $gone = $db->wait_for(
		sub { !$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") }, 30);
	ok($gone && time - $start < $prompt, $name) or diag('after ' . (time - $start) . ' s');
	return;
}

# After a hang: the next run marks what was left open and does the work.
sub recovers
{
	my ($name, $open) = @_;
	$proxy->start;
	my $run = $db->run;
	is($run->{status}, 'success', "$name: the next run succeeds") or diag($run->{message});
	my $record = $db->row("SELECT * FROM ekksync_runs WHERE run = $open->{run}");
	is($record->{status}, $open->{becomes}, "... and the open run is $open->{becomes}");
	ok(defined $record->{duration}, '... and has an end');
	my $words = [ qw(unknown owner rental cooperative family other homeless) ];
	is($db->doc($_)->{profile}{housingSituation}, $words->[ $edits % 7 ], '... and the work is done')
	  for $ssn, $other;
	is($db->sql("SELECT count(*) FROM ekksync_pending"), 0, '... and nothing is pending');
	is($run->{conflicts}, 0, '... and no conflict was seen');
	return;
}

is($db->run->{status}, 'success', 'a run with preload');

# ------------------------------------------------ a server that accepts, hangs

my $waiter = hang('waiter');
my $pid = pid_of($worker);
my $run = last_run();
is($run->{status}, 'running', 'a run hangs');

is($db->admin_sql("SELECT num_nulls(backend_xmin, backend_xid, xact_start) FROM pg_stat_activity"
		  . " WHERE pid = $pid"),
	3, '... with no transaction and no snapshot');
is($db->admin_sql("SELECT usename FROM pg_stat_activity WHERE pid = $pid"), 'socialism',
	'... as the owner of the member table');
is($db->admin_sql("SELECT query FROM pg_stat_activity WHERE pid = $pid"),
	"ekksync run $run->{run}: members, 0 of 2", '... and says what it is doing');
is($db->admin_sql("SELECT string_agg(DISTINCT locktype, ' ') FROM pg_locks WHERE pid = $pid"),
	'advisory', '... and holds no lock but that of the run');
$db->sql("SET lock_timeout = '1s'; UPDATE membership_comrade SET gender = 3 WHERE ssn = '$ssn'");
pass('... so that its member can be changed');
$db->sql("SET lock_timeout = '1s'; BEGIN; LOCK membership_comrade, membership_membersyncqueue; COMMIT");
pass('... and its tables be locked');

# ------------------------------------------------------------- two at a time

my $second = session('second', 'SELECT run, message FROM ekksync_run()');
pid_of("application_name = 'second' AND wait_event_type = 'Lock'");
my $third = $db->run(wait => 0);
is($third->{run}, $run->{run}, 'a second caller who does not wait gets the run in progress');
is($third->{status}, 'running', '... as it is');
like($third->{message}, qr/in progress/, '... and is told so');
for my $argument ('dry_run => true', 'force => true', q{"only" => ARRAY['0101302989']})
{
	my ($status, undef, $error) =
	  $db->sql_err("\\set VERBOSITY verbose\nSELECT * FROM ekksync_run($argument)");
	like($error, qr/ERROR:  55006: run $run->{run} is in progress/, "one with $argument is refused");
	like($error, qr/HINT:  \w+/, '... with a hint');
}

# The one who started the run stops waiting: the run goes on.
$db->admin_sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waiter'");
my ($status, $out, $err) = finish($waiter);
like($err, qr/ERROR:  canceling statement due to user request/, 'a cancel ends the wait');
is(last_run()->{status}, 'running', '... and leaves the run');
is(pid_of($worker), $pid, '... and its worker');

# The run itself is cancelled.
my $start = time;
$db->admin_sql("SELECT pg_cancel_backend($pid)");
($status, $out, $err) = finish($second);
cmp_ok(time - $start, '<', $prompt, 'a cancel of the worker is served at once');
is($out, "$run->{run}|canceling statement due to user request\n",
	'... and a second caller who waited gets the run that he joined, and its error');
is_gone($pid, '... and the worker is gone');
my $cancelled = last_run();
is($cancelled->{status}, 'failed', '... and the run failed');
is($cancelled->{sqlstate}, '57014', '... because it was cancelled');
is($cancelled->{error}, 'canceling statement due to user request', '... as its record says');
is($db->sql('SELECT max(retry_count) FROM membership_membersyncqueue'), 0, '... and no try is spent');
recovers('cancelled', { run => $run->{run}, becomes => 'failed' });

# Joining a run that ends well.
$proxy->freeze;
$waiter = session('waiter', 'SELECT run, status, message FROM ekksync_run()');
$db->wait_for(sub { last_run()->{status} eq 'running' }) or die 'no run has begun';
$second = session('second', 'SELECT run, status, message FROM ekksync_run()');
pid_of("application_name = 'second' AND wait_event_type = 'Lock'");
$proxy->thaw;
(undef, $out) = finish($waiter);
like($out, qr/^\d+\|success\|$/, 'the first caller gets his run');
my ($number) = $out =~ /^(\d+)/;
(undef, $out) = finish($second);
is($out, "$number|success|joined a run that was in progress\n", '... and the second the same');

$waiter = hang('waiter');
$pid = pid_of($worker);
$run = last_run();
$db->admin_sql("SELECT pg_terminate_backend($pid)");
is_gone($pid, 'termination of the worker is served at once');
($status, $out, $err) = finish($waiter);
like($err, qr/ERROR:  the run's worker ended before the run was over/, '... and its caller is told');
like($err, qr/HINT:  The next run goes on where it stood\./, '... with a hint');
recovers('terminated', { run => $run->{run}, becomes => 'interrupted' });

$waiter = hang('waiter', "SET statement_timeout = '1s'; SELECT ekksync_run()");
$run = last_run();
(undef, undef, $err) = finish($waiter);
like($err, qr/ERROR:  canceling statement due to statement timeout/,
	'statement_timeout of the caller ends the wait');
is(last_run()->{status}, 'running', '... and leaves the run');
$db->admin_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $worker");
$db->wait_for(sub { !$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE $worker") });

# A timeout of the database or the role is not for the worker.
$db->admin_sql("ALTER ROLE socialism SET statement_timeout = '1s'");
$waiter = hang('waiter', 'SET statement_timeout = 0; SELECT run, status FROM ekksync_run()');
$run = last_run();
is($db->admin_sql("SELECT pg_sleep(1.2), count(*) FROM pg_stat_activity WHERE $worker"), '|1',
	"a role's statement_timeout does not reach the worker");
$db->admin_sql('ALTER ROLE socialism RESET ALL');

# ------------------------------------------------------------------ shutdown

$start = time;
$db->node->stop('fast');
cmp_ok(time - $start, '<', $prompt, 'a fast shutdown does not wait for a run that hangs');
finish($waiter);
$db->node->start;
is(last_run()->{status}, 'running', '... which is left open');
recovers('shut down', { run => $run->{run}, becomes => 'interrupted' });

$waiter = hang('waiter');
$run = last_run();
$db->node->stop('immediate');
finish($waiter);
$db->node->start;
recovers('crashed', { run => $run->{run}, becomes => 'interrupted' });
my $quiet = $db->run;
is($quiet->{to_firestore} + $quiet->{to_django} + $quiet->{conflicts}, 0,
	'... and then there is nothing left to do');

# --------------------------------------------------- where a run can't be had

(undef, undef, $err) = $db->sql_err(<<'SQL');
\set VERBOSITY verbose
BEGIN;
UPDATE membership_comrade SET reachable = NOT reachable WHERE id = 5;
SELECT * FROM ekksync_run();
SQL
like($err, qr/ERROR:  25001: cannot wait for a run in a transaction that has written/,
	'waiting in a transaction that has written is refused');
like($err, qr/HINT:  Commit first\./, '... with a hint');
is($db->sql('SELECT count(*) FROM ekksync_pending'), 0, '... and its change is rolled back');
is($db->sql(<<'SQL'), 'running', '... but one may start a run there');
BEGIN;
UPDATE membership_comrade SET reachable = NOT reachable WHERE id = 5;
SELECT status FROM ekksync_run(wait => false);
COMMIT;
SQL
ok($db->wait_for(sub { last_run()->{status} eq 'success' }), '... and it ends');

{
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$db->node->backup('for_standby');
	$standby->init_from_backup($db->node, 'for_standby', has_streaming => 1);
	$standby->start;
	my ($status, $out, $err) = $standby->psql('socialism', 'SELECT * FROM ekksync_run()');
	like($err, qr/ERROR:  cannot run on a standby server/, 'no run on a standby');
	like($err, qr/HINT:  Call ekksync_run\(\) on the primary server\./, '... with a hint');
	$standby->stop;
}

# --------------------------------------------------------------------- roles

# Triggers as an application may have them: they tell who they are, and try to
# be somebody else.  The deferred ones run at the end of the transaction.
$db->sql(<<'SQL');
CREATE TABLE seen (what text, who text, session text, tried text);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
	statement text;
	result text;
BEGIN
	-- once more at the end of the transaction, whatever was asked for
	SET CONSTRAINTS ALL DEFERRED;
	FOREACH statement IN ARRAY ARRAY['SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres',
		'RESET ROLE', 'RESET SESSION AUTHORIZATION'] LOOP
		result := 'done';
		BEGIN
			EXECUTE statement;
			INSERT INTO seen VALUES (TG_NAME, current_user, session_user, statement || ' ' || result);
		EXCEPTION WHEN OTHERS THEN
			result := SQLSTATE;
			INSERT INTO seen VALUES (TG_NAME, current_user, session_user, statement || ' ' || result);
		END;
	END LOOP;
	IF TG_NAME = 'on_member' THEN
		UPDATE membership_contactinfo SET email = email WHERE comrade_id = NEW.id;
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER on_member AFTER UPDATE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION look();
CREATE CONSTRAINT TRIGGER on_member_deferred AFTER UPDATE ON membership_comrade
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
CREATE CONSTRAINT TRIGGER on_contact_deferred AFTER UPDATE ON membership_contactinfo
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
CREATE CONSTRAINT TRIGGER on_queue_deferred AFTER UPDATE ON membership_membersyncqueue
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
SQL
my $with_contact = $db->row('SELECT ssn FROM membership_comrade JOIN membership_contactinfo'
	  . ' ON comrade_id = id ORDER BY id DESC LIMIT 1')->{ssn};

# An edit in each direction, and what the triggers saw of it.
sub spy
{
	my ($how) = @_;
	$db->admin_sql("UPDATE membership_comrade SET reachable = NOT reachable WHERE ssn = '$ssn';"
		  . 'TRUNCATE seen');
	my $name = "Ægir $how";
	$person{$name} = undef;
	$db->profile_edit($with_contact, 'name', $name);
	is($db->admin_sql('SELECT status FROM ekksync_run()'), 'success', "$how: a run succeeds");
	is($db->admin_sql("SELECT name FROM membership_comrade WHERE ssn = '$with_contact'"), $name,
		'... and applies an edit');
	is($db->admin_sql('SELECT string_agg(DISTINCT what, $$ $$ ORDER BY what) FROM seen'),
		'on_contact_deferred on_member on_member_deferred on_queue_deferred',
		'... under the eyes of all triggers');
	is($db->admin_sql('SELECT DISTINCT who, session FROM seen'), 'socialism|socialism',
		'... which run as the owner of the member table');
	is($db->admin_sql(<<'SQL'), '', '... and cannot become anybody else');
SELECT DISTINCT what, tried, who FROM seen
WHERE who <> 'socialism' OR session <> 'socialism'
	OR tried !~ ' 42501$'
ORDER BY 1, 2
SQL
	return;
}
spy('login');
$db->admin_sql('ALTER ROLE socialism NOLOGIN');
spy('nologin');
$db->admin_sql('ALTER ROLE socialism LOGIN');
$db->sql("DROP FUNCTION look() CASCADE; DROP TABLE seen");
note_people();

# Somebody who may do nothing, and then change members and nothing else.
my @calls = (
	'ekksync_run()', 'ekksync_status()', 'ekksync_check()', "ekksync_doc('0101302989')",
	'ekksync_pause()', 'ekksync_resume()', "ekksync_unmap('name')"
);
for my $call (@calls)
{
	my (undef, undef, $err) = $db->node->psql('socialism', "SELECT * FROM $call",
		extra_params => [ -U => 'nobody' ]);
	like($err, qr/ERROR:  permission denied for function/, "a role without rights cannot call $call");
}
$db->admin_sql('GRANT SELECT, UPDATE ON membership_comrade TO nobody');
($status, undef, $err) = $db->node->psql('socialism',
	'UPDATE membership_comrade SET groupable = NOT groupable WHERE id = 7',
	extra_params => [ -U => 'nobody' ]);
is($status, 0, 'a role with UPDATE on the member table only can change a member') or diag($err);
is($db->sql("SELECT string_agg(k, ' ') FROM ekksync_pending, jsonb_object_keys(fields_changed) AS k"
		  . ' WHERE member_id = 7'),
	'groupable', '... and its change is captured');
(undef, undef, $err) = $db->node->psql('socialism', 'SELECT * FROM membership_membersyncqueue',
	extra_params => [ -U => 'nobody' ]);
like($err, qr/permission denied for table membership_membersyncqueue/,
	'... in a queue that it may not even read');
is($db->run->{status}, 'success', '... and goes to Firestore');

# ------------------------------------------------------------ the server log

# What may tempt a server to talk: a row refused by the table, a value that
# does not fit, a member that is not there, a conflict within the hour.
$db->sql("ALTER TABLE membership_comrade ADD CHECK (name !~ 'bannað')");
my @bad = ('Ösp bannað', 'Æ' x 300, 'Þór vissi', 'Þór vissi ekki');
@person{@bad} = ();
my @entries = ($db->profile_edit($ssn, 'name', $bad[0]), $db->profile_edit($other, 'name', $bad[1]),
	$db->queue_entry(docId => '0101302989', changes => { 'profile.name' => 'Ókunnur' }));
$person{'Ókunnur'} = undef;
$db->sql("UPDATE membership_comrade SET name = '$bad[3]' WHERE ssn = '$with_contact'");
$db->profile_edit($with_contact, 'name', $bad[2]);
$run = $db->run;
is($run->{status}, 'success', 'a run with trouble');
is($db->entry($_)->{sync_status}, 'failed', '... of each kind') for @entries;
is($db->sql("SELECT count(*) FROM ekksync_conflicts WHERE run = $run->{run} AND potential"), 1,
	'... and a potential conflict');

my $log = slurp_file($db->node->logfile);
utf8::decode($log);
like($log, qr/ekksync run \d+ failed: /, 'the server log tells of runs');
like($log, qr/potential conflict/, '... and of conflicts');
is_deeply([ grep { index($log, $_) >= 0 } sort keys %person ], [],
	'... and names nobody, neither by kennitala nor by name');
unlike($log, qr/bearer/i, '... and shows no token');

# ------------------------------------------------ without preload, few workers

$proxy->start;
my $plain = EkkSync->new(
	name      => 'plain',
	members   => 3,
	preload   => 0,
	extension => 0,
	attach    => 0,
	conf      => "max_worker_processes = 1\nmax_logical_replication_workers = 0\n");
$plain->use_host($proxy->host);
$plain->admin_sql('CREATE EXTENSION ekksync; CREATE ROLE boss SUPERUSER');

# Who owns the table.
$plain->admin_sql('ALTER TABLE membership_comrade OWNER TO boss');
(undef, undef, $err) = $plain->admin_err("SELECT * FROM ekksync_attach('membership_comrade')");
like($err, qr/ERROR:  the owner of table \S+ is a superuser/, 'a superuser as owner is refused by attach');
like($err, qr/HINT:  .*run_as/, '... with a hint');
is($plain->admin_sql('SELECT count(*) FROM ekksync.state'), 0, '... and nothing is attached');
$plain->admin_sql("SELECT * FROM ekksync_attach('membership_comrade', run_as => 'boss')");
is($plain->admin_sql('SELECT status FROM ekksync_run()'), 'success', '... unless run_as names it');
$plain->admin_sql('SELECT * FROM ekksync_detach(); DROP TABLE membership_membersyncqueue;'
	  . ' ALTER TABLE membership_comrade OWNER TO socialism');
$plain->wipe;

(undef, undef, $err) = $plain->sql_err('SELECT * FROM ekksync_run()');
like($err, qr/permission denied for function ekksync_run/, 'an owner may not run before attach');
$plain->attach;
is($plain->run->{status}, 'success', 'he may after attach, and without preload');
is($plain->count_docs('members'), 3, '... and the members arrive');
is($plain->sql('SELECT pending FROM ekksync_status()'), 0, '... and the status is his to see');

# One worker process only: a second run cannot even ask.
$plain->sql("UPDATE membership_comrade SET name = name || ' eldri'");
$proxy->start(fault => 'hang', match => $push);
$run = $plain->run(wait => 0);
is($run->{status}, 'running', 'a run that is not waited for');
like($run->{message}, qr/the run goes on/, '... and a message that says so');
$proxy->wait_fired;
(undef, undef, $err) = $plain->sql_err("\\set VERBOSITY verbose\nSELECT * FROM ekksync_run()");
like($err, qr/ERROR:  53400: could not start a worker for the run/, 'no worker is to be had');
like($err, qr/HINT:  .*max_worker_processes/, '... with a hint');
$plain->admin_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $worker");
$proxy->start;
ok($plain->wait_for(sub { ($plain->sql_err('SELECT ekksync_run()'))[0] == 0 }),
	'... until the other is gone');
is(scalar(grep { $_->{profile}{name} =~ / eldri$/ } values %{ $plain->docs('members') }), 3,
	'... and the work is done');
is($plain->sql("SELECT status FROM ekksync_runs WHERE run = $run->{run}"), 'interrupted',
	'... and the run that was ended is interrupted');

# A reason that is too long for the way from the worker to its caller.
$plain->sql("SELECT ekksync_pause(repeat('ð', 400))");
(undef, undef, $err) = $plain->sql_err('SELECT * FROM ekksync_run()');
like($err, qr/^DETAIL:  Reason: ð+$/m, 'a long reason is cut between two letters');

$proxy->stop;
done_testing();
