# Django's admin on the real database, driven by a real browser: the queue, its
# actions and what the next run makes of them; conflicts, and their decisions;
# runs; a member's history; the button, and the line that goes with a run; who
# may do what; Icelandic.  Pictures are among the test's logs.

use strict;
use warnings;
use utf8;
use Test::More;
use Browser;
use Django;
use EkkSync qw(timestamp);

my $missing = Django::missing();
ok(!$missing, 'what this test needs is installed') or diag($missing), done_testing(), exit;

my $db = EkkSync->new(members => 60);
my $django = Django->new($db);
my ($status, undef, $err) = $django->manage('migrate', '--fake-initial', '-v0');
is("$status $err", '0 ', 'migrate');
$django->python(<<'P');
from django.contrib.auth.models import Permission, User
User.objects.create_superuser('stjori', password='x')
def user(name, *permissions):
    user = User.objects.create_user(name, password='x', is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    assert user.user_permissions.count() == len(permissions)
user('lesari', 'view_membersyncqueue', 'view_run', 'view_conflict', 'view_history')
user('ekkert')
P
is($db->run->{status}, 'success', 'the first run');
$db->sql('DELETE FROM membership_membersyncqueue');

my $url = $django->serve;
my $browser = Browser->new;
my ($queue, $conflicts, $runs, $history) = map { "$url/admin/$_/" } qw(membership/membersyncqueue ekksync/conflict ekksync/run ekksync/history);
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id ORDER BY id');
sub next_key { return shift @key; }

# ------------------------------------------------------------------- helpers

# Do what leads to another page, and await that.
sub follow
{
	my ($code) = @_;
	$browser->script('document.documentElement.dataset.left = 1');
	$code->();
	ok($db->wait_for(sub { eval { $browser->script("return document.readyState === 'complete' && !document.documentElement.dataset.left") } }),
		'a page comes') or BAIL_OUT('no page comes');
	return;
}

sub count { my ($css) = @_; return $browser->script('return document.querySelectorAll(arguments[0]).length', $css); }
sub texts { my ($css) = @_; return @{ $browser->script('return Array.from(document.querySelectorAll(arguments[0]), e => e.innerText.trim())', $css) }; }
sub said { return join ' | ', texts('ul.messagelist li'); }

sub sees
{
	my ($css, $like, $name) = @_;
	my $text = join ' | ', texts($css);
	like($text, $like, $name);
	return;
}

sub log_in
{
	my ($user) = @_;
	$browser->go("$url/admin/login/");
	$browser->_call(DELETE => '/cookie');
	$browser->script("document.cookie = 'django_language=en; path=/'");
	$browser->go("$url/admin/login/?next=/admin/");
	$browser->type('#id_username', $user);
	$browser->type('#id_password', 'x');
	follow(sub { $browser->click('input[type=submit]') });
	return;
}

# Tick the rows of these ids, and do an action.
sub act
{
	my ($action, @ids) = @_;
	$browser->click("input.action-select[value='$_']") for @ids;
	$browser->script("document.querySelector('select[name=action]').value = arguments[0]", $action);
	follow(sub { $browser->click('.actions button[type=submit]') });
	return;
}

sub queue_id { my ($key) = @_; return $db->sql("SELECT max(id) FROM membership_membersyncqueue WHERE ssn = '$key'"); }
sub state_of { my ($key) = @_; return $db->sql("SELECT string_agg(sync_status || CASE WHEN error_message <> '' THEN ': ' || error_message ELSE '' END, ', ' ORDER BY id) FROM membership_membersyncqueue WHERE ssn = '$key'"); }
sub name_of { my ($key) = @_; return $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key'"); }
sub doc_name { my ($key) = @_; return $db->doc($key)->{profile}{name}; }

# ---------------------------------------------------------- an edit in the admin

log_in('stjori');
sees('#content-main .app-ekksync a', qr/SYNCHRONISATION.*Conflicts.*Members' history.*Runs/s, 'the admin lists the pages');
sees('#content-main .app-membership', qr/Member sync queue/, '... and the queue where it was');
my $edited = next_key();
{
	my $id = $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$edited'");
	$browser->go("$url/admin/membership/comrade/$id/change/");
	$browser->type('#id_name', 'Þórgunnur Ægisdóttir');
	$browser->type('#id_contact-0-phone', '5559876');
	follow(sub { $browser->click('input[name=_save]') });
	is($db->sql("SELECT string_agg(fields_changed::text, ' ' ORDER BY id) FROM membership_membersyncqueue WHERE ssn = '$edited'"),
		'{"name": "Þórgunnur Ægisdóttir"} {"phone": "555-9876"}', 'an edit in the admin: what was edited, and no other field');
}

# ---------------------------------------------------------------------- the queue

my ($synced, $pending, $failed, $long) = map { next_key() } 1 .. 4;
$db->sql("UPDATE membership_comrade SET gender = 9 WHERE ssn = '$failed'");
is($db->run->{failed}, 1, 'a code that means nothing fails');
like(state_of($failed), qr/^failed: gender/, '... in its row');
$db->sql("UPDATE membership_comrade SET name = 'Bíður', reachable = NOT reachable WHERE ssn = '$pending'");
$db->sql("UPDATE membership_comrade SET name = 'Merkt samstillt' WHERE ssn = '$synced'");

$browser->go($queue);
is(count('#result_list tbody tr'), 5, 'the queue lists its rows');
sees('.ekksync-line', qr/^Sync: needs attention\. 2 pending, 1 failed\. Failed changes.*\.$/, '... and the line says how it stands');
$browser->screenshot('admin-queue');
$browser->go("$queue?sync_status__exact=pending");
is(count('#result_list tbody tr'), 2, '... filtered by ?sync_status__exact=pending');
$browser->go("$queue?sync_status__exact=failed");
is(count('#result_list tbody tr'), 1, '... or failed');
sees('#result_list .field-error', qr/gender/, '... with the reason');
$browser->go("$queue?q=" . ($pending =~ s/^(.{6})/$1-/r));
is(count('#result_list tbody tr'), 1, 'search by a kennitala with a hyphen');
$browser->go("$queue?q=Gunnur");
is(count('#result_list tbody tr'), 2, '... or by the name');
sees('.xfull, .toplinks, ul.toplinks, .change-list .toplinks, nav.toplinks', qr/\w/, 'there is a date hierarchy');
my $year = $db->sql("SELECT extract(year FROM now())");
$browser->go("$queue?created_at__year=" . ($year - 1));
is(count('#result_list tbody tr'), 0, '... that leads to other times');
is(count('.addlink[href*=membersyncqueue]'), 0, 'nobody adds rows');
$browser->go($queue . queue_id($pending) . '/change/');
sees('.field-values', qr/name: Bíður/, 'a row shows its values');
is(count('input[name=_save]'), 0, '... and they are not for editing');
$browser->screenshot('admin-queue-row');

# --------------------------------------------------- actions, and the next run

$browser->go($queue);
act('mark_synced', queue_id($synced));
is(said(), '1 change was marked as synced; the next run looks whether it is.', 'mark as synced');
is(state_of($synced), 'synced', '... the row is');
act('mark_pending', queue_id($edited));
is(said(), '1 change is pending again.', 'mark as pending');
$db->sql("UPDATE membership_comrade SET gender = 3 WHERE ssn = '$failed'");
$browser->go($queue);
act('retry_failed', map { $_->{id} } $db->rows("SELECT id FROM membership_membersyncqueue"));
is(said(), '1 failed change will be tried again.', 'try failed ones again, among others');
like(state_of($failed), qr/^pending, pending$/, '... without the error');
is($db->sql("SELECT string_agg(change_message, ', ' ORDER BY id) FROM django_admin_log WHERE action_flag = 2 AND change_message !~ '^\\['"),
	'marked as synced, marked as pending, to be tried again', '... and the log of the admin has it');
my $time = $db->doc_update_time($edited);
my $run = $db->run;
is("$run->{status} $run->{to_firestore} $run->{failed}", 'success 3 0', 'the next run obeys');
is(doc_name($synced), 'Merkt samstillt', '... what was marked synced, and was not, is');
is(doc_name($pending), 'Bíður', '... what was pending, too');
is($db->doc($failed)->{profile}{gender}, 'other', '... what failed is tried again');
is($db->doc_update_time($edited), $time, '... what is in step is not written');
is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE sync_status <> 'synced'"), 0, '... and nothing is left');
{
	my $key = next_key();
	$db->sql("UPDATE membership_comrade SET name = 'Eytt úr biðröð' WHERE ssn = '$key'");
	$browser->go($queue);
	act('delete_selected', queue_id($key));
	follow(sub { $browser->click('#content input[type=submit]') });
	is(state_of($key), '', 'a row is deleted');
	is($db->sql("SELECT count(*) FROM django_admin_log WHERE action_flag = 3"), 1, '... and the log of the admin has that');
	is($db->run->{to_firestore}, 1, '... which loses nothing: the next run sends it');
	is(doc_name($key), 'Eytt úr biðröð', '... to the document');
}

# --------------------------------------------------------------------- conflicts

sub clash
{
	my ($key) = @_;
	$db->profile_edit($key, 'name', "Firestore $key");
	$db->sql("UPDATE membership_comrade SET name = 'Django $key' WHERE ssn = '$key'");
	return;
}

$db->sql("SELECT ekksync_map('name', 'profile.name', 'text', relation => 'membership_comrade', \"column\" => 'name', policy => 'manual')");
$db->run;
my ($first, $second, $third, $fourth) = map { next_key() } 1 .. 4;
clash($_) for $first, $second, $third, $fourth;
is($db->run->{conflicts}, 4, 'four conflicts for a person');
my %conflict = map { $_->{member} => $_->{id} } $db->rows('SELECT member, id FROM ekksync_conflicts WHERE resolved_at IS NULL');
$browser->go($conflicts);
is(count('#result_list tbody tr'), 4, 'the list of conflicts');
sees('#result_list .field-django', qr/Django \Q$first\E/, '... with Django\'s values');
sees('#result_list .field-firestore', qr/Firestore \Q$first\E/, '... and Firestore\'s');
$browser->screenshot('admin-conflicts');
$browser->go("$conflicts?state=held");
is(count('#result_list tbody tr'), 4, '... those that wait');
$browser->go("$conflicts?state=resolved");
is(count('#result_list tbody tr'), 0, '... those that are resolved');
$browser->go("$conflicts?q=$second");
is(count('#result_list tbody tr'), 1, '... those of a member');
$browser->go($conflicts);
act('take_django', $conflict{$first});
like(said(), qr/^Conflict $conflict{$first}: name of $first: /, 'take Django\'s');
act('take_firestore', $conflict{$second});
$browser->go("$conflicts$conflict{$third}/change/");
is(count('input[name=_save]'), 0, 'a conflict is not for editing');
$browser->screenshot('admin-conflict');
follow(sub { $browser->click('button[name=take][value=firestore]') });
like(said(), qr/^Conflict $conflict{$third}: /, '... but for deciding, on its own page too');
$browser->go("$conflicts$conflict{$third}/change/");
is(count('button[name=take]'), 0, '... once');
$browser->go($conflicts);
act('take_django', $conflict{$third});
like(said(), qr/resolved/, 'what is resolved is refused, with the reason');
is(count('ul.messagelist li.error'), 1, '... as an error');
act('take_django', @conflict{ $first, $fourth });
like(said(), qr/resolved/, 'one of two is refused');
is($db->sql("SELECT resolved_at IS NOT NULL FROM ekksync_conflicts WHERE id = $conflict{$fourth}"), 't', '... the other one is decided');
is($db->run->{status}, 'success', 'a run');
is(name_of($first) . ', ' . doc_name($first), "Django $first, Django $first", 'Django\'s value on both sides');
is(name_of($second) . ', ' . doc_name($second), "Firestore $second, Firestore $second", 'Firestore\'s value on both sides');
is(name_of($third) . ', ' . doc_name($third), "Firestore $third, Firestore $third", '... by the page\'s button too');

like($db->sql("SELECT string_agg(DISTINCT object_repr, ', ' ORDER BY object_repr) FROM django_admin_log WHERE content_type_id IN (SELECT id FROM django_content_type WHERE model IN ('membersyncqueue', 'conflict'))"),
	qr/^(?:(?:change to sync|conflict) \d{1,9}(?:, |$))+$/, 'the log of the admin names rows by number, and no kennitala');

# ---------------------------------------------------------------------- the button

$db->sql("UPDATE membership_comrade SET reachable = NOT reachable");
$browser->go($runs);
my $before = $db->sql('SELECT max(run) FROM ekksync_runs');
$db->stop_at('decided');
$browser->click('.ekksync-sync button');
ok($db->wait_stopped, 'a run begins');
ok($db->wait_for(sub { (texts('.ekksync-line'))[0] =~ /^Run \d+ is at work: members, 0/ }), '... and the line says how far it is') or diag(texts('.ekksync-line'));
is($browser->script("return document.querySelector('.ekksync-sync button').disabled"), JSON::PP::true, '... the button waits');
is($browser->script("return document.querySelector('.ekksync-progress').hidden"), JSON::PP::false, '... a bar shows it');
$browser->screenshot('admin-running');
$browser->go($queue);
ok($db->wait_for(sub { (texts('.ekksync-line'))[0] =~ /^Run \d+ is at work/ }), '... on the queue\'s page as well');
$db->go_on;
ok($db->wait_for(sub { (texts('.ekksync-line'))[0] =~ /^Run \d+ succeeded: 60 members to Firestore, 0 to Django\.$/ }), 'its end shows by itself') or diag(texts('.ekksync-line'));
is($browser->script("return document.querySelector('.ekksync-sync button').disabled"), JSON::PP::false, '... and the button can be pressed again');
is($db->sql('SELECT max(run) FROM ekksync_runs') - $before, 1, '... and it was one run');
$browser->screenshot('admin-done');
$db->sql("SELECT ekksync_pause('flutningar')");
$browser->click('.ekksync-sync button');
ok($db->wait_for(sub { (texts('.ekksync-line'))[0] =~ /flutningar/ }), 'while runs are paused the line says why none begins') or diag(texts('.ekksync-line'));
is(count('.ekksync-bad'), 1, '... in red');
$browser->go($queue);
sees('.ekksync-line', qr/^Sync: paused\. .*flutningar/i, '... and so it stands on the page');
$db->sql('SELECT ekksync_resume()');
$browser->go($runs);
$browser->script("document.querySelector('.ekksync-sync').submit()");
ok($db->wait_for(sub { $db->sql('SELECT max(run) FROM ekksync_runs') - $before >= 2 }), 'without the script it works as well');
ok($db->wait_for(sub { (texts('.ekksync-line'))[0] =~ /succeeded/ }), '... and the page shows that run');
is($browser->log =~ s/.*favicon.*\n?//gr, '', 'no script has complained');

# ---------------------------------------------------------------------------- runs

$browser->go($runs);
is(count('#result_list tbody tr'), $db->sql('SELECT count(*) FROM ekksync_runs'), 'the list of runs');
$browser->screenshot('admin-runs');
$browser->go("$runs?status__exact=failed");
is(count('#result_list tbody tr'), 0, '... filtered');
$browser->go("$runs?q=$before");
is(count('#result_list tbody tr'), 1, '... one of them');
$browser->go("$runs$before/change/");
sees('.field-phases', qr/members/, 'a run shows its phases');
is(count('input[name=_save]') + count('.deletelink'), 0, '... and is not for editing');
$browser->screenshot('admin-run');

# ------------------------------------------------------------------------- history

$browser->go($history);
$browser->type('#ekksync-key', $first =~ s/^(.{6})/$1-/r);
follow(sub { $browser->click('.ekksync-ask button') });
sees('.ekksync-history tbody', qr/edited in Django.*Django \Q$first\E/s, 'the history of a member, by a kennitala with a hyphen');
sees('.ekksync-history tbody', qr/written to Firestore/, '... of runs');
$browser->screenshot('admin-history');
$browser->go("$history?key=$first&field=gender");
sees('.ekksync-history tbody', qr/^(?!.*name).*gender/s, '... of one field');
$browser->go("$history?key=0000000000");
sees('#content-main', qr/Nothing is known of this kennitala/, '... of nobody');
$browser->go("$history?key=$first&field=nothing");
sees('.errornote', qr/field "nothing" is not mapped\. /, '... of no field');
$browser->go("$history?key=12345");
is(count('.errornote'), 1, '... what is no kennitala is refused');
$browser->go($queue);
$browser->go($browser->script("return document.querySelector('#result_list .field-kennitala a').href"));
is(count('.ekksync-history'), 1, 'the queue leads there');

# ----------------------------------------------------------------------- who may

log_in('lesari');
$browser->go($queue);
is(count('#result_list tbody tr') > 0, 1, 'who may look sees the queue');
is(count('select[name=action] option[value^=mark], select[name=action] option[value^=retry], .ekksync-sync button'), 0, '... and may neither settle rows nor start a run');
sees('.ekksync-line', qr/^Sync: in order\./, '... but sees how it stands');
$browser->go("$conflicts$conflict{$fourth}/change/");
is(count('button[name=take]'), 0, '... nor decide conflicts');
for my $path ('ekksync/run/sync-now/', "ekksync/conflict/$conflict{$fourth}/take/")
{
	my $answer = $browser->script(<<'J', "/admin/$path");
const request = new XMLHttpRequest();
request.open('POST', arguments[0], false);
request.setRequestHeader('X-CSRFToken', document.cookie.match(/csrftoken=(\w+)/)[1]);
request.send(new URLSearchParams({take: 'django'}));
return request.status;
J
	is($answer, 403, "... by no way: $path");
}
log_in('ekkert');
for my $page ($queue, $conflicts, $runs, $history, "${runs}progress/", "$history?key=$first")
{
	my $answer = $browser->script("const r = new XMLHttpRequest(); r.open('GET', arguments[0], false); r.send(); return r.status", $page);
	is($answer, 403, 'who may not, does not: ' . $page =~ s/^\Q$url\E//r);
}
is(($django->request(GET => '/admin/ekksync/run/progress/'))[1] =~ /login/ ? 1 : 0, 1, 'who is nobody is asked to log in');

# ----------------------------------------------------------------------- Icelandic

log_in('stjori');
{
	my $had = $db->sql('SELECT max(run) FROM ekksync_runs');
	for my $path ('ekksync/run/sync-now/', "ekksync/conflict/$conflict{$fourth}/take/")
	{
		my $answer = $browser->script(<<'J', "/admin/$path");
const request = new XMLHttpRequest();
request.open('POST', arguments[0], false);
request.send(new URLSearchParams({take: 'django'}));
return request.status;
J
		is($answer, 403, "who may, may not without the form's token: $path");
	}
	is($db->sql('SELECT max(run) FROM ekksync_runs'), $had, '... and no run has started');
}
$browser->script("document.cookie = 'django_language=is; path=/'");
$browser->go($queue);
sees('.ekksync-sync button', qr/^Samstilla núna$/, 'in Icelandic: the button');
sees('.ekksync-line', qr/^Samstilling: í lagi\. 0 bíða, 0 mistókust\./, '... the line');
sees('select[name=action] option', qr/Merkja samstillt/, '... the actions');
sees('#content h1, #content-main + h1, .content h1', qr/./, '... a heading');
$browser->screenshot('admin-icelandic');
$browser->go($conflicts);
sees('select[name=action] option', qr/Nota gildið úr Firestore/, '... and those of conflicts');
$browser->screenshot('admin-icelandic-conflicts');

is($db->sql('SELECT count(*) FROM ekksync_diff()'), 0, 'after all this both sides are in step');
$browser->stop;
$django->stop;
done_testing();
