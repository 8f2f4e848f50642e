#!/usr/bin/env perl
# mutants.pl: take the mechanisms of t/mutants out, one at a time, and see
# whether the tests that are said to guard each of them fail.
#
#	mutants.pl --check			does every mutant fit the sources?
#	mutants.pl [WORD ...]		run those whose names contain a word, or all
#
# A mutant is a paragraph of t/mutants:
#
#	= its name: what is no longer done
#	TEST ...				tests that must fail, as for TESTS="..."
#	FILE
#	- text that is there once, line by line, without its indentation
#	+ text in its place, line by line; may be missing
#
# FILE and what follows it may come more than once.  The mutant is built and
# its tests are run in .dev/mutants/tree, a copy of the checkout.  Prints a
# line for each, and "N caught, N missed"; a mutant is missed when one of its
# tests passes, or when it can't be built.

use strict;
use warnings;
use File::Basename qw(basename);
use File::Path qw(make_path);

chdir(($0 =~ s{[^/]*$}{}r) . '..') or die "cannot enter the checkout: $!\n";
my $tree = '.dev/mutants/tree';
$ENV{EKKSYNC_RUNS} //= 60;		# of t/084_endurance.pl: enough for a leak
$ENV{EKKSYNC_SHRINK} //= 0;		# of t/090_chaos.pl: that it fails is enough
$ENV{EKKSYNC_FIRST_FAILURE} //= 1;	# of a test is the end of it
$ENV{PG_TEST_TIMEOUT_DEFAULT} //= 90;	# a run that hangs is noticed, too

sub slurp
{
	my ($path) = @_;
	open my $in, '<', $path or die "cannot read $path: $!\n";
	local $/;
	return scalar <$in>;
}

sub spew
{
	my ($path, $text) = @_;
	open my $out, '>', $path or die "cannot write $path: $!\n";
	print $out $text;
	close $out or die "cannot write $path: $!\n";
	return;
}

# The list: [{name, tests, edits: [{file, old: [lines], new: [lines]}]}].
sub read_list
{
	my @mutants;
	for (split /\n/, slurp('t/mutants'))
	{
		next if /^#/ || /^$/;
		my $mutant = $mutants[-1];
		my $edit = $mutant && $mutant->{edits}[-1];
		if (/^= (.*)/)
		{
			push @mutants, { name => $1, edits => [] };
		}
		elsif (/^([-+]) ?(.*)/)
		{
			push @{ $edit->{ $1 eq '-' ? 'old' : 'new' } }, $2;
		}
		elsif (!$mutant->{tests})
		{
			$mutant->{tests} = $_;
		}
		else
		{
			push @{ $mutant->{edits} }, { file => $_, old => [], new => [] };
		}
	}
	return @mutants;
}

# A file's text after an edit; dies unless the old text is there once.
sub edited
{
	my ($mutant, $edit, $text) = @_;
	my $old = join '\n', map { '[ \t]*' . quotemeta } @{ $edit->{old} };
	my $new = join "\n", @{ $edit->{new} };
	my $count = () = $text =~ /^$old$/mg;
	die "mutant \"$mutant->{name}\": its text is $count times in $edit->{file}, not once\n"
	  unless $count == 1;
	return $text =~ s/^$old$/$new/mr;
}

my @mutants = read_list();
for my $mutant (@mutants)
{
	die "mutant \"$mutant->{name}\" is not complete\n"
	  unless $mutant->{tests} && @{ $mutant->{edits} };
	for my $test (split ' ', $mutant->{tests})
	{
		die "mutant \"$mutant->{name}\": no test is called \"$test\"\n"
		  unless grep { index($_, $test) >= 0 } glob 't/*.pl t/*.c sql-tests/*.sql';
	}
	edited($mutant, $_, slurp($_->{file})) for @{ $mutant->{edits} };
}
exit 0 if @ARGV && $ARGV[0] eq '--check';

# ---------------------------------------------------------------- running them

make_path($tree);
system("tar --exclude=./.dev --exclude=./.git -cf - . | tar -xf - -C $tree") == 0
  or die "cannot copy the checkout\n";

# Run tests in the tree; (built, {names of failed tests}).
sub run_tests
{
	my ($tests) = @_;
	local $ENV{TESTS} = $tests;
	my $output = `cd $tree && make -s check 2>&1`;
	spew("$tree/../last.log", $output);
	return (0, {}) if $output =~ /^FAILED: (?!formatted|mutants)/m;
	my %failed = map { $_ => 1 } $output =~ m{^--- \S*?/?([^/\s]+)$}mg,
	  $output =~ /^not ok \d+\s+- (\w+)/mg, $output =~ /^test (\w+) .*FAILED/mg;
	return (1, \%failed);
}

my ($caught, $missed) = (0, 0);
$| = 1;
for my $mutant (@mutants)
{
	next if @ARGV && !grep { index($mutant->{name}, $_) >= 0 } @ARGV;
	my %kept;
	for my $edit (@{ $mutant->{edits} })
	{
		my $path = "$tree/$edit->{file}";
		$kept{$path} //= slurp($path);
		spew($path, edited($mutant, $edit, slurp($path)));
	}
	my ($built, $failed) = run_tests($mutant->{tests});
	spew($_, $kept{$_}) for keys %kept;
	my @passed = grep {
		my $test = $_;
		!grep { index($_, $test) >= 0 } keys %$failed
	} split ' ', $mutant->{tests};
	my $what = !$built ? 'NOT BUILT' : @passed ? "MISSED by @passed" : 'caught';
	print "$what: $mutant->{name}\n";
	$what eq 'caught' ? $caught++ : $missed++;
}
print "\n$caught caught, $missed missed\n";
exit($missed || !$caught ? 1 : 0);
