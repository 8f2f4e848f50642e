# ChaosShrink.pm: makes a history that fails smaller, and prints it.
#
# Members have nothing to do with each other, so the failing ones are tried
# alone first; then epochs go, then operations, by halves, quarters and so on, as
# long as one of the same violations is still found.  Clocks and processes are
# real: what fails by chance may not fail again, and then is left as it is.

package ChaosShrink;

use strict;
use warnings;
use utf8;
use ChaosPlan qw(count_ops members_of without);
use Exporter qw(import);
use JSON::PP ();

our @EXPORT_OK = qw(shrink save_history read_history);

my $json = JSON::PP->new->canonical->utf8;

sub read_history
{
	my ($file) = @_;
	open my $in, '<', $file or die "$file: $!\n";
	local $/;
	return $json->decode(scalar <$in>);
}

# Keep a history in a file; returns its name.
sub save_history
{
	my ($history, $name) = @_;
	my $file = ($ENV{TESTDIR} // '.') . "/$name.json";
	open my $out, '>', $file or return "(cannot write $file: $!)";
	print $out $json->encode($history);
	close $out;
	return $file;
}

# Members and operations of all epochs.
sub size
{
	my ($history) = @_;
	my $n = 0;
	$n += count_ops($_) for @{ $history->{epochs} };
	return $n;
}

# Only these members' operations.
sub restricted
{
	my ($history, %keys) = @_;
	my $grown = 1;
	while ($grown)
	{
		$grown = 0;
		for my $epoch (@{ $history->{epochs} })
		{
			for my $op (map { @{ $_ // [] } } ChaosPlan::waves_of($epoch // {}))
			{
				next unless $op->{k} eq 'rekey' && ($keys{ $op->{key} } xor $keys{ $op->{to} });
				$keys{ $op->{key} } = $keys{ $op->{to} } = $grown = 1;
			}
		}
	}
	my %session;
	for my $epoch (@{ $history->{epochs} })
	{
		$session{ $_->{s} } = 1 for grep { defined $_->{s} && defined $_->{key} && $keys{ $_->{key} } } map { @{ $_ // [] } } ChaosPlan::waves_of($epoch // {});
	}
	my $small = without($history, sub {
		my ($op) = @_;
		my @members = members_of($op);
		return @members ? !grep { $keys{$_} } @members : defined $op->{s} ? !$session{ $op->{s} } : 0;
	});
	return { %$small, members => [ grep { $keys{$_} } @{ $history->{members} } ] };
}

# Returns the smallest history found that $play->($history) still finds the same
# kind of violation in, and what it finds; in so many tries.
sub shrink
{
	my ($history, $bad, $tries, $play) = @_;
	my %kinds = map { ($_->{invariant} => 1) } @$bad;
	my @found = @$bad;
	my $try = sub {
		my ($smaller) = @_;
		return 0 if $tries <= 0 || size($smaller) == 0;
		$tries--;
		my @now = grep { $kinds{ $_->{invariant} } } $play->($smaller);
		return 0 unless @now;
		@found = @now;
		$history = $smaller;
		return 1;
	};
	my %keys = map { ($_->{key} => 1) } grep { $_->{key} ne '' } @$bad;
	my ($first) = sort keys %keys;
	if (defined $first)
	{
		$try->(restricted($history, $first => 1)) || $try->(restricted($history, %keys));
	}
	my $epochs = @{ $history->{epochs} };
	for (my $chunk = int($epochs / 2); $chunk >= 1 && $tries > 0; $chunk = int($chunk / 2))
	{
		for (my $from = 0; $from < @{ $history->{epochs} } && $tries > 0; )
		{
			next if $try->(without($history, sub { 0 }, sub { $_[0] >= $from && $_[0] < $from + $chunk }));
			$from += $chunk;
		}
	}
	my $ops = size($history);
	for (my $chunk = int($ops / 2); $chunk >= 1 && $tries > 0; $chunk = int($chunk / 2))
	{
		for (my $from = 0; $from < size($history) && $tries > 0; )
		{
			my $n = 0;
			next if $try->(without($history, sub { my $i = $n++; return $i >= $from && $i < $from + $chunk }));
			$from += $chunk;
		}
	}
	return ($history, @found);
}

# A history, for people; if it is not too long.
sub describe
{
	my ($history, @bad) = @_;
	my @lines = ('made smaller: ' . size($history) . ' operations in ' . @{ $history->{epochs} } . ' epochs');
	push @lines, "  $_->{invariant}. $_->{key} $_->{field}: $_->{what}" for @bad > 3 ? @bad[ 0 .. 2 ] : @bad;
	return @lines if size($history) > 60;
	my $plain = JSON::PP->new->canonical;
	for my $n (0 .. $#{ $history->{epochs} })
	{
		my $epoch = $history->{epochs}[$n];
		my %rest = map { ($_ => $epoch->{$_}) } grep { defined $epoch->{$_} } qw(stop hold kill double rules);
		next unless count_ops($epoch) || %rest;
		push @lines, "  epoch $n " . $plain->encode(\%rest);
		for my $slot (qw(before at_stop during))
		{
			push @lines, "    $slot: " . join ' ', map { $plain->encode($_) } @{ $_ // [] } for @{ $epoch->{$slot} // [] };
		}
	}
	return @lines;
}

1;
