# A year of nights that nobody watches, by the launcher's clock alone: on some
# PostgreSQL is down when the run is due, until a little later, until the next
# morning or for days, or crashes in the middle of the run; on others Firestore
# is gone, refuses, or loses an answer.  Each night's changes arrive, on both
# sides, with the first run that can bring them; no run is made twice; none is
# missed, but that days of absence are made up by one; the tables stay within
# their retention; the launcher's memory is flat.  All other stamps are real, so
# what a run has left behind is made older here, night by night.
# EKKSYNC_NIGHTS says how many nights, EKKSYNC_SEED which ones are disturbed.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use FaultProxy;
use List::Util qw(sum);
use Session;
use PostgreSQL::Test::Utils qw(slurp_file);
use Time::HiRes qw(sleep time);
use Time::Local qw(timegm);

my $nights = $ENV{EKKSYNC_NIGHTS} // 365;
my $seed = $ENV{EKKSYNC_SEED} // 5;
my $members = 8;				# changed in turn
my $day = 24 * 3600;
my $first = timegm(0, 30, 3, 1, 0, 2027);	# the first night's run

# What is kept for how long, and when it began to be old.
my @kept = (
	{ setting => 'queue_days',      days => 30, table => 'membership_membersyncqueue', column => 'synced_at' },
	{ setting => 'inbox_days',      days => 20, table => 'ekksync.inbox',              column => 'done_at' },
	{ setting => 'conflict_days',   days => 40, table => 'ekksync.conflict',           column => 'created_at' },
	{ setting => 'change_log_days', days => 50, table => 'ekksync.change_log',         column => 'changed_at' },
	{ setting => 'run_days',        days => 60, table => 'ekksync.run',                column => 'started_at' });
my $commit = qr{:commit.*/documents/members/}s;

note("seed $seed");
srand $seed;

my $db = EkkSync->new(
	members => $members,
	clock   => $first - $day / 2,
	conf    => join "\n", "ekksync.databases = 'socialism'", 'ekksync.max_retries = 0', 'ekksync.scan = off',
	map { "ekksync.$_->{setting} = $_->{days}" } @kept);
my $proxy = FaultProxy->new(to => $db->host);
$proxy->start;
$db->use_host($proxy->host);
$db->admin_sql('SELECT pg_reload_conf()');
my @ssn = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

my $superuser = $db->admin_sql('SELECT current_user');
my ($session, $super);
sub connect_both
{
	$session = Session->new($db, undef, 3600);
	$super = Session->new($db, $superuser, 3600);
	return;
}
connect_both();

sub stop
{
	my ($how) = @_;
	$_->end for $session, $super;
	$db->node->stop($how);
	return;
}

sub start
{
	$db->node->start;
	connect_both();
	return;
}

# Await that a query gives true.
sub wait_true
{
	my ($sql, $what) = @_;
	my $end = time + 120;
	until ($session->sql($sql) eq 't')
	{
		die "$what\n" . $session->sql('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 3') if time > $end;
		sleep 0.005;
	}
	return;
}

# Let what there is become so many days older.
sub age
{
	my ($days) = @_;
	$super->sql(join ";\n", 'SET session_replication_role = replica',
		(map { "UPDATE $_->{table} SET $_->{column} = $_->{column} - interval '$days days' WHERE $_->{column} IS NOT NULL" } @kept),
		"UPDATE membership_membersyncqueue SET created_at = created_at - interval '$days days' WHERE synced_at IS NOT NULL");
	return;
}

# How many days old the oldest of each table is.
sub oldest
{
	return split / /, $super->sql('SELECT concat_ws($$ $$, '
		  . join(', ', map { "(SELECT coalesce(extract(day FROM now() - min($_->{column})), 0) FROM $_->{table})" } @kept) . ')');
}

# Private memory of the launcher, in kB.
sub memory
{
	my $pid = $super->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync launcher'");
	return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m ? $1 : die 'no RssAnon';
}

# ------------------------------------------------------------- what befalls a night

# In the last third the server stays up, so that one launcher serves them all.
my @firestore = qw(gone refuses loses);
my @server = qw(down morning crash days);
sub fate
{
	my ($n) = @_;
	my $lot = rand;
	return $firestore[ rand @firestore ] if $lot < 0.1 && $n < $nights;
	return $server[ rand @server ] if $lot > 0.93 && $n < $nights * 2 / 3;
	return 'quiet';
}

my %begin = (
	gone    => sub { $proxy->stop },
	refuses => sub { $proxy->start(fault => 'answer', status => 503, error => 'UNAVAILABLE', text => 'down', times => 0) },
	loses   => sub { $proxy->start(fault => 'lose', match => $commit) });

# ------------------------------------------------------------------- the nights

my (@expected, @made, @outcomes, %fates, @waiting, @lost, @old, %most);
my ($steady, $last);			# memory
my $conflicts = 0;
my $start = time;
my $run = $db->run;				# the members' documents are there
is($run->{status}, 'success', 'a first run by hand');
for (my $n = 1; $n <= $nights; $n++)
{
	my $fate = fate($n);
	my $skipped = $fate eq 'days' ? 2 : 0;
	my ($key, $other) = map { $ssn[ $_ % $members ] } $n, $n + 1;
	age(1 + $skipped);
	if ($fate eq 'quiet' && $n % 7 == 0)
	{
		$db->profile_edit($key, 'name', "Dagur $n");
		$conflicts++;
	}
	$session->sql("UPDATE membership_comrade SET name = 'Nótt $n' WHERE ssn = '$key'");
	$db->profile_edit($other, 'email', "nott$n\@example.is");
	push @waiting, [ $n, $key, $other ];
	$fates{$fate}++;
	$n += $skipped;
	my $night = $first + ($n - 1) * $day;
	push @expected, $night;

	$begin{$fate}->() if $begin{$fate};
	$db->stop_at('fenced') if $fate eq 'crash';
	my $away = { down => 600, morning => 5 * 3600, days => 3600 }->{$fate};
	stop('fast') if $away;
	$db->set_clock($night + ($away // 0));
	if ($fate eq 'crash')
	{
		$db->wait_stopped or die "night $n: no run to crash in";
		stop('immediate');
		$db->go_on;
	}
	start() if $away || $fate eq 'crash';

	# the run has ended and the launcher waits for the next night
	wait_true("SELECT count(*) = 1 FROM ekksync_runs WHERE scheduled = to_timestamp($night)"
		  . " AND status IN ('success', 'failed')", "night $n ($fate): no run was made");
	wait_true('SELECT extract(epoch FROM next_run) = ' . ($night + $day) . ' IS TRUE FROM ekksync_status()',
		"night $n ($fate): the next run is not known");
	my $status = $session->sql("SELECT status FROM ekksync_runs WHERE scheduled = to_timestamp($night) AND status <> 'interrupted'");
	push @outcomes, "night $n: $fate, $status" if ($status ne 'success') != ($fate =~ /^(?:gone|refuses|loses)$/);
	$proxy->start if $begin{$fate};
	if ($status eq 'success')
	{
		my %name = map { ($_->[1] => $_->[0]) } @waiting;
		for my $ssn (keys %name)
		{
			my $name = ($db->doc($ssn) // {})->{profile}{name} // '';
			push @lost, "night $name{$ssn}: $name" if $name ne "Nótt $name{$ssn}";
		}
		my %email = map { ($_->[2] => $_->[0]) } @waiting;
		for my $ssn (keys %email)
		{
			my $email = $session->sql("SELECT email FROM membership_contactinfo JOIN membership_comrade ON id = comrade_id WHERE ssn = '$ssn'");
			push @lost, "night $email{$ssn}: $email" if $email ne "nott$email{$ssn}\@example.is";
		}
		@waiting = ();
		my @age = oldest();
		for my $i (0 .. $#kept)
		{
			my $setting = $kept[$i]{setting};
			$most{$setting} = $age[$i] if $age[$i] > ($most{$setting} // -1);
			push @old, "night $n: $age[$i] days, $setting is $kept[$i]{days}" if $age[$i] > $kept[$i]{days};
		}
	}
	push @made, map { [ split /\|/ ] } split /\n/,
	  $session->sql('SELECT run, extract(epoch FROM scheduled)::bigint, status, conflicts FROM ekksync_runs WHERE run > '
		  . (@made ? $made[-1][0] : $run->{run}) . ' ORDER BY run');
	$steady //= memory() if $n > $nights * 2 / 3 + 5;
	$last = memory() if $n == $nights;
}
diag(sprintf '%d nights in %.0f s: %s', $nights, time - $start, join ', ', map { "$fates{$_} $_" } sort keys %fates);

# ------------------------------------------------------------------ the year's end

cmp_ok(scalar keys %fates, '>', $nights < 365 ? 2 : 7, 'nights were disturbed in all ways');
is_deeply(\@lost, [], "each night's changes have arrived, on both sides");
is_deeply(\@waiting, [], '... those of the last one, too');
is_deeply(\@outcomes, [], 'runs failed when Firestore failed, and only then');
is_deeply([ map { $_->[1] } grep { $_->[2] ne 'interrupted' } @made ],
	\@expected, 'each night had one run, none was missed, none made twice, and none unasked');
is(scalar(grep { $_->[2] eq 'interrupted' } @made), $fates{crash} // 0, '... and a run that a crash struck was made again');
is($session->sql('SELECT pending + failed FROM ekksync_status()'), 0, 'nothing is left to do');
is(sum(map { $_->[3] } @made), $conflicts, 'conflicts were seen where both sides changed the same, and only there');
is_deeply(\@old, [], 'after each good run the tables are within their retention');
if ($nights >= 100)
{
	my @early = grep { $most{ $_->{setting} } < $_->{days} - 7 } @kept;
	is_deeply([ map { "$_->{setting}: $most{$_->{setting}} of $_->{days} days" } @early ], [], '... and nothing has gone long before its time');
}
cmp_ok($last, '<=', $steady * 1.02, "the launcher's memory is flat: $steady kB, and $last kB at the end");

$_->end for $session, $super;
done_testing();
