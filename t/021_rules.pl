# The rules of a merge (issue "There and back"): last write wins per field, and
# every loser is kept; different fields merge; ties, unknown order; entries
# superseded, echoed, enqueued only, refused; clocks that are wrong; keys that
# are malformed or doubled; documents that are deleted in Firestore; values
# that need not be written because their canonical forms are equal.

use strict;
use warnings;
use utf8;
use Test::More;
use PostgreSQL::Test::Utils ();
use EkkSync qw(timestamp true false);

my $db = EkkSync->new(members => 60, conf => "log_statement = 'none'");

# ------------------------------------------------------------------- helpers

my $last_id = 0;

# Kennitala of an invented member that no other part of this test uses.
sub next_key { $last_id++; return $db->sql("SELECT ssn FROM membership_comrade WHERE id = $last_id"); }

sub field
{
	my ($key, $field) = @_;
	return $db->sql("SELECT $field FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'");
}

sub path
{
	my ($key, $path) = @_;
	my $at = $db->doc($key);
	$at = $at->{$_} for split /\./, $path;
	return $at;
}

sub set_name { my ($key, $name) = @_; $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'"); }

# Stamp of the last local change of a member, or that moved by a number of
# microseconds: text as Firestore takes it.
sub local_time
{
	my ($key, $move) = @_;
	return $db->sql("SELECT to_char((max(created_at) + interval '1 microsecond' * @{[ $move // 0 ]}) AT TIME ZONE 'UTC', "
		  . "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM membership_membersyncqueue WHERE ssn = '$key'");
}

# An edit of the profile page at a moment before the last local change.
sub page_edit_at
{
	my ($key, $field, $value, $move) = @_;
	return $db->profile_edit($key, $field, $value, created_at => timestamp(local_time($key, $move)));
}

# A change in the console: the document alone, and updated_at when asked.
sub console_edit
{
	my ($key, $path, $value, %opt) = @_;
	$db->patch_doc($key, { $path => $value, $opt{seen} // 1 ? (updated_at => timestamp()) : () }, exists => 1);
}

# Conflicts of a member, oldest first, as [field, django, firestore, winner,
# rule, potential].
sub conflicts
{
	my ($key) = @_;
	return [ map { [ @$_{qw(field django_value firestore_value winner rule potential)} ] }
		  $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id") ];
}

# What became of an entry: its status, and its note or error on our side.
sub outcome
{
	my ($id) = @_;
	my $entry = $db->entry($id);
	my $note = $db->admin_sql("SELECT status || ': ' || coalesce(error_message, note, '') FROM ekksync.inbox WHERE doc_id = '$id'");
	return "$entry->{sync_status}, $note" . (defined $entry->{error_message} ? ", $entry->{error_message}" : '');
}

sub queue_rows { return $db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE ssn = '$_[0]'"); }

# A run that must succeed; with figures: to Firestore, to Django, conflicts,
# failed.
sub run_ok
{
	my ($figures, $name, %arg) = @_;
	my $run = $db->run(%arg);
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message});
	return $run;
}

# Nothing is left to do for anybody.
sub quiet { my ($name) = @_; return run_ok('0 0 0 0', "quiet after $name"); }

sub in_step
{
	my ($key, $value, $name, $field, $path) = @_;
	is_deeply([ field($key, $field // 'name'), path($key, $path // 'profile.name') ], [ $value, $value ],
		"$name: both sides have the same");
}

# What the server has logged since $$from, which moves on.
my $logged = 0;
sub log_since
{
	my $text = PostgreSQL::Test::Utils::slurp_file($db->node->logfile, $logged);
	$logged += length $text;
	return $text;
}

run_ok('60 0 0 0', 'first push');
is($db->sql('SELECT count(*) FROM ekksync_conflicts'), 0, 'no conflicts so far');

# ------------------------------------------------ both sides, the same field

log_since();
{
	my $key = next_key();
	set_name($key, 'Django á undan');
	my $id = $db->profile_edit($key, 'name', 'Firestore á eftir');
	my $entered = $db->entry($id)->{created_at};
	my $stamp = local_time($key);
	run_ok('0 1 1 0', 'remote later');
	in_step($key, 'Firestore á eftir', 'the later write wins (Firestore)');
	is_deeply(conflicts($key), [ [ 'name', 'Django á undan', 'Firestore á eftir', 'firestore', 'later write', true ] ],
		'... and the loser is kept with both values');
	is($db->sql("SELECT django_time = '$stamp' AND firestore_time = '$entered' AND firestore_time_from = firestore_time FROM ekksync_conflicts WHERE member = '$key'"),
		't', '... and both times');
	is(outcome($id), 'synced, closed: applied', '... and the entry is closed');
	my $log = log_since();
	my $masked = '*' x 7 . substr $key, 7;
	like($log, qr/WARNING:  potential conflict in field "name" of member \Q$masked\E\n/, 'within the window the server log warns');
	unlike($log, qr/\Q$key\E|Django|Firestore .* eftir/, '... and names neither member nor values');
	quiet('remote later');
}
{
	my $key = next_key();
	set_name($key, 'Django á eftir');
	my $id = page_edit_at($key, 'name', 'Firestore á undan', -1);
	run_ok('1 0 1 0', 'local later');
	in_step($key, 'Django á eftir', 'the later write wins (Django)');
	is_deeply(conflicts($key), [ [ 'name', 'Django á eftir', 'Firestore á undan', 'django', 'later write', true ] ], '... and the loser is kept');
	is(outcome($id), 'synced, closed: lost to a later change', '... and the entry is closed');
	like(log_since(), qr/WARNING:  potential conflict/, '... with a warning');
	quiet('local later');
}
{
	my $key = next_key();
	set_name($key, 'Jafntefli');
	page_edit_at($key, 'name', 'Á sama andartaki', 0);
	run_ok('1 0 1 0', 'tie');
	in_step($key, 'Jafntefli', 'in a tie Django wins');
	is_deeply(conflicts($key), [ [ 'name', 'Jafntefli', 'Á sama andartaki', 'django', 'tie', true ] ], '... and the loser is kept');
}
{
	my ($at, $beyond) = (next_key(), next_key());
	my $hour = 3_600_000_000;
	set_name($_, 'Síðar') for $at, $beyond;
	page_edit_at($at, 'name', 'Klukkustund fyrr', -$hour);
	page_edit_at($beyond, 'name', 'Aðeins meira', -$hour - 1);
	log_since();
	run_ok('2 0 2 0', 'the window');
	is(conflicts($at)->[0][5], true, 'a difference of exactly the window is a potential conflict');
	is(conflicts($beyond)->[0][5], false, '... a microsecond more is not');
	is(scalar(() = log_since() =~ /WARNING:  potential conflict/g), 1, '... and warns of nothing');
	quiet('the window');
}
{
	my $key = next_key();
	set_name($key, 'Nafn úr Django');
	my $id = $db->profile_edit($key, 'email', 'ur.firestore@example.is');
	run_ok('1 1 0 0', 'different fields');
	in_step($key, 'Nafn úr Django', 'different fields merge (Django\'s)');
	in_step($key, 'ur.firestore@example.is', '... (Firestore\'s)', 'email', 'profile.email');
	is_deeply(conflicts($key), [], '... without a conflict');
	quiet('different fields');
}
{
	my $key = next_key();
	set_name($key, 'Sammála');
	my $id = $db->profile_edit($key, 'name', 'Sammála');
	my $time = $db->doc_update_time($key);
	run_ok('0 0 0 0', 'the same on both sides');
	in_step($key, 'Sammála', 'the same new value on both sides');
	is_deeply(conflicts($key), [], '... is no conflict');
	is($db->doc_update_time($key), $time, '... and nothing to write');
	is(outcome($id), 'synced, closed: already in step', '... but an entry to close');
	is($db->sql("SELECT sync_status FROM membership_membersyncqueue WHERE ssn = '$key'"), 'synced', '... and a row');

	set_name($key, 'Seinna í Django');
	run_ok('1 0 0 0', 'later edit');
	$db->profile_edit($key, 'name', 'Enn seinna í Firestore');
	run_ok('0 1 0 0', 'later edit in Firestore');
	is_deeply(conflicts($key), [], 'a later edit of a synced value is none either');
}

# --------------------------------- changes in Firestore that no entry explains

{
	my ($alone, $before, $after, $inside) = map { next_key() } 1 .. 4;
	set_name($before, 'Löngu fyrr');
	$db->sql("UPDATE membership_membersyncqueue SET created_at = created_at - interval '1 day' WHERE ssn = '$before' AND sync_status = 'pending'");
	set_name($inside, 'Einhvern tíma');
	console_edit($_, 'profile.name', 'Stjórnborð') for $alone, $before, $after, $inside;
	set_name($after, 'Á eftir');
	run_ok('2 2 3 0', 'unexplained');
	in_step($alone, 'Stjórnborð', 'a change that no entry explains is found by updated_at');
	is_deeply(conflicts($alone), [], '... without a conflict when nobody else changed the field');
	in_step($before, 'Stjórnborð', 'an earlier local edit loses to it');
	is_deeply(conflicts($before), [ [ 'name', 'Löngu fyrr', 'Stjórnborð', 'firestore', 'later write', false ] ], '... and is kept');
	in_step($after, 'Á eftir', 'a later local edit wins');
	is_deeply(conflicts($after), [ [ 'name', 'Á eftir', 'Stjórnborð', 'django', 'later write', true ] ], '... and the other is kept');
	in_step($inside, 'Einhvern tíma', 'of two in unknown order Django\'s wins');
	is_deeply(conflicts($inside), [ [ 'name', 'Einhvern tíma', 'Stjórnborð', 'django', 'order unknown', true ] ], '... and the other is kept');
	is($db->sql("SELECT firestore_time_from < django_time AND django_time < firestore_time FROM ekksync_conflicts WHERE member = '$inside'"),
		't', '... with the time that it may have been');
	quiet('unexplained');
}
{
	my $key = next_key();
	my $name = field($key, 'name');
	console_edit($key, 'profile.name', 'Enginn sagði frá', seen => 0);
	quiet('a change without updated_at');
	is(field($key, 'name'), $name, 'scan = changed does not see a document without a new updated_at');
	$db->admin_sql("ALTER DATABASE socialism SET ekksync.scan = 'full'");
	run_ok('0 1 0 0', 'scan = full');
	in_step($key, 'Enginn sagði frá', 'scan = full does');

	# gone, and restored
	my $before = $db->doc($key);
	$db->delete_doc($key);
	run_ok('1 0 0 0', 'restore');
	my $restored = $db->doc($key);
	delete @{ $_->{metadata} }{qw(last_modified last_sync sync_write)} for $before, $restored;
	is_deeply($restored, $before, 'a document that was deleted in Firestore is restored');
	quiet('restore');
	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.scan');
}

# -------------------------------------------------- entries that change nothing

{
	my $key = next_key();
	my $first = $db->profile_edit($key, 'name', 'Fyrri tilraun');
	my $second = $db->profile_edit($key, 'name', 'Seinni tilraun');
	run_ok('0 1 0 0', 'superseded');
	in_step($key, 'Seinni tilraun', 'of two entries the one that the document holds counts');
	is(outcome($first), 'synced, closed: superseded', '... the other is superseded');
	is(outcome($second), 'synced, closed: applied', '... and this one applied');
	is(queue_rows($key), 0, '... with no change of ours');
	quiet('superseded');
}

# What track_member_changes makes of our own writes; $name says which form.
sub echo_is_closed
{
	my ($key, $name, %entry) = @_;
	my ($row, $rows, $time) = (field($key, 'membership_comrade::text') , queue_rows($key), $db->doc_update_time($key));
	my $id = $db->queue_entry(docId => $key, %entry);
	run_ok('0 0 0 0', $name);
	like(outcome($id), qr/^synced, closed: (?:echo|already in step)$/, "$name is closed");
	is_deeply([ field($key, 'membership_comrade::text'), queue_rows($key), $db->doc_update_time($key) ], [ $row, $rows, $time ], '... and changes nothing');
	is_deeply(conflicts($key), [], '... and is no conflict');
}

{
	my $key = next_key();
	set_name($key, 'Fyrsta útgáfa');
	run_ok('1 0 0 0', 'a push');
	my $doc = $db->raw_doc($key)->{fields};
	echo_is_closed($key, 'an echo of an update', changes => { 'profile.name' => 'Fyrsta útgáfa', 'metadata.last_sync' => timestamp() });
	echo_is_closed($key, 'an echo of a create', action => 'create', changes => $doc);
	set_name($key, 'Önnur útgáfa');
	run_ok('1 0 0 0', 'another push');
	echo_is_closed($key, 'a late echo', changes => { 'profile.name' => 'Fyrsta útgáfa' });
	in_step($key, 'Önnur útgáfa', 'after a late echo');
	echo_is_closed($key, 'a late echo of a create', action => 'create', changes => $doc);
}

# ------------------------------------------------ a client that only enqueues

{
	my ($key, $both) = (next_key(), next_key());
	my $id = $db->profile_edit($key, 'name', 'Aðeins í biðröð', document => 0);
	set_name($both, 'Líka í Django');
	my $later = $db->profile_edit($both, 'name', 'Síðar í biðröð', document => 0);
	run_ok('2 2 1 0', 'enqueued only');
	in_step($key, 'Aðeins í biðröð', 'an entry without a document write reaches both sides');
	is(outcome($id), 'synced, closed: applied', '... and is closed');
	in_step($both, 'Síðar í biðröð', '... and is merged like any other');
	is_deeply(conflicts($both), [ [ 'name', 'Líka í Django', 'Síðar í biðröð', 'firestore', 'later write', true ] ], '... with its loser kept');
	quiet('enqueued only');

	my $stale = $db->profile_edit($key, 'name', 'Of seint', document => 0);
	console_edit($key, 'notes', 'skrifað eftir á');
	run_ok('0 0 0 0', 'enqueued before another write');
	in_step($key, 'Aðeins í biðröð', 'an entry that is older than the document, which does not hold it, changes nothing');
	is(outcome($stale), 'synced, closed: superseded', '... and is closed as superseded');

	$db->profile_edit($key, 'name', 'Í tveimur áföngum', document => 0);
	run_ok('0 1 0 0', 'enqueued only, to Django', direction => 'to_django');
	is(field($key, 'name'), 'Í tveimur áföngum', 'a run to Django alone applies it there');
	run_ok('1 0 0 0', 'enqueued only, then to Firestore');
	in_step($key, 'Í tveimur áföngum', '... and the next run brings it to the document');

	$db->profile_edit($key, 'name', 'Á undan okkur', document => 0);
	$db->sql("UPDATE membership_comrade SET groupable = NOT groupable WHERE ssn = '$key'");
	run_ok('1 0 0 0', 'enqueued before a push of ours', direction => 'to_firestore');
	run_ok('1 1 0 0', 'enqueued before a push of ours, then both ways');
	in_step($key, 'Á undan okkur', 'an entry is not lost because we wrote another field of its document');
}

# ------------------------------------------ runs in one direction, dry runs

{
	my $key = next_key();
	set_name($key, 'Fyrr í Django');
	my $id = $db->profile_edit($key, 'name', 'Síðar í Firestore');
	run_ok('0 0 0 0', 'a later edit in Firestore, to Firestore', direction => 'to_firestore');
	is(path($key, 'profile.name'), 'Síðar í Firestore', 'a run to Firestore does not overwrite a later edit there');
	is($db->entry($id)->{sync_status}, 'pending', '... and leaves its entry open');
	run_ok('0 1 1 0', 'a later edit in Firestore, both ways');
	in_step($key, 'Síðar í Firestore', '... which wins in the next run');

	my $wrong = $db->queue_entry(docId => $key, changes => { 'profile.nmae' => 'Lagað' });
	is($db->run(dry_run => 1)->{failed}, 1, 'a dry run counts an entry that would fail');
	is($db->admin_sql("SELECT count(*) FROM ekksync.inbox WHERE status = 'staged' OR run IS NULL"), '0', '... and keeps nothing of it');
	$db->patch_doc("sync_queue/$wrong", { changes => { 'profile.name' => 'Lagað' } });
	$db->patch_doc("members/$key", { 'profile.name' => 'Lagað' });
	run_ok('0 1 0 0', 'an entry corrected after a dry run');
	in_step($key, 'Lagað', '... is applied as it is now');
}

# ----------------------------------------- the application's own triggers

{
	my $key = next_key();
	$db->sql(<<'SQL');
CREATE TABLE trail (ssn text, path text);
CREATE FUNCTION leave_trail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO trail VALUES (NEW.ssn, current_setting('search_path'));
	NEW.groupable := NEW.name <> 'Kveikjan';
	RETURN NEW;
END $$;
CREATE TRIGGER leave_trail BEFORE UPDATE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION leave_trail();
SQL
	$db->profile_edit($key, 'name', 'Kveikjan');
	run_ok('0 1 0 0', 'a trigger of the application');
	is($db->sql("SELECT count(*) FROM trail WHERE ssn = '$key'"), '1', 'a trigger of the application runs under the names that it knows');
	is($db->sql("SELECT string_agg(fields_changed::text, ',') FROM membership_membersyncqueue WHERE ssn = '$key' AND sync_status = 'pending'"),
		'{"groupable": false}', '... and what it changes besides is captured');
	run_ok('1 0 0 0', 'what the trigger changed');
	is(path($key, 'membership.groupable'), false, '... and reaches Firestore');
	$db->sql('DROP TRIGGER leave_trail ON membership_comrade');
	quiet('a trigger of the application');
}

# ------------------------------------------------------------ one-way fields

{
	my $key = next_key();
	my $unions = path($key, 'membership.unions');
	my $id = $db->profile_edit($key, 'membership.unions', ['Félag sem enginn þekkir']);
	run_ok('1 0 1 1', 'one-way');
	is(outcome($id), 'failed, closed: membership.unions: not writable from Firestore, membership.unions: not writable from Firestore',
		'a remote change of a one-way field fails in its entry');
	is_deeply(path($key, 'membership.unions'), $unions, '... PostgreSQL\'s value is written back');
	is_deeply(conflicts($key), [ [ 'unions', $unions, ['Félag sem enginn þekkir'], 'django', 'not writable from Firestore', false ] ],
		'... and the conflict is kept');
	quiet('one-way');
	console_edit($key, 'profile.kennitala', '0000000000');
	run_ok('1 0 1 0', 'one-way, unexplained');
	is(path($key, 'profile.kennitala'), $key, 'as without an entry');
}

# -------------------------------------------------------- clocks that are wrong

{
	my ($future, $past) = (next_key(), next_key());
	my $ahead = $db->profile_edit($future, 'name', 'Úr framtíðinni', created_at => timestamp('2099-01-01T00:00:00Z'));
	set_name($_, 'Nútíminn') for $future, $past;
	my %written = ($future => $db->raw_doc($future)->{updateTime});
	my $behind = $db->profile_edit($past, 'name', 'Úr fortíðinni', created_at => timestamp('1999-01-01T00:00:00Z'));
	$written{$past} = $db->raw_doc($past)->{updateTime};
	run_ok('1 1 2 0', 'wrong clocks');
	in_step($future, 'Nútíminn', 'an entry from the future counts from when it came');
	in_step($past, 'Úr fortíðinni', 'one from the distant past too');
	my $clamped = sub {
		my ($id, $key) = @_;
		my $created = $db->raw_doc("sync_queue/$id")->{createTime};
		return $db->admin_sql("SELECT i.stamp = '$created' AND c.firestore_time = '$written{$key}', clamped FROM ekksync.inbox i JOIN ekksync.conflict c ON c.key = i.key WHERE doc_id = '$id'");
	};
	is($clamped->($ahead, $future), 't|f', 'its time is its createTime, its value\'s when the document got it');
	is($clamped->($behind, $past), 't|t', '... and that is flagged where the clock was far behind');
}

# ------------------------------------------------- members who are not there

{
	my ($gone, $good) = (next_key(), next_key());
	my $stranger = $db->queue_entry(docId => '3112999999', changes => { 'profile.name' => 'Óþekkt' });
	my $malformed = $db->queue_entry(docId => '12345', changes => { 'profile.name' => 'Ranglega' });
	my $delete = $db->queue_entry(docId => $good, action => 'delete');
	my $hyphened = $good =~ s/^(.{6})/$1-/r;
	$db->profile_edit($good, 'name', 'Með bandstriki', entry => 0);
	my $ok = $db->queue_entry(docId => $hyphened, changes => { 'profile.name' => 'Með bandstriki' });
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = $last_id - 1; DELETE FROM $_ WHERE comrade_id = $last_id - 1")
	  for qw(membership_comrade_emails membership_unionmembership membership_comradetitle membership_newlocaladdress);
	$db->sql("DELETE FROM membership_comrade WHERE ssn = '$gone'");
	run_ok('1 1 0 3', 'unknown members');
	is(outcome($stranger), 'failed, closed: member not found, member not found', 'an entry for an unknown member fails');
	is($db->doc('3112999999'), undef, '... and makes no document');
	is($db->sql(q{SELECT count(*) FROM membership_comrade WHERE ssn = '3112999999'}), 0, '... and no row');
	like(outcome($malformed), qr/^failed, closed: kennitala is malformed/, 'so does one with a malformed kennitala');
	like(outcome($delete), qr/^failed, closed: deletes from Firestore are not applied/, '... and one with action delete');
	is(field($good, 'count(*)'), 1, '... whose member stays');
	is(path($good, 'membership.status'), 'active', '... on both sides');
	is(outcome($ok), 'synced, closed: applied', 'an entry may write the kennitala with a hyphen');
	in_step($good, 'Með bandstriki', '... and is applied');
	is($db->sql(q{SELECT string_agg(error_message, ', ' ORDER BY error_message COLLATE "C") FROM ekksync_failed WHERE side = 'firestore' AND error_message !~ 'writable'}),
		'deletes from Firestore are not applied: ekksync.on_remote_delete is restore, kennitala is malformed, member not found', 'ekksync_failed shows them');

	my $ghost = $db->profile_edit($gone, 'name', 'Andi');
	run_ok('0 0 1 1', 'a deleted member');
	is(outcome($ghost), 'failed, closed: member not found, member not found', 'an edit of a deleted member fails');
	my $conflicts = conflicts($gone);
	is_deeply($conflicts, [ [ 'name', undef, 'Andi', 'django', 'member not found', false ] ], '... and is kept as a conflict');
	is(path($gone, 'membership.status'), 'inactive', '... who stays inactive');
	$db->profile_edit($gone, 'email', 'andi@example.is');
	run_ok('0 0 1 1', 'a deleted member again');
	is_deeply([ map { $_->[0] } @{ conflicts($gone) } ], [qw(name email)], 'another edit is kept as another conflict');
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Endurfæddur', '$gone', now())");
	run_ok('1 0 0 0', 'revived');
	in_step($gone, 'Endurfæddur', 'inserted again, the member is the row');
	is(path($gone, 'profile.email'), undef, '... and what had lost is gone');
	quiet('unknown members');
}

# ------------------------------------------------ keys, malformed and doubled

{
	my ($doubled, $good) = (next_key(), next_key());
	$db->sql(<<"SQL");
INSERT INTO membership_comrade (name, ssn, date_joined) VALUES
	('Tvífari', '$doubled', now()), ('Of stutt', '12345', now()), ('Ekki tölur', '12345x7890', now()), ('Tóm', '', now());
SQL
	set_name($good, 'Óháð hinum');
	set_name($doubled, 'Hvor er hvor');
	my $id = $db->profile_edit($doubled, 'email', 'hvor@example.is');
	my $run = $db->run;
	is("$run->{status} $run->{to_firestore} $run->{to_django}", 'success 1 0', 'bad keys: the run\'s figures');
	in_step($good, 'Óháð hinum', 'a good member is synced beside bad keys');
	is_deeply([ $db->rows("SELECT DISTINCT ssn, sync_status, error_message FROM membership_membersyncqueue WHERE ssn IN ('$doubled', '12345', '12345x7890', '') ORDER BY 1") ],
		[ map { { ssn => $_->[0], sync_status => 'failed', error_message => $_->[1] } }
			  sort { $a->[0] cmp $b->[0] } [ '', 'kennitala is malformed' ], [ '12345', 'kennitala is malformed' ],
			[ '12345x7890', 'kennitala is malformed' ], [ $doubled, 'kennitala is held by 2 rows' ] ],
		'... whose rows say what is wrong');
	like(outcome($id), qr/^failed, closed: kennitala is held by 2 rows/, '... as do their entries');
	isnt(path($doubled, 'profile.name'), 'Hvor er hvor', 'the document of a doubled kennitala is left alone');
	is($db->count_docs('members'), 60, 'no document is made for a bad one');

	$db->sql("DELETE FROM membership_comrade WHERE name IN ('Of stutt', 'Ekki tölur', 'Tóm') OR id = (SELECT max(id) FROM membership_comrade WHERE ssn = '$doubled')");
	$db->run;
	in_step($doubled, 'Hvor er hvor', 'a kennitala that is no longer doubled is synced');
	is(path($doubled, 'membership.status'), 'active', '... and active');
	$db->sql(q{DELETE FROM membership_membersyncqueue WHERE sync_status <> 'synced'});
	quiet('bad keys');
}

# ------------------------------------------------- the page's own kinds of value

{
	my ($number, $null, $wrong) = (next_key(), next_key(), next_key());
	$db->sql("UPDATE membership_comrade SET gender = 2 WHERE ssn IN ('$number', '$null', '$wrong')");
	$db->run;
	$db->profile_edit($number, 'gender', 1);
	$db->profile_edit($null, 'gender', undef);
	my $bad = $db->profile_edit($wrong, 'gender', 7);
	run_ok('0 2 0 1', 'gender');
	is_deeply([ field($number, 'gender'), path($number, 'profile.gender') ], [ 1, 1 ], 'gender as an integer is read, and stays so in the document');
	is_deeply([ field($null, 'gender IS NULL'), path($null, 'profile.gender') ], [ 't', undef ], '... as is null');
	like(outcome($bad), qr/^failed, closed: profile\.gender: "7" is not one of the field's codes/, 'a number that means nothing fails');
	is(field($wrong, 'gender'), 2, '... and the row keeps its value');
	console_edit($wrong, 'profile.gender', 'female');
	quiet('gender');

	set_name($number, 'Nafn með tölu');
	run_ok('1 0 0 0', 'beside an integer');
	is(path($number, 'profile.gender'), 1, 'another field\'s push leaves the integer alone');
}
{
	my $key = next_key();
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = $last_id; INSERT INTO membership_contactinfo (comrade_id, phone) VALUES ($last_id, '555-1234')");
	$db->run;
	is(path($key, 'profile.phone'), '555-1234', 'a phone number is pushed');
	my $id = $db->profile_edit($key, 'phone', '5551234');
	my $time = $db->doc_update_time($key);
	run_ok('0 0 0 0', 'phone');
	is_deeply([ field($key, 'phone'), path($key, 'profile.phone') ], [ '555-1234', '5551234' ],
		'the same number in another form is left on both sides as it is');
	is($db->doc_update_time($key), $time, '... and not written');
	like(outcome($id), qr/^synced, closed: (?:echo|already in step)$/, '... and its entry is closed');
	$db->sql("UPDATE membership_contactinfo SET phone = '+3545551234' WHERE comrade_id = $last_id");
	run_ok('0 0 0 0', 'phone with its country');
	is($db->doc_update_time($key), $time, 'nor is it for a third form in the table');
}

# ------------------------------------------------------------ rows set by hand

{
	my ($again, $hidden, $inserted) = (next_key(), next_key(), next_key());
	set_name($again, 'Aftur');
	run_ok('1 0 0 0', 'once');
	my $time = $db->doc_update_time($again);
	$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'pending', synced_at = NULL WHERE ssn = '$again'");
	$db->admin_sql("BEGIN; SET LOCAL session_replication_role = replica; UPDATE membership_comrade SET name = 'Fram hjá' WHERE ssn IN ('$hidden', '$inserted'); COMMIT");
	quiet('a change that no trigger saw');
	is($db->sql("SELECT sync_status, synced_at IS NOT NULL FROM membership_membersyncqueue WHERE ssn = '$again'"), 'synced|t',
		'a row that was marked pending by hand is processed');
	is($db->doc_update_time($again), $time, '... and writes nothing where both sides are equal');

	$db->sql("INSERT INTO membership_membersyncqueue (member_id, ssn, action, fields_changed, created_at, sync_status, error_message, retry_count) "
		  . "SELECT id, ssn, 'update', '{}', now(), 'pending', '', 0 FROM membership_comrade WHERE ssn = '$inserted'");
	run_ok('1 0 0 0', 'a row by hand');
	in_step($inserted, 'Fram hjá', 'a row that was inserted by hand brings the member in step');
	isnt(path($hidden, 'profile.name'), 'Fram hjá', '... and nobody else');
}

# ---------------------------------------------- another try after the cause went

{
	my ($key, $row) = (next_key(), next_key());
	my $long = 'Þ' . 'ó' x 298 . 'r';
	my $name = field($key, 'name');
	my $id = $db->profile_edit($key, 'name', $long);
	$db->sql("UPDATE membership_comrade SET gender = 9 WHERE ssn = '$row'");
	run_ok('0 0 0 2', 'failures');
	like(outcome($id), qr/^failed, closed: profile\.name: .*250/, 'a name that is too long for its column fails in its entry');
	is(field($key, 'name'), $name, '... and is not cut');
	like($db->sql("SELECT sync_status, error_message, retry_count FROM membership_membersyncqueue WHERE ssn = '$row'"),
		qr/^failed\|gender: .*\|1$/, 'a code that means nothing fails in its row');
	quiet('failures');

	$db->sql('ALTER TABLE membership_comrade ALTER name TYPE varchar(400)');
	$db->sql("UPDATE membership_comrade SET gender = 3 WHERE ssn = '$row'");
	$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'pending' WHERE ssn = '$row' AND sync_status = 'failed'");
	$db->patch_doc("sync_queue/$id", { sync_status => 'pending', error_message => undef });
	run_ok('1 1 0 0', 'another try');
	in_step($key, $long, 'an entry set to pending again is applied when its cause is mended');
	is(outcome($id), 'synced, closed: applied', '... and closed');
	is_deeply([ field($row, 'gender'), path($row, 'profile.gender') ], [ 3, 'other' ], 'a row too');
	is($db->sql("SELECT string_agg(sync_status, ' ') FROM membership_membersyncqueue WHERE ssn = '$row'"), 'synced synced', '... and closed');
	quiet('another try');
}

done_testing();
