# The schedule: over eleven years, in zones with all sorts of changes, it is due
# when t/cron_minutes.py says, which shares nothing with src/schedule.c; from
# anywhere between two runs the next one is the same; a seldom or impossible
# expression is found out fast; a wrong setting is refused and changes nothing.
#
#	EKKSYNC_SEED		of the expressions (1; 0: one of the clock's)
#	EKKSYNC_EXPRESSIONS	how many, beside those that are always tried (30)

use strict;
use warnings;
use Test::More;
use EkkSync;
use IPC::Run ();
use PostgreSQL::Test::Utils qw(slurp_file);

use constant {
	PYTHON     => '/usr/bin/python3',
	FIRST_YEAR => 2020,
	LAST_YEAR  => 2030,
};

my $seed = ($ENV{EKKSYNC_SEED} // 1) || int(time);
my $number = $ENV{EKKSYNC_EXPRESSIONS} // 30;
srand $seed;
note("EKKSYNC_SEED=$seed EKKSYNC_EXPRESSIONS=$number");

my @zones = qw(Europe/London America/New_York Australia/Lord_Howe Africa/Casablanca
  Africa/Cairo UTC Atlantic/Reykjavik);

my $db = EkkSync->new(members => 1, project => 0, attach => 0);

# A server that has time zones of its own: so that both know the same.
chomp(my $share = `pg_config --sharedir`);
local $ENV{PYTHONTZPATH} = "$share/timezone" if -d "$share/timezone";

# --------------------------------------------------------------- expressions

sub pick { return $_[ rand @_ ]; }
sub between { my ($min, $max) = @_; return $min + int rand($max - $min + 1); }

# A list, range or single value of a field; nights are where clocks change.
sub values_of
{
	my ($min, $max, @names) = @_;
	my $value = sub {
		my $n = between($min, $max);
		return @names && rand() < 0.4 ? pick(map { ($_, uc, ucfirst) } $names[ ($n - $min) % @names ]) : $n;
	};
	my @ways = (
		$value,
		$value,
		sub { join ',', map { $value->() } 1 .. between(2, 4) },
		sub { my ($a, $b) = sort { $a <=> $b } map { between($min, $max) } 1, 2; "$a-$b" },
		sub {
			my ($a, $b) = sort { $a <=> $b } map { between($min, $max) } 1, 2;
			"$a-$b/" . between(1, $max - $min);
		},
		sub { '*/' . between(int(($max - $min) / 3) || 1, $max - $min) },
	);
	return pick(@ways)->();
}

sub expression
{
	my @months = qw(jan feb mar apr may jun jul aug sep oct nov dec);
	my @days = qw(sun mon tue wed thu fri sat);
	my $minute = rand() < 0.1 ? '*/' . between(5, 30) : values_of(0, 59);
	$minute = between(0, 59) if $minute =~ /^\d+-\d+$/;	# a run each minute is dull
	my $hour = pick('*', between(0, 4), between(0, 4), values_of(0, 4), values_of(0, 23));
	my $day = rand() < 0.6 ? '*' : values_of(1, 31);
	my $month = rand() < 0.7 ? '*' : values_of(1, 12, @months);
	my $weekday = rand() < 0.6 ? '*' : values_of(0, 7, @days);
	return "$minute $hour $day $month $weekday";
}

my @expressions = (
	'30 3 * * *', '30 2 * * *', '15 2 * * *', '0 0 * * *', '59 23 * * *',
	'*/20 * * * *', '@hourly', '7 0-23 * * *', '*/15 1-2 * * *', '0 */2 * * *',
	'@daily', '@midnight', '@weekly', '@monthly', '@yearly', '@annually',
	'0 12 29 2 *', '30 1 * 3,10 sun', '0 2 25-31 mar-oct 7', '30 1 */2 * 1-5', '30 2 30 2 *',
	map { expression() } 1 .. $number);

# ------------------------------------------------------- the judge and we

sub judge
{
	my ($zone, $expressions, @flags) = @_;
	my $out = '';
	IPC::Run::run([ PYTHON, "$ENV{EKKSYNC_TOP}/t/cron_minutes.py", @flags, $zone, FIRST_YEAR, LAST_YEAR ],
		'<', \join('', map { "$_\n" } @$expressions), '>', \$out)
	  or BAIL_OUT('t/cron_minutes.py fails');
	return split /\n/, $out, -1;
}

# Of one expression: how often it is due in these years and the MD5 of when, as
# the judge has it; whether each is later than the one before and shown in
# the zone's time; and from how many points between two runs another one follows.
# Points are everywhere where the clock changes, and here and there.
sub ours
{
	my ($zone, $expression, $count) = @_;
	my ($from, $until) = (FIRST_YEAR . '-01-01 00:00+00', (LAST_YEAR + 1) . '-01-01 00:00+00');
	return <<"SQL";
WITH run AS MATERIALIZED (
	SELECT at, local_time, lag(at, 1, timestamptz '$from' - interval '1 us') OVER () AS last
	FROM ekksync_next_runs($count + 1, '$expression', '$zone', timestamptz '$from' - interval '1 us')),
point AS (
	SELECT at, unnest(ARRAY[last, at - interval '1 us',
		least(at - interval '1 us', last + random() * (at - last)), least(at - interval '1 us', last + random() * (at - last))]) AS after
	FROM run
	WHERE random() < 40.0 / ($count + 1)
		OR last AT TIME ZONE '$zone' - last AT TIME ZONE 'UTC' <> local_time - at AT TIME ZONE 'UTC')
SELECT count(*) FILTER (WHERE at < '$until') || ' ' ||
		md5(coalesce(string_agg(extract(epoch FROM at)::bigint::text, ' ' ORDER BY at) FILTER (WHERE at < '$until'), '')),
	count(*) FILTER (WHERE at <= last OR local_time <> at AT TIME ZONE '$zone'),
	(SELECT count(*) FROM point WHERE (SELECT at FROM ekksync_next_runs(1, '$expression', '$zone', after)) IS DISTINCT FROM at),
	(SELECT count(*) FROM point)
FROM run;
SQL
}

# The first moment at which only one of the two has it due.
sub show_difference
{
	my ($zone, $expression, $count) = @_;
	my ($list) = judge($zone, [$expression], '--list');
	my @theirs = split / /, $list;
	my @ours = split /\n/, $db->sql('SELECT extract(epoch FROM at)::bigint FROM '
		  . "ekksync_next_runs($count + 1, '$expression', '$zone', timestamptz '" . FIRST_YEAR . "-01-01 00:00+00' - interval '1 us')");
	shift @theirs, shift @ours while @theirs && @ours && $theirs[0] == $ours[0];
	diag("'$expression' in $zone: due at " . join ' and ',
		map { defined $_->[1] ? "$_->[1] = " . gmtime($_->[1]) . " UTC by $_->[0]" : "no time by $_->[0]" }
		  [ 'cron_minutes.py', $theirs[0] ], [ 'ekksync', $ours[0] ]);
	return;
}

my $points = 0;
for my $zone (@zones)
{
	my @theirs = judge($zone, \@expressions);
	my @queries = ('SELECT setseed(' . (($seed % 1000) / 1000) . ') IS NULL');
	for my $i (0 .. $#expressions)
	{
		my ($count) = $theirs[$i] =~ /^(\d+) / or BAIL_OUT("cron_minutes.py says $theirs[$i]");
		push @queries, ours($zone, $expressions[$i], $count);
	}
	my (undef, @ours) = split /\n/, $db->sql(join ";\n", @queries);
	my (@different, @disordered, @unsteady);
	for my $i (0 .. $#expressions)
	{
		my ($due, $disordered, $unsteady, $n) = split /\|/, $ours[$i];
		push @different, $i if $due ne $theirs[$i];
		push @disordered, $expressions[$i] if $disordered;
		push @unsteady, $expressions[$i] if $unsteady;
		$points += $n;
	}
	is(join(' and ', map { $expressions[$_] } @different), '', "$zone: due when the judge says")
	  or show_difference($zone, $expressions[ $different[0] ], $theirs[ $different[0] ] =~ /^(\d+)/);
	is("@disordered", '', '... each later than the one before, and by the clock of the zone');
	is("@unsteady", '', '... and the next run is the same from wherever one asks');
}
cmp_ok($points, '>', 20 * @expressions * @zones, 'points between two runs were tried');

# ----------------------------------------------------------------- what it costs

# Ten thousand times the next run of what is seldom or never due; it would take
# hours to look at each minute.
for ('30 2 30 2 *', '0 0 29 2 */7', '30 3 1 1 *')
{
	my ($status, undef, $error) = $db->sql_err("SET statement_timeout = '60s'; "
		  . "SELECT count(*) FROM generate_series(1, 10000) AS g, LATERAL ekksync_next_runs(1, '$_', 'Europe/London', '2026-01-01'::timestamptz + g * interval '1 hour')");
	is("$status $error", '0 ', "'$_' is found out fast");
}
my ($status, undef, $error) = $db->sql_err("SET statement_timeout = '100ms'; SELECT count(*) FROM ekksync_next_runs(2000000000, '* * * * *')");
like($error, qr/canceling statement due to statement timeout/, 'a long list can be cancelled');

# -------------------------------------------------------------------- nonsense

# Whatever is written, it is a schedule or an error of ours.
my @words = (' ', "\t", split / /, '* , - / @ @daily sun SAT dec 0 1 7 23 24 59 60 00 4294967296 18446744073709551616 % ?');
my @nonsense = map {
	join ' ', map { join '', map { pick(@words) } 1 .. between(1, 4) } 1 .. pick(1, 5, 5, 5, 6)
} 1 .. 3000;
is($db->sql(<<"SQL"), "22023\nschedule", 'of nonsense some is a schedule, the rest is an error of ours');
CREATE FUNCTION pg_temp.kind(expression text) RETURNS text LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM ekksync_next_runs(2, expression);
	RETURN 'schedule';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
\$\$;
SELECT DISTINCT pg_temp.kind(e) FROM unnest(ARRAY[@{[ join ',', map { $db->quote($_) } @nonsense ]}]) AS e ORDER BY 1;
SQL

# --------------------------------------------------------------- the settings

# What a session of the database gets.
sub shown { my ($setting) = @_; return $db->sql("SHOW ekksync.$setting"); }

my $node = $db->node;
$db->admin_sql("ALTER DATABASE socialism SET ekksync.schedule = '15 4 * * mon-fri'");
$db->admin_sql("ALTER DATABASE socialism SET ekksync.timezone = 'Europe/London'");
is(shown('schedule'), '15 4 * * mon-fri', 'a database has a schedule of its own');
is($db->sql(q(SELECT bool_and(to_char(local_time, 'HH24:MI ID') ~ '^04:15 [1-5]$') FROM ekksync_next_runs())),
	't', '... by which the next runs are told');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.schedule');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.timezone');

$node->append_conf('postgresql.conf', "ekksync.schedule = '\@hourly'");
$node->reload;
ok($db->wait_for(sub { shown('schedule') eq '@hourly' }), 'a reload sets the schedule');
my $logged = -s $node->logfile;
$node->append_conf('postgresql.conf', "ekksync.schedule = '30 99 * * *'\nekksync.timezone = 'Reykjavik'\nekksync.catch_up = off");
$node->reload;
ok($db->wait_for(sub { shown('catch_up') eq 'off' }), 'a reload with wrong settings');
is(shown('schedule') . ', ' . shown('timezone'), '@hourly, Atlantic/Reykjavik', '... leaves what was right before');
my $log = substr slurp_file($node->logfile), $logged;
like($log, qr/invalid value for parameter "ekksync\.schedule": "30 99 \* \* \*"\n.*DETAIL:  In the field for the hour, "99" is not between 0 and 23\.\n.*HINT:  A schedule has five fields/,
	'... and says in the log what is wrong with the schedule');
like($log, qr/invalid value for parameter "ekksync\.timezone": "Reykjavik"\n/, '... and with the time zone');
$node->adjust_conf('postgresql.conf', "ekksync.$_", undef) for qw(schedule timezone catch_up);
$node->append_conf('postgresql.conf', "ekksync.schedule = ''\nekksync.timezone = 'Asia/Tokyo'");
$node->restart;
is(shown('schedule') . ', ' . shown('timezone'), ', Asia/Tokyo', 'a server starts with settings of its own');

done_testing();
