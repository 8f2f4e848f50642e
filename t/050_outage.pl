# "Emulator cut off, then back: rows stay pending, retry_count unspent, the run
# record says why; the next run catches up."  Cut off before a run, after its
# entries were staged, between two pages, and after a page was applied but
# before its answer came: then the next run settles from the notes in flight,
# without conflict and without writing again.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use FaultProxy;
use Time::HiRes qw(time);

my $members = 620;				# a page of 500, and a second one
my $push = qr{:commit.*/documents/members/}s;
my $close = qr{:commit.*/documents/sync_queue/}s;
my $read = qr{:batchGet.*/documents/members/}s;

my $db = EkkSync->new(members => $members);
my $proxy = FaultProxy->new(to => $db->host);
$db->use_host($proxy->host);
$db->admin_sql('ALTER DATABASE socialism SET ekksync.scan = off');
my @keys = map { $_->{ssn} }
  $db->rows('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C"');

# The record of a run in ekksync_runs.
sub record
{
	my ($run) = @_;
	return $db->row("SELECT * FROM ekksync_runs WHERE run = $run->{run}");
}

# Queue rows as "status count", untouched pending ones told apart.
sub queue
{
	return $db->sql(<<'SQL');
SELECT string_agg(what || ' ' || count, ', ' ORDER BY what)
FROM (SELECT sync_status || CASE WHEN retry_count > 0 THEN ' retried' ELSE '' END
		|| CASE WHEN error_message <> '' THEN ' with error' ELSE '' END,
		count(*)
	FROM membership_membersyncqueue GROUP BY 1) AS q (what, count)
SQL
}

sub forget_queue
{
	$db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'");
	return;
}

# A run that must fail for the network, and say so.
sub failing_run
{
	my ($name, %arg) = @_;
	my $run = $db->run(%arg);
	my $record = record($run);
	is($run->{status}, 'failed', "$name: the run fails");
	is($record->{sqlstate}, '08006', '... with the SQLSTATE of a lost connection');
	like($record->{error}, qr/Firestore|connect|answer/i, '... and a text that says why');
	is($run->{message}, $record->{error}, '... which its caller gets too');
	is($record->{phase}, 'stopped', '... and its record is closed');
	ok(defined $record->{duration}, '... with its duration');
	return ($run, $record);
}

sub good_run
{
	my ($name, %arg) = @_;
	my $run = $db->run(%arg);
	is($run->{status}, 'success', "$name: the next run succeeds")
	  or diag($run->{message});
	return record($run);
}

# Documents whose profile.name is not the row's name.
sub differing_names
{
	my $docs = $db->docs('members');
	my %name = map { $_->{ssn} => $_->{name} }
	  $db->rows('SELECT ssn, name FROM membership_comrade');
	return scalar grep { ($docs->{$_}{profile}{name} // '') ne $name{$_} } keys %name;
}

# ------------------------------------------------- nobody listens, then back

my $start = time;
my ($run, $record);
($run, $record) = failing_run('refused before the first contact');
cmp_ok(time - $start, '<', 60, '... within a bounded time');
like($record->{error}, qr/connect/i, '... a refused connection is called one');
cmp_ok($record->{retries}, '>=', 1, '... after it was tried again');
is($db->sql('SELECT first_contact FROM ekksync_status()'), $members,
	'... and every member is still to be met');
is($db->sql('SELECT health FROM ekksync_status()'), 'degraded', '... and the status says degraded');
like($db->sql('SELECT reason FROM ekksync_status()'), qr/^the last run failed: /,
	'... with the reason');

# From here on giving up soon is enough.
$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_retries = 1');

# ------------------------- cut off between two pages of the first contact

$proxy->start(fault => 'cut', match => $push, nth => 2);
($run, $record) = failing_run('cut between pages');
ok($proxy->wait_fired(0), '... the proxy was gone at the second page');
is($record->{to_firestore}, 500, '... and the record counts the first page');
is($db->count_docs('members'), 500, 'the first page has arrived');
is($db->sql('SELECT first_contact FROM ekksync_status()'), $members - 500,
	'... and only its members are done with');

$proxy->start;
$record = good_run('cut between pages');
is($record->{to_firestore}, $members - 500, '... and sends the rest');
is($record->{conflicts}, 0, '... without a conflict');
is($db->count_docs('members'), $members, '... so that all documents are there');
is(differing_names(), 0, '... with the names of the rows');
is($db->sql('SELECT first_contact FROM ekksync_status()'), 0, '... and nobody is left to be met');

# ------------------------------------------- pending rows, both directions

my ($ours, $theirs, $both) = @keys[ 10, 20, 30 ];
sub edit_sides
{
	my ($text) = @_;
	$db->sql(<<"SQL");
UPDATE membership_comrade SET name = 'Þóra $text' WHERE ssn = '$ours';
UPDATE membership_comrade SET name = 'Örn $text' WHERE ssn = '$both';
SQL
	return map { $db->profile_edit($_, 'facebook', "https://facebook.example/$text") }
	  $theirs, $both;
}

sub check_sides
{
	my ($text, @entries) = @_;
	is($db->doc($ours)->{profile}{name}, "Þóra $text", '... our edit reached its document');
	is($db->doc($both)->{profile}{name}, "Örn $text", '... also beside an edit of theirs');
	for my $key ($theirs, $both)
	{
		is($db->sql('SELECT facebook FROM membership_contactinfo JOIN membership_comrade'
				  . " ON id = comrade_id WHERE ssn = '$key'"),
			"https://facebook.example/$text", '... an edit of theirs reached its row');
	}
	is($db->entry($_)->{sync_status}, 'synced', '... and its entry is closed') for @entries;
	is(queue(), 'synced 2', '... and the queue rows are synced');
	forget_queue();
	return;
}

$db->sql("INSERT INTO membership_contactinfo (comrade_id) SELECT id FROM membership_comrade"
	  . " WHERE ssn IN ('$theirs', '$both') ON CONFLICT DO NOTHING");
$db->run;
forget_queue();
my @entries = edit_sides('cut');
$proxy->stop;
for my $direction ('both', 'to_firestore', 'to_django')
{
	failing_run("refused, $direction", direction => $direction);
	is(queue(), 'pending 2', '... and rows stay pending, no try spent');
}
is($db->entry($_)->{sync_status}, 'pending', 'the entries stay pending') for @entries;
isnt($db->doc($ours)->{profile}{name}, "Þóra cut", 'the document is as it was');
$proxy->start;
$record = good_run('refused');
is($record->{to_firestore}, 2, '... and two members are written to Firestore');
is($record->{to_django}, 2, '... and two to Django');
is($record->{conflicts}, 0, '... without a conflict');
check_sides('cut', @entries);

# --------------------------------- entries are staged, then nothing answers

@entries = edit_sides('staged');
$proxy->start(fault => 'cut', match => $read);
failing_run('cut after staging');
ok($proxy->wait_fired(0), '... the proxy was gone when documents were to be read');
is(queue(), 'pending 2', '... and rows stay pending, no try spent');
is($db->admin_sql("SELECT count(*) FROM ekksync.inbox WHERE status = 'staged'"), 2,
	'... and the entries are staged');
is($db->entry($_)->{sync_status}, 'pending', '... and still pending there') for @entries;
$proxy->start;
$record = good_run('cut after staging');
is($record->{conflicts}, 0, '... without a conflict');
check_sides('staged', @entries);

# ---------------------------- applied to PostgreSQL, then nothing answers

for my $case ([ 'cut', 'cut before closing entries' ], [ 'lose_and_gone', 'answer to closing lost' ])
{
	my ($fault, $name) = @$case;
	@entries = edit_sides($fault);
	$proxy->start(fault => $fault, match => $close);
	($run, $record) = failing_run($name);
	ok($proxy->wait_fired(0), '... the proxy was gone when entries were to be closed');
	is($record->{to_django}, 2, '... after both edits were applied');
	is($db->entry($entries[0])->{sync_status}, $fault eq 'cut' ? 'pending' : 'synced',
		'... and the entry is ' . ($fault eq 'cut' ? 'still open' : 'closed, unknown to us'));
	my $times = $db->doc_update_time($theirs) . $db->doc_update_time($both);
	$proxy->start;
	$record = good_run($name);
	is($record->{to_django} + $record->{to_firestore} + $record->{conflicts}, 0,
		'... and applies nothing twice');
	is($db->doc_update_time($theirs) . $db->doc_update_time($both), $times,
		'... nor writes a member again');
	check_sides($fault, @entries);
}

# ------------------- applied to Firestore, and the answer never comes back

# A page of ordinary edits; all of it was applied, none of it is known.
sub edit_all
{
	my ($text) = @_;
	$db->sql("UPDATE membership_comrade SET name = name || ' $text'");
	is(queue(), "pending $members", "all members have a row");
	return;
}

# Notes in flight, as members of which something may have been written.
sub in_flight
{
	return $db->admin_sql(
		"SELECT count(*) FROM ekksync.member WHERE in_flight <> '[]'");
}

is(in_flight(), 0, 'no note is left of what was settled');
edit_all("týnt");
$proxy->start(fault => 'lose_and_gone', match => $push);
($run, $record) = failing_run('answer lost');
ok($proxy->wait_fired(0), '... after the first page');
is($record->{to_firestore}, 0, '... which the record does not count');
is(queue(), "pending $members", '... and whose rows stay pending, no try spent');
is(in_flight(), 500, '... but it is noted');
is(differing_names(), $members - 500, '... and the documents have it');
my %times = map { $_ => $db->doc_update_time($_) } @keys[ 0 .. 4 ], $keys[499];

$proxy->start;
$record = good_run('answer lost');
is($record->{conflicts}, 0, '... without a conflict');
is($record->{to_firestore}, $members - 500, '... and writes only the others');
is_deeply({ map { $_ => $db->doc_update_time($_) } keys %times }, \%times,
	'... and not again what had arrived');
is(differing_names(), 0, '... so that all documents have the names of the rows');
is(queue(), "synced $members", '... and all rows are synced');
is(in_flight(), 0, '... and no note is left');
is($db->sql('SELECT count(*) FROM ekksync_conflicts'), 0, '... and nothing was recorded as lost');
forget_queue();

# The connection drops only once: the same run finds out.
edit_all('fundið');
$proxy->start(fault => 'lose', match => $push);
$record = good_run('connection dropped');
ok($proxy->wait_fired(0), '... though an answer was lost on the way');
cmp_ok($record->{retries}, '>=', 1, '... and asked for again');
is($record->{conflicts}, 0, '... without a conflict');
is(differing_names(), 0, '... and all documents have the names of the rows');
is(queue(), "synced $members", '... and all rows are synced');
is(in_flight(), 0, '... and no note is left');
forget_queue();

# A new edit on either side of what was lost: no note may hide it.
my ($mine, $other) = @keys[ 3, 4 ];
$db->sql("UPDATE membership_comrade SET name = 'Æsa fyrri' WHERE ssn IN ('$mine', '$other')");
$proxy->start(fault => 'lose_and_gone', match => $push);
failing_run('edits after a lost answer');
is($db->doc($_)->{profile}{name}, "Æsa fyrri", '... the write had arrived') for $mine, $other;
$db->sql("UPDATE membership_comrade SET name = 'Æsa seinni' WHERE ssn = '$mine'");
my $entry = $db->profile_edit($other, 'name', "Æsa þriðja");
$proxy->start;
$record = good_run('edits after a lost answer');
is($db->doc($mine)->{profile}{name}, "Æsa seinni", '... our later edit reached the document');
is($db->sql("SELECT name FROM membership_comrade WHERE ssn = '$other'"),
	"Æsa þriðja", '... their later edit reached the row');
is($db->entry($entry)->{sync_status}, 'synced', '... and its entry is closed');
is($record->{conflicts}, 0, '... and no conflict: ours had arrived, and theirs was written over it');

# The answer to the creation of a document is lost.
$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined)"
	  . " VALUES ('Nýr Félagi', '0101302989', now())");
$proxy->start(fault => 'lose_and_gone', match => $push);
failing_run('answer to a creation lost');
my $time = $db->doc_update_time('0101302989');
ok($time, '... the document is there');
$proxy->start;
$record = good_run('answer to a creation lost');
is($record->{conflicts} + $record->{to_firestore}, 0, '... and neither writes nor sees a conflict');
is($db->doc_update_time('0101302989'), $time, '... and the document is as it was');

# ------------------------------------------------------------ and then quiet

$record = good_run('at the end');
is($record->{to_django} + $record->{to_firestore} + $record->{conflicts}, 0,
	'a further run has nothing to do');
is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE sync_status <> 'synced'"),
	0, '... and nothing is left pending or failed');

$proxy->stop;
done_testing();
