# What other sessions do while a run is at work ("Never blocks the
# application", "Never overwrites what it has not seen", "Last write wins, per
# field", "One bad row stops nobody"): edits that are committed after the run
# has read their rows, locks on a table or on one row of the queue, entries
# that come after their values, and a field that a run in one direction leaves
# for the next one.  None of them loses a value or fails anything.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use Session;

# Members are given what they need here by taking from them what they have.
my $db = EkkSync->new(members => 40, conf => 'ekksync.max_delete_percent = 100');
my $proxy = FaultProxy->new(to => $db->host);
$proxy->start;
$db->use_host($proxy->host);

# ------------------------------------------------------------------- helpers

my $last_id = 0;

# Kennitala of an invented member that no other part of this test uses; one
# without contact info, or one with it.
sub next_key
{
	my (%want) = @_;
	$last_id++;
	$db->sql($want{bare}
		? "DELETE FROM membership_contactinfo WHERE comrade_id = $last_id"
		: "INSERT INTO membership_contactinfo (comrade_id, facebook) VALUES ($last_id, 'í upphafi') "
		  . 'ON CONFLICT (comrade_id) DO UPDATE SET facebook = excluded.facebook');
	return $db->sql("SELECT ssn FROM membership_comrade WHERE id = $last_id");
}

sub contact_sql
{
	my ($key, $facebook) = @_;
	return "UPDATE membership_contactinfo SET facebook = '$facebook' WHERE comrade_id = "
	  . "(SELECT id FROM membership_comrade WHERE ssn = '$key');";
}

sub name_sql
{
	my ($key, $name) = @_;
	return "UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key';";
}

sub insert_sql
{
	my ($key, $facebook) = @_;
	return "INSERT INTO membership_contactinfo (comrade_id, facebook) "
	  . "SELECT id, '$facebook' FROM membership_comrade WHERE ssn = '$key';";
}

# A field as PostgreSQL and as Firestore have it.
sub sides
{
	my ($key, $field) = @_;
	return [
		$db->sql("SELECT $field FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'"),
		$db->doc($key)->{profile}{$field} ];
}

# Conflicts of a member as [field, django, firestore, winner].
sub conflicts
{
	my ($key) = @_;
	return [ map { [ @$_{qw(field django_value firestore_value winner)} ] }
		  $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id") ];
}

# Queue rows of members as "status[, error]", oldest first.
sub queue
{
	my $keys = join ', ', map { "'$_'" } @_;
	return $db->sql("SELECT sync_status || CASE WHEN error_message = '' THEN '' ELSE ', ' || error_message END "
		  . "FROM membership_membersyncqueue WHERE ssn IN ($keys) ORDER BY created_at, id");
}

# What became of entries: status and note.
sub outcomes
{
	return join '; ', map {
		my $entry = $db->entry($_);
		join ', ', $entry->{sync_status}, $entry->{error_message} // (),
		  $db->admin_sql("SELECT status || coalesce(': ' || note, '') FROM ekksync.inbox WHERE doc_id = '$_'")
	} @_;
}

# Begin a run, and return its number.
sub start_run
{
	my (%arg) = @_;
	return $db->run(wait => 0, %arg)->{run};
}

# Await its end, and expect its status and figures: members to Firestore, to
# Django, conflicts, failed.
sub finish_run
{
	my ($run, $expected, $name) = @_;
	my $record;
	$db->wait_for(sub {
		$record = $db->row("SELECT * FROM ekksync_runs WHERE run = $run");
		return $record->{status} ne 'running';
	}) or die "$name: the run does not end";
	my $failed = $record->{to_firestore_failed} + $record->{to_django_failed};
	is("$record->{status} @$record{qw(to_firestore to_django conflicts)} $failed", $expected, "$name: the run's figures")
	  or diag($record->{error});
	return;
}

sub run_ok
{
	my ($figures, $name, %arg) = @_;
	return finish_run(start_run(%arg), "success $figures", $name);
}

sub quiet { my ($name) = @_; return run_ok('0 0 0 0', "quiet after $name"); }

run_ok('40 0 0 0', 'first push');

# -------------------------------- an edit is committed while the run is at work

# The application has changed the row and not committed yet; the document has
# another value, with an entry.  $local makes the statement that changes a
# member's row.  The commit comes between the reading of the queue and that of the
# row, before the run wants the row, or when it could not have it.
sub race
{
	my ($name, $field, $local, %opt) = @_;
	race_at($_, "$name, committed at the step $_", $field, $local, %opt) for qw(in_read decided in_values in_lock);
	return;
}

sub race_at
{
	my ($step, $name, $field, $local, %opt) = @_;
	my $key = next_key(%opt);
	run_ok('1 0 0 0', "before $name");
	$db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'");
	my $edit = sub { return $db->profile_edit($key, $field, $opt{remote}); };
	my $session = Session->new($db);
	my $entry = $opt{remote_later} ? undef : $edit->();
	$session->sql('BEGIN; ' . $local->($key, $opt{local}));
	$entry //= $edit->();
	$db->stop_at($step);
	my $run = start_run();
	ok($db->wait_stopped, "$name: the run does not wait for it");
	$session->sql('COMMIT');
	$db->go_on;
	$session->end;
	finish_run($run, $opt{remote_later} ? 'success 0 1 1 0' : 'success 1 0 1 0', $name);
	my $value = $opt{remote_later} ? $opt{remote} : $opt{local};
	is_deeply(sides($key, $field), [ $value, $value ], '... and both sides have the later value');
	is_deeply(conflicts($key), [ [ $field, $opt{local}, $opt{remote}, $opt{remote_later} ? 'firestore' : 'django' ] ],
		'... and the other one is kept');
	is(queue($key), 'synced', '... and the queue row is synced');
	is(outcomes($entry), 'synced, closed: ' . ($opt{remote_later} ? 'applied' : 'lost to a later change'), '... and the entry closed');
	quiet($name);
	return;
}

race('a later edit of the member', 'name', \&name_sql, local => 'Staðbundið síðar', remote => 'Fjarlægt fyrr');
race('a later edit of a related row', 'facebook', \&contact_sql, local => 'local-later', remote => 'remote-earlier');
race('an earlier edit of a related row', 'facebook', \&contact_sql,
	local => 'local-earlier', remote => 'remote-later', remote_later => 1);
race('a related row that comes', 'facebook', \&insert_sql, local => 'local-new', remote => 'remote-new', bare => 1);

# What a computed field depends on is not locked.  It changes between the reading
# of the row under its lock and that of the queue.
{
	my $name = 'a change of what a field is computed from';
	my $key = next_key();
	my $id = "(SELECT id FROM membership_comrade WHERE ssn = '$key')";
	$db->sql("INSERT INTO membership_union (name, abbreviation) VALUES ('Félag í upphafi', 'FÍU')");
	$db->sql("INSERT INTO membership_unionmembership (comrade_id, union_id) SELECT $id, id FROM membership_union WHERE abbreviation = 'FÍU'");
	run_ok('1 0 0 0', "before $name");
	$db->profile_edit($key, 'facebook', 'á meðan');
	$db->stop_at('in_values');
	my $run = start_run();
	ok($db->wait_stopped, "$name: the run has read the rows");
	$db->sql("UPDATE membership_union SET name = 'Félag í lokin' WHERE abbreviation = 'FÍU'");
	$db->go_on;
	finish_run($run, 'success 1 1 0 0', $name);
	ok((grep { $_ eq 'Félag í lokin' } @{ $db->doc($key)->{membership}{unions} }), '... reaches the document');
	is($db->sql('SELECT count(*) FROM ekksync_diff()'), 0, '... and the sides are in step');
	quiet($name);
}

# ----------------------------- a field that a run to Firestore alone leaves there

# $during: the local edit comes between the reading and the writing.
for my $during (0, 1)
{
	my $name = $during ? 'an edit during a push of another field' : 'an edit after a push of another field';
	my $key = next_key();
	run_ok('1 0 0 0', "before $name");
	$db->patch_doc($key, { 'profile.facebook' => 'fjarlægt', updated_at => timestamp() });
	$db->sql(name_sql($key, 'Nýtt nafn'));
	$proxy->start(fault => 'delay', match => qr{:commit.*/documents/members/}s) if $during;
	my $run = start_run(direction => 'to_firestore');
	if ($during)
	{
		ok($proxy->wait_fired, '... the run is about to write');
		$db->sql(contact_sql($key, 'síðar'));
		$proxy->resume;
	}
	finish_run($run, 'success 1 0 0 0', "push of another field than the document's change");
	is_deeply([ sides($key, 'name')->[1], sides($key, 'facebook')->[1] ], [ 'Nýtt nafn', 'fjarlægt' ], '... and leaves that one alone');
	$db->sql(contact_sql($key, 'síðar')) unless $during;
	run_ok('1 0 1 0', $name);
	is_deeply(sides($key, 'facebook'), [ 'síðar', 'síðar' ], "$name wins");
	is_deeply(conflicts($key), [ [ 'facebook', 'síðar', 'fjarlægt', 'django' ] ], '... and what it beat is kept');
	quiet($name);
}

# -------------------------------------------------- entries later than their values

{
	my $key = next_key();
	run_ok('1 0 0 0', 'before late entries');
	$db->profile_edit($key, 'name', 'Gildi A', entry => 0);
	$db->profile_edit($key, 'name', 'Gildi B', entry => 0);
	run_ok('0 1 0 0', 'values before their entries');
	is_deeply(sides($key, 'name'), [ ('Gildi B') x 2 ], 'the scan finds the last of two values');
	my $time = $db->doc_update_time($key);
	my @entries = map { $db->queue_entry(docId => $key, changes => { 'profile.name' => $_ }) } 'Gildi A', 'Gildi B';
	my @created = map { $db->entry($_)->{created_at} } @entries;
	ok($time lt $created[0] && $created[0] lt $created[1], 'entries for both come afterwards, with later times');
	run_ok('0 0 0 0', 'entries after their values');
	is_deeply(sides($key, 'name'), [ ('Gildi B') x 2 ], '... and change nothing');
	is($db->doc_update_time($key), $time, '... write nothing');
	is_deeply(conflicts($key), [], '... are no conflict');
	is(outcomes(@entries), 'synced, closed: superseded; synced, closed: already in step', '... and are closed');
	quiet('late entries');
}

# The entry of a function that lags comes when the value has been written over by
# Django, that had taken it, or that had beaten it.
for my $seen (1, 0)
{
	my $name = $seen ? 'a value that was taken and edited since' : 'a value that lost';
	my $key = next_key();
	run_ok('1 0 0 0', "before the entry of $name");
	$db->profile_edit($key, 'name', 'Þeirra', entry => 0);
	run_ok('0 1 0 0', "$name is taken") if $seen;
	$db->sql(name_sql($key, 'Okkar'));
	run_ok($seen ? '1 0 0 0' : '1 0 1 0', "Django's is sent");
	my $time = $db->doc_update_time($key);
	my $entry = $db->queue_entry(docId => $key, changes => { 'profile.name' => 'Þeirra' });
	ok($time lt $db->entry($entry)->{created_at}, "the entry of $name is younger than the document");
	run_ok('0 0 0 0', "the entry of $name");
	is_deeply(sides($key, 'name'), [ ('Okkar') x 2 ], '... does not bring it back');
	is($db->doc_update_time($key), $time, '... writes nothing');
	is(outcomes($entry), 'synced, closed: echo', '... and is closed');
	quiet("the entry of $name");
}

# --------------------------------------------------------- a table that is locked

# At this request a run halts, and the application locks the table.
for my $at ([ 'while it scans', qr{:runQuery.*"members"}s ], [ 'while it reads documents', qr{:batchGet.*/documents/members/}s ])
{
	my ($name, $match) = @$at;
	my ($ours, $theirs) = (next_key(), next_key());
	run_ok('2 0 0 0', 'before a lock');
	$db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'");
	$db->sql(name_sql($ours, 'Okkar'));
	my $entry = $db->profile_edit($theirs, 'name', 'Þeirra');
	my $session = Session->new($db);
	$proxy->start(fault => 'delay', match => $match);
	my $run = start_run();
	ok($proxy->wait_fired, "a run, $name");
	$session->sql('BEGIN; LOCK TABLE membership_comrade IN ACCESS EXCLUSIVE MODE');
	$proxy->resume;
	# What was read before needs no lock to be pushed.
	my $pushed = $name =~ /documents/ ? 1 : 0;
	finish_run($run, "success $pushed 0 0 0", "the table is locked $name");
	like($db->sql("SELECT error FROM ekksync_runs WHERE run = $run"),
		$pushed ? qr/^members left for the next run, .*: 1$/ : qr/^members left .*: 2$/, '... and its record says so');
	is($db->sql('SELECT count(*) FROM ekksync_failed'), 0, '... and nothing becomes failed');
	is($db->sql("SELECT sync_status, error_message, retry_count FROM membership_membersyncqueue WHERE ssn = '$ours'"),
		$pushed ? 'synced||0' : 'pending||0', '... the row is ' . ($pushed ? 'synced' : 'pending'));
	is($db->entry($entry)->{sync_status}, 'pending', '... the entry is pending');
	$session->sql('ROLLBACK');
	$session->end;
	run_ok(1 - $pushed . ' 1 0 0', "after the lock that came $name");
	is_deeply(sides($ours, 'name'), [ ('Okkar') x 2 ], '... what is ours reached Firestore');
	is_deeply(sides($theirs, 'name'), [ ('Þeirra') x 2 ], '... what is theirs reached Django');
	is(queue($ours, $theirs), 'synced', '... and the row is synced');
	is(outcomes($entry), 'synced, closed: applied', '... and the entry closed');
	quiet("the lock that came $name");
}

# The lock is there before the run begins.
{
	my ($ours, $theirs) = (next_key(), next_key());
	run_ok('2 0 0 0', 'before a lock');
	$db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'");
	$db->sql(name_sql($ours, 'Okkar'));
	my $entry = $db->profile_edit($theirs, 'name', 'Þeirra');
	my $session = Session->new($db);
	$session->sql('BEGIN; LOCK TABLE membership_comrade IN ACCESS EXCLUSIVE MODE');
	my $run = $db->row('SELECT * FROM ekksync_run()');
	is("@$run{qw(to_firestore to_django conflicts failed)}", '0 0 0 0', 'a run that finds the table locked does nothing');
	is(queue($ours), 'pending', '... the row is pending');
	is($db->entry($entry)->{sync_status}, 'pending', '... the entry is pending');
	is($db->sql('SELECT count(*) FROM ekksync_failed'), 0, '... and nothing becomes failed');
	$session->sql('ROLLBACK');
	$session->end;
	run_ok('1 1 0 0', 'after the lock');
	is_deeply([ sides($ours, 'name'), sides($theirs, 'name') ], [ [ ('Okkar') x 2 ], [ ('Þeirra') x 2 ] ], '... both reached the other side');
}

# ------------------------------------------------------ a queue row that is locked

{
	my @keys = map { next_key() } 1 .. 6;
	my $locked = $keys[2];
	my @others = grep { $_ ne $locked } @keys;
	run_ok('6 0 0 0', 'before a locked row');
	$db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'");
	$db->sql(name_sql($_, 'Biðröð')) for @keys;
	my $session = Session->new($db);
	$session->sql("BEGIN; SELECT FROM membership_membersyncqueue WHERE ssn = '$locked' FOR UPDATE");
	my $run = $db->run;
	is($run->{status}, 'success', 'a locked queue row does not fail the run') or diag($run->{message});
	is(queue(@others), join("\n", ('synced') x @others), '... the rows of the others are synced');
	is(queue($locked), 'pending', '... that one stays pending');
	like($db->sql("SELECT error FROM ekksync_runs WHERE run = $run->{run}"), qr/^members left for the next run, .*: 1$/, '... and the record says so');
	is($db->doc($_)->{profile}{name}, 'Biðröð', '... and its document, as all, has the value') for @keys;
	my $time = $db->doc_update_time($locked);
	run_ok('0 0 0 0', 'another run, and the row still locked');
	is(queue($locked), 'pending', '... it is pending still');
	$session->sql('ROLLBACK');
	$session->end;
	run_ok('0 0 0 0', 'the row is free');
	is($db->sql("SELECT sync_status, error_message, retry_count FROM membership_membersyncqueue WHERE ssn = '$locked'"),
		'synced||0', '... and is synced');
	is($db->doc_update_time($locked), $time, '... and its document was not written again');
	is_deeply(conflicts($locked), [], '... nor was anything a conflict');
	quiet('a locked row');
}

$proxy->stop;
done_testing();
