# Members that are deleted in Firestore (ekksync.on_remote_delete): their
# document is gone, others set its status to inactive, or an entry with action
# delete names them.  They are restored, left as they are, or their rows go:
# last write wins, nothing is queued again, the guard counts before the first
# write, one that PostgreSQL refuses to delete stops nobody, and whoever edits
# the row while a run is at work keeps it.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp true);
use FaultProxy;
use Session;

my $db = EkkSync->new(conf => "ekksync.max_delete_percent = 100\nekksync.max_retries = 1\nlog_statement = 'none'");

# ------------------------------------------------------------------- helpers

my $serial = 0;

sub setting
{
	my (%set) = @_;
	$db->admin_sql("ALTER DATABASE socialism SET ekksync.$_ = '$set{$_}'") for keys %set;
	return;
}

# New members, with related rows that the mapping knows.
sub new_members
{
	my ($n) = @_;
	my @keys = map { sprintf '0101%06d', ++$serial } 1 .. $n;
	my $list = join ', ', map { "('Félagi $_', '$_', now())" } @keys;
	my $quoted = join ', ', map { "'$_'" } @keys;
	$db->sql(<<"SQL");
INSERT INTO membership_union (id, name, abbreviation) VALUES (9000, 'Verkalýðsfélag', 'V') ON CONFLICT DO NOTHING;
INSERT INTO membership_comrade (name, ssn, date_joined) VALUES $list;
INSERT INTO membership_contactinfo (comrade_id, email) SELECT id, ssn || '\@example.is' FROM membership_comrade WHERE ssn IN ($quoted);
INSERT INTO membership_unionmembership (comrade_id, union_id) SELECT id, 9000 FROM membership_comrade WHERE ssn IN ($quoted);
SQL
	my $run = $db->run;
	is("$run->{status} $run->{to_firestore}", "success $n", "$n new members: @keys") or diag($run->{message});
	return @keys;
}

# A run that must succeed, with figures: to Firestore, to Django, conflicts,
# failed.
sub run_ok
{
	my ($figures, $name, %arg) = @_;
	my $run = $db->run(%arg);
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message});
	return $run;
}

# The next run has nothing to do, and writes its own record alone.
sub quiet
{
	my ($name, $failed) = @_;
	my $run = run_ok('0 0 0 ' . ($failed // 0), "quiet after $name");
	is($db->row("SELECT docs_written FROM ekksync_runs WHERE run = $run->{run}")->{docs_written}, 2, '... and writes its record alone');
	return;
}

sub delete_entry { my ($key, %more) = @_; return $db->queue_entry(docId => $key, action => 'delete', %more); }

sub deactivate
{
	my ($key) = @_;
	$db->patch_doc($key, { 'membership.status' => 'inactive', 'metadata.deleted_at' => timestamp(), updated_at => timestamp() }, exists => 1);
	return;
}

sub set_name { my ($key, $name) = @_; $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'"); return; }

sub outcome
{
	my ($id) = @_;
	return $db->entry($id)->{sync_status} . ': '
	  . $db->admin_sql("SELECT coalesce(error_message, note, '') FROM ekksync.inbox WHERE doc_id = '$id'");
}

# Has the member a row, and related ones; what is its document?
sub state_of
{
	my ($key) = @_;
	my $doc = $db->doc($key);
	return ($db->sql("SELECT count(*) FROM membership_comrade WHERE ssn = '$key'") ? 'row' : 'no row') . ', '
	  . ($doc ? $doc->{membership}{status} : 'no document');
}

sub related
{
	my ($id) = @_;
	return $db->sql(join ' UNION ALL ', map { "SELECT '$_' FROM membership_$_ WHERE comrade_id = $id" } qw(contactinfo unionmembership));
}

sub id_of { my ($key) = @_; return $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'"); }

sub pending { return $db->sql(q{SELECT string_agg(ssn || ' ' || action || ' ' || fields_changed, '; ') FROM membership_membersyncqueue WHERE sync_status = 'pending'}); }

# Time of the last queue row of a member, moved by seconds.
sub local_time
{
	my ($key, $move) = @_;
	return timestamp($db->sql("SELECT to_char((max(created_at) + interval '1 second' * $move) AT TIME ZONE 'UTC', "
		  . "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM membership_membersyncqueue WHERE ssn = '$key'"));
}

sub tombstone { my ($key) = @_; return $db->admin_sql("SELECT tombstone IS NOT NULL FROM ekksync.member WHERE key = '$key'"); }

setting(scan => 'full');

# ------------------------------------------------------------------- restore

{
	my ($gone, $inactive, $entry) = new_members(3);
	$db->delete_doc($gone);
	deactivate($inactive);
	my $id = delete_entry($entry);
	run_ok('2 0 1 1', 'restore');
	is(state_of($_), 'row, active', "restore: $_") for $gone, $inactive, $entry;
	is($db->sql("SELECT field || ' ' || firestore_value || ' ' || winner FROM ekksync_conflicts WHERE member = '$inactive'"), 'status "inactive" django', '... the status that lost is kept');
	is(outcome($id), 'failed: deletes from Firestore are not applied: ekksync.on_remote_delete is restore', '... the entry says why');
	quiet('restore');
}

# -------------------------------------------------------------------- ignore

setting(on_remote_delete => 'ignore');
{
	my ($gone, $edited, $again, $inactive, $entry) = new_members(5);
	$db->delete_doc($_) for $gone, $edited, $again;
	set_name($edited, 'Breytt eftir eyðingu');
	deactivate($inactive);
	my $id = delete_entry($entry);
	setting(max_delete_percent => 0);
	run_ok('1 0 0 0', 'ignore');
	is(state_of($gone), 'row, no document', 'ignore: a document that is gone stays away');
	is(state_of($edited), 'row, active', '... but not one whose member has an edit since');
	is(state_of($inactive), 'row, inactive', '... one that is inactive stays so');
	is(state_of($entry), 'row, active', '... an entry does nothing');
	is(outcome($id), 'synced: ignored', '... and says so');
	is(pending(), '', '... and nothing is queued');
	quiet('ignore');
	my $read = $db->row('SELECT docs_scanned, docs_read FROM ekksync_runs ORDER BY run DESC LIMIT 1');
	is($read->{docs_read} - $read->{docs_scanned}, 2, '... and looks for no document');

	my $late = $db->queue_entry(docId => $gone, changes => { 'profile.name' => 'Skráð eftir eyðingu' });
	run_ok('0 0 0 0', 'ignore: an entry for one whose document is away');
	like(outcome($late), qr/^synced: superseded/, '... is superseded');
	set_name($gone, 'Breytt í Django');
	run_ok('1 0 0 0', 'ignore: an edit in Django');
	is($db->doc($gone)->{profile}{name} . ' ' . state_of($gone), 'Breytt í Django row, active', '... makes the document again');
	is($db->admin_sql("SELECT away IS NULL FROM ekksync.member WHERE key = '$gone'"), 't', '... and that is forgotten');
	quiet('an edit in Django');

	# made again by somebody else
	$db->set_doc($again, { profile => { kennitala => $again, name => 'Endurgerð' }, membership => { status => 'active' } });
	run_ok('1 1 0 0', 'ignore: a document that others make again');
	is_deeply([ @{ $db->doc($again)->{profile} }{qw(name email)}, $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$again'") ],
		[ 'Endurgerð', "$again\@example.is", 'Endurgerð' ], '... is merged, and what it lacks is filled');
	quiet('a document that others make again');

	# an inactive one's other fields
	my $deleted_at = $db->doc($inactive)->{metadata}{deleted_at};
	set_name($inactive, 'Óvirk í Django');
	$db->profile_edit($inactive, 'email', 'ovirk@example.is');
	run_ok('1 1 0 0', 'ignore: edits of one that is inactive');
	is_deeply([ $db->doc($inactive)->{profile}{name}, $db->sql('SELECT email FROM membership_contactinfo WHERE comrade_id = ' . id_of($inactive)) ],
		[ 'Óvirk í Django', 'ovirk@example.is' ], '... go both ways');
	is_deeply([ $db->doc($inactive)->{metadata}{deleted_at}, state_of($inactive) ], [ $deleted_at, 'row, inactive' ], '... and it stays as it is');
	my $same = $db->queue_entry(docId => $inactive, changes => { 'membership.status' => 'inactive' });
	run_ok('0 0 0 0', 'ignore: an entry that repeats the status');
	$db->patch_doc($inactive, { 'membership.status' => 'active', updated_at => timestamp() });
	quiet('a status that becomes active again');

	# a member that is deleted in Django, and comes again, is active
	my $key = $inactive;
	deactivate($key);
	quiet('inactive once more');
	my $id_there = id_of($key);
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = $id_there; DELETE FROM membership_unionmembership WHERE comrade_id = $id_there; DELETE FROM membership_comrade WHERE id = $id_there");
	run_ok('0 0 0 0', 'ignore: deleted in Django as well');
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Aftur', '$key', now())");
	run_ok('1 0 0 0', 'ignore: inserted again');
	is(state_of($key), 'row, active', '... revives the document');
	$db->sql("DELETE FROM membership_comrade WHERE ssn = '$key'");
	run_ok('1 0 0 0', 'ignore: deleted a second time');
	is(state_of($key), 'no row, inactive', '... deactivates it');
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Enn aftur', '$key', now())");
	run_ok('1 0 0 0', 'ignore: inserted a second time');
	is(state_of($key) . ' ' . $db->doc($key)->{profile}{name}, 'row, active Enn aftur', '... revives it a second time');
	quiet('a second time');

	# what was ignored is restored when the setting says so
	$db->delete_doc($entry);
	quiet('one more is away');
	setting(max_delete_percent => 100, on_remote_delete => 'restore');
	run_ok('1 0 0 0', 'restore again');
	is(state_of($entry), 'row, active', '... makes the document of one that was away');
	quiet('restore again');
}

# -------------------------------------------------------------------- delete

setting(on_remote_delete => 'delete');
{
	my ($gone, $inactive, $entry, $status, $other) = new_members(5);
	my %id = map { $_ => id_of($_) } $gone, $inactive, $entry, $status;
	$db->delete_doc($gone);
	deactivate($inactive);
	my $delete = delete_entry($entry);
	my $by_value = $db->profile_edit($status, 'membership.status', 'inactive');

	my @plan = grep { defined $_->{member} } $db->run_rows(dry_run => 1);
	is_deeply([ map { "$_->{side} $_->{field} $_->{old_value} $_->{note}" } grep { $_->{member} eq $gone && $_->{field} eq 'name' } @plan ],
		["django name Félagi $gone deleted in Firestore"], 'delete: a dry run shows what would go');
	is(scalar(keys %{ { map { $_->{member} => 1 } @plan } }), 4, '... of four members');
	is(state_of($gone), 'row, no document', '... and leaves it');

	run_ok('1 4 0 0', 'delete');
	is(state_of($gone), 'no row, no document', 'delete: a document that is gone takes the row with it');
	is(state_of($_), 'no row, inactive', '... one that is inactive too, and stays') for $inactive, $status;
	is(state_of($entry), 'no row, inactive', '... and an entry, which deactivates the document');
	is(outcome($delete), 'synced: applied', '... and is applied');
	is(outcome($by_value), 'synced: applied', '... as is one that gives the status');
	is(related($_), '', '... with what refers to it') for values %id;
	is(state_of($other), 'row, active', '... nobody else');
	is(pending(), '', '... nothing is queued');
	is(tombstone($_), 't', '... a tombstone is left') for $gone, $inactive, $entry, $status;
	is($db->admin_sql("SELECT side || ' ' || (changes -> 'name') || ' ' || (changes -> 'email') || ' ' || (changes -> 'unions') FROM ekksync.change_log WHERE key = '$gone' ORDER BY id DESC LIMIT 1"),
		qq{django ["Félagi $gone", null] ["$gone\@example.is", null] [["Verkalýðsfélag"], null]}, '... and the change log has what was lost');
	quiet('delete');

	my $again = delete_entry($entry);
	run_ok('0 0 0 0', 'delete: once more');
	is(outcome($again), 'synced: already deleted', '... is no failure');
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Endurkomin', '$_', now())") for $gone, $entry;
	run_ok('2 0 0 0', 'delete: inserted again');
	is(state_of($_), 'row, active', '... has a document') for $gone, $entry;
	quiet('inserted again');
	my $old = delete_entry($entry, created_at => timestamp($db->sql("SELECT to_char((now() - interval '1 hour') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")));
	run_ok('0 0 0 0', 'delete: an entry that comes late');
	is(outcome($old) . ', ' . state_of($entry), 'synced: superseded, row, active', '... is superseded by what both sides know');
}
{
	my ($first) = new_members(1);
	setting(on_local_delete => 'delete');
	delete_entry($first);
	run_ok('1 1 0 0', 'delete: on_local_delete');
	is(state_of($first), 'no row, no document', '... deletes the document as well');
	quiet('on_local_delete');
	setting(on_local_delete => 'deactivate');
}

# ------------------------------------------------------ last write wins there

{
	my ($gone, $later, $earlier, $tie, $unseen, $firestore) = new_members(6);
	$db->delete_doc($gone);
	set_name($_, 'Breytt í Django') for $gone, $later, $earlier, $tie;
	$db->admin_sql("BEGIN; SET LOCAL session_replication_role = replica; UPDATE membership_comrade SET name = 'Fram hjá' WHERE ssn = '$unseen'; COMMIT");
	my $before = delete_entry($later, created_at => local_time($later, -0.0001));
	my $after = delete_entry($earlier);
	my $same = delete_entry($tie, created_at => local_time($tie, 0));
	my $stray = delete_entry($unseen);
	my $overtaken = delete_entry($firestore);
	$db->profile_edit($firestore, 'name', 'Síðar í Firestore');
	run_ok('5 2 1 3', 'last write');
	is(state_of($_), 'row, active', 'a later edit in Django, or one in unknown order, keeps the member') for $gone, $later, $tie, $unseen;
	is(outcome($_), 'failed: not deleted: Django has a later edit of the member', '... and the entry says so') for $before, $same, $stray;
	is(state_of($earlier), 'no row, inactive', 'an earlier one does not');
	is(outcome($after), 'synced: applied', '... the entry is applied');
	is($db->sql("SELECT field || ' ' || django_value || ' ' || winner || ' ' || rule FROM ekksync_conflicts WHERE member = '$earlier'"),
		'name "Breytt í Django" firestore deleted in Firestore', '... and the edit that lost is kept');
	is(state_of($firestore) . ' ' . $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$firestore'"), 'row, active Síðar í Firestore', 'a later edit in Firestore keeps it, too');
	is(outcome($overtaken), 'synced: superseded', '... and supersedes the entry');
	is(pending(), '', '... nothing is left in the queue');
	quiet('last write');
}

# ------------------------------------------------------------ poison, triggers

{
	my ($held, $free, $fired, $told) = new_members(4);
	my $id = id_of($held);
	$db->sql("INSERT INTO communication_email (id, email, verified, \"primary\") VALUES (9000, 'x\@example.is', true, true); INSERT INTO membership_comrade_emails (comrade_id, email_id) VALUES ($id, 9000)");
	$db->sql(<<"SQL");
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	UPDATE membership_comrade SET name = 'Sagt frá ' || OLD.ssn WHERE ssn = '$told';
	RETURN OLD;
END \$\$;
CREATE TRIGGER tell AFTER DELETE ON membership_comrade FOR EACH ROW WHEN (OLD.ssn = '$fired') EXECUTE FUNCTION tell();
SQL
	$db->delete_doc($_) for $held, $free, $fired;
	my $entry = delete_entry($held);
	my $run = $db->run;
	is("$run->{status} $run->{to_django} $run->{failed}", 'success 2 2', 'what still refers to a row stops nobody else');
	is(state_of($held), 'row, no document', '... its member is held');
	my $why = qr/^failed: the member could not be deleted: .*violates foreign key constraint .*\(SQLSTATE 23503\)$/;
	like(outcome($entry), $why, '... the entry says why');
	like('failed: ' . $db->sql("SELECT string_agg(error_message, '|') FROM membership_membersyncqueue WHERE ssn = '$held' AND sync_status = 'failed'"), $why, '... and so does a row of the queue');
	is(state_of($_), 'no row, no document', '... the others go') for $free, $fired;
	is($db->sql("SELECT name FROM membership_comrade WHERE ssn = '$told'"), "Sagt frá $fired", 'a trigger of the application runs');
	run_ok('1 0 0 0', 'poison, again') if pending() ne '';
	is($db->doc($told)->{profile}{name}, "Sagt frá $fired", '... and what it changes is captured');
	$db->run;
	quiet('a member that is held');
	$db->sql("DELETE FROM membership_comrade_emails WHERE comrade_id = $id");
	run_ok('0 1 0 0', 'nothing refers to it any more');
	is(state_of($held), 'no row, no document', '... and it goes');
	$db->sql('DROP TRIGGER tell ON membership_comrade');

	my ($kept) = new_members(1);
	$db->sql(<<"SQL");
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE DELETE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION keep();
SQL
	delete_entry($kept);
	run_ok('0 0 0 2', 'a trigger keeps the row');
	is(state_of($kept) . ' ' . related(id_of($kept)), "row, active contactinfo\nunionmembership", '... with all that refers to it');
	$db->sql('DROP TRIGGER keep ON membership_comrade');
	quiet('a trigger that keeps the row');
}

# --------------------------------------------------------- directions, guard

{
	my ($gone, $one, $two) = new_members(3);
	$db->delete_doc($gone);
	run_ok('0 0 0 0', 'to Firestore alone', direction => 'to_firestore');
	is(state_of($gone), 'row, no document', '... neither makes the document again nor deletes the row');
	setting(scan => 'changed');
	run_ok('0 1 0 0', 'to Django alone', direction => 'to_django');
	setting(scan => 'full');
	is(state_of($gone), 'no row, no document', '... deletes it, though it does not look for what has gone');
	quiet('to Django alone');

	setting(max_delete_percent => 5);
	$db->delete_doc($one);
	my $id = delete_entry($two);
	my $run = $db->run;
	like($run->{message}, qr/^the run would delete 2 of \d+ members$/, 'the guard counts them before a run writes');
	is(state_of($one) . '; ' . state_of($two), 'row, no document; row, active', '... and nothing is written');
	is(outcome($id), 'pending: ', '... not even the outcome of the entry');
	run_ok('1 2 0 0', 'forced', force => 1);
	is(state_of($_) =~ s/,.*//r, 'no row', '... deletes them') for $one, $two;
	setting(max_delete_percent => 100);
	quiet('the guard');

	# one of them is deactivated after its row has gone: counted once
	($one, $two) = new_members(2);
	my $members = $db->sql('SELECT count(*) FROM membership_comrade');
	setting(max_delete_percent => int(200 / $members + 1));
	delete_entry($_) for $one, $two;
	run_ok('2 2 0 0', 'as many as the guard lets through');
	setting(max_delete_percent => 100);
}

# ---------------------------------------------------------------------- races

sub run_stopped
{
	my ($step, $meanwhile) = @_;
	$db->stop_at($step);
	my $session = Session->new($db);
	$session->send('SELECT * FROM ekksync_run()');
	ok($db->wait_stopped, "a run stops at $step");
	$meanwhile->();
	$db->go_on;
	$session->answer;
	$session->end;
	return $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1');
}

for my $step (qw(documents decided))
{
	my ($gone, $entry) = new_members(2);
	$db->delete_doc($gone);
	my $id = delete_entry($entry);
	run_stopped($step, sub { set_name($_, "Breytt við $step") for $gone, $entry });
	is(state_of($_), 'row, active', "an edit at $step keeps the member") for $gone, $entry;
	is($db->doc($_)->{profile}{name}, "Breytt við $step", '... and is in the document') for $gone, $entry;
	is(outcome($id), 'failed: not deleted: Django has a later edit of the member', '... and the entry says so');
	quiet("an edit at $step");
}
{
	my ($locked, $free) = new_members(2);
	delete_entry($_) for $locked, $free;
	my $other = Session->new($db);
	$other->sql("BEGIN; UPDATE membership_comrade SET reachable = false WHERE ssn = '$locked'");
	my $run = $db->run;
	is("$run->{status} $run->{to_django}", 'success 1', 'a row that is locked is not waited for');
	is(state_of($free) . '; ' . state_of($locked), 'no row, inactive; row, active', '... the other one goes');
	$other->sql('COMMIT');
	$other->end;
	$db->run;
	is(state_of($locked), 'row, active', '... and an edit that is later keeps it');
	$db->admin_sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'failed'");
	quiet('a row that is locked');
}

# ---------------------------------------------------------------------- deaths

for my $step (qw(in_rows in_record applied sent in_settle))
{
	my ($gone, $entry) = new_members(2);
	$db->delete_doc($gone);
	my $id = delete_entry($entry);
	$db->stop_at($step);
	my $session = Session->new($db);
	$session->send('SELECT * FROM ekksync_run()');
	my $pid = $db->wait_stopped;
	ok($pid, "a worker stops at $step");
	kill 'TERM', $pid;
	$db->go_on;
	eval { $session->answer };
	$session->end;
	$db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0 });
	$db->run;
	is(state_of($gone) . '; ' . state_of($entry), 'no row, no document; no row, inactive', '... and the next run deletes what is left');
	is(outcome($id), 'synced: applied', '... and closes the entry');
	is(pending(), '', '... and nothing is queued');
	quiet("an end at $step");
}

# ------------------------------------------------------- in doubt, nothing goes

setting(on_remote_delete => 'delete');
{
	# what only repeats an older value may be a late echo, or an edit
	my ($key) = new_members(1);
	$db->profile_edit($key, name => 'Nýrra');
	run_ok('0 1 0 0', 'an edit');
	my $delete = delete_entry($key);
	my $later = $db->queue_entry(docId => $key, changes => { 'profile.name' => "Félagi $key" });
	run_ok('0 0 0 0', 'an entry after one that deletes');
	is(state_of($key), 'row, active', 'a later entry keeps the member, though it says nothing new');
	is(outcome($delete), 'synced: superseded', '... and supersedes the one that deletes');

	# an edit of rows that go along, when the member's are locked
	my ($linked) = new_members(1);
	$db->delete_doc($linked);
	my $id = id_of($linked);
	run_stopped('in_lock', sub { $db->sql("DELETE FROM membership_unionmembership WHERE comrade_id = $id") });
	is(state_of($linked) . ': ' . related($id), 'row, active: contactinfo', 'an edit of a row that refers to it keeps the member');
	quiet('an edit of a row that refers to it');

	# the status alone, where a deletion in Django takes the document with it
	setting(on_local_delete => 'delete');
	my ($inactive, $local) = new_members(2);
	deactivate($inactive);
	run_ok('0 1 0 0', 'inactive, with on_local_delete');
	is(state_of($inactive), 'no row, inactive', 'a document that others made inactive stays');
	$db->patch_doc($inactive, { notes => 'annarra', updated_at => timestamp() });
	quiet('inactive, with on_local_delete');
	is($db->doc($inactive)->{notes}, 'annarra', '... with what others write to it');
	$id = id_of($local);
	$db->sql("DELETE FROM membership_$_ WHERE comrade_id = $id") for qw(contactinfo unionmembership);
	$db->sql("DELETE FROM membership_comrade WHERE id = $id");
	run_ok('1 0 0 0', 'deleted in Django');
	is(state_of($local), 'no row, no document', '... one that was deleted in Django goes');
	setting(on_local_delete => 'deactivate');
}

# ------------------------------------------------- our own deletion comes late

{
	my $proxy = FaultProxy->new(to => $db->host);
	$proxy->start;
	$db->use_host($proxy->host);
	setting(on_local_delete => 'delete', max_retries => 0);
	for my $mode (qw(delete ignore))
	{
		my $key = sprintf '0101%06d', ++$serial;
		my $insert = "INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (" . (7000 + $serial) . ", 'Félagi', '$key', '2020-01-01')";
		setting(on_remote_delete => $mode);
		$db->sql($insert);
		run_ok('1 0 0 0', 'a new member');
		$db->sql("DELETE FROM membership_comrade WHERE ssn = '$key'");
		$proxy->start(
			{ fault => 'answer', verb => 'commit', match => qr{/documents/members/}, status => 400, error => 'FAILED_PRECONDITION' },
			{ fault => 'late', verb => 'batchWrite', match => qr{/documents/members/}, drop => 1 });
		$db->run;
		$proxy->start;
		is(state_of($key), 'no row, active', "$mode: a deletion of ours is late");
		$db->sql($insert);
		run_ok('0 0 0 0', 'the row is back, as it was');
		is($proxy->release->{status}, 200, '... and then the deletion comes');
		is(state_of($key), 'row, no document', '... to the document');
		run_ok('1 0 0 0', 'after the late deletion');
		is(state_of($key), 'row, active', '... which is not taken for one of others');
		quiet('a late deletion');
	}
}

done_testing();
