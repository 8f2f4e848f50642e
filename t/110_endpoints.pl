# The SQL that the application's endpoints and admin call: what is pending,
# changes given by others and their results, rows marked synced, tried again,
# removed; a member as its document would be.

use strict;
use warnings;
use feature qw(state);
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use Session;
use Time::HiRes qw(time);

my $db = EkkSync->new(members => 60, conf => "log_statement = 'none'");
my $json = JSON::PP->new->utf8(0)->canonical->allow_nonref;
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

sub next_key { return shift @key; }

sub refused
{
	my ($sql, $state, $like, $name) = @_;
	my ($status, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\n$sql");
	ok($status != 0 && $error =~ /ERROR:  $state: .*$like/s, "refused: $name") or diag($error);
	return;
}

sub field
{
	my ($key, $field) = @_;
	return $db->sql("SELECT $field FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'");
}

sub set_field
{
	my ($key, $field, $value) = @_;
	return $db->sql("UPDATE membership_comrade SET $field = " . $db->quote($value) . " WHERE ssn = '$key'") if $field eq 'name';
	return $db->sql("UPDATE membership_contactinfo SET $field = " . $db->quote($value) . " WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key')");
}

sub path { my ($key, $field) = @_; return $db->doc($key)->{profile}{$field} // ''; }
sub sides { my ($key, $field) = @_; return field($key, $field) . ' | ' . path($key, $field); }

# One change as the endpoint takes it.
sub change
{
	my ($key, $changes, %more) = @_;
	return { kennitala => $key, action => 'update', changes => $changes, %more };
}

# Results of a call, each as "ssn status fields message".
sub told
{
	my ($row) = @_;
	return join ' ', $row->{ssn} // '-', $row->{status}, defined $row->{updated_fields} ? '[' . join(',', @{ $row->{updated_fields} }) . ']' : (),
	  $row->{message} // ();
}
sub call { my ($given) = @_; return 'SELECT * FROM ekksync_apply(' . $db->quote($json->encode($given)) . ')'; }
sub apply { my (@changes) = @_; return map { told($_) } $db->rows(call({ changes => \@changes })); }

sub conflicts
{
	my ($key) = @_;
	return join '; ', map { "$_->{field}: $_->{django_value} | @{[ $_->{firestore_value} // '-' ]}, $_->{winner}, $_->{rule}" . ($_->{run} ? ", run $_->{run}" : '') }
	  $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id");
}

sub run_ok
{
	my ($figures, $name, %arg) = @_;
	my $run = $db->run(%arg);
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message});
	return;
}

sub quiet { return run_ok('0 0 0 0', "quiet after $_[0]"); }
sub pending { my ($key) = @_; return $db->sql("SELECT count(*) FROM ekksync_pending WHERE ssn = '$key'"); }
sub touched { return $db->admin_sql('SELECT count(*) FROM ekksync.touched'); }

# A moment before or after the last queue row of a member, in microseconds.
sub row_time
{
	my ($key, $move) = @_;
	return $db->sql("SELECT to_char((max(created_at) + interval '1 microsecond' * $move) AT TIME ZONE 'UTC', "
		  . "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM membership_membersyncqueue WHERE ssn = '$key'");
}

run_ok('60 0 0 0', 'first push');

# ------------------------------------------------------- a member as a document

{
	my $key = next_key();
	my $doc = $json->decode($db->sql("SELECT ekksync_doc('$key')"));
	delete $doc->{metadata}{$_} for qw(last_modified last_sync sync_write);
	is_deeply($json->decode($db->sql("SELECT ekksync_member('$key')")), $doc, 'a member is what its document would be');
	my $hyphened = substr($key, 0, 6) . '-' . substr $key, 6;
	is($db->sql("SELECT ekksync_member('$hyphened') = ekksync_member('$key')"), 't', '... with a hyphen as well');
	set_field($key, name => 'Ekki enn sent');
	is($json->decode($db->sql("SELECT ekksync_member('$key')"))->{profile}{name}, 'Ekki enn sent', '... as the row is now');
	is($db->sql("SELECT ekksync_member('0101010101') IS NULL AND ekksync_member(NULL) IS NULL"), 't', 'null of nobody');
	refused("SELECT ekksync_member('12345')", '22023', 'not a kennitala.*DETAIL', 'what is no kennitala');
	my $twin = $key[-1];
	$db->sql("UPDATE membership_comrade SET ssn = '$key' WHERE ssn = '$twin'");
	refused("SELECT ekksync_member('$key')", '21000', 'held by 2 rows', 'a doubled kennitala');
	is_deeply([ apply(change($key, { 'profile.name' => 'X' })) ], ["$key error kennitala is held by 2 rows"], '... which takes no change either');
	$db->sql("UPDATE membership_comrade SET ssn = '$twin' WHERE id = (SELECT max(id) FROM membership_comrade WHERE ssn = '$key')");
	$db->run;
	quiet('that');
}

# ------------------------------------------------------------ what is pending

{
	my @some = map { next_key() } 1 .. 3;
	set_field($_, name => "Bíður $_") for @some;
	$db->sql("UPDATE membership_membersyncqueue SET created_at = created_at - interval '40 days' WHERE ssn = '$some[2]' AND sync_status = 'pending'");
	is($db->sql('SELECT string_agg(ssn, \' \') FROM ekksync_changes()'), "$some[2] $some[0] $some[1]", 'pending rows, oldest first');
	is($db->sql(q{SELECT string_agg(ssn, ' ') FROM ekksync_changes(since => now() + interval '1 day')}), "$some[2] $some[0] $some[1]",
		'... and none is hidden by its age');
	is($db->sql('SELECT string_agg(ssn, \' \') FROM ekksync_changes(max => 2)'), "$some[2] $some[0]", '... no more than wanted');
	my $row = $db->row("SELECT * FROM ekksync_changes() WHERE ssn = '$some[0]'");
	is_deeply([ sort keys %$row ], [qw(action created_at fields_changed id member_id ssn)], '... as the endpoint has them');
	is_deeply([ @$row{qw(action fields_changed)} ], [ 'update', { name => "Bíður $some[0]" } ], '... with what was changed');
	refused("SELECT * FROM ekksync_changes(max => $_)", '22023', "invalid number of rows: $_.*HINT", "$_ rows") for 0, -1;

	# Equal times: by id.
	$db->sql("UPDATE membership_membersyncqueue SET created_at = '2026-01-01' WHERE sync_status = 'pending'");
	is($db->sql('SELECT string_agg(ssn, \' \') FROM ekksync_changes()'), "@some", '... rows of one time by their ids');

	# Marked synced: only what is pending, and the next run looks.
	my @id = map { $_->{id} } $db->rows('SELECT id FROM ekksync_changes()');
	$db->patch_doc($some[0], { 'profile.name' => "Bíður $some[0]" });
	$db->sql("UPDATE membership_membersyncqueue SET error_message = 'eitthvað' WHERE id = $id[0]");
	is($db->sql("SELECT ekksync_mark_synced(ARRAY[$id[0], $id[1], $id[1], 0, NULL])"), 2, 'rows are marked synced, each once');
	is($db->sql("SELECT bool_and(sync_status = 'synced' AND synced_at > created_at AND error_message = '') FROM membership_membersyncqueue WHERE id IN ($id[0], $id[1])"),
		't', '... with the time');
	is($db->sql("SELECT ekksync_mark_synced(ARRAY[$id[0], $id[1]])"), 0, '... and not twice');
	is(touched(), 2, '... which is noted');
	refused("SELECT ekksync_mark_synced($_)", '22023', 'no ids are given.*HINT', "marking $_") for 'NULL', q('{}');
	run_ok('2 0 0 0', 'the next run');
	is(sides($some[1], 'name'), "Bíður $some[1] | Bíður $some[1]", '... sends what was not true');
	quiet('that');
}

# Ten thousand at once.
{
	$db->sql(q{INSERT INTO membership_membersyncqueue (ssn, action, fields_changed, created_at, sync_status, error_message, retry_count)
		SELECT '9999999999', 'update', '{}', now(), 'pending', '', 0 FROM generate_series(1, 10000)});
	my $began = time;
	is($db->sql('SELECT ekksync_mark_synced((SELECT array_agg(id) FROM ekksync_changes()))'), 10000, 'ten thousand ids are marked');
	my $took = time - $began;
	cmp_ok($took, '<', 10, sprintf '... quickly (%.2f s)', $took);
	is($db->sql(q{SELECT ekksync_clear('synced') >= 10000}), 't', '... and cleared');
	$db->admin_sql(q{DELETE FROM ekksync.touched});
}

# ------------------------------------------------------------- changes applied

{
	my ($key, $other) = (next_key(), next_key());
	my $hyphened = substr($other, 0, 6) . '-' . substr $other, 6;
	is_deeply(
		[ apply(change($key, { 'profile.email' => 'a@b.is', 'profile.gender' => 2, 'membership.reachable' => JSON::PP::false }), change($hyphened, { 'profile.phone' => '+354 5551234' })) ],
		[ "$key success [email,gender,reachable]", "$other success [phone]" ], 'changes are applied, in the order given');
	is(field($key, 'email, gender, reachable'), 'a@b.is|2|f', '... to the rows');
	is(field($other, 'phone'), '555-1234', '... in the form of the field');
	is(pending($key) . pending($other), '21', '... and are captured');
	my ($mine) = grep { $_->{what} eq 'written to Django' } $db->rows("SELECT * FROM ekksync_history('$key', 'email')");
	is_deeply([ @$mine{qw(new_value run detail)} ], [ 'a@b.is', undef, 'ekksync_apply()' ], '... and told by ekksync_history()');
	is_deeply([ apply(change($key, { 'profile.email' => 'a@b.is' })) ], ["$key success []"], 'the same again changes nothing');
	is(conflicts($key) . conflicts($other), '', 'nobody lost');

	# The bare array; nested maps, as a function copies them; paths only we write.
	is_deeply([ map { told($_) } $db->rows(call([ change($key, { profile => { facebook => 'fb', kennitala => $key }, metadata => { source => 'x' }, updated_at => 'now' }) ])) ],
		["$key success [facebook]"], 'the bare array, and nested maps');
	is_deeply([ map { $_->{ordinal} } $db->rows(call([ map { change($_, {}) } $other, $key, $other ])) ], [ 1, 2, 3 ], 'an empty change is one');

	# The next run brings them to the documents, where they are not there yet.
	$db->patch_doc($other, { 'profile.phone' => '555-1234' });
	run_ok('1 0 0 0', 'the next run');
	is(sides($key, 'email'), 'a@b.is | a@b.is', '... brings it to a document that lacks it');
	is($db->sql("SELECT sync_status FROM membership_membersyncqueue WHERE ssn = '$other' ORDER BY id DESC LIMIT 1"), 'synced', '... and writes nothing where it is');
	quiet('that');
}

# As the page and the old function do it: document, entry, and then the call.
{
	my $key = next_key();
	my $entry = $db->profile_edit($key, name => 'Af síðunni');
	is_deeply([ apply(change($key, { 'profile.name' => 'Af síðunni' })) ], ["$key success [name]"], 'what the page has written comes by the endpoint');
	run_ok('0 0 0 0', 'a run after it');
	is($db->entry($entry)->{sync_status}, 'synced', '... closes its entry');
	is(sides($key, 'name') . conflicts($key), 'Af síðunni | Af síðunni', '... and finds both sides equal');
	quiet('that');
}

# ---------------------------------------------------------------- bad changes

{
	my ($good, $bad, $third) = map { next_key() } 1 .. 3;
	my $before = field($bad, 'name, birthday, email');
	my @result = apply(
		change('0101010101', { 'profile.name' => 'X' }), change('12', { 'profile.name' => 'X' }),
		{ action => 'update', changes => {} }, change(1201743399, {}), change($bad, { 'profile.name' => 'X', 'profile.nafn' => 'X' }),
		change($bad, { 'profile.name' => 'X', 'metadata.django_id' => 5 }), change($bad, { 'profile.name' => 'X', 'profile.birthday' => 'í vor' }),
		change($bad, { 'profile.name' => 'ó' x 251 }), change($bad, { 'profile.name' => 5 }),
		change($bad, { 'profile.name' => 'X' }, action => 'upsert'), change($bad, { 'profile.name' => 'X' }, action => 5),
		change($bad, undef), change($bad, ['profile.name']), 'nothing',
		change($bad, { 'profile.name' => 'X' }, created_at => 'í gær'), change($bad, { 'membership.unions' => ['X'] }),
		change($good, { 'profile.name' => 'Góð' }));
	is(shift @result, '0101010101 error member not found', 'an unknown member is an error');
	is(shift @result, '12 error kennitala is malformed', '... a malformed kennitala');
	is(shift @result, '- error kennitala is missing', '... a missing one');
	is(shift @result, '- error kennitala is malformed', '... a number');
	is(shift @result, "$bad error profile.nafn: unknown path", '... an unknown path, by name');
	is(shift @result, "$bad error metadata.django_id: not writable from Firestore", '... a one-way path');
	like(shift @result, qr/^$bad error profile\.birthday: /, '... a value that the codec does not read');
	like(shift @result, qr/^$bad error profile\.name: .*250/, '... one that is too long');
	like(shift @result, qr/^$bad error profile\.name: /, '... one of another type');
	is(shift @result, "$bad error unknown action \"upsert\"", '... an unknown action');
	is(shift @result, "$bad error the action is not a string", '... one that is none');
	is(shift @result, "$bad error the change has no changes", '... no changes');
	is(shift @result, "$bad error its changes are not an object", '... an array of them');
	is(shift @result, '- error the change is not an object', '... a string for a change');
	is(shift @result, "$bad error created_at is not a time", '... a time that is none');
	is(shift @result, "$bad error membership.unions: not writable from Firestore", '... a computed field');
	is(shift @result, "$good success [name]", 'the others go on');
	is(field($bad, 'name, birthday, email'), $before, 'a bad change changes nothing of its member');
	is(pending($bad), 0, '... and queues nothing');

	# What PostgreSQL refuses.
	$db->sql(q{ALTER TABLE membership_comrade ADD CONSTRAINT no_evil CHECK (name <> 'Illt')});
	is_deeply(
		[ apply(change($good, { 'profile.name' => 'Gott' }), change($bad, { 'profile.name' => 'Illt', 'profile.email' => 'x@y.is' }), change($bad, { 'profile.email' => 'z@y.is' }), change($third, { 'profile.name' => 'Þriðja' })) ],
		[ "$good success [name]", "$bad error new row for relation \"membership_comrade\" violates check constraint \"no_evil\"", "$bad success [email]", "$third success [name]" ],
		'what the table refuses is an error of that change alone');
	is(field($bad, 'email') . ' ' . field($good, 'name') . ' ' . field($third, 'name'), 'z@y.is Gott Þriðja', '... and the others are there');
	is(pending($bad), 1, '... and captured once');
	is($db->sql("SELECT count(*) FROM ekksync_history('$bad') WHERE what = 'written to Django' AND detail = 'ekksync_apply()'"), 1, '... and logged once');
	$db->sql('ALTER TABLE membership_comrade DROP CONSTRAINT no_evil');

	# A trigger that does not let it stay.
	$db->sql(q{CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := OLD.name; RETURN NEW; END';
		CREATE TRIGGER keep BEFORE UPDATE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION keep()});
	is_deeply([ apply(change($third, { 'profile.name' => 'X' })) ], ["$third error a trigger of the table did not let the value stay"], 'so is one that a trigger takes back');
	$db->sql('DROP TRIGGER keep ON membership_comrade');

	# What a constraint says that is deferred; the caller's own is his own.
	$db->sql(<<'SQL');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.name = 'Illt' THEN RAISE EXCEPTION 'ekki þennan'; END IF; RETURN NULL; END$$;
CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON membership_comrade DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
SQL
	is_deeply([ apply(change($good, { 'profile.name' => 'Gott enn' }), change($bad, { 'profile.name' => 'Illt' })) ],
		[ "$good success [name]", "$bad error ekki þennan" ], 'what would be refused at the commit is an error of its change');
	refused("BEGIN; UPDATE membership_comrade SET name = 'Illt' WHERE ssn = '$third'; " . call([ change($good, { 'profile.name' => 'X' }) ]), 'P0001', 'ekki þennan',
		'what the caller himself may not commit');
	$db->sql('DROP TRIGGER refuse ON membership_comrade');
	run_ok('3 0 0 0', 'the next run');
	quiet('bad changes');
}

# Wrong as a whole: nothing is done.
for ([ '5', 'neither an object nor an array' ], [ '"x"', 'neither' ], [ '{}', 'has no "changes"' ], [ '{"changes": {}}', 'not an array' ], [ '{"changes": null}', 'has no' ])
{
	my ($given, $like) = @$_;
	refused("SELECT * FROM ekksync_apply('$given')", '22023', "not a list of changes.*DETAIL:  .*$like.*HINT:  Give", $given);
}
refused('SELECT * FROM ekksync_apply(NULL)', '22004', 'must not be null', 'null');
is_deeply([ map { told($_) } $db->rows(q{SELECT * FROM ekksync_apply('[]')}) ], [], 'no changes, no results');
refused(q{BEGIN READ ONLY; SELECT * FROM ekksync_apply('[]')}, '25006', 'ekksync_apply', 'a read-only transaction');

# ------------------------------------------------------------- both sides changed

{
	# Django's edit is pending; the change comes now: it is later.
	my $log = -s $db->node->logfile;
	my $key = next_key();
	set_field($key, name => 'Django á undan');
	is_deeply([ apply(change($key, { 'profile.name' => 'Firestore nú' })) ], ["$key success [name]"], 'a later change wins');
	is(conflicts($key), 'name: Django á undan | Firestore nú, firestore, later write', '... and the loser is kept');
	my $logged = PostgreSQL::Test::Utils::slurp_file($db->node->logfile, $log);
	like($logged, qr/WARNING:  potential conflict in field "name" of member \*{7}\d{3}\n/, '... and warned of');
	unlike($logged, qr/$key|Django á|Firestore n/, '... without personal data');
	is($db->sql("SELECT string_agg(what || coalesce(' ' || run, ''), ', ') FROM ekksync_history('$key', 'name') WHERE what LIKE '%lost'"), q{Django's value lost}, '... and told');
	run_ok('1 0 0 0', 'the next run');
	is(sides($key, 'name'), 'Firestore nú | Firestore nú', '... carries it over');

	# It says that it was earlier.
	$key = next_key();
	set_field($key, name => 'Django á eftir');
	is_deeply([ apply(change($key, { 'profile.name' => 'Firestore á undan' }, created_at => row_time($key, -1))) ],
		["$key success [] name: lost to a later change"], 'an earlier change loses');
	is(conflicts($key), 'name: Django á eftir | Firestore á undan, django, later write', '... and is kept');
	is_deeply([ apply(change($key, { 'profile.name' => 'Firestore á eftir' }, created_at => row_time($key, 1))) ], ["$key success [name]"], 'one that says it was later wins');

	# From the future: it is of now.
	set_field($key, name => 'Django enn');
	my $at = $db->sql('SELECT clock_timestamp()');
	apply(change($key, { 'profile.name' => 'Úr framtíð' }, created_at => '2099-01-01T00:00:00Z'));
	is($db->sql("SELECT firestore_time BETWEEN '$at' AND clock_timestamp() FROM ekksync_conflicts WHERE member = '$key' ORDER BY id DESC LIMIT 1"), 't', 'a change from the future is one of now');
	$db->run;

	# Older than what both sides agreed on, and Django unchanged.
	$key = next_key();
	set_field($key, name => 'Sammælst');
	my $early = row_time($key, -1);
	$db->run;
	is_deeply([ apply(change($key, { 'profile.name' => 'Gömul' }, created_at => $early)) ], ["$key success [] name: superseded by a later change"], 'a change that comes late writes over nothing');
	is(field($key, 'name') . ', ' . conflicts($key), 'Sammælst, name: Sammælst | Gömul, django, later write', '... and is kept');
	is_deeply([ apply(change($key, { 'profile.name' => 'Nú' })) ], ["$key success [name]"], '... without a time it is one of now');
	is_deeply([ apply(change($key, { 'profile.name' => 'Fyrr' }, created_at => $early)) ], ["$key success [] name: superseded by a later change"], '... and that is known, too');

	# What both had is no change, though Django's waits.
	$key = next_key();
	my $had = field($key, 'name');
	set_field($key, name => 'Ný í Django');
	is_deeply([ apply(change($key, { 'profile.name' => $had })) ], ["$key success [] name: no change: Django's is newer"], 'a copy of what both sides had changes nothing');
	is(field($key, 'name') . conflicts($key), 'Ný í Django', '... and is no conflict');

	# Different fields.
	is_deeply([ apply(change($key, { 'profile.facebook' => 'annað' })) ], ["$key success [facebook]"], 'different fields merge');
	is(conflicts($key), '', '... without a conflict');
	$db->run;
	quiet('conflicts');
}

# The same member again and again: Firestore's side does not meet itself.
{
	my $key = next_key();
	is_deeply([ apply((map { change($key, { 'profile.name' => "Nafn $_" }) } 1 .. 3), change($key, { 'profile.email' => 'n@n.is' })) ],
		[ ("$key success [name]") x 3, "$key success [email]" ], 'the same member more than once');
	is(field($key, 'name, email'), 'Nafn 3|n@n.is', '... in order');
	apply(change($key, { 'profile.name' => 'Nafn 4' }));
	is(field($key, 'name') . conflicts($key), 'Nafn 4', '... and in another call, before any run: no conflict');
	my ($early, $late) = (row_time($key, 1), row_time($key, 3));
	is_deeply([ apply(change($key, { 'profile.name' => 'Seinna' }, created_at => $late), change($key, { 'profile.name' => 'Fyrr' }, created_at => $early)) ],
		[ "$key success [name]", "$key success [] name: superseded by a later change" ], '... by their own times, if they have some');
	is(field($key, 'name') . conflicts($key), 'Seinna', '... and no conflict');
	apply(map { change($key, { 'profile.name' => $_ }, created_at => $late) } 'Jafnt 1', 'Jafnt 2');
	is(field($key, 'name') . conflicts($key), 'Jafnt 2', '... of one time, in order');
	set_field($key, name => 'Django á milli');
	apply(change($key, { 'profile.name' => 'Aftur Firestore' }));
	is(conflicts($key), 'name: Django á milli | Aftur Firestore, firestore, later write', 'an edit of Django in between is one');

	# A related row that is not there is made once.
	my $none = next_key();
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$none')");
	$db->run;
	is_deeply([ apply(change($none, { 'profile.email' => 'e@e.is' }), change($none, { 'profile.phone' => '5550000' })) ], [ "$none success [email]", "$none success [phone]" ],
		'a missing related row is made');
	is(field($none, 'email, phone'), 'e@e.is|555-0000', '... once');
	run_ok('1 0 0 0', 'the run');
	quiet('that');
}

# A value that was refused here was never in a document: from there it is new.
{
	my $key = next_key();
	set_field($key, name => 'Django vann');
	apply(change($key, { 'profile.name' => 'Kemur aftur' }, created_at => row_time($key, -1)));
	$db->run;
	$db->profile_edit($key, name => 'Kemur aftur', document => 0);
	run_ok('1 1 0 0', 'an entry with a value that had lost here');
	is(sides($key, 'name'), 'Kemur aftur | Kemur aftur', '... is no echo');
	quiet('that');
}

# Nor was one that Django wrote over before a run came.
{
	my $key = next_key();
	apply(change($key, { 'profile.name' => 'Aldrei sent' }));
	set_field($key, name => 'Django aftur');
	$db->run;
	is(path($key, 'name'), 'Django aftur', 'a value that no document ever had');
	$db->profile_edit($key, name => 'Aldrei sent', document => 0);
	run_ok('1 1 0 0', 'an entry with it');
	is(sides($key, 'name'), 'Aldrei sent | Aldrei sent', '... is no echo');
	quiet('that');
}

# A member that was never synced.
{
	my $new = '2010806019';
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable) VALUES ('Úr Django', '$new', now(), true, true)");
	is_deeply([ apply(change($new, { 'profile.name' => 'Af síðunni', 'profile.email' => 'a@s.is' })) ], ["$new success [email,name]"], 'a member that was never synced');
	is(conflicts($new), 'name: Úr Django | Af síðunni, firestore, later write', "... whose queued value is Django's edit");
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$new'); DELETE FROM membership_comrade WHERE ssn = '$new'");
	$db->run;
	quiet('that');
}

# A function copies every write of the document, ours too, and may be late.
{
	my $key = next_key();
	for my $name ('Fyrri', 'Seinni')
	{
		set_field($key, name => $name);
		run_ok('1 0 0 0', "$name is sent");
	}
	is_deeply([ apply(change($key, { 'profile.name' => 'Fyrri' })) ], ["$key success [] name: no change: a copy of what the document had"], 'a late copy of what a run wrote is no change');
	quiet('it');
	is(sides($key, 'name') . conflicts($key), 'Seinni | Seinni', '... and takes nothing back');
	set_field($key, name => 'Þriðja');
	is_deeply([ apply(change($key, { 'profile.name' => 'Fyrri' })) ], ["$key success [] name: no change: a copy of what the document had"], '... nor while Django has an edit');
	run_ok('1 0 0 0', 'which the run');
	is(sides($key, 'name') . conflicts($key), 'Þriðja | Þriðja', '... brings over');

	# Who has gone back to it in the document is seen by the run.
	$db->profile_edit($key, name => 'Fyrri');
	apply(change($key, { 'profile.name' => 'Fyrri' }));
	$db->run;
	is(sides($key, 'name'), 'Fyrri | Fyrri', 'who goes back to it in the document, does');
	quiet('going back');
	$db->profile_edit($key, name => 'Fjórða');
	apply(change($key, { 'profile.name' => 'Fjórða' }));
	$db->profile_edit($key, name => 'Fyrri');
	is_deeply([ apply(change($key, { 'profile.name' => 'Fyrri' })) ], ["$key success [name]"], '... to what the last run saw, too');
	$db->run;
	is(sides($key, 'name'), 'Fyrri | Fyrri', '... before a run, too');
	quiet('that');

	# With its time it is an edit.
	is_deeply([ apply(change($key, { 'profile.name' => 'Seinni' }, created_at => row_time($key, 1_000_000_000))) ], ["$key success [name]"], 'with its time it is an edit');
	run_ok('1 0 0 0', 'which the run brings over');
	quiet('copies');
}

# Policies.
{
	my $key = next_key();
	for ([ django_wins => 'Django', '[] name: lost to a later change' ], [ firestore_wins => 'Firestore', '[name]' ], [ manual => 'Django', '[] name: held until a person decides' ])
	{
		my ($policy, $winner, $says) = @$_;
		$db->sql("SELECT ekksync_map('name', 'profile.name', 'text', \"column\" => 'name', policy => '$policy')");
		set_field($key, name => "Django $policy");
		is_deeply([ apply(change($key, { 'profile.name' => "Firestore $policy" })) ], ["$key success $says"], "policy $policy");
		is(field($key, 'name'), "$winner $policy", '... decides');
		like(conflicts($key), qr/name: Django $policy \| Firestore $policy, @{[ $policy eq 'manual' ? 'none' : lc $winner ]}, policy$/, '... and the loser is kept');
		$db->run;
	}
	is($db->sql("SELECT count(*) FROM ekksync_conflicts WHERE member = '$key' AND winner = 'none' AND resolved_at IS NULL"), 0, 'a held one that the document knows nothing of is closed by the run');
	$db->sql(q{SELECT ekksync_map('name', 'profile.name', 'text', "column" => 'name')});
	$db->run;
	quiet('policies');
}

# A computed field that is written back.
{
	my $key = next_key();
	$db->sql(<<'SQL');
CREATE TABLE nicknames (comrade_id integer PRIMARY KEY, nickname text);
CREATE TABLE elsewhere (comrade_id integer);
INSERT INTO nicknames (comrade_id) SELECT id FROM membership_comrade;
CREATE FUNCTION nick(integer) RETURNS text STABLE LANGUAGE sql AS 'SELECT nickname FROM public.nicknames WHERE comrade_id = $1';
CREATE FUNCTION set_nick(integer, jsonb) RETURNS void LANGUAGE sql AS 'UPDATE public.nicknames SET nickname = $2 #>> ''{}'' WHERE comrade_id = $1';
SELECT ekksync_map('nickname', 'profile.nickname', 'text', compute => 'nick(integer)', apply => 'set_nick(integer, jsonb)', depends => '{"public.elsewhere": {"link": "comrade_id"}}');
SQL
	$db->run;
	is_deeply([ apply(change($key, { 'profile.nickname' => 'Gælunafn' })) ], ["$key success [nickname]"], 'a computed field that can be written');
	run_ok('1 0 0 0', 'the run');
	is(path($key, 'nickname'), 'Gælunafn', '... is sent, though nobody watches where it is');
	$db->sql(q{SELECT ekksync_unmap('nickname')});
	$db->run;
}

# ------------------------------------------------------ members that come and go

{
	my ($new, $key) = ('2010805559', next_key());
	my %create = (action => 'create');
	my $profile = { profile => { name => 'Nýr félagi', email => 'n@f.is', kennitala => $new }, membership => { date_joined => '2026-01-02T03:04:05Z', status => 'active' }, metadata => { django_id => 5 } };
	is_deeply([ apply(change($new, $profile, %create)) ], ["$new error member not found"], 'on_remote_create = reject: a create of an unknown member fails');
	is_deeply([ apply(change($key, { 'profile.name' => 'Var til' }, %create)) ], ["$key success [name]"], '... one of a known member is an update');
	$db->admin_sql(q{ALTER DATABASE socialism SET ekksync.on_remote_create = 'insert'});
	is_deeply([ apply(change($new, $profile)) ], ["$new error member not found"], 'insert: an update inserts nobody');
	is_deeply([ apply(change($new, { 'membership.unions' => ['X'] }, %create)) ], ["$new error membership.unions: not writable from Firestore"], '... nor does a value that only we write');
	is_deeply([ apply(change($new, $profile, %create), change($new, { 'profile.phone' => '5551111' })) ],
		[ "$new success [date_joined,email,name]", "$new success [phone]" ], '... a create does, and what follows updates it');
	is(field($new, 'name, email, phone, date_joined'), 'Nýr félagi|n@f.is|555-1111|2026-01-02 03:04:05+00', '... with its values');
	run_ok('2 0 0 0', 'the run');
	is($db->doc($new)->{profile}{phone}, '555-1111', '... makes the document');
	quiet('that');

	my %delete = (action => 'delete');
	my @gone = ({ kennitala => $new, %delete });
	is_deeply([ apply(@gone) ], ["$new error deletes from Firestore are not applied: ekksync.on_remote_delete is restore"], 'on_remote_delete = restore: a delete fails');
	$db->admin_sql(q{ALTER DATABASE socialism SET ekksync.on_remote_delete = 'ignore'});
	is_deeply([ apply(@gone) ], ["$new success [] ignored: ekksync.on_remote_delete is ignore"], 'ignore: it is ignored');
	$db->admin_sql(q{ALTER DATABASE socialism SET ekksync.on_remote_delete = 'delete'});
	is_deeply([ apply({ kennitala => '0101010101', %delete }) ], ['0101010101 error member not found'], 'delete: of nobody');
	is_deeply([ apply({ %{ $gone[0] }, created_at => '2020-01-01T00:00:00Z' }) ], ["$new success [] superseded by a later change"], '... one that is older than what both sides know');
	set_field($new, name => 'Breytt í Django');
	is_deeply([ apply({ %{ $gone[0] }, created_at => row_time($new, -1) }) ], ["$new error not deleted: Django has a later edit of the member"], '... one that is older than an edit of Django');
	is_deeply([ apply(@gone, @gone) ], [ "$new success []", "$new success [] already deleted" ], '... else the row goes');
	is($db->sql("SELECT count(*) FROM membership_comrade WHERE ssn = '$new'"), 0, '... and is gone');
	is(conflicts($new), 'name: Breytt í Django | -, firestore, deleted in Firestore', '... and what Django had edited is kept');
	is($db->sql("SELECT old_value FROM ekksync_history('$new', 'phone') WHERE what = 'written to Django' AND new_value = 'null'"), '"555-1111"', '... and all that was there is told');
	run_ok('1 0 0 0', 'the run');
	is($db->doc($new)->{membership}{status}, 'inactive', '... makes the document inactive');
	is_deeply([ apply({ %{ change($new, $profile, %create) }, created_at => '2020-01-01T00:00:00Z' }) ], ["$new error member not found"], 'a create from before the deletion brings nobody back');
	is_deeply([ apply(change($new, $profile, %create)) ], ["$new success [date_joined,email,name]"], '... one of now does');
	$db->run;
	is($db->doc($new)->{membership}{status}, 'active', '... and the document is active again');
	quiet('that');

	# One that was never synced stays; many at once are damage.
	$db->sql(q{INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable) VALUES ('Óséð', '2010805719', now(), true, true)});
	is_deeply([ apply({ kennitala => '2010805719', %delete }) ], ['2010805719 error not deleted: the member was never synced'], 'one that was never synced stays');
	my @many = map { { kennitala => $_, %delete } } @key[ 0 .. 6 ];
	refused(call(\@many), '53400', 'would delete 7 of 61 members.*max_delete_percent is 10.*HINT', 'too many deletions');
	is($db->sql("SELECT count(*) FROM membership_comrade"), 62, '... and nobody is deleted');
	my %errors = map { $_ => 1 } apply(map { { kennitala => sprintf('01010101%02d', $_), %delete } } 1 .. 11);
	is(scalar(grep { /error member not found/ } keys %errors), 11, 'nobody is none of them');
	is_deeply([ apply(map { { kennitala => '2010805719', %delete } } 1 .. 8) ], [ ('2010805719 error not deleted: the member was never synced') x 8 ], '... and one is one, however often');

	# Values that are taken away count as well.
	my @seven = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id ORDER BY ssn LIMIT 7');
	apply(map { change($_, { 'profile.facebook' => "fb $_" }) } @seven);
	my @blank = map { change($_, { 'profile.facebook' => '' }) } @seven;
	refused(call(\@blank), '53400', 'would blank values of 7 of 61 members.*max_delete_percent is 10.*HINT', 'too many values that become none');
	is(field($seven[0], 'facebook'), "fb $seven[0]", '... and none does');
	refused(call([ @blank[ 0 .. 2 ], @many[ 3 .. 6 ] ]), '53400', 'would delete 4 and blank values of 3 of 61 members', '... together with deletions');
	is_deeply([ apply(@blank[ 0 .. 5 ]) ], [ map { "$_ success [facebook]" } @seven[ 0 .. 5 ] ], '... fewer do');
	is_deeply([ apply(@blank) ], [ (map { "$_ success []" } @seven[ 0 .. 5 ]), "$seven[6] success [facebook]" ], '... and what is none already does not count');
	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.on_remote_delete; ALTER DATABASE socialism RESET ekksync.on_remote_create');
	$db->run;
}

# ------------------------------------------------------------ others at work

{
	# A session that holds the row is waited for, and was earlier.
	my $key = next_key();
	my $other = Session->new($db);
	my $caller = Session->new($db);
	$other->sql('BEGIN');
	$other->sql("UPDATE membership_comrade SET name = 'Hin fyrri' WHERE ssn = '$key'");
	$caller->send("SELECT status FROM ekksync_apply('" . $json->encode([ change($key, { 'profile.name' => 'Hin seinni' }) ]) . "')");
	ok($db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = @{[ $caller->pid ]} AND wait_event_type = 'Lock'") }), 'who has the row locked is waited for');
	$other->sql('COMMIT');
	is($caller->answer, 'success', '... and then the change is made');
	is(field($key, 'name') . ', ' . conflicts($key), 'Hin seinni, name: Hin fyrri | Hin seinni, firestore, later write', '... as the later one');

	# A lock that is not to be had is an error of the call: it may be made again.
	$other->sql('BEGIN');
	$other->sql("UPDATE membership_comrade SET name = 'Enn' WHERE ssn = '$key'");
	my ($free) = $key[0];
	my $sql = call([ change($free, { 'profile.name' => 'Ekki heldur' }), change($key, { 'profile.name' => 'Ekki' }) ]);
	refused("SET lock_timeout = 100; $sql", '55P03', 'lock timeout', 'a row that stays locked');
	isnt(field($free, 'name'), 'Ekki heldur', '... and nothing is done');
	$other->sql('ROLLBACK');

	# Undone with its transaction, all of it.
	$other->sql('BEGIN');
	$other->sql(call([ change($free, { 'profile.name' => 'Hætt við' }) ]));
	$other->sql('ROLLBACK');
	is(field($free, 'name') eq 'Hætt við' || $db->sql("SELECT count(*) FROM ekksync_history('$free') WHERE detail = 'ekksync_apply()'"), 0, 'what is rolled back leaves no trace');
	$db->run;
	quiet('others');

	# While a run is at it: between reading, and before it writes to the row.
	for my $step (qw(decided in_lock applied))
	{
		$key = next_key();
		set_field($key, name => "Django $step");
		$db->profile_edit($key, email => "$step\@a.is");
		$db->stop_at($step);
		$db->sql('SELECT ekksync_run(wait => false)');
		ok($db->wait_stopped, "a run is at $step");
		$caller->send(call([ change($key, { 'profile.name' => "Meðan $step", 'profile.facebook' => $step }) ]));
		$db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = @{[ $caller->pid ]} AND (wait_event_type = 'Lock' OR state = 'idle')") });
		$db->go_on;
		like($caller->answer, qr/success/, '... a change is made meanwhile');
		$db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0 });
		$db->run;
		is(join(' / ', map { sides($key, $_) } qw(name email facebook)), "Meðan $step | Meðan $step / $step\@a.is | $step\@a.is / $step | $step", '... and nothing is lost');
		quiet("a change at $step");
	}
}

# While runs are paused, or observe.
{
	my $key = next_key();
	$db->sql(q{SELECT ekksync_pause('hlé')});
	$db->admin_sql(q{ALTER DATABASE socialism SET ekksync.mode = 'observe'});
	is_deeply([ apply(change($key, { 'profile.name' => 'Í hléi' })) ], ["$key success [name]"], 'paused and observing: changes are applied');
	is($db->sql('SELECT count(*) FROM ekksync_changes()'), 1, '... and are pending');
	is($db->sql('SELECT ekksync_mark_synced(ARRAY(SELECT id FROM ekksync_changes()))'), 1, '... and can be marked');
	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.mode');
	$db->sql('SELECT ekksync_resume()');
	run_ok('1 0 0 0', 'a run after that');
	is(sides($key, 'name'), 'Í hléi | Í hléi', '... carries it over');
}

# Many at once, with some that fail.
{
	my @all = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY random()');
	$db->sql(q{ALTER TABLE membership_comrade ADD CONSTRAINT no_evil CHECK (name <> 'Illt')});
	my @changes = map { my $round = $_; map { change($_, { 'profile.name' => "Umferð $round" }) } @all } 1 .. 10;
	$_->{changes}{'profile.name'} = 'Illt' for my @evil = @changes[ 7, 300, 301, -1 ];
	my $listener = Session->new($db);
	my $began = time;
	my @result = apply(@changes);
	note sprintf '%d changes in %.2f s', scalar @changes, time - $began;
	is_deeply([ map { /^(\d+)/ } @result ], [ map { $_->{kennitala} } @changes ], 'the results of many are in their order, by key');
	is(scalar(grep { /error .*no_evil/ } @result), 4, '... and those that failed are errors');
	is(scalar(grep { /success \[name\]$/ } @result), @changes - 4, '... and no others');
	is($db->sql(q{SELECT count(*) FROM membership_comrade WHERE name = 'Umferð 10'}), @all - 1, '... and the last one stays');
	is($db->sql(q{SELECT count(*) FROM ekksync_conflicts WHERE firestore_value::text LIKE '%Umferð%'}), 0, '... and none is a conflict');
	$db->sql('ALTER TABLE membership_comrade DROP CONSTRAINT no_evil');
	$db->run;
	quiet('many');
}

# ------------------------------------------------------------ retry and clear

{
	my ($key, $other) = (next_key(), next_key());
	set_field($_, name => 'Reynt aftur') for $key, $other;
	my @id = map { $_->{id} } $db->rows('SELECT id FROM ekksync_changes() ORDER BY id');
	$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'failed', error_message = 'bilað', retry_count = 3 WHERE id IN ($id[0], $id[1])");
	my $entry = $db->queue_entry(docId => '2010805989', changes => { 'profile.name' => 'Kemur seinna' });
	my $broken = $db->queue_entry(docId => 'ekki kennitala', changes => { 'profile.name' => 'X' });
	$db->run;
	is($db->entry($entry)->{sync_status}, 'failed', 'an entry of somebody unknown fails');
	is($db->sql("SELECT ekksync_retry(ARRAY[$id[0], 0, NULL])"), 1, 'a failed row is tried again');
	is($db->sql("SELECT sync_status || ' ' || retry_count || ' ' || error_message FROM membership_membersyncqueue WHERE id = $id[0]"), 'pending 3 ', '... is pending, with its count');
	is($db->sql("SELECT sync_status FROM membership_membersyncqueue WHERE id = $id[1]"), 'failed', '... and no other');
	is($db->sql(q{SELECT ekksync_retry('{}')}), 0, 'none, of no ids');

	# The member is there by now.
	$db->sql(q{INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable) VALUES ('Fyrst', '2010805989', '2020-01-01', true, true)});
	$db->sql(q{UPDATE membership_membersyncqueue SET created_at = '2020-01-01' WHERE ssn = '2010805989'});
	$db->set_doc('2010805989', { profile => { name => 'Kemur seinna' } });
	is($db->sql('SELECT ekksync_retry()'), 2, 'all that failed: rows, and entries that a run decided');
	is($db->sql(q{SELECT string_agg(side || ': ' || error_message, '; ') FROM ekksync_failed}), 'firestore: kennitala is malformed', '... but not an entry that is wrong itself');
	$db->run(dry_run => 1);
	run_ok('1 0 1 0', 'the next run');
	is($db->entry($entry)->{sync_status}, 'synced', '... decides the entry anew, and says so in its document');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE id IN ($id[0], $id[1]) AND sync_status = 'synced'"), 2, '... and settles the rows');
	is($db->sql('SELECT ekksync_retry()'), 0, 'then nothing has failed');
	quiet('retries');

	# Entries whose document has gone.
	my $gone = $db->queue_entry(docId => '0101010101', changes => { 'profile.name' => 'X' });
	$db->run;
	$db->delete_doc("sync_queue/$gone");
	is($db->sql('SELECT ekksync_retry()'), 1, 'an entry whose document is deleted');
	run_ok('0 0 0 1', 'the run');
	is($db->entry($gone), undef, '... and it is not made again');
	$db->admin_sql(q{DELETE FROM ekksync.inbox WHERE error_message IS NOT NULL});
}
{
	my ($key, $other) = (next_key(), next_key());
	set_field($_, name => 'Hreinsað') for $key, $other;
	$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'failed', error_message = 'bilað' WHERE ssn = '$other' AND sync_status = 'pending'");
	$db->admin_sql('DELETE FROM ekksync.touched');
	is($db->sql(q{SELECT ekksync_clear('pending')}), 1, 'pending rows are cleared');
	is($db->sql(q{SELECT ekksync_clear('failed')}), 1, '... and failed ones');
	is($db->sql(q{SELECT count(*) FROM membership_membersyncqueue WHERE sync_status <> 'synced'}), 0, '... all');
	run_ok('2 0 0 0', 'the next run');
	is(sides($_, 'name'), 'Hreinsað | Hreinsað', '... loses nothing by it') for $key, $other;

	# The row of a changed key stays, while the member waits.
	my $id = $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'");
	$db->patch_doc($key, { 'profile.annarra' => 'geymt' });
	$db->sql("UPDATE membership_comrade SET ssn = '2010806449' WHERE id = $id");
	$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE ssn = '$key' AND action = 'delete'");
	ok($db->sql(q{SELECT ekksync_clear('synced')}) > 0, 'synced rows are cleared');
	is($db->sql(q{SELECT string_agg(ssn || ' ' || action, ', ' ORDER BY id) FROM membership_membersyncqueue}), "$key delete, 2010806449 create", '... but for that of a changed key');
	$db->run;
	is($db->doc('2010806449')->{profile}{annarra}, 'geymt', '... by which what others wrote goes with the member');
	for my $how ('pending', 'failed')
	{
		my ($from, $to) = $how eq 'pending' ? qw(2010806449 2010806529) : qw(2010806529 2010806609);
		$db->sql("UPDATE membership_comrade SET ssn = '$to' WHERE id = $id");
		$db->sql("UPDATE membership_membersyncqueue SET sync_status = '$how' WHERE ssn IN ('$from', '$to') AND sync_status = 'pending'");
		is($db->sql("SELECT ekksync_clear('$how')"), 0, "those of a changed key stay while they are $how");
		$db->sql('SELECT ekksync_retry()');
		$db->run;
		is($db->doc($to)->{profile}{annarra}, 'geymt', '... and what others wrote goes with the member');
	}
	refused("SELECT ekksync_clear($_->[0])", '22023', $_->[1] . '.*HINT', "clearing $_->[0]") for [ 'NULL', 'no status' ], [ q('all'), 'unknown status "all"' ], [ q('Pending'), 'unknown status' ];
	quiet('clearing');
}
is($db->sql('SELECT count(*) FROM ekksync_diff()'), 0, 'after all that nothing differs');

# ------------------------------------------------------------------ who may

{
	$db->admin_sql('CREATE ROLE visitor LOGIN');
	my $visitor = Session->new($db, 'visitor');
	my %call = (
		'ekksync_changes(timestamptz, integer)' => 'SELECT * FROM ekksync_changes()',
		'ekksync_apply(jsonb)'                  => q{SELECT * FROM ekksync_apply('[]')},
		'ekksync_mark_synced(bigint[])'         => q{SELECT ekksync_mark_synced('{1}')},
		'ekksync_member(text)'                  => q{SELECT ekksync_member('0101010101')},
		'ekksync_retry(bigint[])'               => 'SELECT ekksync_retry()',
		'ekksync_clear(text)'                   => q{SELECT ekksync_clear('synced')});
	for my $function (sort keys %call)
	{
		eval { $visitor->sql($call{$function}) };
		like($@, qr/42501: permission denied for function/, "$function is not for everybody");
		$db->admin_sql("GRANT EXECUTE ON FUNCTION $function TO visitor");
		eval { $visitor->sql($call{$function}) };
		like($@, $function =~ /apply/ ? qr/42501: permission denied to call ekksync_apply\(\).*"socialism".*HINT/s : qr/42501: permission denied for (?:schema|table)/,
			'... nor for who has no right to the tables');
	}
	$db->admin_sql('GRANT SELECT, UPDATE ON membership_membersyncqueue TO visitor');
	is($visitor->sql('SELECT count(*) FROM ekksync_changes()'), 0, 'with rights on the queue it is shown');
	is($visitor->sql(q{SELECT ekksync_mark_synced('{1}')}), 0, '... and can be changed');
	eval { $visitor->sql(q{SELECT ekksync_clear('synced')}) };
	like($@, qr/42501: permission denied for table/, '... no more than that');
}
for (q{SELECT * FROM ekksync_changes()}, q{SELECT * FROM ekksync_apply('[]')}, q{SELECT ekksync_mark_synced('{1}')}, q{SELECT ekksync_member('0101010101')}, q{SELECT ekksync_retry()}, q{SELECT ekksync_clear('synced')})
{
	state $detached //= $db->sql('SELECT count(*) FROM ekksync_detach()');
	refused($_, '55000', 'ekksync is not attached.*HINT', "without an attachment: $_");
}

done_testing();
