# The member portal's pages with the real Firebase SDK, in Node and in a real
# browser: what the profile page saves arrives in Django, whatever field, value
# and form of kennitala; what Django writes is shown by the open page; who wrote
# last wins; the history page lists the runs that have ended.  The project has
# security rules as the portal's: of entries, clients may only create and read
# them, and only admins may.

use strict;
use warnings;
use utf8;
use Test::More;
use Browser;
use EkkSync;
use Portal;

my $db = EkkSync->new(members => 40);
my $rules = <<'RULES';
rules_version = '2';
service cloud.firestore {
  match /databases/{database}/documents {
    function isAdmin() { return request.auth != null && request.auth.token.get('admin', false) == true; }
    match /members/{key} { allow read: if request.auth != null; allow update: if isAdmin(); }
    match /sync_queue/{id} { allow read, create: if isAdmin(); }
    match /sync_logs/{id} { allow read: if isAdmin(); }
  }
}
RULES
$db->set_rules($rules);

# ------------------------------------------------------------------- helpers

my $last_id = 0;

# A member that no other part of this test uses, as the page knows it.
sub next_member
{
	my $key = $db->sql('SELECT ssn FROM membership_comrade WHERE id = ' . ++$last_id);
	return { docId => $key, kennitala => $key, djangoId => $last_id + 0 };
}

sub field
{
	my ($member, $field) = @_;
	return $db->sql("SELECT $field FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE id = $member->{djangoId}");
}

# A field of the profile in the document.
sub path { my ($member, $field) = @_; return $db->doc($member->{docId})->{profile}{$field}; }

# A run that must succeed, with figures: to Firestore, to Django, conflicts,
# failed.
sub run_ok
{
	my ($figures, $name) = @_;
	my $run = $db->run;
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message});
	return $run;
}

# The document of a run in sync_logs.
sub log_document { my ($run) = @_; return $db->sql("SELECT log_document FROM ekksync_runs WHERE run = $run->{run}"); }

run_ok('40 0 0 0', 'first push');
my $portal = Portal->new($db);

# ------------------------------------------------------- the page's two writes

{
	my $member = next_member();
	my $id = $portal->call(saveField => $member, 'email', 'ný@felagi.example');
	my ($document, $entry) = map { $db->raw_doc($_)->{fields} } $member->{docId}, "sync_queue/$id";
	is($document->{profile}{mapValue}{fields}{email}{stringValue}, 'ný@felagi.example', 'the page writes the field of the document');
	like($document->{updated_at}{timestampValue}, qr/^20/, '... and the time');
	like(delete $entry->{created_at}{timestampValue}, qr/^20/, '... then an entry with the browser\'s time');
	is_deeply($entry,
		{
			source      => { stringValue => 'firestore' },
			target      => { stringValue => 'django' },
			collection  => { stringValue => 'members' },
			docId       => { stringValue => $member->{docId} },
			kennitala   => { stringValue => $member->{docId} },
			django_id   => { integerValue => "$member->{djangoId}" },
			action      => { stringValue => 'update' },
			changes     => { mapValue => { fields => { 'profile.email' => { stringValue => 'ný@felagi.example' } } } },
			created_at  => {},
			synced_at   => { nullValue => undef },
			sync_status => { stringValue => 'pending' },
		},
		'... of this form, as the SDK sends it');

	my $run = run_ok('0 1 0 0', 'an address from the page');
	is(field($member, 'email'), 'ný@felagi.example', 'the row has it');
	my $closed = $portal->call(get => "sync_queue/$id");
	is($closed->{sync_status}, 'synced', 'the page sees its entry done');
	like($closed->{synced_at}, qr/^20/, '... and when');
	run_ok('0 0 0 0', 'quiet');

	my ($newest, $before) = @{ $portal->call(history => 2) };
	is($before->{id}, log_document($run), 'the history has the run before the last');
	is("$before->{type} $before->{status}", 'bidirectional_sync success', '... what it was and how it went');
	my $stats = $before->{stats};
	is_deeply([ @$stats{qw(firestore_to_django django_to_firestore error)} ],
		[ { success => 1, failed => 0 }, { success => 0, failed => 0 }, undef ], '... what it did');
	is_deeply([ sort keys %$stats ],
		[ sort qw(started_at completed_at duration_seconds last_sync firestore_to_django django_to_firestore error) ], '... and all of its figures');
	ok($newest->{completed_at} gt $before->{completed_at} && $stats->{completed_at} eq $before->{completed_at},
		'... with the newest first');
}

# ------------------------------------------------ fields and values of all kinds

{
	my @cases = (
		# field, value, column, what the row has then
		[ name             => 'Þórunn Ævarsdóttir-Øst 🌱', 'name', 'Þórunn Ævarsdóttir-Øst 🌱' ],
		[ name             => q(O'Hara "x" \\ <b>),        'name', q(O'Hara "x" \\ <b>) ],
		[ email            => '',                          'email IS NULL OR email = $$$$', 't' ],
		[ email            => undef,                       'email IS NULL OR email = $$$$', 't' ],
		[ phone            => '+354 555 1234',             'phone', '555-1234' ],
		[ phone            => '+45 33 12 34 56',           'phone', '+45 33 12 34 56' ],
		[ facebook         => 'https://facebook.example/a?b=c&d', 'facebook', 'https://facebook.example/a?b=c&d' ],
		[ birthday         => '1984-02-29',                'birthday', '1984-02-29' ],
		[ birthday         => undef,                       'birthday IS NULL', 't' ],
		[ gender           => 3,                           'gender', '3' ],
		[ gender           => undef,                       'gender IS NULL', 't' ],
		[ gender           => 'female',                    'gender', '2' ],
		[ housingSituation => 4,                           'housing_situation', '4' ]);
	for my $case (@cases)
	{
		my ($field, $value) = @$case;
		push @$case, my $member = next_member();
		$db->sql("UPDATE membership_comrade SET gender = 1, housing_situation = 1, birthday = '1970-01-01' WHERE id = $member->{djangoId}");
		# with and without a hyphen
		$member->{kennitala} =~ s/^(.{6})/$1-/ if $last_id % 2;
	}
	$db->run;
	my @ids = map { $portal->call(saveField => $_->[4], $_->[0], $_->[1]) } @cases;
	my $failed = $db->run->{failed};
	is($failed, 0, 'values of all kinds: nothing fails');
	for my $case (@cases)
	{
		my ($field, $value, $column, $expected, $member) = @$case;
		my $text = defined $value ? "\"$value\"" =~ s/[^ -~]/?/gr : 'null';
		is(field($member, $column), $expected, "$field $text arrives in Django");
	}
	is(join(' ', map { $_->{sync_status} } map { $portal->call(get => "sync_queue/$_") } @ids), join(' ', ('synced') x @ids), '... and all entries are done');
	run_ok('0 0 0 0', 'quiet after values of all kinds');
}

# Several fields of one member, and one of them twice.
{
	my $member = next_member();
	$portal->call(saveField => $member, @$_) for [ name => 'Fyrra' ], [ phone => '5557777' ], [ name => 'Seinna' ];
	run_ok('0 1 0 0', 'three saves');
	is(field($member, "name || ' ' || phone"), 'Seinna 555-7777', 'the last of several saves stays');
	is($db->sql('SELECT count(*) FROM ekksync_conflicts'), 0, '... and none is a conflict');
}

# ------------------------------------------------------------- what is refused

{
	my $member = next_member();
	my $good = field($member, 'gender');
	my $id = $portal->call(saveField => $member, 'gender', 7);
	run_ok('0 0 0 1', 'a code that means nothing');
	my $entry = $portal->call(get => "sync_queue/$id");
	is($entry->{sync_status}, 'failed', 'the page sees that its entry failed');
	like($entry->{error_message}, qr/^profile\.gender: "7" is not one of the field's codes/, '... and why');
	is(field($member, 'gender'), $good, '... and the row is as it was');

	$id = $portal->call(saveField => next_member(), 'nickname', 'Lalli');
	run_ok('0 0 0 1', 'a field that is not mapped');
	like($portal->call(get => "sync_queue/$id")->{error_message}, qr/profile\.nickname/, 'a field that is not mapped fails by name');

	my $entries = $db->count_docs('sync_queue');
	is(eval { $portal->call(saveFieldAsMember => $member, 'name', 'Ekki ég'); 'no error' } // $@ =~ s/:.*//sr, 'permission-denied',
		'the rules keep others out');
	is(eval { $portal->call(saveField => { docId => '0101302399' }, 'name', 'Enginn'); 'no error' } // $@ =~ s/:.*//sr, 'not-found',
		'a member without a document cannot be saved');
	is($db->count_docs('sync_queue'), $entries, '... and neither leaves an entry');
	run_ok('0 0 0 0', 'quiet after what was refused');
}

# The page's first write alone: the second one is refused, or never sent.
{
	my $member = next_member();
	$db->set_rules($rules =~ s/allow read, create/allow read/r);
	is(eval { $portal->call(saveField => $member, 'name', 'Án færslu'); 'no error' } // $@ =~ s/:.*//sr, 'permission-denied', 'an entry that is refused');
	$db->set_rules($rules);
	is(path($member, 'name'), 'Án færslu', '... comes after the document was written');
	run_ok('0 1 0 0', 'a document without an entry');
	is(field($member, 'name'), 'Án færslu', '... which arrives by its updated_at');
}

# An entry alone, of a program that writes no document, with the server's time.
{
	my $member = next_member();
	my $id = $portal->call(addEntry => {
			source    => 'firestore', target => 'django', collection => 'members', action => 'update', docId => $member->{docId},
			kennitala => $member->{kennitala}, changes => { 'profile.name' => 'Úr falli' }, synced_at => undef, sync_status => 'pending'
		});
	run_ok('1 1 0 0', 'an entry alone');
	is(field($member, 'name') . ', ' . path($member, 'name'), 'Úr falli, Úr falli', 'an entry with the server\'s time reaches both sides');
}

# ------------------------------------------------- the history, as runs go on

{
	my $member = next_member();
	$portal->call(saveField => $member, 'name', 'Á meðan');
	my $newest = $portal->call(history => 1)->[0]{id};
	$db->stop_at('fenced');
	$db->run(wait => 0);
	ok($db->wait_stopped, 'a run is at work');
	is($portal->call(history => 1)->[0]{id}, $newest, 'the history does not list a run before it has ended');
	$db->go_on;
	ok($db->wait_for(sub { $portal->call(history => 1)->[0]{id} ne $newest }), '... and lists it then');

	$db->sql('UPDATE membership_contactinfo SET facebook = NULL');
	my $run = $db->run;
	is($run->{status}, 'failed', 'a run that would blank a field of all members stops');
	my $record = $portal->call(history => 1)->[0];
	is("$record->{id} $record->{status}", log_document($run) . ' failed', '... the history says that it failed');
	is($record->{stats}{error}, $run->{message}, '... and why');
	is($db->run(force => 1)->{status}, 'success', 'with force it goes through');
}

# ----------------------------------------------------------------- in a browser

my $browser = Browser->new;
my $member = next_member();
my $name = field($member, 'name');

sub open_page
{
	my ($of) = @_;
	$browser->go($portal->url('profile.html', emulator => $db->host, project => $db->project, member => $of->{docId}));
	return;
}

# Save what is in a field; returns the entry's id.
sub save
{
	my ($field) = @_;
	$browser->click("label:has([name=$field]) button");
	my $said;
	$db->wait_for(sub { ($said = $browser->text('#said')) ne '' });
	return $said;
}

sub shows
{
	my ($css, $value, $test) = @_;
	my $shown;
	$db->wait_for(sub { ($shown = $browser->value($css)) eq $value }, 20);
	is($shown, $value, $test);
	return;
}

open_page($member);
shows('[name=name]', $name, 'the page shows the member');
$browser->type('[name=email]', 'þ.vafri@felagi.example');
my $id = save('email');
is($db->entry($id)->{sync_status} // 'no entry', 'pending', 'a save in the browser leaves an entry') or diag($browser->log);
run_ok('0 1 0 0', 'a save in the browser');
is(field($member, 'email'), 'þ.vafri@felagi.example', '... arrives in Django');

$browser->click('[name=gender] option[value="3"]');
save('gender');
is_deeply($db->raw_doc($member->{docId})->{fields}{profile}{mapValue}{fields}{gender}, { integerValue => '3' }, 'the page writes gender as an integer');
run_ok('0 1 0 0', 'a gender');
is(field($member, 'gender'), 3, '... which arrives');
$browser->click('[name=gender] option[value=""]');
save('gender');
run_ok('0 1 0 0', 'no gender');
is(field($member, 'gender IS NULL'), 't', '... as does that it was taken back');

$db->sql("UPDATE membership_comrade SET name = 'Nýtt nafn úr Django' WHERE id = $member->{djangoId}");
run_ok('1 0 0 0', 'an edit in Django');
shows('[name=name]', 'Nýtt nafn úr Django', 'the page that is open shows what Django wrote');

# The same field on both sides: the later one, whichever it is.
$db->sql("UPDATE membership_contactinfo SET phone = '555-0001' WHERE comrade_id = $member->{djangoId}");
$browser->type('[name=phone]', '555-0002');
save('phone');
run_ok('0 1 1 0', 'Django, then the page');
is(field($member, 'phone') . ' ' . path($member, 'phone'), '555-0002 555-0002', 'the page was later, and wins');
$browser->type('[name=phone]', '555-0003');
save('phone');
$db->sql("UPDATE membership_contactinfo SET phone = '555-0004' WHERE comrade_id = $member->{djangoId}");
run_ok('1 0 1 0', 'the page, then Django');
is(field($member, 'phone') . ' ' . path($member, 'phone'), '555-0004 555-0004', 'Django was later, and wins');
shows('[name=phone]', '555-0004', '... and the page shows it');
is_deeply([ map { [ @$_{qw(django_value firestore_value winner rule)} ] } $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$member->{docId}' ORDER BY id") ],
	[ [qw(555-0001 555-0002 firestore), 'later write'], [qw(555-0004 555-0003 django), 'later write'] ],
	'... and both losers are kept');

unlike($browser->log, qr/\S/, 'the browser has nothing to complain about');

# A browser without a network holds the save back until it has one again.
$browser->offline(1);
$browser->type('[name=name]', 'Skrifað í göngunum');
$browser->click('label:has([name=name]) button');
my $shown = $db->wait_for(sub { $browser->text('#title') eq 'Skrifað í göngunum' }, 20);
ok($shown, 'a page without a network shows what was saved');
isnt(path($member, 'name'), 'Skrifað í göngunum', '... though nobody else does');
$db->sql("UPDATE membership_comrade SET gender = 2 WHERE id = $member->{djangoId}");
run_ok('1 0 0 0', 'while the page is off');
$browser->offline(0);
ok($db->wait_for(sub { $browser->text('#said') ne '' }, 60), '... and sends it when it is back') or diag($browser->log);
shows('[name=gender]', 2, '... and sees what was written meanwhile');
run_ok('0 1 0 0', 'a save that came late');
is(field($member, "name || ' ' || gender"), 'Skrifað í göngunum 2', 'both edits stay');

# The history.
$browser->click('#refresh');
$browser->find('#history tr:nth-child(20)');
is_deeply($browser->script('return [...document.querySelectorAll("#history tr")].map(row => row.dataset.id)'),
	[ split /\n/, $db->sql('SELECT log_document FROM ekksync_runs WHERE log_document IS NOT NULL ORDER BY run DESC LIMIT 20') ],
	'the history page lists the last twenty runs, newest first');
like($browser->text('#history'), qr/ failed 0 \/ 0 0 \/ 0$/m, '... and how they went');
ok(-s $browser->screenshot('130_page'), 'a picture of the page');

run_ok('0 0 0 0', 'at the end, quiet');
done_testing();
