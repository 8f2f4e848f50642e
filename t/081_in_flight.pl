# "In flight": what becomes of a write whose fate nobody knows.  It was done and
# the answer lost, or it never came, or it comes late: after the run that sent
# it, while the next run is at work, after that one has settled, or a second
# time.  Meanwhile people edit on either side.  Whatever happens: both sides
# become equal, the value that was written last is the one, a value that
# another one beat unseen is among the conflicts, and our own late write is
# neither taken for an edit of Firestore nor beats one.
#
# Each kind of write meets each thing that can happen meanwhile, in a member of
# its own; one run sends all of them, so that they share its fate.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use JSON::PP ();

my $db = EkkSync->new(conf => "restart_after_crash = on");
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);
set_to(scan => 'full', max_retries => 0, max_delete_percent => 100);

my $members = qr{/documents/members/};

sub set_to
{
	my (%set) = @_;
	$db->admin_sql(join '', map { "ALTER DATABASE socialism SET ekksync.$_ = '$set{$_}';" } sort keys %set);
	return;
}

# --------------------------------------------------- what can happen meanwhile

# Names, in the order in which they are written.
my ($before, $ours, $theirs, $here) = ('Fyrir Breytingu', 'Okkar Skrif', 'Þeirra Skrif', 'Breytt Hér');

sub name_to { my ($name) = @_; return sub { "UPDATE membership_comrade SET name = '$name' WHERE ssn = '$_[0]';" }; }

# What others write to a document, as EkkSync::commit wants it.
sub page { my ($path, $value) = @_; return sub { edit($_[0], $path, $value), entry($_[0], $path, $value) }; }
sub console { my ($path, $value) = @_; return sub { [ "members/$_[0]", { $path => $value }, 1 ] }; }
sub enqueue { my ($value) = @_; return sub { entry($_[0], 'profile.name', $value) }; }
sub remove { return [ "members/$_[0]" ]; }
sub edit { my ($key, $path, $value) = @_; return [ "members/$key", { $path => $value, updated_at => timestamp() }, 1 ]; }

my $entries = 0;
sub entry
{
	my ($key, $path, $value) = @_;
	return [ 'sync_queue/e' . ++$entries, $db->entry_fields(docId => $key, changes => { $path => $value }) ];
}

sub insert_sql
{
	my ($name) = @_;
	return sub { "INSERT INTO membership_comrade (ssn, name, date_joined) VALUES ('$_[0]', '$name', '2024-05-01');" };
}

sub delete_sql
{
	my ($key) = @_;
	return "DELETE FROM membership_contactinfo USING membership_comrade WHERE id = comrade_id AND ssn = '$key';"
	  . "DELETE FROM membership_comrade WHERE ssn = '$key';";
}

# Each says what happens, "first" here, "there" and "then" here, in this order;
# and what is to come of it: the name that is there in the end ("want"; undef:
# the member is gone) and those that were beaten without having been seen
# ("unseen").  A function is given whether our write had been done before it,
# and whether it was done when the next run read.
my %of_value = (
	'nothing' => { want => $ours },
	'a newer edit here' => { first => name_to($here), want => $here },
	'the edit here is taken back' => { first => name_to($before), want => $before, needs => 'before' },
	'a newer edit by the profile page' =>
	  { there => page('profile.name', $theirs), want => $theirs, unseen => sub { $_[0] ? () : $ours } },
	'a newer edit by the console' =>
	  { there => console('profile.name', $theirs), want => $theirs, unseen => sub { $_[0] ? () : $ours } },
	'a newer edit that is only enqueued' =>
	  { there => enqueue($theirs), want => $theirs, unseen => sub { $_[1] ? () : $ours } },
	# Where ours is not there yet they save what is there already, no change.
	'the profile page puts back what was there' =>
	  { there => page('profile.name', $before), want => sub { $_[0] ? $before : $ours }, needs => 'before' },
	'the console puts back what was there' =>
	  { there => console('profile.name', $before), want => sub { $_[0] ? $before : $ours }, needs => 'before' },
	'the profile page edits another field' =>
	  { there => page('profile.facebook', 'facebook.example/annað'), want => $ours, facebook => 'facebook.example/annað' },
	'the console edits another field' =>
	  { there => console('profile.facebook', 'facebook.example/annað'), want => $ours, facebook => 'facebook.example/annað' },
	'an edit by the page, a newer one here' =>
	  { there => page('profile.name', $theirs), then => name_to($here), want => $here, unseen => [$theirs] },
	'an edit by the console, a newer one here' =>
	  { there => console('profile.name', $theirs), then => name_to($here), want => $here, unseen => [$theirs] },
	'an edit here, a newer one by the page' =>
	  { first => name_to($here), there => page('profile.name', $theirs), want => $theirs, unseen => [$here] },
	# Nobody can tell when the console wrote, only that it was after ours: what
	# is written here meanwhile wins, and the other is kept.
	'an edit here, a newer one by the console, of unknown order' =>
	  { first => name_to($here), there => console('profile.name', $theirs), want => $here, unseen => [$theirs] },
	'the member is deleted here' => { first => \&delete_sql, want => undef },
	'the document is deleted' => { there => \&remove, want => $ours },
);

my %of_end = (
	'nothing' => { want => undef },
	'the member is entered again' => { first => insert_sql($here), want => $here },
	'the profile page edits it' =>
	  { there => page('profile.name', $theirs), want => undef, unseen => [$theirs], fails => 1, needs => 'document' },
	'the console edits it' =>
	  { there => console('profile.name', $theirs), want => undef, unseen => [$theirs], needs => 'document' },
	'the console makes it active' =>
	  { there => console('membership.status', 'active'), want => undef, needs => 'document' },
	'the document is deleted' => { there => \&remove, want => undef },
);

# The writes: what was there "before" and what is written, as SQL or by an
# entry, and what can happen meanwhile.
my %kind = (
	'an update of one field'  => { before => 'row', write => name_to($ours), meanwhile => \%of_value },
	'an update of two fields' => {
		before    => 'row',
		write     => sub { "UPDATE membership_comrade SET name = '$ours', birthday = '1990-05-05' WHERE ssn = '$_[0]';" },
		birthday  => '1990-05-05',
		meanwhile => \%of_value
	},
	'a creation'           => { before => '', write => insert_sql($ours), meanwhile => \%of_value },
	'a return'             => { before => 'inactive', write => insert_sql($ours), meanwhile => \%of_value },
	'a value of an entry'  => { before => 'row', enqueue => enqueue($ours), meanwhile => \%of_value },
	'a deactivation'       => { before => 'row', write => \&delete_sql, meanwhile => \%of_end },
	'a deletion'           => { before => 'row', write => \&delete_sql, policy => 'delete', meanwhile => \%of_end });

# ------------------------------------------------------------- what becomes of it

# The fates: "done" before anything else happens or not; the faults of the
# proxy, or the step at which the worker is killed; when a late write comes.
my @late = (
	# one request that answers for each write
	{ fault => 'answer', verb => 'commit', match => $members, status => 400, error => 'FAILED_PRECONDITION' },
	{ fault => 'late', verb => 'batchWrite', match => $members, drop => 1 });
my %answer = (fault => 'answer', match => $members);

# So many writes are each answered with this code.
sub each_with
{
	my ($code, $n) = @_;
	return { writeResults => [ ({}) x $n ], status => [ ({ code => $code, message => 'nei' }) x $n ] };
}

my %fate = (
	'the answer is lost' => { done => 1, faults => [ { fault => 'lose', verb => 'commit', match => $members } ] },
	'it never came'      => {
		faults => [ { fault => 'drop', verb => 'commit', match => $members } ],
		says   => qr/^no answer from Firestore: .*: the connection was closed$/
	},
	'it comes after the run' => { done => 1, faults => \@late, release => 'at once' },
	'it comes after what happens' => { faults => \@late, release => 'before the next run' },
	'it comes after the next run has read' => { faults => \@late, release => 'in the next run' },
	'it comes after the next run'          => { faults => \@late, release => 'after the next run' },
	'it comes twice' =>
	  { done => 1, settled => 1, faults => [ { fault => 'duplicate', verb => 'commit', match => $members } ] },
	'it is done, and the same is sent again' => {
		done    => 1,
		faults  => \@late,
		again   => [ { fault => 'lose', verb => 'commit', match => $members } ],
		release => 'at once'
	},
	'the answer is that it was cancelled' =>
	  { done => 1, faults => [ { %answer, applied => 1, status => 499, error => 'CANCELLED', verb => 'commit' } ] },
	# DEADLINE_EXCEEDED for each write, and ABORTED when they are sent again
	'the answer is that each took too long' => {
		done    => 1,
		settled => 1,
		retries => 1,
		says    => qr/^members left for the next run, /,
		faults  => sub {
			my ($n) = @_;
			return [
				$late[0],
				{ %answer, applied => 1, status => 200, json => each_with(4, $n), verb => 'batchWrite' },
				{ %answer, status => 200, json => each_with(10, $n), verb => 'batchWrite' } ];
		}
	},
	'the worker is killed before it sends' => { kill => 'applied' },
	'the worker is killed when it has sent' => { done => 1, kill => 'sent' },
	map { ("the answer is $_" => { done => 1,
			faults => [ { %answer, applied => 1, status => $_, text => 'no', verb => 'commit' } ] })
	} 500, 503);

# All members that are written, by pass: a fate, and what becomes of documents
# of members who are deleted.
my @passes;
my $number = 0;
for my $fate (sort keys %fate)
{
	# for deletions, ways of not knowing that are different to them
	for my $policy ('deactivate', $fate =~ /^it comes after|^it never|lost/ ? 'delete' : ())
	{
		my @cells;
		for my $kind (sort keys %kind)
		{
			my $write = $kind{$kind};
			next unless ($write->{policy} // 'deactivate') eq $policy;
			for my $event (sort keys %{ $write->{meanwhile} })
			{
				my %what = %{ $write->{meanwhile}{$event} };
				my $needs = $what{needs} // '';
				next if $needs eq 'before' && !$write->{before};
				# nobody edits what is not there
				next if $what{there} && !$write->{before} && !$fate{$fate}{done};
				next if $needs eq 'document' && $policy eq 'delete' && $fate{$fate}{done};
				push @cells,
				  {
					%$write, %what,
					title  => "$kind; $event",
					key    => sprintf('311289%04d', ++$number),
					policy => $policy
				  };
			}
		}
		push @passes, { fate => $fate, policy => $policy, cells => \@cells };
	}
}

# ------------------------------------------------------------------- helpers

sub run_ok
{
	my ($name) = @_;
	my $run = $db->run;
	is($run->{status}, 'success', $name) or diag($run->{message});
	return $run;
}

# Do what cells say on this side, in one statement; on that side, in one request.
sub do_here
{
	my ($what, @cells) = @_;
	my $sql = join "\n", map { $_->{$what} ? $_->{$what}->($_->{key}) : () } @cells;
	$db->sql($sql) if $sql;
	return;
}

sub do_there
{
	my ($what, @cells) = @_;
	my @writes;
	for my $cell (@cells)
	{
		my @mine = $cell->{$what} ? $cell->{$what}->($cell->{key}) : next;
		push @{ $cell->{entries} }, map { $_->[0] =~ m{^sync_queue/(.*)} ? $1 : () } @mine;
		push @writes, @mine;
	}
	$db->commit(@writes) if @writes;
	return;
}

# Documents of cells, {key => document}: what is looked at in this test.
sub docs_of
{
	my $docs = $db->get_docs([ map { "members/$_->{key}" } @_ ],
		(map { "profile.$_" } qw(name birthday facebook)), 'membership.status');
	return { map { ($_ =~ s{.*/}{}r => $docs->{$_}) } keys %$docs };
}

# Their times, {key => updateTime}.
sub doc_times
{
	my $docs = docs_of(@_);
	return { map { ($_ => $docs->{$_}{updateTime}) } keys %$docs };
}

sub same { my ($one, $other) = map { $_ // '' } @_; return $one eq $other; }

sub keys_in { return join ', ', map { "'$_->{key}'" } @_; }

# Of which members' writes is something noted?
sub noted
{
	my (@cells) = @_;
	return { map { ($_ => 1) } split /\n/,
		$db->admin_sql("SELECT key FROM ekksync.member WHERE (due OR in_flight <> '[]') AND key IN (" . keys_in(@cells) . ')') };
}

# What :batchWrite answered: {key => was it refused?}
sub refused
{
	my ($body, $answer) = @_;
	my %refused;
	for my $i (0 .. $#{ $body->{writes} })
	{
		my $write = $body->{writes}[$i];
		my ($key) = ($write->{delete} // $write->{update}{name}) =~ m{([^/]+)$};
		$refused{$key} = $answer->{status}[$i]{code} ? 1 : 0;
	}
	return \%refused;
}

# What a cell comes to, as text: row, document, names that were beaten unseen,
# entries.  $landed: our write has been done by now.
sub expected
{
	my ($cell, $fate, $landed) = @_;
	my $seen = $fate->{done} || ($fate->{release} // '') eq 'before the next run';
	my $want = ref $cell->{want} ? $cell->{want}->($fate->{done}) : $cell->{want};
	my $unseen = $cell->{unseen} // [];
	$unseen = [ $unseen->($fate->{done}, $seen) ] if ref $unseen eq 'CODE';
	my @values = ($want // '-', $cell->{birthday} // '-', $cell->{facebook} // '-');
	my $gone = $cell->{policy} eq 'delete' || $cell->{title} eq 'a deactivation; the document is deleted'
	  || !$cell->{before} && !$landed ? 'none' : 'inactive';
	return {
		row      => defined $want ? "@values" : 'none',
		document => defined $want ? "active @values" : $gone,
		unseen   => "@$unseen",
		entries  => join ' ', ($cell->{fails} ? 'failed' : 'synced') x @{ $cell->{entries} // [] }
	};
}

sub actual
{
	my (@cells) = @_;
	my $in = keys_in(@cells);
	my $text = sub { my ($values) = @_; return join ' ', map { $_ // '-' } @$values{qw(name birthday facebook)}; };
	my %row = map { ($_->{ssn} => $text->($_)) } $db->rows(
		"SELECT * FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE ssn IN ($in)");
	my %beaten;
	push @{ $beaten{ $_->{member} } }, $_->{winner} eq 'django' ? $_->{firestore_value} : $_->{django_value}
	  for $db->rows("SELECT * FROM ekksync_conflicts WHERE member IN ($in) ORDER BY id");
	my $docs = docs_of(@cells);
	my $queue = $db->get_docs([ map { map { "sync_queue/$_" } @{ $_->{entries} // [] } } @cells ], 'sync_status');
	my %actual;
	for my $cell (@cells)
	{
		my $doc = $docs->{ $cell->{key} } && EkkSync::from_fields($docs->{ $cell->{key} }{fields});
		my $status = $doc ? $doc->{membership}{status} : 'none';
		$actual{ $cell->{key} } = {
			row      => $row{ $cell->{key} } // 'none',
			document => $status eq 'active' ? 'active ' . $text->($doc->{profile}) : $status,
			unseen   => join(' ', map { $_ // '-' } @{ $beaten{ $cell->{key} } // [] }),
			entries  => join(' ', map { $queue->{"sync_queue/$_"}{fields}{sync_status}{stringValue} } @{ $cell->{entries} // [] })
		};
	}
	return \%actual;
}

# A further run writes no more than its own document.
sub is_quiet
{
	my ($name) = @_;
	$proxy->start;
	my $run = run_ok("$name: one more run");
	is(join(' ', @$run{qw(to_firestore to_django conflicts failed)}), '0 0 0 0', '... has nothing to do');
	is($proxy->counts->{writes}, 2, '... and writes its own document alone');
	return;
}

sub check_cells
{
	my ($name, $fate, $landed, @cells) = @_;
	my $actual = actual(@cells);
	for my $cell (@cells)
	{
		is_deeply($actual->{ $cell->{key} }, expected($cell, $fate, $landed->{ $cell->{key} }), "$name: $cell->{title}");
	}
	return;
}

# Cells of members that are synced.
sub cells
{
	my (@cells) = map { { before => 'row', policy => 'deactivate', key => sprintf('311289%04d', ++$number), %$_ } } @_;
	$db->sql(join "\n", map { insert_sql($before)->($_->{key}) } @cells);
	run_ok('more members are synced');
	return @cells;
}

# ---------------------------------------------------------- what was there before

my @all = map { @{ $_->{cells} } } @passes;
my @inactive = grep { $_->{before} eq 'inactive' } @all;
$db->sql(join "\n", map { insert_sql($before)->($_->{key}) } grep { $_->{before} } @all);
run_ok('members are synced');
$db->sql(join "\n", map { delete_sql($_->{key}) } @inactive);
run_ok('some of them leave');

# ------------------------------------------------------------------ fate by fate

# The last request that wrote members.
sub last_write
{
	my ($last) = grep { ref $_->{body} eq 'HASH' && JSON::PP::encode_json($_->{body}{writes} // []) =~ $members }
	  reverse $proxy->requests;
	return $last && $last->{body};
}

# The run that writes so many members; returns what it sent.
sub write_and_lose
{
	my ($name, $fate, $n) = @_;
	my $sent;
	if ($fate->{kill})
	{
		$proxy->start;
		$db->stop_at($fate->{kill});
		$db->run(wait => 0);
		my $pid = $db->wait_stopped or die "$name: the run does not come to $fate->{kill}";
		$sent = last_write();
		kill KILL => $pid;
		$db->go_on;
		$db->wait_for(sub { ($db->sql_err('SELECT 1'))[0] == 0 && !-e "/proc/$pid" }) or die "$name: the server does not come back";
		return $sent;
	}
	for my $faults (grep { defined } $fate->{faults}, $fate->{again})
	{
		my @faults = ref $faults eq 'CODE' ? @{ $faults->($n) } : @$faults;
		$proxy->start(@faults);
		my $run = $db->run;
		is($run->{status}, $fate->{settled} ? 'success' : 'failed', "$name: the run that writes");
		like($run->{message}, $fate->{says}, '... says so') if $fate->{says};
		ok($proxy->wait_fired, '... meets its fate') for @faults;
		$sent = last_write();
	}
	return $sent;
}

# Of which cells is the document not what it was?
sub moved
{
	my ($was, @cells) = @_;
	my $is = doc_times(@cells);
	return { map { ($_->{key} => same($was->{ $_->{key} }, $is->{ $_->{key} }) ? 0 : 1) } @cells };
}

sub run_meanwhile
{
	my ($name, $do) = @_;
	$db->stop_at('documents');
	my $run = $db->run(wait => 0)->{run};
	$db->wait_stopped or die "$name: the run does not read";
	$do->();
	$db->go_on;
	$db->wait_for(sub { $db->sql("SELECT status FROM ekksync_runs WHERE run = $run") ne 'running' });
	is($db->sql("SELECT status FROM ekksync_runs WHERE run = $run"), 'success', "$name: that run");
	return;
}

for my $pass (@passes)
{
	my ($name, @cells) = ($pass->{fate}, @{ $pass->{cells} });
	my $fate = $fate{$name};
	$name .= " ($pass->{policy})";
	set_to(on_local_delete => $pass->{policy}, max_retries => $fate->{retries} // 0);
	do_here(write => @cells);
	do_there(enqueue => @cells);
	my $was = doc_times(@cells);
	my $sent = write_and_lose($name, $fate, scalar @cells);

	# A late write is done where the document is as it was, and nowhere else.
	my $late = sub {
		my $moved = moved($was, @cells);
		is_deeply(refused($sent, $proxy->release->{body}), $moved, "$name: a late write is refused where it comes too late");
	};
	my $when = $fate->{release} // '';
	$late->() if $when eq 'at once';
	is_deeply(moved($was, @cells), { map { ($_->{key} => $fate->{done} ? 1 : 0) } @cells },
		"$name: the write was " . ($fate->{done} ? 'done' : 'not done'));
	$proxy->start;

	do_here(first => @cells);
	do_there(there => @cells);
	do_here(then => @cells);
	$late->() if $when eq 'before the next run';

	if ($when eq 'in the next run')
	{
		run_meanwhile($name, $late);
		run_ok("$name: the one after it");
	}
	else
	{
		run_ok("$name: the next run");
	}
	my $moved = moved($was, @cells);
	check_cells($name, $fate, $moved, @cells);
	is_deeply(noted(@cells), { map { ($_ => 1) } grep { !$moved->{$_} } keys %$moved },
		'... and no note is left but of what may still come');

	if    ($when eq 'after the next run') { $late->(); }
	elsif ($sent)                         { is_deeply(refused($sent, $db->batch_write($sent->{writes})), $moved, "$name: once more, and it is refused where it was done"); }
	else
	{
		# Nothing was ever sent.  No request lives that long.
		$db->admin_sql("UPDATE ekksync.member SET in_flight = jsonb_set(in_flight, '{0,at}', '1') WHERE in_flight <> '[]'");
	}
	run_ok("$name: a run after that");
	check_cells("$name, at last", $fate, moved($was, @cells), @cells);
	is_deeply(noted(@cells), {}, '... and no note is left');

	is_quiet($name);
}

# ------------------------------------------------------------ two writes under way

# Both were sent against the same state of the document; which of them was done
# the mark of the write tells.  The value that was here last, if it was not
# done, is never lost unseen.
my @two = cells(
	map {
		my $done = $_;
		my @beaten = $done =~ /first/ ? (unseen => [$here]) : ();
		map { { %$_, title => "$done; $_->{title}", done => $done } } (
			{ title => 'nothing', want => $here },
			{ title => 'the console puts back what was there', there => console('profile.name', $before), want => $before, @beaten },
			{ title => 'the page puts back what was there', there => page('profile.name', $before), want => $before, @beaten },
			{ title => 'a newer edit by the console', there => console('profile.name', $theirs), want => $theirs, @beaten },
			{ title => 'a newer edit here, back to the first', first => name_to($ours), want => $ours },
			{ title => 'taken back here', first => name_to($before), want => $before },
			@beaten ? () : { title => 'the page sets what the first had', there => page('profile.name', $ours), want => $ours });
	} 'the first is done', 'the second is done');
set_to(on_local_delete => 'deactivate');
for my $done ('the first is done', 'the second is done')
{
	my $name = "two writes, $done";
	my @cells = grep { $_->{done} eq $done } @two;
	$db->sql(join "\n", map { name_to($ours)->($_->{key}) } @cells);
	$proxy->start(@late);
	is($db->run->{status}, 'failed', "$name: the first is held");
	$db->sql(join "\n", map { name_to($here)->($_->{key}) } @cells);
	$proxy->start({ fault => $done =~ /second/ ? 'lose' : 'drop', verb => 'commit', match => $members });
	is($db->run->{status}, 'failed', "$name: the answer to the second is lost");
	my @codes = map { $_->{code} // 0 } @{ $proxy->release->{body}{status} };
	is_deeply(\@codes, [ ($done =~ /second/ ? 9 : 0) x @cells ], "$name: the first comes");
	$proxy->start;
	do_here(first => @cells);
	do_there(there => @cells);
	run_ok("$name: the next run");
	check_cells($name, {}, {}, @cells);
	is_deeply(noted(@cells), {}, '... and no note is left');
	is_quiet($name);
}

# Two creations: the second is done and settled, the document deleted; then the
# first one comes.  What it holds is old, whatever its times say; but as it could
# be a copy that somebody put back, it is kept.
{
	my @cells = map { { before => '', policy => 'deactivate', key => sprintf('311289%04d', ++$number), %$_ } } (
		{ title => 'nothing', want => $ours },
		{ title => 'a newer edit here', want => $here, unseen => [$ours] },
		{ title => 'deleted here', want => undef });
	$db->sql(join "\n", map { insert_sql($ours)->($_->{key}) } @cells);
	$proxy->start(@late);
	is($db->run->{status}, 'failed', 'two creations: the first is held');
	run_ok('two creations: the second');
	$db->sql(name_to($here)->($cells[1]{key}) . delete_sql($cells[2]{key}));
	run_ok('... and what changes here');
	$db->commit(map { [ "members/$_->{key}" ] } @cells);
	my @codes = map { $_->{code} // 0 } @{ $proxy->release->{body}{status} };
	is_deeply(\@codes, [ (0) x @cells ], '... the first comes when the documents are deleted');
	run_ok('... the next run');
	check_cells('two creations', {}, { map { ($_->{key} => 1) } @cells }, @cells);
	is_quiet('two creations');
}

# A document that somebody deletes and makes again, with all that it held, is one
# whose values are of an unknown time, if no entry tells it.
{
	my @cells = cells(
		{ title => 'with an entry', want => $theirs, there => sub { entry($_[0], 'profile.name', $theirs) } },
		{ title => 'without one', want => $before, unseen => [$theirs] });
	for my $cell (@cells)
	{
		my $fields = $db->raw_doc($cell->{key})->{fields};
		$fields->{profile}{mapValue}{fields}{name} = { stringValue => $theirs };
		$db->delete_doc($cell->{key});
		$db->set_doc($cell->{key}, $fields);
	}
	do_there(there => @cells);
	run_ok('documents that are made again by others');
	check_cells('made again', {}, {}, @cells);
	is_quiet('made again');
}

# ------------------------------------------------------------- the other direction

# The page's edit is in the row, that is committed; then the run dies before
# its entry is closed.  It is not applied again over what is newer.
my @steps = qw(applied members closed);
my @applied = cells(
	map {
		my $step = $_;
		map { { %$_, title => "killed at $step; $_->{title}", step => $step } } (
			{ title => 'nothing', want => $theirs },
			{ title => 'a newer edit here', first => name_to($here), want => $here },
			{ title => 'taken back here', first => name_to($before), want => $before },
			{ title => 'a newer edit by the page', there => page('profile.name', $ours), want => $ours },
			{ title => 'the page puts back what was there', there => page('profile.name', $before), want => $before },
			{ title => 'a newer edit by the console', there => console('profile.name', $ours), want => $ours });
	} @steps);
for my $step (@steps)
{
	my @cells = grep { $_->{step} eq $step } @applied;
	$_->{edit} = page('profile.name', $theirs) for @cells;
	do_there(edit => @cells);
	write_and_lose("killed at $step", { kill => $step });
	is($db->sql("SELECT count(*) FROM membership_comrade WHERE name = '$theirs' AND ssn IN (" . keys_in(@cells) . ')'),
		@cells, "killed at $step: the edits had been applied");
	do_here(first => @cells);
	do_there(there => @cells);
	run_ok("killed at $step: the next run");
	check_cells('an entry that was applied', {}, {}, @cells);
	is_quiet("killed at $step");
}

# --------------------------------------------------------------- it never holds still

# Somebody writes the document whenever a run is about to.
{
	my ($cell) = cells({ title => 'a document that others write all the time', want => $ours, facebook => 'facebook.example/6' });
	$proxy->start({ fault => 'delay', verb => 'commit', match => $members, times => 0 });
	$db->sql(name_to($ours)->($cell->{key}));
	my $run = $db->run(wait => 0)->{run};
	my $record = sub { return $db->row("SELECT status, error FROM ekksync_runs WHERE run = $run"); };
	my $writes = 0;
	while ($record->()->{status} eq 'running')
	{
		next unless $proxy->wait_fired(0.5);
		$db->patch_doc($cell->{key}, { 'profile.facebook' => 'facebook.example/' . ++$writes });
		$proxy->resume;
	}
	is($record->()->{error}, 'members left for the next run, locked, changing too fast or put off by Firestore: 1', 'it never holds still: the run gives up, and says so');
	is($writes, 6, '... after some tries');
	my @times = map { $_->{time} } grep { $_->{fault} eq 'delay' } $proxy->requests;
	for my $i (1 .. $#times)
	{
		cmp_ok($times[$i] - $times[ $i - 1 ], '>=', 0.05 * 2**$i, '... each later than the one before');
	}
	is($db->sql("SELECT sync_status, retry_count FROM membership_membersyncqueue WHERE ssn = '$cell->{key}' ORDER BY id DESC LIMIT 1"),
		'pending|0', '... and the change stays pending');
	$proxy->start;
	run_ok('it holds still: the next run');
	check_cells('it holds still', {}, {}, $cell);
	is_deeply(noted($cell), {}, '... and no note is left');
	is_quiet('it holds still');
}

done_testing();
