# What people and other programs put in a run's way ("One bad row stops
# nobody: poison rows, documents and fields fail alone, with their reason"):
# queue rows that hold anything, a trigger that refuses what becomes of a row,
# a computing function that raises, a row that is damaged, documents whose values
# do not fit, fields that wait for a person, and entries whose errors are long.
# And no kennitala that any of them names reaches the server log.

use strict;
use warnings;
use utf8;
use Encode qw(encode_utf8);
use JSON::PP ();
use Test::More;
use EkkSync qw(timestamp);
use PostgreSQL::Test::Utils qw(slurp_file);

use constant MEMBERS => 520;	# more than a run works on at once

my $db = EkkSync->new(members => MEMBERS);
my @keys = split /\n/, $db->sql('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C"');

# ------------------------------------------------------------------- helpers

# Kennitala of a member that no other part of this test uses, of the first page
# of a run.
my $taken = 0;
sub next_key { return $keys[ 3 * $taken++ ]; }

sub update_member { my ($key, $set) = @_; return $db->sql("UPDATE membership_comrade SET $set WHERE ssn = '$key'"); }

sub column { my ($key, $column) = @_; return $db->sql("SELECT $column FROM membership_comrade WHERE ssn = '$key'"); }

sub console_edit
{
	my ($key, %changes) = @_;
	$db->patch_doc($key, { %changes, updated_at => timestamp() }, exists => 1);
	return;
}

# Conflicts of a member as [field, django, firestore, winner, rule].
sub conflicts
{
	my ($key) = @_;
	return [ map { [ @$_{qw(field django_value firestore_value winner rule)} ] }
		  $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id") ];
}

# Queue rows of a member as "status[, error]", oldest first.
sub queue
{
	my ($key) = @_;
	return $db->sql("SELECT sync_status || CASE WHEN error_message = '' THEN '' ELSE ', ' || error_message END "
		  . "FROM membership_membersyncqueue WHERE ssn = '$key' ORDER BY created_at, id");
}

sub forget_queue { return $db->sql('DELETE FROM membership_membersyncqueue'); }

# A run that must succeed; with figures: to Firestore, to Django, conflicts,
# failed.
sub run_ok
{
	my ($figures, $name) = @_;
	my $run = $db->run;
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message});
	return;
}

sub quiet { my ($name) = @_; return run_ok('0 0 0 0', "quiet after $name"); }

# ---------------------------------------- a document's value that does not fit

my $first = next_key();
$db->set_doc($first, { profile => { name => column($first, 'name'), birthday => 'í gær' } });
run_ok(MEMBERS . ' 0 1 0', 'first push');
is_deeply(conflicts($first), [ [ 'birthday', column($first, 'birthday'), 'í gær', 'none', 'value does not fit' ] ],
	'at first contact a value that does not fit is on hold');
is($db->doc($first)->{profile}{birthday}, 'í gær', '... and stays in the document');

{
	my ($known, $both, $undone) = map { next_key() } 1 .. 3;
	my $birthday = column($known, 'birthday');
	console_edit($_, 'profile.birthday' => 'í gær') for $known, $undone;
	run_ok('0 0 2 0', 'values that do not fit');
	is_deeply(conflicts($known), [ [ 'birthday', $birthday, 'í gær', 'none', 'value does not fit' ] ],
		'a value that does not fit is on hold');
	is_deeply([ column($known, 'birthday'), $db->doc($known)->{profile}{birthday} ], [ $birthday, 'í gær' ], '... and both sides stay');
	quiet('values that do not fit');

	console_edit($both, 'profile.birthday' => 'á morgun');
	update_member($_, "birthday = '1980-01-02'") for $first, $known, $both;
	my $before = column($undone, 'birthday');
	update_member($undone, "birthday = '1980-01-02'");
	update_member($undone, "birthday = '$before'");
	run_ok('3 0 3 2', 'edits of fields on hold');
	for my $case ([ $first, 'í gær', 'from the first contact' ], [ $known, 'í gær', 'for long' ], [ $both, 'á morgun', 'only now' ])
	{
		my ($key, $loser, $name) = @$case;
		is_deeply([ column($key, 'birthday'), $db->doc($key)->{profile}{birthday} ], [ ('1980-01-02') x 2 ], "a local edit of a field on hold $name wins");
		is_deeply(conflicts($key)->[-1], [ 'birthday', '1980-01-02', $loser, 'django', 'value does not fit' ], '... and the loser is kept');
		is(queue($key), 'synced', '... and the queue row is synced');
	}
	is(queue($undone), join("\n", ("failed, birthday: held: the document's value does not fit") x 2), 'rows that leave the field on hold say so');
	is($db->doc($undone)->{profile}{birthday}, 'í gær', '... and the document is as it was');
	quiet('edits of fields on hold');
	forget_queue();
}

# --------------------------------------------- fields that wait for a person

sub map_facebook
{
	my ($policy) = @_;
	$db->sql(<<"SQL");
SELECT ekksync_map('facebook', 'profile.facebook', 'text', relation => 'membership_contactinfo',
	"column" => 'facebook', link => 'comrade_id', policy => '$policy')
SQL
	run_ok('0 0 0 0', "policy $policy");
	return;
}

{
	my $key = next_key();
	my $id = column($key, 'id');
	my $facebook = sub { return $db->sql("SELECT facebook FROM membership_contactinfo WHERE comrade_id = $id"); };
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = $id; INSERT INTO membership_contactinfo (comrade_id, facebook) VALUES ($id, 'sammála')");
	run_ok('1 0 0 0', 'before policy manual');
	map_facebook('manual');
	forget_queue();

	$db->sql("UPDATE membership_contactinfo SET facebook = 'okkar' WHERE comrade_id = $id");
	run_ok('1 0 0 0', 'one side changed');
	is($db->doc($key)->{profile}{facebook}, 'okkar', 'policy manual holds nothing that only one side has changed');
	forget_queue();

	my $entry = $db->profile_edit($key, 'facebook', 'þeirra');
	$db->sql("UPDATE membership_contactinfo SET facebook = 'aftur okkar' WHERE comrade_id = $id");
	my $time = $db->doc_update_time($key);
	run_ok('0 0 1 1', 'both sides changed');
	is($facebook->(), 'aftur okkar', 'where both have, the row stays');
	is_deeply([ $db->doc($key)->{profile}{facebook}, $db->doc_update_time($key) ], [ 'þeirra', $time ], '... and the document');
	my $conflict = [ 'facebook', 'aftur okkar', 'þeirra', 'none', 'policy' ];
	is_deeply(conflicts($key), [$conflict], '... as a conflict that nobody won');
	is(queue($key), 'failed, facebook: held until a person decides', '... the queue row says that it is held');
	is($db->entry($entry)->{sync_status}, 'synced', '... the entry is closed');
	is($db->admin_sql("SELECT status || ': ' || note FROM ekksync.inbox WHERE doc_id = '$entry'"), 'closed: held', '... as held');
	quiet('both sides changed');
	update_member($key, "name = 'Annað mál'");
	run_ok('1 0 0 0', 'another field of that member');
	is_deeply(conflicts($key), [$conflict], 'a push of another field does not repeat the conflict');
	is_deeply([ $facebook->(), @{ $db->doc($key)->{profile} }{qw(facebook name)} ], [ 'aftur okkar', 'þeirra', 'Annað mál' ], '... nor touch the field');
	quiet('another field of that member');

	# a person decides, on either side
	$db->patch_doc($key, { 'profile.facebook' => 'aftur okkar', updated_at => timestamp() });
	quiet('a decision');
	map_facebook('lww');
	forget_queue();
}

# ----------------------------------------------- entries whose errors are long

{
	my $victim = next_key();
	my $name = column($victim, 'name');
	my $euro = '€' x 20;		# 60 bytes
	my %entry = (
		paths => { changes => { (map { ("profile.óþekktur_$_" => $_) } 1 .. 3000), 'profile.name' => $name } },
		action      => { action => $euro },
		long_action => { action => '€' x 700 },
		collection  => { collection => $euro },
		long_collection => { collection => 'a' . '€' x 700 },
		path => { changes => { '€' x 450 => 1 } });
	my %id = map { $_ => $db->queue_entry(docId => $victim, changes => { 'profile.name' => $name }, %{ $entry{$_} }) } keys %entry;
	my $good = next_key();
	my $good_entry = $db->profile_edit($good, 'name', 'Óháð löngum villum');
	run_ok('0 1 0 6', 'long errors');
	is(column($good, 'name'), 'Óháð löngum villum', 'a good entry beside them is applied');
	is($db->entry($good_entry)->{sync_status}, 'synced', '... and closed');
	my %error;
	for my $what (sort keys %entry)
	{
		my $doc = $db->entry($id{$what});
		my $message = $error{$what} = $doc->{error_message} // '';
		is($doc->{sync_status}, 'failed', "$what: the entry is failed");
		cmp_ok(length(encode_utf8($message)), '<=', 1000, '... with a message of 1 kB at most');
		unlike($message, qr/\x{FFFD}/, '... of whole characters');
		is($db->admin_sql("SELECT status FROM ekksync.inbox WHERE doc_id = '$id{$what}'"), 'closed', '... and closed on our side');
		is($db->sql("SELECT error_message FROM ekksync_failed WHERE side = 'firestore' AND id = '$id{$what}'"), $message, '... where ekksync_failed shows the same');
	}
	like($error{paths}, qr/^profile\.óþekktur_\d+: unknown path; profile\.óþekktur_\d+: unknown path; /, 'unknown paths are named');
	is($error{action}, qq{unknown action "$euro"}, 'an unknown action is, too');
	is($error{collection}, qq{unknown collection "$euro"}, '... and an unknown collection');
	my $tries = sub { return $db->admin_sql('SELECT array_agg(retry_count || status ORDER BY doc_id) FROM ekksync.inbox'); };
	my $before = $tries->();
	quiet('long errors');
	is($tries->(), $before, 'none is staged again');
}

# ---------------------------------------------------- queue rows that hold anything

# Pending rows: [key, action, fields_changed, created_at].
sub queue_rows
{
	my $values = join ', ', map {
		my ($key, $action, $fields, $stamp) = @$_;
		"('$key', '$action', '$fields', " . ($stamp ? "timestamptz '$stamp'" : 'clock_timestamp()') . ')';
	} @_;
	$db->sql("INSERT INTO membership_membersyncqueue (member_id, ssn, action, fields_changed, created_at, sync_status, error_message, retry_count) "
		  . "SELECT (SELECT min(id) FROM membership_comrade WHERE ssn = v.ssn), ssn, action, fields::jsonb, stamp, 'pending', '', 0 "
		  . "FROM (VALUES $values) v (ssn, action, fields, stamp)");
	return;
}

my @odd = ('[]', '"x"', 'null', '17', '["name"]', '{"no_such_field": 1}', '{"name": [[]]}', '{"ssn": 5}', '{"ssn": null}', '{"ssn": {"a": []}}');
{
	my ($key, $good) = (next_key(), next_key());
	my @members = ($key, '0101019999', '12345', '');
	my $before = $db->doc($key);
	my @rows = map { [ $key, 'update', '{}', $_ ] } 'infinity', '-infinity', '9999-12-31', '0001-01-01';
	for my $member (@members)
	{
		for my $action (qw(update create delete explode), '')
		{
			push @rows, map { [ $member, $action, $_ ] } @odd;
		}
	}
	queue_rows(@rows);
	update_member($good, "name = 'Óháð undarlegum röðum'");
	my $run = $db->run;
	is("$run->{status} @$run{qw(to_firestore to_django conflicts)}", 'success 1 0 0', 'a run over odd queue rows') or diag($run->{message});
	is($db->doc($good)->{profile}{name}, 'Óháð undarlegum röðum', '... syncs a good one beside them');
	is_deeply($db->doc($key), $before, '... and leaves the document of their member as it was');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE ssn <> '$good'"), scalar(@rows), '... all rows are there');
	is($db->sql("SELECT DISTINCT sync_status || error_message FROM membership_membersyncqueue WHERE ssn = '$key'"), 'synced', '... those of a live member synced');
	is($db->sql("SELECT DISTINCT sync_status || error_message FROM membership_membersyncqueue WHERE ssn = '0101019999'"), 'synced', '... those of nobody too');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE ssn IN ('12345', '') AND sync_status <> 'synced' "
		  . "AND NOT (sync_status = 'failed' AND error_message = 'kennitala is malformed' AND retry_count = 1)"), 0,
		'... those of no kennitala synced or failed, with the reason');
	is($db->count_docs('members'), MEMBERS, '... and nobody gets a document');
	quiet('odd queue rows');
	forget_queue();
}
{
	my $other = EkkSync->new(name => 'newest', members => 2, attach_args => "initial => 'newest'");
	my $key = $other->sql('SELECT min(ssn) FROM membership_comrade');
	$other->sql("INSERT INTO membership_membersyncqueue (ssn, action, fields_changed, created_at, sync_status) "
		  . "SELECT '$key', 'update', f::jsonb, now(), s FROM unnest(ARRAY['@{[join q(', '), @odd]}']) f, unnest('{pending,synced,failed}'::text[]) s");
	my $run = $other->run;
	is("$run->{status} @$run{qw(to_firestore failed)}", 'success 2 0', 'a first contact by the newest, over odd queue rows') or diag($run->{message});
	is($other->count_docs('members'), 2, '... meets every member');
	$other->node->stop;
}

# --------------------------------------- a trigger that refuses what becomes of a row

{
	my $victim = next_key();
	my ($earlier, $later) = @keys[ 1, MEMBERS - 1 ];
	$db->sql("UPDATE membership_comrade SET name = name || ' breytt'");
	$db->sql(<<"SQL");
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	IF NEW.ssn = '$victim' THEN RAISE EXCEPTION 'the row of % may not change', NEW.ssn; END IF;
	RETURN NEW;
END \$\$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON membership_membersyncqueue FOR EACH ROW EXECUTE FUNCTION refuse();
SQL
	my $statuses = "SELECT string_agg(n || ' ' || s, ', ' ORDER BY s) FROM (SELECT sync_status, count(*) FROM membership_membersyncqueue GROUP BY 1) q (s, n)";
	my $refused = qr/\b1 members? could not be recorded\b.*: the row of $victim may not change$/;
	my $run = $db->run;
	is($run->{status}, 'failed', 'a run that may not settle a row fails');
	like($run->{message}, $refused, '... and says why');
	is($db->sql($statuses), '1 pending, ' . (MEMBERS - 1) . ' synced', '... but has synced all others, of both pages');
	my $docs = $db->docs('members');
	is(scalar(grep { $docs->{$_}{profile}{name} =~ / breytt$/ } @keys), MEMBERS, '... whose documents have it');
	is($db->sql("SELECT sync_status, error_message, retry_count FROM membership_membersyncqueue WHERE ssn = '$victim'"), 'pending||0', 'that row is pending');
	my $time = $db->doc_update_time($victim);

	my @entries = map { $db->profile_edit($_, 'name', 'Aftur breytt') } $earlier, $later;
	$run = $db->run;
	is("$run->{status} @$run{qw(to_firestore to_django conflicts)}", 'failed 0 2 0', 'so does the next run');
	like($run->{message}, $refused, '... and says so again');
	is(column($_, 'name'), 'Aftur breytt', '... but has applied what came meanwhile') for $earlier, $later;
	is($db->entry($_)->{sync_status}, 'synced', '... and closed it') for @entries;

	$db->sql('DROP TRIGGER refuse ON membership_membersyncqueue');
	run_ok('0 0 0 0', 'the trigger has gone');
	is($db->sql($statuses), MEMBERS . ' synced', 'without the trigger all is synced');
	is($db->doc_update_time($victim), $time, '... and the document was not written again');
	is($db->sql("SELECT count(*) FROM ekksync_conflicts WHERE member = '$victim'"), 0, '... nor was there a conflict');
	quiet('the trigger has gone');
	forget_queue();
}

# --------------------------------------------------- a computing function that raises

{
	my @troubled = map { next_key() } 1 .. 3;
	my $list = join ', ', map { "'$_'" } @troubled;
	my %before = map { $_ => $db->doc($_) } @troubled;
	$db->sql(<<"SQL");
CREATE TABLE troubled AS SELECT id, (ARRAY['P0001', 'XX001', '53400'])[row_number() OVER ()] AS code
	FROM membership_comrade WHERE ssn IN ($list);
CREATE FUNCTION label(member integer) RETURNS text LANGUAGE plpgsql STABLE AS \$\$
DECLARE
	code text := (SELECT t.code FROM public.troubled AS t WHERE id = member);
BEGIN
	IF code IS NOT NULL THEN RAISE EXCEPTION 'there is no label for this one' USING ERRCODE = code; END IF;
	RETURN 'merki ' || member;
END \$\$;
UPDATE membership_comrade SET name = 'Bíður' WHERE ssn = '$troubled[0]';
SELECT ekksync_map('label', 'membership.label', 'text', direction => 'push', compute => 'label(integer)');
SQL
	run_ok(MEMBERS - 3 . ' 0 0 3', 'a function that raises');
	is_deeply([ $db->rows("SELECT member, error_message, retry_count FROM ekksync_failed WHERE side = 'django' ORDER BY member") ],
		[ map { { member => $_, error_message => 'there is no label for this one', retry_count => 1 } } sort @troubled ],
		'those for whom it does are failed, with the reason');
	is_deeply({ map { $_ => $db->doc($_) } @troubled }, \%before, '... and their documents are as they were');
	my %id = split /[|\n]/, $db->sql("SELECT ssn, id FROM membership_comrade WHERE ssn NOT IN ($list)");
	my $docs = $db->docs('members');
	is(scalar(grep { ($docs->{$_}{membership}{label} // '') eq "merki $id{$_}" } keys %id), MEMBERS - 3, 'everybody else has the new field');
	quiet('a function that raises');

	my $entry = $db->profile_edit($troubled[1], 'name', 'Líka');
	run_ok('0 0 0 1', 'an entry for one of them');
	is($db->entry($entry)->{error_message}, 'there is no label for this one', 'an entry for one of them fails for the same reason');

	$db->sql("DROP TABLE troubled; CREATE OR REPLACE FUNCTION label(member integer) RETURNS text LANGUAGE sql AS \$\$SELECT 'merki ' || member\$\$");
	$db->sql(q{UPDATE membership_membersyncqueue SET sync_status = 'pending' WHERE sync_status = 'failed'});
	$db->patch_doc("sync_queue/$entry", { sync_status => 'pending' });
	run_ok('3 1 0 0', 'the function is mended');
	is($db->doc($_)->{membership}{label}, 'merki ' . column($_, 'id'), 'mended and set to pending, they have the field') for @troubled;
	is($db->doc($troubled[0])->{profile}{name}, 'Bíður', '... and what waited with it');
	is_deeply([ column($troubled[1], 'name'), $db->entry($entry)->{sync_status} ], [ 'Líka', 'synced' ], '... on either side');
	is($db->sql(q{SELECT count(*) FROM membership_membersyncqueue WHERE sync_status <> 'synced'}), 0, '... and all rows are synced');
	quiet('the function is mended');
}

# ------------------------------------------------ a row that is damaged, a full disk

{
	my %code = map { next_key() => $_ } qw(XX000 XX001 53400 58030);
	my $good = $keys[-1];
	my $damage = sub {
		my $codes = JSON::PP::encode_json({@_});
		$db->sql(<<"SQL");
CREATE OR REPLACE FUNCTION damaged() RETURNS trigger LANGUAGE plpgsql AS \$\$
DECLARE
	code text := '$codes'::jsonb ->> NEW.ssn;
BEGIN
	IF code IS NOT NULL THEN RAISE EXCEPTION 'missing chunk for %', NEW.ssn USING ERRCODE = code; END IF;
	RETURN NEW;
END \$\$
SQL
		return;
	};
	$damage->(%code);
	$db->sql('CREATE TRIGGER damaged BEFORE UPDATE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION damaged()');
	my %entry = map { $_ => $db->profile_edit($_, 'name', 'Skemmd röð') } keys %code;
	$db->profile_edit($good, 'name', 'Heil röð');
	run_ok('0 1 4 4', 'damaged rows');
	is(column($good, 'name'), 'Heil röð', 'damaged rows stop nobody');
	is($db->entry($entry{$_})->{error_message}, "profile.name: missing chunk for $_", "... and fail with their reason ($code{$_})")
	  for sort keys %code;

	$damage->($good => '53100');
	$db->profile_edit($good, 'name', 'Fullur diskur');
	my $run = $db->run;
	is("$run->{status}: $run->{message}", "failed: missing chunk for $good", 'a full disk ends the run');
	$db->sql('DROP TRIGGER damaged ON membership_comrade');
	is($db->run->{status}, 'success', '... and the next one');
	is(column($good, 'name'), 'Fullur diskur', '... does what is left');

	my $log = slurp_file($db->node->logfile);
	like($log, qr/LOG:  ekksync run $run->{run} failed: missing chunk for \*{10}$/m, 'the server log has the reason, with the kennitala masked');
	like($log, qr/LOG:  ekksync run \d+ could not record member \*{7}\d{3}: the row of \*{10} may not change$/m,
		'... also where a member could not be recorded');
}

done_testing();
