# The launcher: with preload, each database of ekksync.databases has its runs
# at the times of its own schedule, by its own settings, as the owner of its
# member table; settings take effect at once with a reload.  Where no run can be
# made (no such database, no extension, no attachment, no role, another version,
# no worker slot) that is in the log once, it is tried again in silence, and
# goes on when it can.  Without preload runs are made on demand, and the rest is
# said.  The launcher's clock is the test's.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use PostgreSQL::Test::Utils qw(slurp_file);
use Session;
use Time::Local qw(timegm);

# An older version of the extension has a script by which it is updated.
my $older = "$ENV{TESTDIR}/older_101";
my ($scripts) = $ENV{EKKSYNC_CONF} =~ /^extension_\w+ = '([^':]+)/m;
system('rm', '-rf', $older) == 0 && system('cp', '-R', $scripts, $older) == 0 or BAIL_OUT("$scripts cannot be copied");
my ($extension) = $ENV{EKKSYNC_CONF} =~ /^(extension_.*)$/m;
$extension =~ s/\Q$scripts\E/$older/;
chomp(my $control = `find '$older' -name ekksync.control`);
{
	open my $script, '>', $control =~ s/\.control$/--0.9--1.0.sql/r or BAIL_OUT("$control: $!");
	print $script "ALTER TABLE ekksync.run ADD COLUMN updated boolean;\n";
	close $script or BAIL_OUT("$control: $!");
}

my $day = 24 * 3600;
my $goes_on = qr/LOG:  ekksync runs are made in database "socialism" again/;
my $t0 = timegm(0, 0, 0, 1, 2, 2031);	# 2031-03-01, a Saturday

my $db = EkkSync->new(
	members   => 5,
	extension => 0,
	attach    => 0,
	clock     => $t0 - 30 * $day,
	conf      => "$extension\n" . <<'CONF');
ekksync.databases = 'socialism, second, "Not There"'
ekksync.max_retries = 0
max_worker_processes = 8
log_min_messages = debug1
CONF

sub in_log
{
	my ($text) = @_;
	return scalar(() = slurp_file($db->node->logfile) =~ /$text/g);
}

# How many workers of the launcher's have been started so far in a database.
sub starts
{
	my ($kind, $name) = @_;
	return in_log(qr/starting background worker process "ekksync $kind in \Q$name\E"/);
}

sub reload
{
	$db->node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	return;
}

sub status
{
	my ($in) = @_;
	return $in->row('SELECT next_run, health, reason FROM ekksync_status()');
}

sub next_is
{
	my ($in, $expected, $name) = @_;
	my $next;
	$in->wait_for(sub { ($next = status($in)->{next_run} // '') eq $expected }, 30);
	is($next, $expected, $name);
	return;
}

sub schedule_check
{
	my ($in) = @_;
	return $in->row(q(SELECT ok, detail, hint FROM ekksync_check() WHERE "check" = 'schedule'));
}

# Let ten minutes go by, the longest that is waited for anything; should they
# have gone by too early, ten more.
my $clock = $t0 - 30 * $day;
sub step_until
{
	my ($code) = @_;
	my $next = 0;
	return $db->wait_for(
		sub {
			$db->set_clock($clock += 601) if time > $next;
			$next = time + 1 if time > $next;
			return $code->();
		});
}

# That no run can be made is in the log once, for this reason, however often it
# is tried.  Moves the clock.
sub is_told_once
{
	my ($name, $reason, $why) = @_;
	my $line = qr/LOG:  ekksync cannot make runs in database "\Q$name\E": $reason\n/;
	ok(step_until(sub { in_log($line) }), "$why: the log says so");
	for (1 .. 4)
	{
		my $before = starts(look => $name);
		step_until(sub { starts(look => $name) > $before }) or die "$name is not tried again";
	}
	is(in_log($line), 1, '... once, though it is tried again and again');
	return;
}

sub goes_on
{
	my ($in, $name) = @_;
	my $line = qr/LOG:  ekksync runs are made in database "\Q@{[ $in->database ]}\E" again/;
	my $before = in_log($line);
	ok(step_until(sub { in_log($line) > $before }), "$name: it goes on when it can");
	return;
}

# ------------------------------------------------------------ what is not there

is_told_once('Not There', 'database "Not There" does not exist', 'no such database');
is(in_log(qr/FATAL:  database "(?:Not There|second)" does not exist/), 0, '... and nothing else does');
is(in_log(qr/LOG:  background worker "ekksync look[^\n]*exited with exit code/), 0, '... nor that a worker failed');
is_told_once('socialism', 'extension "ekksync" is not installed', 'no extension');
$db->create_extension;
is_told_once('socialism', 'ekksync is not attached to a member table', 'not attached');
$db->set_clock($clock = $t0);
$db->attach;
ok($db->wait_for(sub { in_log($goes_on) }),
	'attached: it goes on at once');
next_is($db, '2031-03-01T03:30:00+00:00', 'the next run is known');
is_deeply(schedule_check($db), { ok => JSON::PP::true, detail => 'next run at 2031-03-01 03:30:00+00', hint => undef },
	'... and ekksync_check() says when it is');

my ($second) = $db->copies('second');
reload();
next_is($second, '2031-03-01T03:30:00+00:00', 'a database that came later has runs, too');
$db->wait_for(sub { in_log(qr/LOG:  ekksync runs are made in database "second" again/) });

# ------------------------------------------------------------------ a run, at last

my $launcher = $db->admin_sql(
	"SELECT pid, datname, backend_xmin, xact_start FROM pg_stat_activity WHERE backend_type = 'ekksync launcher'");
like($launcher, qr/^\d+\|\|\|$/, 'the launcher is in no database and in no transaction');
$db->admin_sql("ALTER DATABASE second SET ekksync.schedule = '15 12 * * *'");
next_is($second, '2031-03-01T03:30:00+00:00', 'ALTER DATABASE alone is not seen at once');
reload();
next_is($second, '2031-03-01T12:15:00+00:00', '... but with a reload');
is(status($db)->{next_run}, '2031-03-01T03:30:00+00:00', '... and only there');

my ($ssn) = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id LIMIT 1');
$db->stop_at('numbered');
$db->set_clock($clock = $t0 + 3.5 * 3600);
my $pid = $db->wait_stopped;
ok($pid, 'when it is time a run begins');
is($db->admin_sql("SELECT backend_type, usename, datname FROM pg_stat_activity WHERE pid = $pid"),
	'ekksync run|socialism|socialism', '... as the owner of the member table');
$db->go_on;
my $run = $db->scheduled_run('2031-03-01 03:30Z');
is($run->{status}, 'success', '... and ends well');
ok($db->doc($ssn), '... and has done what it is for');
next_is($db, '2031-03-02T03:30:00+00:00', '... and then the next one is known');
is($second->sql('SELECT count(*) FROM ekksync_runs'), 0, 'the other database had none');
is($db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE datname IN ('socialism', 'second') AND pid <> pg_backend_pid()"),
	0, 'between runs nobody is connected');

$db->set_clock($clock = $t0 + 12.25 * 3600);
is($second->scheduled_run('2031-03-01 12:15Z')->{status}, 'success', 'it has its own at its own time');
ok($second->doc($ssn), '... into its own project');

# A step back and forth of the clock makes no second run.
my $seconds_looks = starts(look => 'second');
$db->set_clock($t0 + 12 * 3600);
ok($db->wait_for(sub { starts(look => 'second') > $seconds_looks }), 'the clock is set back: the launcher looks');
next_is($second, '2031-03-02T12:15:00+00:00', '... which brings no time again');
$db->set_clock($clock);

# ------------------------------------------------------------ settings at once

$db->admin_sql("ALTER DATABASE socialism SET ekksync.schedule = '0 9 * * *'");
reload();
next_is($db, '2031-03-02T09:00:00+00:00', 'a schedule whose time of today has passed begins tomorrow');
$db->admin_sql("ALTER DATABASE socialism SET ekksync.schedule = ''");
reload();
$db->wait_for(sub { !defined status($db)->{next_run} });
is(status($db)->{reason}, 'nothing is scheduled: ekksync.schedule is empty, or is never due', 'an empty schedule is off');
is(status($db)->{health}, 'ok', '... which is no trouble');
like(schedule_check($db)->{hint}, qr/ekksync\.schedule/, '... and ekksync_check() says what to do');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.schedule');
$db->node->append_conf('postgresql.conf', "ekksync.schedule = '\@hourly'\nekksync.databases = 'socialism'");
reload();
next_is($db, '2031-03-01T13:00:00+00:00', 'what is set for all databases holds there, too');
$second->wait_for(sub { !defined status($second)->{next_run} });
like(status($second)->{reason}, qr/this database is not in ekksync\.databases/, 'a database can be taken off the list');
$db->set_clock($clock = $t0 + 13 * 3600);
is($db->scheduled_run('2031-03-01 13:00Z')->{status}, 'success', 'the hourly run is made');

$db->set_clock($clock += 40 * 60);
$db->admin_sql("ALTER DATABASE socialism SET ekksync.schedule = '20 13 * * *'");
reload();
next_is($db, '2031-03-02T13:20:00+00:00', 'a schedule that would have been due since the last run begins tomorrow, too');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.schedule');
reload();
next_is($db, '2031-03-01T14:00:00+00:00', '... and the other one goes on');

my $before = $db->sql('SELECT count(*) FROM ekksync_runs');
$db->sql("SELECT ekksync_pause('a test')");
my $looks = starts(look => 'socialism');
$db->set_clock($clock = $t0 + 15 * 3600);
$db->wait_for(sub { starts(look => 'socialism') > $looks }) or die;
ok(!defined status($db)->{next_run}, 'paused: there is no next run');
$db->sql('SELECT ekksync_resume()');
next_is($db, '2031-03-01T16:00:00+00:00', '... and resumed, there is');
is($db->sql('SELECT count(*) FROM ekksync_runs'), $before, '... and what was due meanwhile is not made up');
is($db->sql("SELECT count(*) FROM ekksync_runs WHERE scheduled = '2031-03-01 13:20Z'"), 0,
	'... nor what a new schedule would have asked for before it was set');

# -------------------------------------------------- killed, and missed, or not

$db->stop_at('fenced');
$db->set_clock($clock = $t0 + 16 * 3600);
$pid = $db->wait_stopped;
$db->admin_sql("SELECT pg_terminate_backend($pid)");
$db->wait_for(sub { !$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") });
ok($db->wait_for(sub { in_log(qr/database "socialism": its worker ended before it was done/) }), "a run's worker is killed");
$db->go_on;
my $again = "SELECT count(*) FROM ekksync_runs WHERE scheduled = '2031-03-01 16:00Z' AND status = 'success'";
ok(step_until(sub { $db->sql($again) }), '... and its run is made again');
is($db->sql("SELECT string_agg(status, ' ' ORDER BY run) FROM ekksync_runs WHERE scheduled = '2031-03-01 16:00Z'"),
	'interrupted success', '... once');

my $gone_on = in_log($goes_on);
for my $try (1 .. 3)
{
	$db->stop_at('fenced');
	$db->set_clock($clock = $t0 + 17 * 3600) if $try == 1;
	step_until(sub { -e $db->node->data_dir . "/base/$db->{oid}/ekksync.stopped" });
	$pid = $db->wait_stopped or die 'no try';
	$db->admin_sql("SELECT pg_terminate_backend($pid)");
	$db->wait_for(sub { !$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") });
}
$db->go_on;
step_until(sub { defined status($db)->{next_run} });
next_is($db, '2031-03-01T18:00:00+00:00', 'a run that dies time and again is given up for this time');
is($db->sql("SELECT count(*) FROM ekksync_runs WHERE scheduled = '2031-03-01 17:00Z'"), 3, '... after three tries');
is(in_log(qr/LOG:  ekksync gives up the run in database "socialism" that was due at 2031-03-01 17:00:00/), 1, '... which is in the log');
is(in_log($goes_on), $gone_on, '... and not that runs are made again');

# its record is closed, then it dies
$db->stop_at('ended');
$db->set_clock($clock = $t0 + 18 * 3600);
$pid = $db->wait_stopped;
ok($pid, '... but is made at the next');
$db->admin_sql("SELECT pg_terminate_backend($pid)");
$db->wait_for(sub { !$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") });
$db->go_on;
goes_on($db, 'its worker dies at the last moment');
is($db->sql("SELECT string_agg(status, ' ') FROM ekksync_runs WHERE scheduled = '2031-03-01 18:00Z'"), 'success', '... and the run was made, once');
$db->set_clock($clock = $t0 + 18.75 * 3600);

$pid = $db->admin_sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync launcher'");
kill TERM => $pid;
my $new;
ok($db->wait_for(
		sub {
			$new = $db->admin_sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync launcher'");
			$new && $new != $pid;
		}), 'a launcher that was killed comes back');
$db->set_clock($clock = $t0 + 19 * 3600);
is($db->scheduled_run('2031-03-01 19:00Z')->{status}, 'success', '... and makes the next run');

# another run is in progress: the scheduled one waits for its turn
$db->stop_at('fenced');
$db->run(wait => 0);
$db->wait_stopped or die;
my $runs = starts(run => 'socialism');
$db->set_clock($clock = $t0 + 20 * 3600);
ok($db->wait_for(sub { starts(run => 'socialism') > $runs }), 'it is time while another run is in progress');
$db->go_on;
step_until(sub { $db->sql("SELECT count(*) FROM ekksync_runs WHERE scheduled = '2031-03-01 20:00Z'") });
is($db->scheduled_run('2031-03-01 20:00Z')->{status}, 'success', '... then the scheduled one is made after it');

# down for some hours
$db->node->stop;
$db->set_clock($clock = $t0 + 23.5 * 3600);
$db->node->start;
is($db->scheduled_run('2031-03-01 23:00Z')->{status}, 'success', 'what was missed is made up, for the last time missed');
next_is($db, '2031-03-02T00:00:00+00:00', '... and then the next one waits for its time');
is($db->sql("SELECT count(*) FROM ekksync_runs WHERE scheduled > '2031-03-01 20:00Z'"), 1, '... once');
$db->node->append_conf('postgresql.conf', 'ekksync.catch_up = off');
$db->node->stop;
$db->set_clock($clock = $t0 + $day + 5.5 * 3600);
$db->node->start;
next_is($db, '2031-03-02T06:00:00+00:00', 'with catch_up off the next one waits for its time');
is($db->sql("SELECT count(*) FROM ekksync_runs WHERE scheduled > '2031-03-02'"), 0, '... and what was missed is left out');
$db->set_clock($clock = $t0 + $day + 6 * 3600 + 600);
is($db->scheduled_run('2031-03-02 06:00Z')->{status}, 'success', '... but not what is a little late');

# --------------------------------------------------------------- cannot be made

$db->admin_sql("UPDATE pg_extension SET extversion = '1.1' WHERE extname = 'ekksync'");
reload();
ok($db->wait_for(sub { in_log(qr/"socialism": extension "ekksync" has version 1\.1, and the server's library version 1\.0\n/) }),
	'SQL that is newer than the library: the log says so');
my (undef, undef, $newer) = $db->sql_err('SELECT ekksync_run()');
like($newer, qr/has version 1\.1.*HINT: .* restart the server if it is the library that is older/s, '... and a run on demand is refused, with a hint');
$before = $db->sql('SELECT count(*) FROM membership_membersyncqueue');
$db->sql("UPDATE membership_comrade SET name = 'Nýrri' WHERE id = 1");
is($db->sql('SELECT count(*) FROM membership_membersyncqueue'), $before + 1, '... while changes are captured');
$db->admin_sql("UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'ekksync'");
is_told_once('socialism', q(extension "ekksync" has version 0\.9, and the server's library version 1\.0), 'another version');
my ($code, undef, $err) = $db->sql_err('SELECT ekksync_run()');
like($err, qr/HINT:  Use ALTER EXTENSION ekksync UPDATE/, '... and a run on demand is refused, with a hint');
like(schedule_check($db)->{detail}, qr/^nothing is scheduled: extension "ekksync" has version 0\.9/, '... and ekksync_check() says why');
my $update = Session->new($db, 'postgres');
$update->sql('BEGIN; ALTER EXTENSION ekksync UPDATE');
$looks = starts(look => 'socialism');
reload();
$db->wait_for(sub { starts(look => 'socialism') > $looks }) or die 'nobody looks';
$update->sql('COMMIT');
$update->end;
goes_on($db, 'updated while the launcher lives');
is($db->run->{status}, 'success', '... and runs are made on demand, too');

$db->admin_sql('ALTER TABLE membership_comrade OWNER TO postgres');
is_told_once('socialism', q([^\n]*the owner of table \S+ is a superuser and was not named by run_as[^\n]*),
	'the member table belongs to a superuser');
$db->admin_sql('ALTER TABLE membership_comrade OWNER TO socialism');
goes_on($db, 'no longer');
{
	my ($schema, $table) = (('"' x 61) . 'a', ('"' x 31) . ('á' x 16));
	my ($in, $as) = map { '"' . s/"/""/gr . '"' } $schema, $table;
	$db->admin_sql("CREATE SCHEMA $in; GRANT ALL ON SCHEMA $in TO socialism; ALTER TABLE membership_comrade RENAME TO $as;"
		  . "ALTER TABLE $as SET SCHEMA $in; ALTER TABLE $in.$as OWNER TO postgres");
	reload();
	$db->wait_for(sub { in_log(qr/owner of table "{3}/) }) or die 'it is not in the log';
	my $cut = $as =~ s/á{7}"$//r;
	like(status($db)->{reason}, qr/; nothing is scheduled: the mapping cannot be used: the owner of table \Q$in.$cut\E$/,
		'a reason that is too long is cut between two letters');
	$db->admin_sql("ALTER TABLE $in.$as OWNER TO socialism; ALTER TABLE $in.$as SET SCHEMA public; ALTER TABLE $as RENAME TO membership_comrade; DROP SCHEMA $in");
	goes_on($db, 'of another name');
}

$db->node->safe_psql('postgres', 'ALTER DATABASE socialism RENAME TO elsewhere');
reload();
ok($db->wait_for(sub { in_log(qr/"socialism": database "socialism" does not exist/) == 2 }),
	'a database that was renamed is gone');
$db->node->safe_psql('postgres', 'ALTER DATABASE elsewhere RENAME TO socialism');
goes_on($db, 'named as before');

$db->admin_sql('DROP EXTENSION ekksync CASCADE');
reload();
ok($db->wait_for(sub { in_log(qr/"socialism": extension "ekksync" is not installed/) == 2 }),
	'an extension that was dropped is gone');
$db->create_extension;
$db->attach;
ok($db->wait_for(sub { defined status($db)->{next_run} }), '... and created and attached again, it goes on at once');

# a role of its own, which goes
$db->sql('SELECT ekksync_detach()');
$db->admin_sql("CREATE ROLE runner; GRANT socialism TO runner;"
	  . "SELECT ekksync_attach('membership_comrade', run_as => 'runner')");
$db->wait_for(sub { defined status($db)->{next_run} });
$db->admin_sql('DELETE FROM pg_authid WHERE rolname = $$runner$$');
reload();
is_told_once('socialism', '[^\n]*role[^\n]*', 'the role that runs work as is gone');
$db->sql('SELECT ekksync_detach()');

# ---------------------------------------------------------------- no free slot

$db->attach;
$db->wait_for(sub { defined status($db)->{next_run} });
$db->node->append_conf('postgresql.conf', 'max_worker_processes = 3');	# with the server's own launcher
$db->node->restart;
$db->wait_for(sub { defined status($db)->{next_run} });
$db->stop_at('fenced');
$db->run(wait => 0);
$db->wait_stopped or die;
ok(step_until(sub { in_log(qr/"socialism": all background worker slots are in use\n/) }), 'no worker slot is free: the log says so');
$db->set_clock($clock += 601);
reload();
$db->go_on;
goes_on($db, 'a free one');
is(in_log(qr/"socialism": all background worker slots are in use\n/), 1, '... and it was in the log once');

# no time was served twice
is($db->sql("SELECT count(*) FROM (SELECT scheduled FROM ekksync_runs WHERE status <> 'interrupted' GROUP BY 1 HAVING count(*) > 1 AND scheduled IS NOT NULL) AS g"),
	0, 'no time of the schedule was served twice');

# The clock was far ahead, and is set right: what was reckoned by it is void.
$db->set_clock($clock = $t0 - 30 * $day);
next_is($db, '2031-01-30T01:00:00+00:00', 'the clock is set back by a month: the next run is known');
$db->set_clock($clock += 4 * $day);
is($db->scheduled_run('2031-02-03 00:00Z')->{status}, 'success', '... and made');
$db->node->stop;

# -------------------------------------------------------------- without preload

my $plain = EkkSync->new(name => 'plain', members => 2, preload => 0);
is($plain->run->{status}, 'success', 'without preload a run is made on demand');
like($plain->row('SELECT * FROM ekksync_status()')->{reason}, qr/^nothing is scheduled: the library is not preloaded$/,
	'... and ekksync_status() says that nothing is scheduled');
ok(!defined $plain->row('SELECT * FROM ekksync_status()')->{next_run}, '... so there is no next run');
my $check = $plain->row(q(SELECT * FROM ekksync_check() WHERE "check" = 'schedule'));
like("$check->{detail} $check->{hint}", qr/not preloaded.*shared_preload_libraries/, '... and so does ekksync_check(), with a hint');
$plain->queue_entry(docId => $plain->sql('SELECT min(ssn) FROM membership_comrade'), changes => { 'profile.nonsense' => 1 });
is($plain->run->{status}, 'success', 'something else is wrong');
is_deeply(status($plain), { next_run => undef, health => 'degraded',
		reason => 'failed changes, see ekksync_failed: 0 of Django, 1 of Firestore; nothing is scheduled: the library is not preloaded' },
	'... and ekksync_status() says both');
$plain->sql(q(SELECT ekksync_pause('a test')));
is(status($plain)->{reason}, 'a test', '... but only that runs are paused, if they are');
$plain->admin_sql("LOAD 'ekksync';\nALTER SYSTEM SET ekksync.databases = 'socialism'");
pass('... and where the library is loaded by hand, ALTER SYSTEM knows its settings');
($code, undef, $err) = $plain->admin_err("LOAD 'ekksync';\nALTER SYSTEM SET ekksync.databases = 'a,,b'");
like($err, qr/List syntax is invalid/, '... and refuses a malformed list');

done_testing();
