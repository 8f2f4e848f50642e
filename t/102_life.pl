# A life with the launcher: a stop of the server, a database dropped, made or
# copied wait for nobody, whether a run is under way or not, and Firestore or a
# synchronous standby answers or not; whoever is killed comes back, and a run
# left open is closed as interrupted and made up; a run gives way where its
# database is to be dropped or copied; a standby idles until it is promoted, and
# then goes on; pg_dump and pg_upgrade carry everything.  The launcher's clock is
# the test's.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use FaultProxy;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils qw(slurp_file);
use Session;
use Time::HiRes qw(time);
use Time::Local qw(timegm);

my $prompt = 2;					# seconds, beyond what it takes with nobody there
my $dump = "$ENV{TESTDIR}/life.dump";
my $push = qr{:commit.*/documents/members/}s;
my $clock = timegm(0, 0, 0, 1, 0, 2032);	# 2032-01-01
my $night = $clock + 3.5 * 3600;	# the next one that is due

# Somebody else listens to the server's log, too (t/log_hook.c).
my $hook = "$PostgreSQL::Test::Utils::tmp_check/log_hook.so";
chomp(my $include = `pg_config --includedir-server`);
system(qw(gcc -O -shared -fPIC -Wall -Wextra -Werror -Wno-unused-parameter), "-isystem$include", '-o', $hook, "$ENV{EKKSYNC_TOP}/t/log_hook.c") == 0
  or BAIL_OUT('the library that listens to the log cannot be built');
my $preload = "shared_preload_libraries = 'ekksync, $hook'";

my %conf = (conf => "$preload\nekksync.databases = 'socialism, copy'\nwal_level = replica\nmax_wal_senders = 4\n"
	  . "ekksync.request_timeout = 600000\nrestart_after_crash = on");

my $db = EkkSync->new(name => 'life', members => 6, clock => $clock, %conf);
my $proxy = FaultProxy->new(to => $db->host);
$proxy->start;
$db->use_host($proxy->host);
$db->admin_sql('SELECT pg_reload_conf()');
my ($dropped, $cleaned, $forced) = $db->copies('dropped', 'cleaned', 'forced');

# ------------------------------------------------------------------- helpers

sub seconds
{
	my ($code) = @_;
	my $start = time;
	$code->();
	return time - $start;
}

sub time_text
{
	my ($epoch) = @_;
	my ($minute, $hour, $day, $month, $year) = (gmtime $epoch)[ 1 .. 5 ];
	return sprintf '%d-%02d-%02d %02d:%02dZ', $year + 1900, $month + 1, $day, $hour, $minute;
}

my $edits = 0;
sub edit
{
	$edits++;
	$db->sql("UPDATE membership_comrade SET name = 'Sól $edits' WHERE id = 1");
	return;
}

# The launcher has looked, and waits for the night.
sub waits
{
	my ($in) = @_;
	my $next = time_text($night) =~ s/ (.*)Z/T$1:00+00:00/r;
	return $in->wait_for(sub { ($in->sql(q(SELECT to_json(next_run) #>> '{}' FROM ekksync_status())) // '') eq $next });
}

# The night comes.
sub nightfall
{
	$db->set_clock($night);
	return;
}

# The run of the night ends well; then it is day.
sub made
{
	my ($name) = @_;
	my $run = $db->scheduled_run(time_text($night));
	is($run->{status}, 'success', "$name: the night's run is made") or diag($run->{error});
	is($db->doc($db->sql('SELECT ssn FROM membership_comrade WHERE id = 1'))->{profile}{name}, "Sól $edits", '... and brings the change');
	is($db->sql("SELECT count(*) FROM ekksync_runs WHERE scheduled = '@{[ time_text($night) ]}' AND status <> 'interrupted'"), 1, '... once');
	$night += 24 * 3600;
	ok(waits($db), '... and the next one waits for its time');
	return;
}

# A run that hangs while it writes, of the night or in another database;
# returns its worker's pid.
sub hangs
{
	my ($in) = @_;
	edit() unless $in;
	$proxy->start(fault => 'hang', match => $push);
	$in ? $in->run(wait => 0) : nightfall();
	$proxy->wait_fired or die 'the run did not come to write';
	return $db->admin_sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync run'");
}

sub pid_of_launcher
{
	my ($in) = @_;
	return $in->admin_sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync launcher'");
}

sub is_prompt
{
	my ($code, $alone, $name) = @_;
	$db->node->safe_psql('postgres', 'CHECKPOINT');	# else it may write much
	my $took = seconds($code);
	cmp_ok($took, '<', $alone + $prompt, $name) or diag("it takes $alone s with nobody there");
	return;
}

# The run has ended before it was done: it is begun again.
my $deaths = 0;
sub again
{
	my $count;
	$deaths++;
	$db->wait_for(sub { $count = () = slurp_file($db->node->logfile) =~ /its worker ended before it was done/g; $count == $deaths })
	  or die "$count deaths instead of $deaths";
	$db->set_clock($night + 30);
	return;
}

# ----------------------------------------------------------- nobody is in the way

ok(waits($db), 'the launcher waits for the night');
my $postgres = sub { my ($sql) = @_; return sub { $db->node->safe_psql('postgres', $sql) } };

# what it takes where there is no launcher
$db->node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$db->node->restart;
my %alone = (create => seconds($postgres->('CREATE DATABASE other TEMPLATE socialism')));
$alone{drop} = seconds($postgres->('DROP DATABASE other'));
$alone{stop} = seconds(sub { $db->node->stop('fast') });
$db->node->append_conf('postgresql.conf', $preload);
$db->node->start;
waits($db) or die;

is_prompt($postgres->('CREATE DATABASE copy TEMPLATE socialism'), $alone{create}, 'a database between runs can be copied at once');
$db->admin_sql('SELECT pg_reload_conf()');
is_prompt($postgres->('DROP DATABASE copy'), $alone{drop}, '... and one of the list be dropped');

my $pid = hangs();
is_prompt($postgres->('CREATE DATABASE other TEMPLATE template0'), $alone{create}, 'while a run hangs a database can be made');
is_prompt($postgres->('DROP DATABASE other'), $alone{drop}, '... and be dropped');
is_prompt(
	sub {
		kill TERM => $pid;
		$db->wait_for(sub { !$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") });
	},
	0.5, '... and its worker ends at once when it is told to');
like(slurp_file($db->node->data_dir . '/log_hook.seen'), qr/^terminating background worker "ekksync run" due/m,
	'... of which others who listen to the log hear, too');
$proxy->start;
again();
made('terminated');

# ------------------------------------------------------------------- gives way

# What asks for the database alone finds nobody in it before long.
hangs();
is_prompt($postgres->('CREATE DATABASE other TEMPLATE socialism'), $alone{create}, 'a run that hangs gives way to a copy of its database');
like(slurp_file($db->node->logfile), qr/FATAL:  terminating the ekksync run: its database is to be dropped, renamed, moved or copied/, '... and says why');
$db->node->safe_psql('postgres', 'DROP DATABASE other');
$proxy->start;
again();
made('copied');
hangs($dropped);
is_prompt($postgres->('ALTER DATABASE dropped RENAME TO elsewhere'), $alone{drop}, '... to a new name');
$db->node->safe_psql('postgres', 'ALTER DATABASE elsewhere RENAME TO dropped');
hangs($dropped);
is_prompt($postgres->('DROP DATABASE dropped'), $alone{drop}, '... and to an end of it');
hangs($forced);
is_prompt($postgres->('DROP DATABASE forced WITH (FORCE)'), $alone{drop}, '... by force, too');
$proxy->start;

# one that is not waiting for Firestore
$cleaned->sql(<<'SQL');
INSERT INTO membership_membersyncqueue (ssn, action, fields_changed, created_at, synced_at, sync_status, error_message)
SELECT '0101302399', 'update', '{}', now() - interval '9 years', now() - interval '9 years', 'synced', '' FROM generate_series(1, 10000);
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END';
CREATE TRIGGER dawdle AFTER DELETE ON membership_membersyncqueue EXECUTE FUNCTION dawdle();
SQL
$cleaned->run(wait => 0);
ok($cleaned->wait_for(sub { $cleaned->sql(q(SELECT count(*) FROM ekksync_progress WHERE phase = 'clean')) }), 'a run removes what is old, for long');
is_prompt($postgres->('DROP DATABASE cleaned'), $alone{drop}, '... and gives way, too');

hangs();
is_prompt(sub { $db->node->stop('fast') }, $alone{stop}, 'a fast shutdown does not wait for a run that hangs');
$proxy->start;
$db->node->start;
made('shut down');
is_prompt(sub { $db->node->stop('fast') }, $alone{stop}, '... nor for the launcher');
$db->node->start;
ok(waits($db), '... which is back with the server');

# ------------------------------------------------------------------------ killed

for my $who ('run', 'launcher', 'server')
{
	$pid = hangs();
	my $open = $db->sql('SELECT max(run) FROM ekksync_runs');
	if ($who eq 'server')
	{
		$db->node->stop('immediate');
		$proxy->start;
		$db->node->start;
	}
	else
	{
		my $old = pid_of_launcher($db);
		$proxy->start;
		kill KILL => $who eq 'run' ? $pid : $old;
		ok( $db->wait_for(
				sub {
					my (undef, $new) = eval { $db->admin_err("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync launcher'") };
					$new && $new != $old;
				}), "$who killed: the launcher is back with the server");
	}
	made("$who killed");
	is($db->sql("SELECT status FROM ekksync_runs WHERE run = $open"), 'interrupted', '... after one that was left open, and is closed');
}

# One on demand: nobody makes it again, but it is said that it died.
{
	$db->stop_at('fenced');
	$db->run(wait => 0);
	$pid = $db->wait_stopped or die 'no run';
	my $open = $db->sql('SELECT max(run) FROM ekksync_runs');
	my $listener = Session->new($db);
	$listener->sql('LISTEN ekksync');
	kill TERM => $pid;
	$db->wait_for(sub { !$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") });
	$db->go_on;
	is($db->admin_sql("SELECT status FROM ekksync.run WHERE id = $open"), 'running', 'a run on demand is killed');
	$db->admin_sql('SELECT pg_reload_conf()');
	ok($db->wait_for(sub { $db->admin_sql("SELECT status FROM ekksync.run WHERE id = $open") eq 'interrupted' }),
		'... and closed when the launcher looks');
	like(join('', map { $listener->sql('SELECT') } 1 .. 2), qr/"event":"failure","run":$open,"status":"interrupted"/, '... which tells whoever listens');
	$listener->end;
	$db->stop_at('fenced');
	$db->run(wait => 0);
	$db->wait_stopped or die 'no run';
	$open = $db->sql('SELECT max(run) FROM ekksync_runs');
	$db->node->stop('immediate');
	$db->go_on;
	$db->node->start;
	ok($db->wait_for(sub { $db->admin_sql("SELECT status FROM ekksync.run WHERE id = $open") eq 'interrupted' }),
		'... as is one that the server took with it');
	is($db->sql('SELECT max(run) FROM ekksync_runs'), $open, '... without another run');
	waits($db);
}

# Panic while a worker connects is the whole server's.
{
	my $old = pid_of_launcher($db);
	$db->admin_sql('ALTER DATABASE socialism SET log_hook.panic = on');
	open my $file, '>', $db->node->data_dir . '/log_hook.panic' or die;
	close $file;
	$db->admin_sql('SELECT pg_reload_conf()');
	ok( $db->wait_for(
			sub {
				my (undef, $new) = eval { $db->admin_err("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync launcher'") };
				$new && $new != $old;
			}), 'a panic while a worker connects restarts the server');
	like(slurp_file($db->node->logfile), qr/PANIC:  a panic of the test's/, '... and is in its log');
	like(slurp_file($db->node->data_dir . '/log_hook.seen'), qr/^a panic of the test's/m, '... for all who listen to it');
	$db->admin_sql('ALTER DATABASE socialism RESET log_hook.panic');
	ok(waits($db), '... and the launcher waits for the night');
}

# --------------------------------------------------------- synchronous standby

edit();
$db->node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$db->admin_sql('SELECT pg_reload_conf()');
nightfall();
ok($db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run' AND wait_event = 'SyncRep'") }),
	'a run waits for a synchronous standby that is not there');
is_prompt(sub { $db->node->stop('fast') }, $alone{stop}, '... and a stop does not wait for it');
$db->node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$db->node->start;
made('without the standby');

edit();
$db->stop_at('told');
nightfall();
$db->wait_stopped or die 'no run';
$db->node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$db->admin_sql('SELECT pg_reload_conf()');
my $waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type =";
my $session = Session->new($db);
$session->send(q(SELECT pg_logical_emit_message(true, 'a test', 'waits too')));
$db->wait_for(sub { $db->admin_sql("$waiting 'client backend'") }) or die 'there is no standby to wait for';
$db->go_on;
ok($db->wait_for(sub { $db->admin_sql("$waiting 'ekksync run'") }), 'a run waits for the standby at its last commit');
is_prompt(sub { $db->node->stop('fast') }, $alone{stop}, '... and a stop does not wait for it');
$db->node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$db->node->start;
made('ended without the standby');

# ---------------------------------------------------------------------- promoted

$db->node->backup('standby');
my $node = PostgreSQL::Test::Cluster->new('younger');
$node->init_from_backup($db->node, 'standby', has_streaming => 1);
$node->start;
my $younger = bless { %$db, node => $node, name => 'younger' }, ref $db;
delete $younger->{oid};
edit();
$db->node->wait_for_catchup($node);
$younger->set_clock($night);
is(pid_of_launcher($younger), '', 'a standby has no launcher');
is($younger->sql('SELECT reason FROM ekksync_status()'), 'nothing is scheduled: this server is a standby', '... and says so');
$db->node->stop;
$node->promote;
$db = $younger;
made('promoted');

# -------------------------------------------------------------- dump and upgrade

# Everything that a copy must have; $in's tables and sequences as one text.
sub everything
{
	my ($in) = @_;
	my $all = '';
	for my $table (qw(state mapping dependency member stranger inbox conflict run change_log touched))
	{
		$all .= "$table\n" . $in->admin_sql("SELECT t FROM ekksync.$table AS t ORDER BY t::text") . "\n";
	}
	$all .= $in->admin_sql('SELECT q FROM membership_membersyncqueue AS q ORDER BY id') . "\n";
	$all .= $in->admin_sql(<<'SQL');
SELECT s.relname, pg_sequence_last_value(s.oid)
FROM pg_class AS s JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype IN ('a', 'i')
WHERE s.relkind = 'S' AND d.refobjid IN ('ekksync.conflict'::regclass, 'ekksync.run'::regclass,
	'ekksync.change_log'::regclass, 'ekksync.touched'::regclass, 'membership_membersyncqueue'::regclass)
ORDER BY s.relname
SQL
	return $all;
}

# something in each: a conflict, a row settled by hand, an entry that fails
my ($ssn, $other) = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id LIMIT 2');
$db->profile_edit($other, 'phone', '5551234');
$db->queue_entry(docId => $ssn, changes => { 'profile.nothing' => 'x' });
$db->run;
$db->sql("UPDATE membership_comrade SET name = 'Af pg' WHERE id = 2");
$db->profile_edit($other, 'name', 'Úr skjali');
$db->run;
$db->sql("UPDATE membership_comrade SET gender = 3 WHERE id = 3;"
	  . "UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE sync_status = 'pending'");
edit();
my $all = everything($db);
like($all, qr/^$_\n\S/m, "there is something in $_") for qw(state mapping dependency member inbox conflict run change_log touched);

$db->node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $db->node->connstr('socialism') ], 'pg_dump');
my $restored = bless { %$db, database => 'restored' }, ref $db;
delete $restored->{oid};
$db->node->safe_psql('postgres', 'CREATE DATABASE restored OWNER socialism');
$db->node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $db->node->connstr('restored'), $dump ], 'pg_restore');
is(everything($restored), $all, '... carries all tables and sequences');
$db->node->safe_psql('postgres', 'DROP DATABASE restored');

my $new = PostgreSQL::Test::Cluster->new('upgraded');
$new->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$new->append_conf('postgresql.conf',
	"$ENV{EKKSYNC_CONF}\nshared_preload_libraries = 'ekksync'\ntimezone = 'UTC'\n$conf{conf}");
$db->node->stop;
my $bin = $db->node->config_data('--bindir');
{
	my $dir = "$ENV{TESTDIR}/upgrade";
	mkdir $dir;
	chdir $dir or die "$dir: $!";
	command_ok_in(
		[
			'pg_upgrade', '--no-sync', '-d', $db->node->data_dir, '-D', $new->data_dir,
			'-b', $bin, '-B', $bin, '-s', $new->host, '-p', $db->node->port, '-P', $new->port
		],
		'pg_upgrade');
}

sub command_ok_in
{
	my ($command, $name) = @_;
	my ($out, $err) = ('', '');
	ok(IPC::Run::run($command, '>', \$out, '2>', \$err), $name) or diag($out . $err);
	return;
}
my $upgraded = bless { %$db, node => $new, name => 'upgraded' }, ref $db;
delete $upgraded->{oid};
$upgraded->set_clock($night - 3600);
$new->start;
is(everything($upgraded) =~ s/^.*?mapping\n//sr, $all =~ s/^.*?mapping\n//sr, '... carries all tables and sequences');
$db = $upgraded;
ok(waits($db), '... and the launcher waits for the night');
nightfall();
my $run = $db->scheduled_run(time_text($night));
is($run->{status}, 'failed', 'the first run then pauses') or diag(explain($run));
like($db->sql('SELECT reason FROM ekksync_status()'), qr/this is not the database cluster of the last run/, '... as it is another cluster');
$db->sql('SELECT ekksync_resume()');
$night += 24 * 3600;
nightfall();
made('upgraded and resumed');

done_testing();
