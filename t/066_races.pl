# What other sessions do while a run is at work ("Never blocks the
# application", "Never overwrites what it has not seen", "Last write wins, per
# field", "One bad row stops nobody"): edits that are committed while the run
# waits for their rows, locks on a table or on one row of the queue, entries
# that come after their values, and a field that a run in one direction leaves
# for the next one.  None of them loses a value or fails anything.

use strict;
use warnings;
use utf8;
use Test::More;
use CutRelay;
use EkkSync qw(timestamp);
use IPC::Run ();

my $db = EkkSync->new(members => 30);
my $relay = CutRelay->new(to => $db->host);
$relay->start;
$db->use_host($relay->host);

# ------------------------------------------------------------------- helpers

my $last_id = 0;

# Kennitala of an invented member that no other part of this test uses; one
# without contact info, or one with it.
sub next_key
{
	my (%want) = @_;
	$last_id++;
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = $last_id");
	$db->sql("INSERT INTO membership_contactinfo (comrade_id, facebook) VALUES ($last_id, 'í upphafi')")
	  unless $want{bare};
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

# A session of the application: psql that stays.
sub session
{
	my $session = { in => '', out => '', err => '' };
	$session->{psql} = IPC::Run::start(
		[ qw(psql -X -A -t -q -v ON_ERROR_STOP=1 -U socialism -d), $db->node->connstr('socialism') ],
		'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{err}, IPC::Run::timeout(120));
	$session->{pid} = answer($session, 'SELECT pg_backend_pid();');
	return $session;
}

# Let a session begin to do something.
sub send_sql
{
	my ($session, $sql) = @_;
	utf8::encode($sql);
	$session->{out} = '';
	$session->{in} .= "$sql\n\\echo END\n";
	$session->{psql}->pump_nb;
	return;
}

# Await that it is done; returns what it printed.
sub answer
{
	my ($session, $sql) = @_;
	send_sql($session, $sql) if defined $sql;
	until ($session->{out} =~ /^END$/m)
	{
		die "psql: $session->{err}" if $session->{err} =~ /ERROR|FATAL/ || !$session->{psql}->pumpable;
		$session->{psql}->pump;
	}
	return $session->{out} =~ s/\n?END\n\z//r;
}

sub end_session
{
	my ($session) = @_;
	$session->{in} .= "\\q\n";
	$session->{psql}->finish;
	return;
}

# Await that somebody waits for a lock that a session holds.
sub is_waited_for
{
	my ($session, $name) = @_;
	ok($db->wait_for(sub {
		$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE $session->{pid} = ANY (pg_blocking_pids(pid))") > 0;
	}), $name);
	return;
}

# Await that a session waits for a lock.
sub waits
{
	my ($session, $name) = @_;
	ok($db->wait_for(sub {
		$db->admin_sql("SELECT cardinality(pg_blocking_pids($session->{pid}))") > 0;
	}), $name);
	return;
}

my %key;
$key{$_} = next_key() for qw(name contact remote);
$key{insert} = next_key(bare => 1);
run_ok('30 0 0 0', 'first push');

# ------------------------------- an edit is committed while the run waits for it

# Time enough to commit in: a run waits for half of this.
$db->admin_sql("ALTER DATABASE socialism SET deadlock_timeout = '40s'");

# The application has changed the row and not committed yet; the document has
# another value, with an entry.  $local is the statement that changes the row.
sub race
{
	my ($name, $key, $field, $local, %opt) = @_;
	my $edit = sub { return $db->profile_edit($key, $field, $opt{remote}); };
	my $session = session();
	my $entry = $opt{remote_later} ? undef : $edit->();
	answer($session, "BEGIN; $local");
	$entry //= $edit->();
	my $run = start_run();
	is_waited_for($session, "$name: the run waits for the application's transaction");
	answer($session, 'COMMIT;');
	end_session($session);
	finish_run($run, $opt{remote_later} ? 'success 0 1 1 0' : 'success 1 0 1 0', $name);
	my $value = $opt{remote_later} ? $opt{remote} : $opt{local};
	is_deeply(sides($key, $field), [ $value, $value ], '... and both sides have the later value');
	is_deeply(conflicts($key), [ [ $field, $opt{local}, $opt{remote}, $opt{remote_later} ? 'firestore' : 'django' ] ],
		'... and the other one is kept');
	is(queue($key), 'synced', '... and the queue row is synced');
	is(outcomes($entry), 'synced, closed: ' . ($opt{remote_later} ? 'applied' : 'lost to a later change'), '... and the entry closed');
	quiet($name);
	$db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'");
	return;
}

$db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'");
race('a later edit of the member', $key{name}, 'name', name_sql($key{name}, 'Staðbundið síðar'),
	local => 'Staðbundið síðar', remote => 'Fjarlægt fyrr');
race('a later edit of a related row', $key{contact}, 'facebook', contact_sql($key{contact}, 'local-later'),
	local => 'local-later', remote => 'remote-earlier');
race('an earlier edit of a related row', $key{remote}, 'facebook', contact_sql($key{remote}, 'local-earlier'),
	local => 'local-earlier', remote => 'remote-later', remote_later => 1);
race('a related row that comes', $key{insert}, 'facebook',
	"INSERT INTO membership_contactinfo (comrade_id, facebook) SELECT id, 'local-new' FROM membership_comrade WHERE ssn = '$key{insert}';",
	local => 'local-new', remote => 'remote-new');
$db->admin_sql('ALTER DATABASE socialism RESET deadlock_timeout');

# ----------------------------- a field that a run to Firestore alone leaves there

# $during: the local edit comes between the reading and the writing.
for my $during (0, 1)
{
	my $name = $during ? 'an edit during a push of another field' : 'an edit after a push of another field';
	my $key = next_key();
	run_ok('1 0 0 0', "before $name");
	$db->patch_doc($key, { 'profile.facebook' => 'fjarlægt', updated_at => timestamp() });
	$db->sql(name_sql($key, 'Nýtt nafn'));
	$relay->start(mode => 'halt', match => qr{:commit.*/documents/members/}s) if $during;
	my $run = start_run(direction => 'to_firestore');
	if ($during)
	{
		ok($relay->wait_fired, '... the run is about to write');
		$db->sql(contact_sql($key, 'síðar'));
		$relay->resume;
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
	my $session = session();
	$relay->start(mode => 'halt', match => $match);
	my $run = start_run();
	ok($relay->wait_fired, "a run, $name");
	answer($session, 'BEGIN; LOCK TABLE membership_comrade IN ACCESS EXCLUSIVE MODE;');
	$relay->resume;
	# What was read before needs no lock to be pushed; but a run that cannot
	# even count the members ends.
	my $pushed = $name =~ /documents/ ? 1 : 0;
	finish_run($run, $pushed ? 'success 1 0 0 0' : 'failed 0 0 0 0', "the table is locked $name");
	like($db->sql("SELECT error FROM ekksync_runs WHERE run = $run"),
		$pushed ? qr/^members left for the next run, .*: 1$/ : qr/^canceling statement due to lock timeout$/, '... and its record says so');
	is($db->sql('SELECT count(*) FROM ekksync_failed'), 0, '... and nothing becomes failed');
	is($db->sql("SELECT sync_status, error_message, retry_count FROM membership_membersyncqueue WHERE ssn = '$ours'"),
		$pushed ? 'synced||0' : 'pending||0', '... the row is ' . ($pushed ? 'synced' : 'pending'));
	is($db->entry($entry)->{sync_status}, 'pending', '... the entry is pending');
	answer($session, 'ROLLBACK;');
	end_session($session);
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
	my $session = session();
	answer($session, 'BEGIN; LOCK TABLE membership_comrade IN ACCESS EXCLUSIVE MODE;');
	my $run = $db->row('SELECT * FROM ekksync_run()');
	is("@$run{qw(to_firestore to_django conflicts failed)}", '0 0 0 0', 'a run that finds the table locked does nothing');
	is(queue($ours), 'pending', '... the row is pending');
	is($db->entry($entry)->{sync_status}, 'pending', '... the entry is pending');
	is($db->sql('SELECT count(*) FROM ekksync_failed'), 0, '... and nothing becomes failed');
	answer($session, 'ROLLBACK;');
	end_session($session);
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
	my $session = session();
	answer($session, "BEGIN; SELECT FROM membership_membersyncqueue WHERE ssn = '$locked' FOR UPDATE;");
	my $run = $db->run;
	is($run->{status}, 'success', 'a locked queue row does not fail the run') or diag($run->{message});
	is(queue(@others), join("\n", ('synced') x @others), '... the rows of the others are synced');
	is(queue($locked), 'pending', '... that one stays pending');
	is($db->doc($_)->{profile}{name}, 'Biðröð', '... and its document, as all, has the value') for @keys;
	my $time = $db->doc_update_time($locked);
	run_ok('0 0 0 0', 'another run, and the row still locked');
	is(queue($locked), 'pending', '... it is pending still');
	answer($session, 'ROLLBACK;');
	end_session($session);
	run_ok('0 0 0 0', 'the row is free');
	is($db->sql("SELECT sync_status, error_message, retry_count FROM membership_membersyncqueue WHERE ssn = '$locked'"),
		'synced||0', '... and is synced');
	is($db->doc_update_time($locked), $time, '... and its document was not written again');
	is_deeply(conflicts($locked), [], '... nor was anything a conflict');
	quiet('a locked row');
}

$relay->stop;
done_testing();
