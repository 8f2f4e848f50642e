# ChaosPlan.pm: the history that a chaos test plays, made of a seed alone, so
# that it can be played again and made shorter.
#
# A history is a list of epochs.  In each there is one run of the extension (or
# two calls at once), with what happens before it ("before"), while it is
# stopped at a step or one of its requests is held ("at_stop"), and while it
# goes on ("during"): lists of waves, which are lists of operations.  Waves come
# one after the other; the operations of one wave are of different clients, and
# have no order.
#
# Which documents a run looks at ("scan"), the default or all, and how often it
# tries again ("retries") are the seed's as well.
#
# An operation is a hash: "k", its kind; "key", the member's kennitala; and what
# the kind needs.  t/ChaosClients.pm does them.  Epochs with "reserve" are only played
# when there were not enough faults before.
#	set		the row gets values: "v" {field => value}
#	save	as the ORM does it: all columns, of which the form has changed "v"
#	load	a form is opened, for
#	stale	... a later save of all that was in it, and of what "v" changes
#	bulk	one UPDATE of one field ("field") of many members ("v" {key => value})
#	tx		a transaction of "parts" [{v, fate}]: fate 'keep', 'undo' (rolled back
#			to a savepoint); "end": COMMIT or ROLLBACK
#	begin, in, end	a transaction that stays open, in session "s"
#	insert, delete, rekey ("to")
#	page	the profile page: the document, then an entry whose created_at is
#			"skew" seconds off; or, with "tie", the very stamp of the last change
#			of the row; with "id" and "late", the entry comes by
#	entry	... "of" => id
#	console	somebody edits the document, and nothing else
#	enqueue	a client that adds an entry, and writes no document
#	status	the document's membership.status is set to "value"
#	docdel	the document is deleted
#	unmapped	a field that is not mapped gets a value
#	echo	track_member_changes adds an entry for the "back"-th last write to the
#			document, ours or theirs, "times" times
#	release	a write that the proxy holds is passed on

package ChaosPlan;

use strict;
use warnings;
use utf8;
use Exporter qw(import);

our @EXPORT_OK = qw(plan count_ops members_of without);

# Steps at which an epoch's run may be stopped.
my @STOPS = qw(staged scanned read documents decided applied sent settled members);
my @SKEWS = (0, 0, 0, -240, -5400, -80000, -200000, 600, 7200, 300000);

my ($serial, @epochs, $e, @alive, @dead, %busy, $keys);

sub one_of { return $_[ rand @_ ]; }
sub chance { return rand() < $_[0]; }

# A kennitala that nobody had yet; not a person's: there is no day 41 to 71.
sub new_key { return sprintf '%010d', 4_101_000_000 + 1_000 * ++$keys + 9; }

# A value of a field that no other operation writes, or, of small fields, one of
# the few that there are.
sub value_for
{
	my ($field) = @_;
	my $n = ++$serial;
	return "Nafn $n" if $field eq 'name';
	return "fb/$n" if $field eq 'facebook';
	return "p$n\@example.is" if $field eq 'email';
	return sprintf '%03d-%04d', 100 + ($n / 10000) % 900, $n % 10000 if $field eq 'phone';
	return sprintf '%04d-%02d-%02d', 1000 + $n / 336, 1 + ($n / 28) % 12, 1 + $n % 28 if $field eq 'birthday';
	return one_of(undef, 0, 1, 2, 3) if $field eq 'gender';
	return one_of(undef, 0 .. 6) if $field eq 'housing_situation';
	return one_of(0, 1);
}

my @UNIQUE = qw(name name facebook facebook email phone birthday);
my @SMALL = qw(gender housing_situation reachable groupable);
sub field { return chance(0.85) ? one_of(@UNIQUE) : one_of(@SMALL); }

sub some
{
	my ($field) = @_;
	return { $field => value_for($field) };
}

# Add operations to a slot of an epoch, each in a wave after the one before.
sub put
{
	my ($epoch, $slot, @ops) = @_;
	my $waves = $epochs[$epoch]{$slot} //= [];
	push @{ $waves->[$_] }, $ops[$_] for 0 .. $#ops;
	return;
}

# A member that nobody else works on in this epoch, for $ahead more.
sub member
{
	my ($ahead) = @_;
	for (1 .. 50)
	{
		my $key = one_of(@alive);
		next if ($busy{$key} // -1) >= $e;
		$busy{$key} = $e + ($ahead // 0);
		return $key;
	}
	return one_of(@alive);
}

sub set_op { my ($key, $field) = @_; return { k => 'set', key => $key, v => some($field) }; }
sub page_op { my ($key, $field, %more) = @_; return { k => 'page', key => $key, v => some($field), skew => 0, %more }; }
sub console_op { my ($key, $field) = @_; return { k => 'console', key => $key, v => some($field) }; }

# A change there, of one kind or another.
sub remote_op
{
	my ($key, $field) = @_;
	return chance(0.3) ? console_op($key, $field) : page_op($key, $field, skew => one_of(@SKEWS));
}

my $long = 0;					# sessions of long transactions
my @patterns = (
	# weight, operations
	[ 5, sub { put($e, one_of(qw(before during)), set_op(member(), field())); } ],
	[ 3, sub { my $f = field(); put($e, one_of(qw(before during)), { k => 'save', key => member(), v => some($f) }); } ],
	[ 5, sub { put($e, one_of(qw(before during)), remote_op(member(), field())); } ],
	[ 2, sub { put($e, one_of(qw(before during)), { k => 'enqueue', key => member(), v => some(field()), skew => one_of(0, 0, -30, 600) }); } ],
	[ 2, sub { # many fields of one member at once
		my $key = member();
		put($e, 'before', { k => 'set', key => $key, v => { map { ($_ => value_for($_)) } qw(name email gender phone) } }); } ],
	[ 2, sub { # a bulk update
		my $field = one_of(qw(name reachable birthday));
		my %values = map { (member() => value_for($field)) } 1 .. 4;
		put($e, one_of(qw(before during)), { k => 'bulk', field => $field, v => \%values }); } ],
	[ 2, sub { # a form that is old when it is saved
		my $key = member(1);
		my $field = one_of(qw(name birthday gender));
		put($e, 'before', { k => 'load', key => $key });
		put($e, one_of(qw(before during)), remote_op($key, one_of(qw(name birthday housing_situation))));
		put($e + int rand 2, 'during', { k => 'stale', key => $key, v => some($field) }); } ],
	[ 3, sub { # savepoints and rollbacks
		my $key = member();
		my @parts = map { { v => some(field()), fate => one_of(qw(keep undo)) } } 1 .. 1 + int rand 4;
		put($e, one_of(qw(before during)), { k => 'tx', key => $key, parts => \@parts, end => one_of(qw(COMMIT COMMIT ROLLBACK)) }); } ],
	[ 6, sub { # the same field on both sides, in one order or the other
		my ($key, $field) = (member(), field());
		my @ops = (set_op($key, $field), remote_op($key, $field));
		put($e, one_of(qw(before before during)), chance(0.5) ? @ops : reverse @ops); } ],
	[ 2, sub { # different fields
		my $key = member();
		put($e, one_of(qw(before during)), set_op($key, 'name'), remote_op($key, 'email')); } ],
	[ 3, sub { # at the very same time
		my ($key, $field) = (member(), one_of(@UNIQUE));
		put($e, 'before', set_op($key, $field), page_op($key, $field, tie => 1)); } ],
	[ 3, sub { # a transaction that began before the page's edit, and edits after it
		my ($key, $field, $s) = (member(), one_of(@UNIQUE), "long" . $long++ % 3);
		return if $epochs[$e]{long}{$s}++;
		put($e, 'before', { k => 'begin', s => $s }, page_op($key, $field),
			{ k => 'in', s => $s, key => $key, v => some($field) }, { k => 'end', s => $s }); } ],
	[ 2, sub { # one that is open while the run is at work
		my ($key, $field, $s) = (member(), one_of(@UNIQUE), "long" . $long++ % 3);
		return if $epochs[$e]{long}{$s}++;
		put($e, 'before', { k => 'begin', s => $s }, { k => 'in', s => $s, key => $key, v => some($field) }, remote_op($key, $field));
		put($e, 'during', { k => 'end', s => $s }); } ],
	[ 5, sub { # there, and here just before it is applied
		my ($key, $field) = (member(), one_of(@UNIQUE));
		put($e, 'before', remote_op($key, $field));
		put($e, 'at_stop', set_op($key, $field)); } ],
	[ 5, sub { # here, and there just before it is sent
		my ($key, $field) = (member(), one_of(@UNIQUE));
		put($e, 'before', set_op($key, $field));
		put($e, 'at_stop', remote_op($key, chance(0.8) ? $field : field())); } ],
	[ 5, sub { # here, and again while it is sent
		my ($key, $field) = (member(), one_of(@UNIQUE));
		put($e, 'before', set_op($key, $field));
		put($e, 'at_stop', set_op($key, $field)); } ],
	[ 5, sub { # here; and later, when it may have come or not, on either side
		my ($key, $field) = (member(1), one_of(@UNIQUE));
		put($e, 'before', set_op($key, $field));
		put($e + 1, 'before', chance(0.6) ? page_op($key, $field, skew => one_of(0, -5400, -80000)) : chance(0.5) ? console_op($key, $field) : set_op($key, $field)); } ],
	[ 4, sub { # our write, a newer one, and the first one's late echo
		my ($key, $field) = (member(2), one_of(@UNIQUE));
		put($e, 'before', set_op($key, $field));
		put($e + 1, 'before', { k => 'echo', key => $key, back => 0, times => 0, keep => ++$serial }, set_op($key, $field));
		put($e + 2, one_of(qw(before during)), { k => 'echo', key => $key, kept => $serial, times => 1 + int rand 2 }); } ],
	[ 4, sub { # their write, a newer one of ours, and the first one's late echo
		my ($key, $field) = (member(3), one_of(@UNIQUE));
		put($e, 'before', remote_op($key, $field), { k => 'echo', key => $key, back => 0, times => 0, keep => ++$serial });
		put($e + 1, 'before', set_op($key, $field));
		put($e + 3, one_of(qw(before during)), { k => 'echo', key => $key, kept => $serial, times => 1 + int rand 2 }); } ],
	[ 3, sub { # an entry that comes long after its value
		my ($key, $field, $id) = (member(2), one_of(@UNIQUE), ++$serial);
		put($e, one_of(qw(before at_stop during)), page_op($key, $field, id => $id, late => 1));
		put($e + 1, 'before', set_op($key, $field)) if chance(0.3);
		put($e + int rand 3, 'during', { k => 'entry', key => $key, of => $id, skew => one_of(@SKEWS) }); } ],
	[ 6, sub { put($e, one_of(qw(before at_stop during)), { k => 'echo', key => one_of(@alive, @dead), back => int rand 3, times => 1 + int rand 2 }); } ],
	[ 1, sub { # gone, with edits there afterwards
		my $key = member(4);
		put($e, one_of(qw(before at_stop)), { k => 'delete', key => $key });
		@alive = grep { $_ ne $key } @alive;
		push @dead, $key;
		put($e + 2, 'before', one_of(remote_op($key, 'name'), console_op($key, 'email'), { k => 'status', key => $key, value => 'active' })); } ],
	[ 1, sub { # back again
		my $key = one_of(@dead) // return;
		return if ($busy{$key} // -1) >= $e;
		$busy{$key} = $e + 1;
		@dead = grep { $_ ne $key } @dead;
		push @alive, $key;
		put($e, 'before', { k => 'insert', key => $key, v => { map { ($_ => value_for($_)) } qw(name email) } }); } ],
	[ 1, sub { # new
		my $key = new_key();
		push @alive, $key;
		$busy{$key} = $e;
		put($e, one_of(qw(before during)), { k => 'insert', key => $key, v => { map { ($_ => value_for($_)) } qw(name birthday phone) } }); } ],
	[ 1, sub { # a key that changes
		my ($key, $to) = (member(3), new_key());
		put($e, one_of(qw(before at_stop)), { k => 'rekey', key => $key, to => $to });
		@alive = grep { $_ ne $key } @alive;
		push @dead, $key;
		push @alive, $to;
		$busy{$to} = $e + 1; } ],
	[ 1, sub { put($e, one_of(qw(before at_stop during)), { k => 'docdel', key => member(1) }); } ],
	[ 1, sub { put($e, 'before', { k => 'status', key => member(), value => one_of(qw(inactive active)) }); } ],
	[ 2, sub { put($e, one_of(qw(before at_stop during)), { k => 'unmapped', key => member(), value => ++$serial }); } ],
);

# What befalls the requests of an epoch's run.
sub rules
{
	my @rules;
	for (1 .. one_of(1, 1, 2))
	{
		my $fault = one_of(qw(drop drop lose lose lose answer answer answer tear broken fewer shape html cut lose_and_gone delay duplicate late late));
		my %rule = (fault => $fault, nth => 1);
		if (chance(0.65))
		{
			@rule{qw(verb match)} = ('commit', '/documents/members/');
		}
		else
		{
			$rule{verb} = one_of(qw(runQuery batchGet commit));
			$rule{nth} = 1 + int rand 2;
		}
		@rule{qw(verb match)} = ('commit', '/documents/members/') if $fault eq 'late';
		# a query's answer with less in it is a true answer to another one
		$rule{verb} = 'batchGet' if $fault eq 'fewer' && $rule{verb} eq 'runQuery';
		$rule{drop} = 1 if $fault eq 'late';
		$rule{seconds} = 0.05 if $fault eq 'delay';
		$rule{times} = 1 + int rand 2;
		if ($fault eq 'answer')
		{
			@rule{qw(status error)} = @{ one_of([ 409, 'ABORTED' ], [ 429, 'RESOURCE_EXHAUSTED' ], [ 500, 'INTERNAL' ], [ 503, 'UNAVAILABLE' ]) };
			$rule{applied} = $rule{status} >= 500 ? int rand 2 : 0;	# the others say that it was not
		}
		push @rules, \%rule;
	}
	return \@rules;
}

# The history of a seed.  Options: ops, faults, members: how many.
sub plan
{
	my ($seed, %opt) = @_;
	srand $seed;
	($serial, $keys, $long, %busy, @dead) = (0, 0, 0);
	@epochs = ();
	my @members = @alive = map { new_key() } 1 .. $opt{members};
	my $total = 0;
	my $weights = 0;
	$weights += $_->[0] for @patterns;
	my $n = int($opt{ops} / ($opt{ops} > 10_000 ? 45 : 32)) + 1;
	$n = int($opt{faults} * 1.2) + 1 if $n < $opt{faults} * 1.2;
	my $each = $opt{ops} / $n;
	my $reserve = int($n / 4);
	for ($e = 0; $e < $n + $reserve; $e++)
	{
		while ($total + count_ops($epochs[$e]) < $each * ($e + 1))
		{
			my $lot = rand $weights;
			for my $pattern (@patterns)
			{
				next if ($lot -= $pattern->[0]) >= 0;
				$pattern->[1]->();
				last;
			}
		}
		$total += count_ops($epochs[$e]);
		my $epoch = $epochs[$e];
		$epoch->{reserve} = 1 if $e >= $n;
		$epoch->{rules} = $e > 0 && chance(0.75) ? rules() : [];
		if (chance(0.55)) { $epoch->{stop} = one_of(@STOPS); }
		elsif (chance(0.5)) { $epoch->{hold} = one_of('commit', 'batchGet'); }
		$epoch->{kill} = chance(0.75) ? 'term' : chance(0.8) ? 'kill' : 'postmaster' if $epoch->{stop} && chance(0.2);
		$epoch->{double} = 1 if chance(0.15);
		put($e, one_of(qw(before during)), { k => 'release' }) if chance(0.4);
	}
	return { seed => $seed, scan => $seed % 2 ? 'changed' : 'full', retries => $seed % 3 ? 0 : 2, faults => $opt{faults}, members => \@members, epochs => \@epochs };
}

sub waves_of { return map { @{ $_[0]{$_} // [] } } qw(before at_stop during); }

sub count_ops
{
	my ($epoch) = @_;
	my $n = 0;
	$n += grep { $_->{k} ne 'release' } @{ $_ // [] } for waves_of($epoch // {});
	return $n;
}

# The members that an operation is about.
sub members_of
{
	my ($op) = @_;
	return keys %{ $op->{v} } if $op->{k} eq 'bulk';
	return map { $op->{$_} // () } qw(key to);
}

# The history without the operations for which $out->($op) is true; with none of
# the epochs for which $gone->($number, $epoch) is.
sub without
{
	my ($history, $out, $gone) = @_;
	my @left;
	for my $n (0 .. $#{ $history->{epochs} })
	{
		my $epoch = $history->{epochs}[$n] // {};
		next if $gone && $gone->($n, $epoch);
		my %copy = %$epoch;
		for my $slot (qw(before at_stop during))
		{
			$copy{$slot} = [ map { my @ops = grep { !$out->($_) } @{ $_ // [] }; @ops ? \@ops : () } @{ $epoch->{$slot} // [] } ];
		}
		push @left, \%copy;
	}
	return { %$history, epochs => \@left };
}

1;
