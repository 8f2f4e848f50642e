# "The merge proved by chaos": random histories of edits on both sides, in the
# shapes of real clients, beside random runs with faults and deaths; then peace,
# and what must be true of any history.  What is seen from outside is judged by
# an oracle that knows the rules and not the extension: t/Oracle.pm.
#
#	EKKSYNC_SEED	the history's seed (101; 0: one of the clock's)
#	EKKSYNC_OPS		how many operations (2000)
#	EKKSYNC_FAULTS	how many faults at least (50)
#	EKKSYNC_MEMBERS	of how many members at first (80; one more for 400 operations)
#	EKKSYNC_HISTORY	a file with a history, to be played instead
#	EKKSYNC_SHRINK	tries to make a failing history shorter (12; 0: none)

use strict;
use warnings;
use utf8;
use Test::More;
use Chaos;
use ChaosPlan qw(plan);
use ChaosShrink qw(shrink save_history read_history);
use EkkSync;
use Oracle qw(judge %INVARIANT);
use Time::HiRes qw(time);

my $seed = ($ENV{EKKSYNC_SEED} // 101) || int(time);
my $ops = $ENV{EKKSYNC_OPS} // 2000;
my $faults = $ENV{EKKSYNC_FAULTS} // 50;
my $history = $ENV{EKKSYNC_HISTORY} ? read_history($ENV{EKKSYNC_HISTORY})
  : plan($seed, ops => $ops, faults => $faults, members => $ENV{EKKSYNC_MEMBERS} // int(75 + $ops / 400));
note("EKKSYNC_SEED=$seed EKKSYNC_OPS=$ops EKKSYNC_FAULTS=$faults");

my $db = EkkSync->new(members => 0, conf => Chaos::conf());
my $tries = 0;

# Play a history in a registry of its own; the trace and its violations.
sub play
{
	my ($what) = @_;
	my ($copy) = $db->copies('try' . ++$tries);
	my $start = time;
	my $chaos = Chaos->new(
		$copy, $what,
		note => sub {
			my ($epoch, $count) = @_;
			note(sprintf 'epoch %d, %.0f s: %s', $epoch, time - $start, join ', ', map { "$count->{$_} $_" } sort keys %$count) if $epoch % 20 == 0;
		});
	my $trace = $chaos->play;
	return ($trace, judge($trace));
}

my $start = time;
my ($trace, @bad) = play($history);
my $count = $trace->{count};
note(sprintf '%d operations, %d faults, %d deaths, %d runs, %d conflicts in %.0f s',
	@$count{qw(ops faults kills runs)}, scalar @{ $trace->{conflicts} }, time - $start);

unless ($ENV{EKKSYNC_HISTORY})
{
	cmp_ok($count->{ops}, '>=', $ops, "$count->{ops} operations");
	cmp_ok($count->{faults}, '>=', $faults, "$count->{faults} faults");
	cmp_ok($count->{comparisons}, '>=', 2, "$count->{comparisons} comparisons");
}
for my $n (sort { $a <=> $b } keys %INVARIANT)
{
	my @found = grep { $_->{invariant} == $n } @bad;
	ok(!@found, "$n. $INVARIANT{$n}");
	my $shown = 0;
	for my $bad (@found)
	{
		last if ++$shown > 4;
		diag("  $bad->{key} $bad->{field}: $bad->{what}");
		diag("    $_") for Oracle::story($bad);
	}
	diag('  ... ' . (@found - 4) . ' more') if @found > 4;
}
if (@bad)
{
	diag("EKKSYNC_SEED=$seed EKKSYNC_OPS=$ops EKKSYNC_FAULTS=$faults: " . @bad . ' violations');
	diag('what was seen: ' . save_history($trace, "trace-$seed"));
	my ($small, @left) = shrink($history, \@bad, $ENV{EKKSYNC_SHRINK} // 12, sub { my ($trace, @found) = play($_[0]); return @found; });
	diag($_) for ChaosShrink::describe($small, @left);
	diag('to play it again: EKKSYNC_HISTORY=' . save_history($small, "chaos-$seed"));
}
done_testing();
