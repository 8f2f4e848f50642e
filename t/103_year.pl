# A year of nights that nobody watches, by the launcher's clock alone: on some
# PostgreSQL is down when the run is due, until a little later, until the next
# morning or for days, or crashes in the middle of the run; on others Firestore
# is gone, refuses, or loses an answer.  Each night's change arrives, with the
# first run that can bring it; no run is made twice; none is missed, but that
# days of absence are made up by one; the launcher's memory is flat.
# EKKSYNC_NIGHTS says how many nights, EKKSYNC_SEED which ones are disturbed.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use FaultProxy;
use Session;
use PostgreSQL::Test::Utils qw(slurp_file);
use Time::HiRes qw(sleep time);
use Time::Local qw(timegm);

my $nights = $ENV{EKKSYNC_NIGHTS} // 365;
my $seed = $ENV{EKKSYNC_SEED} // 5;
my $members = 8;				# changed in turn
my $day = 24 * 3600;
my $first = timegm(0, 30, 3, 1, 0, 2027);	# the first night's run
my $commit = qr{:commit.*/documents/members/}s;

note("seed $seed");
srand $seed;

my $db = EkkSync->new(
	members => $members,
	clock   => $first - $day / 2,
	conf    => "ekksync.databases = 'socialism'\nekksync.max_retries = 0\nekksync.scan = off");
my $proxy = FaultProxy->new(to => $db->host);
$proxy->start;
$db->use_host($proxy->host);
$db->admin_sql('SELECT pg_reload_conf()');
my @ssn = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

my $session = Session->new($db, undef, 3600);

sub stop
{
	my ($how) = @_;
	$session->end;
	$db->node->stop($how);
	return;
}

sub start
{
	$db->node->start;
	$session = Session->new($db, undef, 3600);
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

# Private memory of the launcher, in kB.
sub memory
{
	my $pid = $db->admin_sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync launcher'");
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

my (@expected, @outcomes, %fates, @waiting, @lost);
my ($steady, $last);			# memory
my $start = time;
for (my $n = 1; $n <= $nights; $n++)
{
	my $fate = fate($n);
	my $skipped = $fate eq 'days' ? 2 : 0;
	my $key = $ssn[ $n % $members ];
	$session->sql("UPDATE membership_comrade SET name = 'Nótt $n' WHERE ssn = '$key'");
	push @waiting, [ $n, $key ];
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
		my %newest = map { ($_->[1] => $_->[0]) } @waiting;
		for my $ssn (keys %newest)
		{
			my $name = ($db->doc($ssn) // {})->{profile}{name} // '';
			push @lost, "night $newest{$ssn}: $name" if $name ne "Nótt $newest{$ssn}";
		}
		@waiting = ();
	}
	$steady //= memory() if $n > $nights * 2 / 3 + 5;
	$last = memory() if $n == $nights;
}
diag(sprintf '%d nights in %.0f s: %s', $nights, time - $start, join ', ', map { "$fates{$_} $_" } sort keys %fates);

# ------------------------------------------------------------------ the year's end

cmp_ok(scalar keys %fates, '>', $nights < 100 ? 2 : 7, 'nights were disturbed in all ways');
is_deeply(\@lost, [], "each night's change has arrived");
is_deeply(\@waiting, [], '... the last one, too');
is_deeply(\@outcomes, [], 'runs failed when Firestore failed, and only then');
is_deeply(
	[ split /\n/, $session->sql("SELECT extract(epoch FROM scheduled)::bigint FROM ekksync_runs WHERE status <> 'interrupted' ORDER BY run") ],
	\@expected, 'each night had one run, none was missed and none made twice');
is($session->sql("SELECT count(*) FROM ekksync_runs WHERE status = 'interrupted'"), $fates{crash} // 0,
	'... and a run that a crash struck was made again');
is($session->sql('SELECT count(*) FROM ekksync_runs WHERE scheduled IS NULL'), 0, '... and none was made unasked');
is($session->sql('SELECT pending + failed FROM ekksync_status()'), 0, 'nothing is left to do');
is($session->sql('SELECT count(*) FROM ekksync_conflicts'), 0, 'no conflict was seen');
cmp_ok($last, '<=', $steady * 1.02, "the launcher's memory is flat: $steady kB, and $last kB at the end");

# How long the tables are after a year is for their retention: its test of the
# year belongs here.

$session->end;
done_testing();
