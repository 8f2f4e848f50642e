# Oracle.pm: judges the trace of a chaos test (t/Chaos.pm) by the rules of the
# merge alone.  It shares no code with the extension and takes nothing from it
# but what the extension shows to people: conflicts, entries' outcome, the queue,
# the figures of runs.
#
# The rules, of an edit a of the row and an edit w of the document, or of an
# entry, that set one field of one member to different values:
#
#	seen	Who edits a side where the other's value has already come has seen
#			it: his edit stands, whatever the clocks say.
#	later	Else they are concurrent, and the later one stands.  The time of a is
#			that of its trigger; of w that of the entry that names its value
#			(created_at, not later than its createTime or than w's updateTime, not a
#			day earlier).
#	unknown	Without such an entry w lies between the document's version before and
#			its own: an edit of the row after that version stands.
#	tie		At the same microsecond the row's stands.
#	after	A write that a run had noted before w was made counts as seen by w.
#	kept	The loser of two concurrent edits is among the conflicts.
#
# Where what is seen from outside leaves room (which of a run's reads came before
# an edit), each outcome that the rules allow is allowed.

package Oracle;

use strict;
use warnings;
use utf8;
use Exporter qw(import);

our @EXPORT_OK = qw(judge %INVARIANT);

# The last one is told by the extension itself.
our %INVARIANT = (
	1  => 'convergence: row, document and the fold of all edits are equal',
	2  => 'no lost update: every edit stands, was seen by the later one, or is kept',
	3  => 'no invention: no value that nobody wrote, no other field touched',
	4  => 'idempotence: with nothing new, a run writes nothing',
	5  => 'no echo: no more writes across than edits, none by a late echo',
	6  => 'monotone: no stamp goes back',
	7  => 'no resurrection: who is deleted stays so until entered again',
	8  => 'acknowledgement: what is synced is durable on the other side',
	9  => 'nothing unacknowledged, no conflict, no tombstone is removed',
	10 => 'symmetry: by their times, not by their side or arrival, edits win',
	11 => 'liveness: the queue is empty after a bounded number of runs',
	12 => 'counts: captured, sent and failed add up, costs are the proxy\'s',
	13 => 'single runner: no two runs at one time',
	14 => 'isolation: what is rolled back leaves nothing, nobody waits or fails for the network',
	15 => 'explained: ekksync_diff() finds nothing that nobody can explain, and in the end nothing');

my %MEMBER_FIELD = map { ($_ => 1) } qw(name birthday gender housing_situation reachable groupable email facebook phone);
my %UNIQUE = map { ($_ => 1) } qw(name birthday email facebook phone);
my $GONE = "\0gone";

my ($t, @bad, %P, %D, %versions, %entries, %conflicts, @runs);

sub bad
{
	my ($invariant, $key, $field, $what) = @_;
	push @bad, { invariant => $invariant, key => $key, field => $field, what => $what };
	return;
}

sub micros
{
	my ($time) = @_;
	require ChaosClients;
	return ChaosClients::micros($time);
}

# --------------------------------------------------------------------- histories

# Each side's history of each field of each member: events with a value, from
# (row: lo, hi, when it was committed and, once found, the exact stamp; document:
# u, and prev, the version before), who (user or run).  Equal values one after the other are one.
sub histories
{
	(%P, %D, %versions, %entries, %conflicts) = ();
	for my $event (@{ $t->{P} })
	{
		my $key = $event->{key};
		if ($event->{kind} eq 'gone')
		{
			add(\%P, $key, $_, { %$event, t => $event->{lo}, v => $GONE }) for keys %{ $P{$key} // {} };
			next;
		}
		for my $field (grep { $MEMBER_FIELD{$_} } keys %{ $event->{v} })
		{
			add(\%P, $key, $field, { %$event, t => $event->{lo}, v => $event->{v}{$field} });
		}
	}
	for my $event (@{ $t->{D} })
	{
		my $key = $event->{key};
		my $prev = $versions{$key}[-1] // 0;
		push @{ $versions{$key} }, $event->{u} if $event->{u} > $prev;
		my @fields = $event->{kind} eq 'set' ? grep { $MEMBER_FIELD{$_} } keys %{ $event->{v} } : keys %MEMBER_FIELD;
		for my $field (@fields)
		{
			my $value = $event->{kind} eq 'delete' ? $GONE : $event->{v}{$field} // 'null';
			add(\%D, $key, $field, { %$event, t => $event->{u}, prev => $prev, v => $value });
		}
	}
	for my $entry (sort { $a->{created} <=> $b->{created} } values %{ $t->{entries} })
	{
		push @{ $entries{ $entry->{key} }{$_} }, { %$entry, v => $entry->{v}{$_} } for keys %{ $entry->{v} };
	}
	for my $row (@{ $t->{conflicts} })
	{
		require ChaosClients;
		push @{ $conflicts{ $row->{key} }{ $row->{field} } },
		  {
			%$row,
			dv => ChaosClients::canon($row->{field}, $row->{django_value}),
			fv => ChaosClients::canon($row->{field}, $row->{firestore_value}),
			at => micros($row->{created_at})
		  };
	}
	@runs = map { { %$_, start => micros($_->{started_at}), end => micros($_->{finished_at}) // 9e18 } } grep { !$_->{dry_run} } @{ $t->{runs} };
	return;
}

sub add
{
	my ($histories, $key, $field, $event) = @_;
	my $list = $histories->{$key}{$field} //= [];
	if (@$list && $list->[-1]{v} eq $event->{v})
	{
		$list->[-1]{last} = $event->{t};
		return;
	}
	push @$list, { %$event, last => $event->{t} };
	return;
}

# The run that was at work at a time; undef: none.
sub run_at
{
	my ($time) = @_;
	my ($from, $upto) = (0, scalar @runs);
	while ($from < $upto)
	{
		my $middle = int(($from + $upto) / 2);
		if ($runs[$middle]{start} <= $time) { $from = $middle + 1; }
		else                                { $upto = $middle; }
	}
	return $from > 0 ? $runs[ $from - 1 ] : undef;
}

# Was any run at work between two times?
sub run_between
{
	my ($from, $upto) = @_;
	my $last = run_at($upto) // return 0;
	return $last->{end} >= $from;
}

# Events of a side whose value is there at some time from $from to $upto; in a
# row it is there until the next one is committed.
sub during
{
	my ($list, $from, $upto) = @_;
	my @events = @{ $list // [] };
	return grep { $events[$_]{t} <= $upto && ($_ == $#events || ($events[ $_ + 1 ]{done} // $events[ $_ + 1 ]{t}) >= $from) } 0 .. $#events;
}

sub explaining
{
	my ($key, $field, $value, $before) = @_;
	return grep { $_->{v} eq $value && $_->{created} < $before } @{ $entries{$key}{$field} // [] };
}

# ------------------------------------------------------------------------ the rules

# Had the value of edit $a of one side come to the other, whose history is
# $other, before $time?  By a run, or because it was there anyway.
sub has_come
{
	my ($a, $other, $time) = @_;
	my @events = @{ $other // [] };
	for my $i (0 .. $#events)
	{
		last if $events[$i]{t} >= $time;
		next if $events[$i]{v} ne $a->{v};
		return 1 if $events[$i]{last} > $a->{t} || $i == $#events || $events[ $i + 1 ]{t} > $a->{t};
	}
	return 0;
}

# Must w, an edit of the document, beat a, one of the row, in a run that began
# at $start?  Only if an entry that was there says so.
sub remote_is_later
{
	my ($key, $field, $a, $w, $start) = @_;
	my ($stamp) = map { $_ // $a->{hi} } $a->{stamp};
	return 0 if defined $w->{t} && $w->{t} <= $stamp;		# an entry that came later copies it
	return scalar grep { $_->{eff} > $stamp } explaining($key, $field, $w->{v}, $start);
}

# Must a beat w, as far as is known at $time?
sub local_is_later
{
	my ($key, $field, $a, $w, $time) = @_;
	my $stamp = $a->{stamp} // $a->{lo};
	return 0 if $stamp <= ($w->{prev} // 0);
	return 0 if grep { $_->{eff} > $stamp } explaining($key, $field, $w->{v}, $time);
	return 0 if defined $w->{u} && $a->{lo} < $w->{u} && run_between($a->{lo}, $w->{u});
	return 1;
}

# ------------------------------------------------------------------ what runs wrote

# A value that a run put into the row.
sub check_pull
{
	my ($key, $field, $i) = @_;
	my $event = $P{$key}{$field}[$i];
	my $was = $i > 0 ? $P{$key}{$field}[ $i - 1 ] : undef;
	my $run = run_at($event->{hi}) // return bad(3, $key, $field, "written to the row, though no run was at work: $event->{v}");
	my $doc = $D{$key}{$field} // [];
	my ($source) = grep { $_->{v} eq $event->{v} } map { $doc->[$_] } during($doc, $run->{start}, $event->{hi});
	if (!$source)
	{
		my @entries = explaining($key, $field, $event->{v}, $event->{hi});
		if (!@entries)
		{
			return bad((grep { $_->{v} eq $event->{v} } @$doc) ? 1 : 3, $key, $field,
				"a run wrote to the row what the document did not hold: $event->{v}");
		}
		return unless $UNIQUE{$field};
		my @before = grep { $_->{v} eq $event->{v} && $_->{t} < $event->{t} } @{ $P{$key}{$field} },
		  (grep { $_->{by} eq 'run' } @$doc);
		bad(5, $key, $field, "a late echo came back to the row: $event->{v}") if @before;
	}
	elsif ($source->{by} eq 'run' && $UNIQUE{$field} && $source->{v} ne 'null' && !explaining($key, $field, $event->{v}, $source->{u}))
	{
		bad(1, $key, $field, "our own write came back to the row: $event->{v}");
	}
	return unless $was && $was->{by} eq 'user' && $was->{v} ne $GONE;
	return if $was->{kind} eq 'come' && $was->{v} eq 'null';
	return if $source && has_come($was, $doc, $source->{u} + 1);
	return if grep { $_->{dv} eq $was->{v} } @{ $conflicts{$key}{$field} // [] };
	return if $UNIQUE{$field} && !$source && has_come($was, $doc, $event->{t});
	bad(2, $key, $field, "a run wrote $event->{v} over an edit of the row that nobody had seen, and kept no conflict: $was->{v}");
	return;
}

# A value that a run put into the document.
sub check_push
{
	my ($key, $field, $i) = @_;
	my $event = $D{$key}{$field}[$i];
	my $was = $i > 0 ? $D{$key}{$field}[ $i - 1 ] : undef;
	my $rows = $P{$key}{$field} // [];
	my ($log) = ($event->{what} // '') =~ m{^(.*)/};
	my $start = $t->{fences}{ $log // '' } // 0;
	my ($source) = grep { $_->{v} eq $event->{v} } map { $rows->[$_] } during($rows, $start, $event->{came});
	if (!$source && $event->{kind} ne 'create' && !explaining($key, $field, $event->{v}, $event->{u}))
	{
		return bad((grep { $_->{v} eq $event->{v} } @$rows) ? 1 : 3, $key, $field,
			"a run wrote to the document what the row did not hold: $event->{v}");
	}
	return unless $was && $was->{by} eq 'user' && $was->{v} ne $GONE && $event->{kind} eq 'set';
	return if $was->{v} eq 'null' && $was->{kind} eq 'create';
	return if has_come($was, $rows, $event->{u});
	return if grep { $_->{fv} eq $was->{v} } @{ $conflicts{$key}{$field} // [] };
	bad(2, $key, $field, "a run wrote $event->{v} over an edit of the document that nobody had seen, and kept no conflict: $was->{v}");
	return;
}

sub check_conflict
{
	my ($key, $field, $row) = @_;
	my $rows = $P{$key}{$field} // [];
	my $doc = $D{$key}{$field} // [];
	my ($a) = grep { $_->{v} eq $row->{dv} && $_->{t} < $row->{at} } reverse @$rows;
	my ($w) = grep { $_->{v} eq $row->{fv} && $_->{t} < $row->{at} && $_->{by} eq 'user' } reverse @$doc;
	my @entries = explaining($key, $field, $row->{fv}, $row->{at});
	my $what = "conflict $row->{id} ($row->{dv} here, $row->{fv} there, $row->{winner}: $row->{rule})";
	return bad(3, $key, $field, "$what: nobody wrote $row->{fv} there") unless $w || @entries;
	return if $row->{rule} !~ /^(?:later write|tie|order unknown)$/;
	return bad(3, $key, $field, "$what: nobody wrote $row->{dv} here") unless $a;
	return unless $UNIQUE{$field} && $row->{dv} ne 'null' && $row->{fv} ne 'null';
	if ($w)
	{
		bad(2, $key, $field, "$what: the edit of the row had seen that of the document") if has_come($w, $rows, $a->{t});
		bad(2, $key, $field, "$what: the edit of the document had seen that of the row") if has_come($a, $doc, $w->{t});
	}
	my ($run) = grep { $_->{id} == $row->{run} } @runs;
	my $start = $run ? $run->{start} : 0;
	if ($row->{winner} eq 'firestore')
	{
		bad(10, $key, $field, "$what: the edit of the row was the later one") if local_is_later($key, $field, $a, $w // { v => $row->{fv} }, $row->{at});
	}
	else
	{
		bad(10, $key, $field, "$what: the edit of the document was the later one") if remote_is_later($key, $field, $a, $w // { v => $row->{fv} }, $start);
	}
	return;
}

# ----------------------------------------------------------------------- the end

# The last edits of both sides, and which of their values may be there at last.
sub fold
{
	my ($key, $field) = @_;
	my ($a) = grep { $_->{by} eq 'user' && $_->{v} ne $GONE } reverse @{ $P{$key}{$field} };
	my $unset = $a && $a->{kind} eq 'come' && $a->{v} eq 'null';	# entered without a value: nobody cleared one
	my ($w) = grep { $_->{by} eq 'user' && $_->{v} ne $GONE } reverse @{ $D{$key}{$field} // [] };
	my @values;
	if (!$w) { @values = ($a->{v}); }
	elsif (!$a) { @values = ($w->{v}); }
	elsif ($unset) { @values = ($a->{v}, $w->{v}); }
	elsif (has_come($w, $P{$key}{$field}, $a->{t})) { @values = ($a->{v}); }
	elsif (has_come($a, $D{$key}{$field}, $w->{t})) { @values = ($w->{v}); }
	elsif (local_is_later($key, $field, $a, $w, 9e18)) { @values = ($a->{v}); }
	else { @values = ($a->{v}, $w->{v}); }
	# entries that no document ever held, or not when they came
	for my $entry (@{ $entries{$key}{$field} // [] })
	{
		push @values, $entry->{v} if grep { $_->{v} eq $entry->{v} && $_->{by} eq 'run' && $_->{t} > $entry->{created} } @{ $P{$key}{$field} };
	}
	return @values;
}

sub check_end
{
	for my $key (sort keys %{ $t->{rows} })
	{
		my $row = $t->{rows}{$key};
		my $doc = $t->{docs}{$key};
		if (!$doc) { bad(1, $key, '', 'there is no document'); next; }
		for my $field (sort keys %$row)
		{
			next if !exists $doc->{v}{$field};
			bad(1, $key, $field, "the row has $row->{$field}, the document $doc->{v}{$field}") if $row->{$field} ne $doc->{v}{$field};
			next unless $MEMBER_FIELD{$field};
			my @allowed = fold($key, $field);
			bad(1, $key, $field, "both sides have $row->{$field}, not " . join(' or ', @allowed))
			  unless grep { $_ eq $row->{$field} } @allowed;
		}
		bad(7, $key, 'status', "a member's document says $doc->{v}{status}") if $doc->{v}{status} ne 'active';
	}
	for my $key (sort keys %P)
	{
		next if $t->{rows}{$key};
		my $doc = $t->{docs}{$key} // next;
		bad(7, $key, 'status', 'nobody has this key, and its document is active') if $doc->{v}{status} eq 'active';
		check_gone($key, $_) for sort keys %{ $P{$key} };
	}
	return;
}

# Edits of the document of a member that is gone are kept.
sub check_gone
{
	my ($key, $field) = @_;
	my $last = $D{$key}{$field}[-1] // return;
	my ($gone) = $P{$key}{$field}[-1];
	return if $last->{by} ne 'user' || $last->{v} eq $GONE || $last->{t} < $gone->{t};
	return if has_come($last, [ grep { $_->{v} ne $GONE } @{ $P{$key}{$field} } ], $gone->{t});
	return if grep { $_->{fv} eq $last->{v} } @{ $conflicts{$key}{$field} // [] };
	return if grep { $_->{v} eq $last->{v} } @{ $P{$key}{$field} };
	bad(2, $key, $field, "an edit of the document of a deleted member is not kept: $last->{v}");
	return;
}

# Fields that are not mapped are what their last writer made of them.
sub check_unmapped
{
	my %want;
	for my $event (@{ $t->{D} })
	{
		if ($event->{kind} ne 'set' && $event->{by} eq 'user') { delete $want{ $event->{key} }; }
		next unless $event->{other} && $event->{by} eq 'user';
		$want{ $event->{key} }{$_} = $event->{other}{$_} for keys %{ $event->{other} };
	}
	for my $key (sort keys %want)
	{
		my $doc = $t->{docs}{$key} // next;
		for my $path (sort keys %{ $want{$key} })
		{
			my $is = $doc->{other}{$path} // 'nothing';
			bad(3, $key, $path, "not mapped, was $want{$key}{$path}, is $is") if $is ne $want{$key}{$path};
		}
	}
	return;
}

# ------------------------------------------------------------------- queue, entries

# The change, of one member's, whose trigger's clock was between ours; a stamp that
# had to be above the one before it is a little later.
sub change_at
{
	my ($changes, $at) = @_;
	my ($from, $upto) = (0, scalar @$changes);
	while ($from < $upto)		# the first that began later
	{
		my $middle = int(($from + $upto) / 2);
		if ($changes->[$middle]{lo} <= $at) { $from = $middle + 1; }
		else                                { $upto = $middle; }
	}
	my $first = $from > 5 ? $from - 5 : 0;
	for my $event (reverse @$changes[ $first .. $from - 1 ])
	{
		return $event if $at <= $event->{hi} + 10 && !$event->{queued};
	}
	return;
}

sub check_queue
{
	my %changes;				# of users, by member, in their order
	for my $event (@{ $t->{P} })
	{
		next unless $event->{by} eq 'user';
		push @{ $changes{ $event->{key} } }, $event;
	}
	@$_ = sort { $a->{lo} <=> $b->{lo} } @$_ for values %changes;
	my (%seen, %count);
	for my $row (@{ $t->{queue} })
	{
		$count{ $row->{sync_status} }++;
		my $at = micros($row->{created_at});
		bad(11, $row->{ssn}, '', "queue row $row->{id} is pending") if $row->{sync_status} eq 'pending';
		bad(11, $row->{ssn}, '', "queue row $row->{id} has failed: $row->{error_message}") if $row->{sync_status} eq 'failed';
		my $event = change_at($changes{ $row->{ssn} } // [], $at);
		if (!$event)
		{
			bad(14, $row->{ssn}, join(',', sort keys %{ $row->{fields_changed} }),
				"queue row $row->{id} of $row->{created_at}: there was no such change, or not then");
			next;
		}
		@$event{qw(queued stamp)} = ($row, $at);
	}
	for my $key (sort keys %changes)
	{
		for my $event (@{ $changes{$key} })
		{
			my @fields = grep { $MEMBER_FIELD{$_} } keys %{ $event->{v} };
			bad(12, $key, join(',', @fields), 'a change was not queued') if !$event->{queued} && @fields;
		}
	}
	return;
}

# What is synced has come to the other side, was changed again before, or lost.
sub check_acknowledged
{
	for my $key (sort keys %P)
	{
		for my $field (sort keys %{ $P{$key} })
		{
			my $rows = $P{$key}{$field};
			for my $i (0 .. $#$rows)
			{
				my $a = $rows->[$i];
				next if $a->{by} ne 'user' || $a->{v} eq $GONE || !$a->{queued} || $a->{kind} eq 'come';
				next if $a->{queued}{sync_status} ne 'synced';
				my $at = micros($a->{queued}{synced_at});
				next if $i < $#$rows && $rows->[ $i + 1 ]{lo} < $at;
				next if has_come($a, $D{$key}{$field}, $at);
				next if grep { $_->{dv} eq $a->{v} } @{ $conflicts{$key}{$field} // [] };
				bad(8, $key, $field, "queue row $a->{queued}{id} is synced, and $a->{v} had not come to the document");
			}
		}
	}
	return;
}

# Entries of members that are gone fail, and those of fields that only Django
# writes: an echo of what somebody wrote there all the same.
sub may_fail
{
	my ($entry, $error) = @_;
	my $key = $entry->{key};
	return scalar grep { grep { $_->{v} eq $GONE } @$_ } values %{ $P{$key} // {} } if $error eq 'member not found';
	return 0 if $error ne 'membership.status: not writable from Firestore' || $entry->{kind} ne 'echo';
	return scalar grep { $_->{key} eq $key && $_->{by} eq 'user' && ($_->{v}{status} // '') eq ($entry->{v}{status} // '') } @{ $t->{D} };
}

sub check_entries
{
	my %inbox = map { ($_->{doc_id} => $_) } @{ $t->{inbox} };
	for my $id (sort keys %{ $t->{entries} })
	{
		my $entry = $t->{entries}{$id};
		my $row = $inbox{$id};
		my $status = $t->{queued}{$id} // 'gone';
		bad(11, $entry->{key}, '', "entry $id is $status") if $status eq 'pending';
		bad(12, $entry->{key}, '', "entry $id was never staged") if !$row;
		next unless $row;
		bad(11, $entry->{key}, '', "entry $id is $row->{status} here") if $row->{status} ne 'closed';
		if (defined $row->{error_message})
		{
			bad(2, $entry->{key}, '', "entry $id failed: $row->{error_message}") unless may_fail($entry, $row->{error_message});
			next;
		}
		check_enqueued($entry, $_) for $entry->{kind} eq 'enqueue' ? sort keys %{ $entry->{v} } : ();
	}
	return;
}

# An entry that came alone, while nobody else touched its member, is applied.
sub check_enqueued
{
	my ($entry, $field) = @_;
	my ($key, $value) = ($entry->{key}, $entry->{v}{$field});
	my $rows = $P{$key}{$field};
	my $doc = $D{$key}{$field} // [];
	return if grep { $_->{v} eq $value } @$rows;
	return unless $UNIQUE{$field};
	return if grep { $_->{t} >= $entry->{eff} - 1000 } @$rows, @$doc;
	return if grep { $_ >= $entry->{eff} - 1000 } @{ $versions{$key} // [] };
	return if grep { $_->{created} >= $entry->{created} - 1000 && $_->{id} ne $entry->{id} } map { @$_ } values %{ $entries{$key} };
	bad(2, $key, $field, "an entry alone is not applied: $value");
	return;
}

# ------------------------------------------------------------------------- runs

sub check_runs
{
	bad(6, @$_[ 0, 1 ], "the base's stamp went back from $_->[2]") for @{ $t->{went_back} };
	bad(9, '', '', "something has gone: $_") for @{ $t->{removed} };
	my %known = map { ($_->{key} => 1) } @{ $t->{members} };
	bad(9, $_, '', 'it is not known any more that this member is deleted') for grep { !$known{$_} } @{ $t->{tombstones} };
	my @log;
	my %log;
	for my $sent (sort { $a->{came} <=> $b->{came} } @{ $t->{sent} // [] })
	{
		my ($id) = ($sent->{mark} // next) =~ m{^(.*)/};
		next if @log && $log[-1] eq $id;
		bad(13, $sent->{key}, '', "run $id wrote again after another one") if $log{$id}++;
		push @log, $id;
	}
	my @order = sort { $a->{start} <=> $b->{start} } grep { !$_->{dry_run} } @runs;
	for my $i (1 .. $#order)
	{
		bad(13, '', '', "runs $order[$i-1]{id} and $order[$i]{id} were at work at one time")
		  if ($order[ $i - 1 ]{end} > $order[$i]{start} + 1_000_000 && $order[ $i - 1 ]{status} ne 'interrupted');
	}
	check_last_runs(@{ $t->{last_runs} // [] });
	bad(15, $_->{member}, $_->{field} // '', "$_->{when}: $_->{why}: $_->{detail}") for @{ $t->{differ} };
	return;
}

sub check_last_runs
{
	my (@last) = @_;
	for my $n (0 .. $#last)
	{
		my ($record, $counts) = @{ $last[$n] }{qw(record counts)};
		my $came = 0;
		$came += $_ for values %{ $counts->{came} };
		bad(11, '', '', "a run without faults: $record->{status}, $record->{error}") if $record->{status} ne 'success';
		bad(12, '', '', "run $record->{run} counts $record->{requests} requests, the proxy $came") if $record->{requests} != $came;
		# a query that finds nothing costs one read
		bad(12, '', '', "run $record->{run} counts $record->{docs_read} documents read, the proxy $counts->{reads} and $counts->{empty}")
		  if $record->{docs_read} != $counts->{reads} + $counts->{empty};
		bad(12, '', '', "run $record->{run} counts $record->{docs_written} documents written, the proxy $counts->{writes}")
		  if $record->{docs_written} + $record->{docs_deleted} != $counts->{writes};
		next if $n < $#last;
		bad(4, '', '', "with nothing new, run $record->{run} wrote $record->{docs_written} documents, $record->{to_django} rows")
		  if $record->{docs_written} != 2 || $record->{to_django} + $record->{to_firestore} > 0;
	}
	for my $member (@{ $t->{members} })
	{
		# of a member that has no row and no document a creation may still come
		next if !$t->{rows}{ $member->{key} } && !$t->{docs}{ $member->{key} };
		bad(11, $member->{key}, '', 'is still to be looked at') if $member->{due};
		bad(11, $member->{key}, '', 'has a note of a write in flight') if @{ $member->{notes} };
	}
	return;
}

sub check_clients
{
	bad(14, '', '', "a session of the application: $_") for @{ $t->{errors} };
	bad(14, '', '', sprintf 'a session waited %.1f s', $t->{slowest}) if $t->{slowest} > 15;
	return;
}

# No more writes across than edits.
sub check_echo
{
	for my $key (sort keys %P)
	{
		for my $field (sort keys %{ $P{$key} })
		{
			my @rows = @{ $P{$key}{$field} };
			my @doc = @{ $D{$key}{$field} // [] };
			my $entries = grep { $_->{kind} ne 'echo' } @{ $entries{$key}{$field} // [] };
			my $echoes = grep { $_->{kind} eq 'echo' } @{ $entries{$key}{$field} // [] };
			my $here = grep { $_->{by} eq 'user' } @rows;
			my $there = grep { $_->{by} eq 'user' } @doc;
			my $pulled = grep { $_->{by} eq 'run' } @rows;
			my $pushed = grep { $_->{by} eq 'run' } @doc;
			bad(5, $key, $field, "$pulled values came to the row, of $there edits and $entries entries") if $pulled > $there + $entries + $echoes;
			bad(5, $key, $field, "$pushed values came to the document, of $here edits here, $there there and $entries entries")
			  if $pushed > $here + $there + $entries + $echoes;
		}
	}
	return;
}

# ------------------------------------------------------------------------- all of it

# The violations of a trace, [{invariant, key, field, what}].
sub judge
{
	($t) = @_;
	@bad = ();
	delete @$_{qw(queued stamp)} for @{ $t->{P} };
	histories();
	check_queue();
	for my $event (grep { $_->{kind} eq 'come' && $_->{by} eq 'run' } @{ $t->{P} })
	{
		bad(7, $event->{key}, '', 'a run inserted a member');
	}
	link_queue();
	for my $key (sort keys %P)
	{
		for my $field (sort keys %{ $P{$key} })
		{
			my $rows = $P{$key}{$field};
			my $doc = $D{$key}{$field} // [];
			check_pull($key, $field, $_) for grep { $rows->[$_]{by} eq 'run' } 0 .. $#$rows;
			check_push($key, $field, $_) for grep { $doc->[$_]{by} eq 'run' && $doc->[$_]{v} ne $GONE } 0 .. $#$doc;
			check_conflict($key, $field, $_) for @{ $conflicts{$key}{$field} // [] };
		}
	}
	check_end();
	check_unmapped();
	check_acknowledged();
	check_entries();
	check_echo();
	check_runs();
	check_clients();
	return @bad;
}

# Queue rows were found for the changes; the histories' events know theirs.
sub link_queue
{
	my %queued = map { ($_->{id} => $_) } grep { $_->{queued} } @{ $t->{P} };
	for my $fields (values %P)
	{
		for my $events (values %$fields)
		{
			@$_{qw(queued stamp)} = @{ $queued{ $_->{id} } }{qw(queued stamp)} for grep { $queued{ $_->{id} // 0 } } @$events;
		}
	}
	return;
}

# What is known of a violation's member and field, in the order of time.
sub story
{
	my ($violation) = @_;
	my ($key, $field) = @$violation{qw(key field)};
	return () if $key eq '';
	my @lines;
	my @fields = $MEMBER_FIELD{$field} ? ($field) : keys %{ $P{$key} // {} };
	for my $f (@fields)
	{
		my $name = @fields > 1 ? " $f" : '';
		push @lines, [ $_->{t}, "row$name: " . ($_->{v} eq $GONE ? 'gone' : $_->{v}) . " ($_->{by})" . ($_->{stamp} ? '' : ', no stamp') ] for @{ $P{$key}{$f} // [] };
		push @lines, [ $_->{t}, "document$name: " . ($_->{v} eq $GONE ? 'gone' : $_->{v}) . " ($_->{by}, " . ($_->{what} // 'deletion') . ')' ] for @{ $D{$key}{$f} // [] };
		push @lines, [ $_->{created}, "entry$name $_->{id} ($_->{kind}): $_->{v}, " . ($_->{eff} - $_->{created}) . ' us' ] for @{ $entries{$key}{$f} // [] };
		push @lines, [ $_->{at}, "conflict$name $_->{id}: $_->{dv} here, $_->{fv} there, $_->{winner}, $_->{rule}, run $_->{run}" ] for @{ $conflicts{$key}{$f} // [] };
	}
	return () unless @lines;
	my ($first, $last) = (sort { $a <=> $b } map { $_->[0] } @lines)[ 0, -1 ];
	my @near = map { $_->[0] } @lines;
	push @lines, [ $_->{start}, "run $_->{id} ($_->{status})" ] for grep { my $run = $_; grep { $_ >= $run->{start} - 1e6 && $_ <= $run->{end} + 1e6 } @near } @runs;
	return map { sprintf '%12.6f  %s', ($_->[0] - $first) / 1e6, $_->[1] } sort { $a->[0] <=> $b->[0] } @lines;
}

1;
