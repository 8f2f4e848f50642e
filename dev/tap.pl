#!/usr/bin/env perl
# tap.pl: run TAP tests (Perl scripts, and programs without a suffix), show
# which fail, and write the totals of single assertions to a file.
#
#	tap.pl --jobs N --total FILE --include DIR ... -- TEST ...
#
# The file gets one line, "PASSED FAILED NAME...", with the names of the tests
# that have problems.  A test that dies, ends with an error, or does not say
# how many assertions it was going to make, counts as one failed assertion
# unless it has failed ones already.

use strict;
use warnings;
use Getopt::Long;
use TAP::Harness;

my ($jobs, $total, @include) = (1);
GetOptions('jobs=i' => \$jobs, 'total=s' => \$total, 'include=s' => \@include)
  && $total && @ARGV
  or die "usage: tap.pl --jobs N --total FILE --include DIR ... -- TEST ...\n";

my $harness = TAP::Harness->new({
	jobs      => $jobs,
	verbosity => 0,
	exec      => sub {
		my (undef, $test) = @_;
		return [ $test =~ /\.pl$/ ? ($^X, (map { "-I$_" } @include), $test)
			: $test ];
	},
});
my $result = $harness->runtests(@ARGV);

my ($passed, $failed, @bad) = (scalar $result->passed, scalar $result->failed);
for my $parser ($result->parsers)
{
	$failed++ if $parser->has_problems && !$parser->failed;
}
for my $test ($result->descriptions)
{
	my ($parser) = $result->parsers($test);
	push @bad, $test if $parser->has_problems;
}
open my $out, '>', $total or die "cannot write $total: $!\n";
print $out join(' ', $passed, $failed, @bad), "\n";
close $out or die "cannot write $total: $!\n";
