# A real Django project on the real database, as the role that owns the tables:
# the package installs; what the ORM writes is captured; the endpoints answer in
# their forms; the command; a queue that the project had before is adopted with
# its rows; the Icelandic texts are complete.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use Django;
use JSON::PP ();
use PostgreSQL::Test::Utils qw(slurp_file);

my $missing = Django::missing('pip', 'setuptools', 'wheel');
ok(!$missing, 'what this test needs is installed') or diag($missing), done_testing(), exit;

my $top = $ENV{EKKSYNC_TOP};
my $db = EkkSync->new(members => 40, attach => 0);
my ($old) = $db->copies('adoption');
my $json = JSON::PP->new->canonical->allow_nonref;

# ------------------------------------------------------------------ the package

my $package = "$ENV{TESTDIR}/package";
{
	my $source = "$ENV{TESTDIR}/source";
	system('rm', '-rf', $package, $source);
	system('cp', '-r', "$top/django", $source);
	my $out = `/usr/bin/python3 -m pip install --quiet --no-index --no-build-isolation --no-deps --no-compile --target $package $source 2>&1`;
	is($?, 0, 'pip installs the package') or diag($out);
	my @files = map { s{^\Q$top\E/django/}{}r } split /\n/, `find $top/django/ekksync -type f -not -path '*/__pycache__/*'`;
	is(join(' ', grep { !-e "$package/$_" } @files), '', '... with all its files');
	cmp_ok(scalar @files, '>', 15, '... of which there are some');
}

# ------------------------------------------------------------------ a new project

$db->attach;
my $django = Django->new($db, package => $package);
my $manage = sub { my @result = $django->manage(@_); return @result; };
my ($status, $out, $err) = $manage->('migrate', '--fake-initial', '-v0');
is("$status $err", '0 ', 'migrate');
($status, $out, $err) = $manage->('makemigrations', '--check', '--dry-run');
is("$status $err", '0 ', '... leaves nothing to migrate') or diag($out);
($status, $out, $err) = $manage->('check');
is("$status", '0', '... nothing to complain of') or diag($out . $err);
is($db->sql("SELECT string_agg(app_label || '.' || model, ' ' ORDER BY app_label, model) FROM django_content_type WHERE app_label = 'ekksync' OR model = 'membersyncqueue'"),
	'ekksync.conflict ekksync.history ekksync.run membership.membersyncqueue', '... and the models have content types');
is($db->sql("SELECT string_agg(codename, ' ' ORDER BY codename COLLATE \"C\") FROM auth_permission WHERE codename ~ 'queue|conflict|history|_run'"),
	'add_membersyncqueue change_membersyncqueue delete_membersyncqueue resolve_conflict start_run view_conflict view_history view_membersyncqueue view_run',
	'... and permissions');

# ----------------------------------------------------------------------- capture

is($db->run->{status}, 'success', 'the first run');
$db->sql('DELETE FROM membership_membersyncqueue');

my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id ORDER BY id');
sub next_key { return shift @key; }

# The rows of the queue, as "kennitala action fields": all, or those of members.
sub queued
{
	my (@keys) = @_;
	my $where = @keys ? 'WHERE ssn IN (' . join(', ', map { "'$_'" } @keys) . ')' : '';
	return [
		map { "$_->{ssn} $_->{action} " . $json->encode($_->{fields_changed}) }
		  $db->rows("SELECT ssn, action, fields_changed FROM membership_membersyncqueue $where ORDER BY id")
	];
}

sub settle
{
	my ($name) = @_;
	my $run = $db->run;
	is("$run->{status} $run->{failed} failed, $run->{conflicts} conflicts", 'success 0 failed, 0 conflicts', "$name: a run takes it over");
	$db->sql('DELETE FROM membership_membersyncqueue');
	return;
}

{
	my ($key, $other) = (next_key(), next_key());
	$django->python(qq{for key in ('$key', '$other'): Comrade.objects.get(ssn=key).save()});
	is_deeply(queued(), [], 'a save that changes nothing is no change');
	$django->python(qq{m = Comrade.objects.get(ssn='$key'); m.name = 'Þóra Æsa'; m.gender = 3; m.save()});
	is_deeply(queued(), [qq($key update {"gender":3,"name":"Þóra Æsa"})], 'save: the fields that changed, and no other');
	$django->python(qq{m = Comrade.objects.get(ssn='$key'); m.contact.email = 'ný\@dæmi.is'; m.contact.save()});
	is_deeply([ @{ queued() }[1 .. @{ queued() } - 1] ], [qq($key update {"email":"ný\@dæmi.is"})], 'save of a related model');
	settle('save');
	is_deeply([ @{ $db->doc($key)->{profile} }{qw(name email gender)} ], [ 'Þóra Æsa', "ný\@dæmi.is", 'other' ], '... to the document');
}
{
	my @three = map { next_key() } 1 .. 3;
	my $list = $json->encode(\@three);
	$db->sql("UPDATE membership_comrade SET housing_situation = NULL WHERE ssn = ANY ('{@three}'::text[])" =~ s/(\d) (\d)/$1,$2/gr);
	settle('beforehand');
	$django->python(<<"P");
rows = list(Comrade.objects.filter(ssn__in=$list).order_by('id'))
for i, m in enumerate(rows):
    m.housing_situation = i + 4
    m.name = 'ekki vistað'
Comrade.objects.bulk_update(rows, ['housing_situation'])
P
	is_deeply(queued(), [ map { sprintf '%s update {"housing_situation":%d}', $three[$_], $_ + 4 } 0 .. 2 ], 'bulk_update: one row for each member');
	$django->python(qq{Comrade.objects.filter(ssn='$three[0]').update(reachable=False, name='Uppfærð')});
	is_deeply([ @{ queued($three[0]) }[1] ], [qq($three[0] update {"name":"Uppfærð","reachable":false})], 'update of a queryset');
	settle('bulk_update');
	is($db->doc($three[2])->{profile}{housingSituation}, 'homeless', '... to the document');
}
{
	my $key = next_key();
	my (undef, $error) = $django->python(<<"P");
with transaction.atomic():
    Comrade.objects.filter(ssn='$key').update(name='Horfin')
    Comrade.objects.create(name='Horfin', ssn='0101302989', date_joined='2026-01-01T00:00Z')
    raise ValueError('taken back')
P
	like($error, qr/taken back/, 'a transaction that is rolled back');
	is_deeply(queued(), [], '... leaves no trace');
}
my $new = '0101302989';
{
	$django->python(<<"P");
with transaction.atomic():
    m = Comrade.objects.create(name='Ný', ssn='$new', date_joined='2026-01-01T00:00Z')
    ContactInfo.objects.create(comrade=m, phone='5551234')
    Union.objects.get(pk=1).unionmembership_set.create(comrade=m)
    m.emails.add(Email.objects.create(email='ny\@example.is'))
P
	is($db->sql("SELECT string_agg(concat_ws(' ', action, fields_changed -> 'phone', fields_changed -> 'unions'), ', ' ORDER BY id) FROM membership_membersyncqueue WHERE ssn = '$new'"),
		'create, update "555-1234", update null', 'create, with what belongs to it');
	is($db->sql("SELECT bool_and(member_id = (SELECT id FROM membership_comrade WHERE ssn = '$new')) FROM membership_membersyncqueue WHERE ssn = '$new'"), 't', '... of this member');
	is(scalar $django->python("result = str(MemberSyncQueue.objects.filter(ssn='$new').first().member)"), 'Ný', '... which the model finds');
	settle('create');
	my $doc = $db->doc($new);
	is_deeply([ $doc->{profile}{phone}, $doc->{membership}{status}, scalar @{ $doc->{membership}{unions} } ], [ '555-1234', 'active', 1 ], '... to the document');
}
{
	$django->python("Comrade.objects.filter(ssn='$new').update(name='Enn ný'); UnionMembership.objects.filter(comrade__ssn='$new').delete()");
	is($db->sql("SELECT string_agg(k, ' ' ORDER BY k) FROM membership_membersyncqueue, jsonb_object_keys(fields_changed) AS k WHERE ssn = '$new'"),
		'name unions', 'an edit of a member and of a union');
	$django->python("m = Comrade.objects.get(ssn='$new'); m.delete()");
	like($db->sql("SELECT string_agg(action || ' ' || coalesce(member_id::text, 'null'), ', ' ORDER BY id) FROM membership_membersyncqueue WHERE ssn = '$new'"),
		qr/^(?:update null, )+delete null$/, 'delete, with what belongs to it: the last row, and all are of nobody');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue AS q WHERE member_id IS NOT NULL AND NOT EXISTS (SELECT FROM membership_comrade WHERE id = q.member_id)"),
		0, '... and none refers to a member that is gone');
	settle('delete');
	is($db->doc($new)->{membership}{status}, 'inactive', '... to the document');
}
{
	my ($key) = (next_key());
	my $id = $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'");
	my $fixture = "$ENV{TESTDIR}/members.json";
	open my $file, '>:encoding(UTF-8)', $fixture or die "$fixture: $!";
	print $file $json->encode([
		{ model => 'membership.comrade', pk => $id, fields => { name => 'Úr skrá', ssn => $key, date_joined => '2020-02-02T02:02:02Z' } },
		{ model => 'membership.comrade', pk => 9001, fields => { name => 'Hlaðin', ssn => '0202302989', date_joined => '2026-02-02T00:00:00Z' } } ]);
	close $file;
	($status, $out, $err) = $manage->('loaddata', $fixture);
	is("$status $err", '0 ', 'loaddata') or diag($out);
	is($db->sql("SELECT string_agg(action || ' ' || (fields_changed ->> 'name'), ', ' ORDER BY id) FROM membership_membersyncqueue"),
		'update Úr skrá, create Hlaðin', '... updates and creates');
	settle('loaddata');
	is_deeply([ map { $db->doc($_)->{profile}{name} } $key, '0202302989' ], [ 'Úr skrá', 'Hlaðin' ], '... to the documents');
}

# ----------------------------------------------------------- the queue's own model

{
	my @members = map { next_key() } 1 .. 3;
	$django->python("Comrade.objects.filter(ssn='$_').update(gender=3 - (Comrade.objects.get(ssn='$_').gender or 0))") for @members;
	is_deeply(scalar $django->python("result = [q.ssn for q in MemberSyncQueue.get_pending_changes()]"), \@members, 'get_pending_changes: oldest first');
	is_deeply(scalar $django->python("from django.utils import timezone; result = [q.ssn for q in MemberSyncQueue.get_pending_changes(timezone.now())]"),
		\@members, '... whatever their age');
	$django->python("MemberSyncQueue.objects.get(ssn='$members[0]').mark_synced(); MemberSyncQueue.objects.get(ssn='$members[1]').mark_failed('ónýtt')");
	is($db->sql("SELECT string_agg(concat_ws(' ', sync_status, error_message, retry_count, synced_at IS NOT NULL), ', ' ORDER BY id) FROM membership_membersyncqueue"),
		'synced  0 t, failed ónýtt 1 f, pending  0 f', 'mark_synced, mark_failed');
	is($db->run->{to_firestore}, 3, '... and the next run looks whether it is so');
	is($db->doc($_)->{profile}{gender}, { 0 => 'unknown', 1 => 'male', 2 => 'female', 3 => 'other' }->{ $db->sql("SELECT gender FROM membership_comrade WHERE ssn = '$_'") },
		'... and no change is lost') for @members;
	$db->sql("UPDATE membership_membersyncqueue SET created_at = created_at - interval '40 days', synced_at = synced_at - interval '40 days' WHERE ssn = '$members[0]'");
	is(scalar $django->python('result = MemberSyncQueue.cleanup_old_synced()'), 1, 'cleanup_old_synced: how many rows it removed');
	is(scalar $django->python('result = MemberSyncQueue.cleanup_old_synced(days=30)'), 0, '... which is none if there is none');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE ssn = '$members[0]'"), 0, '... and they are gone');
	$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced', created_at = created_at - interval '40 days', synced_at = clock_timestamp() - interval '40 days'");
	$db->sql("INSERT INTO membership_membersyncqueue (member_id, ssn, sync_status, created_at, synced_at) SELECT id, ssn, 'synced', now() - interval '40 days', now() FROM membership_comrade WHERE ssn = '$members[0]'");
	is_deeply(scalar $django->python(<<"P"), [ 1, [ sort "$members[0] synced", "$members[2] pending", "$members[2] synced" ], 3 ],
with transaction.atomic():
    m = Comrade.objects.get(ssn='$members[2]')
    m.name = 'Skrifað fyrst'
    m.save()
    removed = MemberSyncQueue.cleanup_old_synced()
    left = sorted('%s %s' % row for row in MemberSyncQueue.objects.values_list('ssn', 'sync_status'))
    transaction.set_rollback(True)
result = [removed, left, MemberSyncQueue.objects.count()]
P
		'in a transaction that has written it deletes rows itself: what was synced long ago, and of nobody with a pending one; and is undone with it')
	  or diag(explain(queued()));
	$db->sql('DELETE FROM membership_membersyncqueue');
}

# ---------------------------------------------------------------------- endpoints

my $api = '/felagar/api/sync';
my $web = Django->new($db, package => $package, env => { REGISTRY_ATOMIC => 1 });
my %token = %{ $django->python(<<'P') };
from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token
result = {}
for name, staff in (('sync', True), ('nobody', False)):
    user = User.objects.create_user(name, password='x', is_staff=staff)
    result[name] = Token.objects.create(user=user).key
P
$web->serve;

# Calls as the administrator: (status, text, decoded).
sub get  { my ($path, %opt) = @_; return $web->request(GET => "$api/$path", token => $token{sync}, %opt); }
sub post { my ($path, $body, %opt) = @_; return $web->request(POST => "$api/$path", token => $token{sync}, body => $body, %opt); }

sub answer
{
	my ($name, $answer, $status, $text) = @_;
	is("$answer->[0] $answer->[1]", "$status $text", $name);
	return;
}

{
	my @calls = ([ GET => 'changes/' ], [ POST => 'apply/' ], [ POST => 'mark-synced/' ], [ GET => 'status/' ], [ GET => "member/$key[0]/" ]);
	for my $call (@calls)
	{
		my ($method, $path) = @$call;
		my @body = $method eq 'POST' ? (body => '{}') : ();
		my ($none, undef, undef, $headers) = $web->request($method => "$api/$path", @body);
		my ($bad) = $web->request($method => "$api/$path", token => 'x' x 40, @body);
		my ($other) = $web->request($method => "$api/$path", token => $token{nobody}, @body);
		is("$none $bad $other $headers->{'www-authenticate'}", '401 401 403 Token', "$path: a token is wanted, a good one, an administrator's");
		my ($wrong) = $web->request(($method eq 'GET' ? 'POST' : 'GET') => "$api/$path", token => $token{sync});
		is($wrong, 405, "... and $method");
	}
}

answer('changes: none', [ get('changes/') ], 200, '{"changes":[],"count":0}');
answer('status: none', [ get('status/') ], 200, '{"pending":0,"synced":0,"failed":0,"oldest_pending":null}');
{
	my ($key) = (next_key());
	$db->sql("UPDATE membership_comrade SET name = 'Jón Þór \"Æ\"' WHERE ssn = '$key'");
	$db->sql("UPDATE membership_membersyncqueue SET created_at = '2026-11-05 10:30:00.25+00'");
	my $id = $db->sql('SELECT id FROM membership_membersyncqueue');
	my $change = qq({"changes":[{"id":$id,"ssn":"$key","action":"update","fields_changed":{"name":"Jón Þór \\"Æ\\""},"created_at":"2026-11-05T10:30:00.250000+00:00"}],"count":1});
	answer('changes: one', [ get('changes/') ], 200, $change);
	answer("... since $_", [ get("changes/?since=$_") ], 200, $change)
	  for '2026-11-05T03:30:00Z', '2026-11-05T03:30:00.123%2B00:00', '2026-11-05', '2030-01-01T00:00:00Z', '';
	answer("... since $_", [ get("changes/?since=$_") ], 400, '{"error":"Invalid since parameter format. Use ISO 8601 format (e.g., 2025-11-14T12:00:00Z)."}')
	  for 'yesterday', '2026-13-45T00:00:00Z', '1', '2026-02-30', '%00';
	answer('status', [ get('status/') ], 200, '{"pending":1,"synced":0,"failed":0,"oldest_pending":"2026-11-05T10:30:00.250000+00:00"}');

	answer('mark-synced', [ post('mark-synced/', { sync_ids => [ $id, $id, 0, -1 ] }) ], 200, '{"success":true,"marked_synced":1}');
	answer('... only counts what was pending', [ post('mark-synced/', { sync_ids => ["$id"] }) ], 200, '{"success":true,"marked_synced":0}');
	answer("... none: $_", [ post('mark-synced/', $_) ], 400, '{"error":"No sync_ids provided"}') for '{}', '{"sync_ids":[]}', '{"sync_ids":null}';
	answer("... wrong: $_", [ post('mark-synced/', $_) ], 400, '{"error":"sync_ids must be a list of numbers"}')
	  for '{"sync_ids":1}', '{"sync_ids":"1"}', '{"sync_ids":{"1":1}}', '{"sync_ids":["x"]}', '{"sync_ids":[1.5]}', '{"sync_ids":[true]}', '{"sync_ids":[null]}', '{"sync_ids":[[1]]}', '{"sync_ids":[9223372036854775808]}', '{"sync_ids":["-"]}', '{"sync_ids":0}';
	answer("... no object: $_", [ post('mark-synced/', $_) ], 400, '{"error":"Invalid request body"}') for '[1]', '1', '"x"', 'null';
	is($db->run->{to_firestore}, 1, 'what was marked and was not so is sent by the next run');

	$db->sql("INSERT INTO membership_membersyncqueue (member_id, ssn) SELECT id, ssn FROM membership_comrade, generate_series(1, 10000) WHERE ssn = '$key'");
	my @ids = map { $_->{id} } $db->rows("SELECT id FROM membership_membersyncqueue WHERE sync_status = 'pending'");
	answer('10,000 ids', [ post('mark-synced/', { sync_ids => \@ids }) ], 200, '{"success":true,"marked_synced":10000}');
	$db->sql('DELETE FROM membership_membersyncqueue');
}
for my $path ('apply/', 'mark-synced/')
{
	for my $bad ('{', '', 'x', '{"a":1,}', '{"sync_ids":[NaN]}', "\xff\xfe")
	{
		my ($status, $text, $value) = post($path, $bad);
		ok($status == 400 && ref $value eq 'HASH' && ($value->{detail} // $value->{error}), "$path: bad JSON is refused, with the reason") or diag("$status $text");
	}
	is((post($path, 'a=1', type => 'application/x-www-form-urlencoded'))[0], 415, "$path: a form is refused");
}
for my $bad ('{"changes":1}', '{"changes":"x"}', '{"changes":{"a":1}}', '1', 'null', '"x"', '{"changes":[1]}', '{"changes":[{"kennitala":"0101302989","changes":{"profile.name":"\u0000"}}]}')
{
	my ($status, $text, $value) = post('apply/', $bad);
	ok($status == 400 && ref $value eq 'HASH' && length($value->{error} // '') || $status == 200 && ($value->{results}[0]{status} // '') eq 'error',
		"apply: $bad is refused, with the reason") or diag("$status $text");
}
is_deeply(queued(), [], '... and nothing has changed');
{
	my ($key, $other) = (next_key(), next_key());
	my $hyphen = $key =~ s/^(.{6})/$1-/r;
	my ($status, $text, $value) = post('apply/', { changes => [
		{ kennitala => $hyphen, action => 'update', changes => { 'profile.email' => "breytt\@example.is", 'profile.gender' => 3 } },
		{ kennitala => '0000000000', action => 'update', changes => { 'profile.name' => 'x' } },
		{ kennitala => '12345', action => 'update', changes => { 'profile.name' => 'x' } },
		{ kennitala => $other, action => 'update', changes => { 'profile.nothing' => 'x' } },
		{ kennitala => $other, action => 'update', changes => { 'profile.birthday' => 'in spring' } },
		{ kennitala => $other, action => 'update', changes => { 'profile.name' => 'Önnur' } } ] });
	is($status, 200, 'apply') or diag($text);
	my @results = @{ $value->{results} };
	is(substr($text, 0, length qq({"results":[{"ssn":"$key","status":"success","updated_fields":[)), qq({"results":[{"ssn":"$key","status":"success","updated_fields":[), '... in its form');
	is_deeply([ map { "$_->{ssn} $_->{status}" } @results ],
		[ "$key success", '0000000000 error', '12345 error', "$other error", "$other error", "$other success" ], '... one result for each, in order, the hyphen taken');
	is_deeply([ sort @{ $results[0]{updated_fields} } ], [ 'email', 'gender' ], '... with the fields');
	is(join(' ', sort keys %{ $results[1] }), 'message ssn status', '... or the message');
	like($results[1]{message}, qr/^member not found$/i, '... of an unknown member');
	like($results[3]{message}, qr/profile\.nothing/, '... of an unknown path');
	like($text, qr/\{"ssn":"0000000000","status":"error","message":"[^"]+"\}/, '... in its form');
	is($db->sql("SELECT email, gender FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'"), "breytt\@example.is|3", '... and the row has it');
	is($db->sql("SELECT name FROM membership_comrade WHERE ssn = '$other'"), 'Önnur', '... in spite of errors beside it');
	answer('apply: a change that is one already', [ post('apply/', { changes => [ { kennitala => $key, action => 'update', changes => { 'profile.gender' => 3 } } ] }) ],
		200, qq({"results":[{"ssn":"$key","status":"success","updated_fields":[]}]}));
	answer('apply: no changes', [ post('apply/', '{"changes":[]}') ], 200, '{"results":[]}');
	settle('apply');
	is($db->doc($key)->{profile}{email}, "breytt\@example.is", '... to the document');

	my ($got, undef, $member) = get("member/$hyphen/");
	is($got, 200, 'member, with a hyphen');
	is_deeply($member, (get("member/$key/"))[2], '... or without');
	my $row = $db->row("SELECT c.*, i.email, i.phone FROM membership_comrade AS c JOIN membership_contactinfo AS i ON comrade_id = id WHERE ssn = '$key'");
	is_deeply([ map { $member->{$_} } qw(ssn name birthday gender housing_situation email) ],
		[ map { $row->{$_} } qw(ssn name birthday gender housing_situation email) ], '... flat, by the names of the fields');
	my $doc = $db->doc($key);
	is_deeply($member->{profile}, $doc->{profile}, '... and as the document has it');
	is($member->{street_address}, $doc->{address}{street}, '... with the address');
	my $stamp = $db->sql("SELECT to_char(date_joined AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS') FROM membership_comrade WHERE ssn = '$key'");
	like($member->{date_joined}, qr/^\Q$stamp\E.*\+00:00$/, '... and when it joined');
	answer("member $_", [ get("member/$_/") ], 404, '{"error":"Member not found"}')
	  for '0000000000', '000000-0000', '12345', 'x', "$key-", '%D9%A1%D9%A2%D9%A3%D9%A4%D9%A5%D9%A6%D9%A7%D9%A8%D9%A9%D9%A0';
}

# ------------------------------------------------------------------- the command

{
	($status, $out, $err) = $manage->('ekksync', 'status', '--json');
	my $value = eval { $json->decode($out) };
	is("$status $value->{health} $value->{pending}", '0 ok 0', 'ekksync status --json');
	($status, $out) = $manage->('ekksync', 'status');
	like($out, qr/^health +ok$/m, 'ekksync status');
	my $key = next_key();
	$db->sql("UPDATE membership_comrade SET name = 'Skipun' WHERE ssn = '$key'");
	($status, $out) = $manage->('ekksync', 'run', '--dry-run');
	like("$status $out", qr/^0 firestore: $key name ".*" -> "Skipun".*\nrun \d+: success, 1 to Firestore, 0 to Django, 0 conflicts, 0 failed$/s, 'ekksync run --dry-run shows what it would do');
	is($db->sql("SELECT sync_status FROM membership_membersyncqueue WHERE ssn = '$key'"), 'pending', '... and does nothing');
	($status, $out, $err) = $manage->('ekksync', 'diff');
	like("$status $out", qr/^0 $key name: "Skipun" \| ".*" \(pending.*\)\n1 difference$/, 'ekksync diff');
	my $hyphen = $key =~ s/^(.{6})/$1-/r;
	($status, $out) = $manage->('ekksync', 'run', '--only', $hyphen);
	like("$status $out", qr/^0 run \d+: success, 1 to Firestore/, 'ekksync run --only');
	($status, $out) = $manage->('ekksync', 'run', '--direction', 'to_django', '--json');
	is("$status " . eval { $json->decode($out)->{direction} }, '0 to_django', 'ekksync run --direction --json');
	($status, $out) = $manage->('ekksync', 'run', '--no-wait');
	like("$status $out", qr/^0 run \d+ started$/, 'ekksync run --no-wait');
	$db->wait_for(sub { $db->sql('SELECT count(*) FROM ekksync_progress') == 0 });

	$db->admin_sql("BEGIN; SET LOCAL session_replication_role = replica; UPDATE membership_comrade SET name = 'Fram hjá' WHERE ssn = '$key'; COMMIT");
	($status, $out, $err) = $manage->('ekksync', 'diff', '--json');
	is("$status " . eval { $json->decode($out)->[0]{why} } . " $err", "1 unexplained CommandError: unexplained: 1\n", 'ekksync diff fails where something is unexplained');
	$db->sql("UPDATE membership_comrade SET name = 'Skipun' WHERE ssn = '$key'");

	($status, $out) = $manage->('ekksync', 'check');
	is($status, 0, 'ekksync check') or diag($out);
	like($out, qr/^ok      /m, '... lists what it looked at');
	$db->stop_at('fenced');
	$db->sql('SELECT ekksync_run(wait => false)');
	ok($db->wait_stopped, 'a run is at work');
	is_deeply(scalar $django->python(<<'P'), [ '55006', '55006', 'ok' ], '... so that others are refused, and the session goes on');
from ekksync import sql
result = []
for call in (lambda: sql.cleanup(), lambda: sql.start_run(dry_run=True)):
    try:
        call()
        result.append('ok')
    except sql.SqlError as error:
        result.append(error.sqlstate)
result.append(sql.status()['health'])
P
	$db->go_on;
	$db->wait_for(sub { $db->sql('SELECT count(*) FROM ekksync_progress') == 0 });
	$db->sql("SELECT ekksync_pause('flutningar')");
	($status, $out, $err) = $manage->('ekksync', 'run');
	like("$status $err", qr/^1 CommandError: .*flutningar/s, 'a run that is refused is an error, with the reason');
	$db->sql('SELECT ekksync_resume()');
	my $host = $db->host;
	$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_retries = 0');
	$db->use_host('127.0.0.1:' . EkkSync::free_port());
	($status, $out, $err) = $manage->('ekksync', 'run');
	like("$status $err", qr/^1 CommandError: run \d+: failed: /, '... and so is one that fails');
	($status, $out, $err) = $manage->('ekksync', 'check');
	like("$status $out", qr/^1 .*^NOT OK  /ms, 'ekksync check fails where something is not as it must be');
	$db->use_host($host);
	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.max_retries');
	$db->run;
	$db->sql("UPDATE membership_membersyncqueue SET created_at = created_at - interval '9 days', synced_at = synced_at - interval '9 days' WHERE sync_status = 'synced'");
	my $n = $db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE created_at < now() - interval '8 days' AND sync_status = 'synced'");
	($status, $out, $err) = $manage->('ekksync', 'cleanup', '--days', 7);
	like("$status $out$err", qr/^0 (?:.*\n)*queue rows: $n\n/, 'ekksync cleanup --days');
	($status, $out, $err) = $manage->('ekksync', 'cleanup', '--days', -1);
	is($status, 1, '... refuses what makes no sense') or diag($out);
}
is($db->sql('SELECT count(*) FROM ekksync_diff()'), 0, 'after all this both sides are in step');

# -------------------------------------------------------------------- adoption

{
	my %own = (REGISTRY_QUEUE => 1, REGISTRY_MIGRATIONS => 'membership.with_queue');
	my $before = Django->new($old, package => $package, env => \%own);
	($status, $out, $err) = $before->manage('migrate', '--fake-initial', '-v0');
	is("$status $err", '0 ', 'a project that has a queue of its own');
	$before->python(<<'P');
from django.contrib.auth.models import Group, Permission
group = Group.objects.create(name='skrifstofa')
group.permissions.add(Permission.objects.get(codename='change_membersyncqueue'))
members = list(Comrade.objects.order_by('id')[:4])
for member, status in zip(members, ('pending', 'synced', 'failed', 'pending')):
    MemberSyncQueue.objects.create(member=member, ssn=member.ssn, fields_changed={'name': member.name}, sync_status=status,
                                   error_message='gamalt' if status == 'failed' else '')
MemberSyncQueue.objects.create(member=None, ssn='0303302989', action='delete', fields_changed={'ssn': '0303302989'})
P
	my $rows = "SELECT string_agg(md5(q::text), ' ' ORDER BY id) FROM membership_membersyncqueue AS q";
	my $had = $old->sql($rows);
	my $type = $old->sql("SELECT id FROM django_content_type WHERE model = 'membersyncqueue'");
	$before->stop;

	my $after = Django->new($old, package => $package, env => { REGISTRY_MIGRATIONS => 'membership.with_queue' });
	($status, $out, $err) = $after->manage('sqlmigrate', 'ekksync', '0001');
	is(join(' ', $status, grep { !/^--/ } split /\n/, $out . $err), '0 BEGIN; COMMIT;', 'the migration of adoption has no SQL');
	($status, $out, $err) = $after->manage('migrate', '-v1');
	is("$status $err", '0 ', 'migrate') or diag($out);
	unlike($out, qr/membership\./, '... has nothing to do for the project\'s own app');
	($status, $out, $err) = $after->manage('makemigrations', '--check', '--dry-run');
	is("$status $err", '0 ', '... and leaves nothing to migrate') or diag($out);
	is($old->sql($rows), $had, '... and every row as it was');
	is($old->sql("SELECT id FROM django_content_type WHERE model = 'membersyncqueue'"), $type, '... and the content type');
	is($after->python("from django.contrib.auth.models import Group; result = [p.codename for p in Group.objects.get().permissions.all()]")->[0],
		'change_membersyncqueue', '... and who may what');
	($status, $out, $err) = $after->manage('migrate', 'ekksync', 'zero', '-v0');
	is("$status $err", '0 ', 'back');
	is($old->sql($rows), $had, '... every row stays');
	($status, $out, $err) = $after->manage('migrate', '-v0');
	is("$status $err", '0 ', 'and forth');

	my %object = map { $_->{object} => $_->{outcome} } $old->attach;
	is((grep { /queue table/ } sort keys %object)[0] && $object{ (grep { /queue table/ } sort keys %object)[0] }, 'adopted', 'attach adopts the table');
	is($after->python("result = MemberSyncQueue.objects.count()"), 5, '... with its rows');
	is($after->python("result = [q.sync_status for q in MemberSyncQueue.objects.order_by('id')]")->[2], 'failed', '... as they were');
	my $victim = $old->sql('SELECT ssn FROM membership_comrade ORDER BY id LIMIT 1 OFFSET 3');
	$after->python("Comrade.objects.get(ssn='$victim').delete()");
	is($old->sql("SELECT count(*) FROM membership_membersyncqueue WHERE ssn = '$victim' AND member_id IS NOT NULL"), 0, 'delete: the foreign key of the adopted table is in nobody\'s way');
	is($after->python("m = Comrade.objects.first(); m.name = 'Tekin við'; m.save(); result = m.sync_queue.filter(sync_status='pending').count()") >= 1 ? 1 : 0, 1, 'a save is in the queue');
	my $run = $old->run;
	is("$run->{status}", 'success', 'a run on it') or diag($run->{message});
	is($old->sql("SELECT string_agg(DISTINCT sync_status || ' ' || error_message, ', ' ORDER BY sync_status || ' ' || error_message) FROM membership_membersyncqueue"),
		'failed gamalt, synced ', '... settles what was pending, and leaves what had failed');
	is($old->doc($old->sql('SELECT ssn FROM membership_comrade ORDER BY id LIMIT 1'))->{profile}{name}, 'Tekin við', '... to the document');
	$after->stop;
}

{
	my $dropped = Django->new($db, package => $package, env => { REGISTRY_MIGRATIONS => 'membership.dropped' });
	($status, $out, $err) = $dropped->manage('migrate');
	like("$status $err", qr/^1 .*ekksync\.E001\) The migration membership\.0004_delete drops the sync queue with its rows\..*Remove that migration/s,
		'a migration that would drop the queue is refused before it runs');
	$dropped->stop;

	my $renamed = Django->new($db, package => $package, env => { REGISTRY_MIGRATIONS => 'membership.renamed' });
	is_deeply(scalar $renamed->python(<<'P'), [ JSON::PP::false, [] ], 'a queue is adopted, too, whose member model was called otherwise when it was made');
from django.apps import apps
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState
loader = MigrationLoader(None, ignore_no_migrations=True)
state = loader.project_state()
changes = MigrationAutodetector(state, ProjectState.from_apps(apps)).changes(loader.graph)
result = [state.models['membership', 'membersyncqueue'].options.get('managed', True), sorted(set(changes) & {'membership', 'ekksync'})]
P
	$renamed->stop;
}

# ----------------------------------------------------------------- translations

{
	($status, $out, $err) = $manage->('shell', '-c', slurp_file("$top/t/django/catalog.py"));
	is("$status $err", '0 ', 'every text of the package is in the Icelandic catalogue, and the compiled one is the same') or diag($out);
	is($out =~ s/^\d+ objects imported automatically.*\n\n?//r, '', '... and no other') if $status == 0;
}

$_->stop for $django, $web;
done_testing();
