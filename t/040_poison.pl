# "One poison row (300 characters into varchar(250), a text where a date
# belongs, a member not known, a 2 MiB value, an unknown path) on either side
# fails alone, with its reason in its own row or document, in the middle of a
# page of 500 good ones."
#
# A run works on members 500 at a time, in the order of their keys.  Poison is
# spread over the first page of them here.

use strict;
use warnings;
use utf8;
use HTTP::Tiny;
use JSON::PP qw(encode_json decode_json);
use IPC::Run ();
use Test::More;
use EkkSync;

use constant { MEMBERS => 560, GOOD => 500, PAGE => 500, EVERY => 11 };

my $KNOWN_TO_NOBODY = '0101018889';

my $db = EkkSync->new(members => MEMBERS, attach => 0);
my $http = HTTP::Tiny->new(timeout => 60, http_proxy => undef);

# One call of the REST API; returns the answer as it stands.  (To take apart
# what holds a megabyte costs a second or two in Perl.)
sub rest
{
	my ($method, $path, $body) = @_;
	my $answer = $http->request($method, 'http://' . $db->host . '/v1/projects/' . $db->project
		  . "/databases/(default)/documents$path",
		{ headers => { 'content-type' => 'application/json' }, content => encode_json($body) });
	die "$method $path: $answer->{content}" unless $answer->{success};
	return $answer->{content};
}

# Some fields of all documents of a collection: {id => {fields}}.
sub documents
{
	my ($collection, @fields) = @_;
	my $answer = rest(POST => ':runQuery', { structuredQuery => {
		from => [ { collectionId => $collection } ],
		select => { fields => [ map { { fieldPath => $_ } } @fields ] } } });
	return { map { ($_->{document}{name} =~ s{.*/}{}r => EkkSync::from_fields($_->{document}{fields})) }
		  grep { $_->{document} } @{ decode_json($answer) } };
}

# Members in the order of their keys; every EVERY-th of the first page is left
# for poison, each to be taken once.
my @keys = split /\n/, $db->sql('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C"');
my @victims = map { $keys[ $_ * EVERY + 5 ] } 0 .. int(PAGE / EVERY) - 1;
my %is_victim = map { $_ => 1 } @victims;
my @good = (grep { !$is_victim{$_} } @keys)[ 0 .. GOOD - 1 ];

# The next victim; of those for which a condition on the table holds.
sub victim
{
	my ($condition) = @_;
	for my $i (0 .. $#victims)
	{
		next if $condition && !$db->sql(
			"SELECT count(*) FROM membership_comrade c WHERE ssn = '$victims[$i]' AND ($condition)");
		return splice @victims, $i, 1;
	}
	die 'no victim is left';
}

sub has_contactinfo
{
	return 'EXISTS (SELECT FROM membership_contactinfo WHERE comrade_id = c.id)';
}

sub member
{
	my ($key) = @_;
	return $db->row(<<"SQL");
SELECT c.*, i.email, i.phone, i.facebook FROM membership_comrade c
LEFT JOIN membership_contactinfo i ON i.comrade_id = c.id WHERE ssn = '$key'
SQL
}

sub update_member
{
	my ($key, $set) = @_;
	return $db->sql("UPDATE membership_comrade SET $set WHERE ssn = '$key'");
}

# Queue rows of a key with a status, oldest first.
sub queue_rows
{
	my ($key, $status) = @_;
	return $db->rows("SELECT * FROM membership_membersyncqueue WHERE ssn = '$key' "
		  . "AND sync_status = '$status' ORDER BY created_at, id");
}

sub figures
{
	my ($run, @names) = @_;
	return [ map { $run->{$_} } 'status', @names ];
}

# Everything that a run may touch, but its own record: versions of rows, names
# and times of documents.
sub world
{
	my @state = map {
		$db->admin_sql("SELECT md5(string_agg(ctid::text || xmin, ',' ORDER BY ctid)) FROM $_")
	} qw(membership_comrade membership_contactinfo membership_membersyncqueue
	  ekksync.member ekksync.inbox ekksync.change_log ekksync.conflict);
	push @state, rest(POST => ':runQuery', { structuredQuery => {
		from => [ { collectionId => $_ } ], select => { fields => [ { fieldPath => '__name__' } ] } } })
	  =~ /"(?:name|updateTime)": "(.*)"/g for qw(members sync_queue);
	die 'no documents are seen' unless @state > MEMBERS;
	return \@state;
}

# A run on a world that is at rest, whatever failed before.
sub quiet_run
{
	my ($what) = @_;
	my $before = world();
	my $run = $db->run;
	is_deeply(figures($run, qw(to_firestore to_django conflicts failed)),
		[ 'success', 0, 0, 0, 0 ], "$what: the next run does nothing");
	is_deeply(world(), $before, '... and changes nothing: no failure is repeated');
	return;
}

# -------------------------------------------- members that never were in step

my %first = (
	gender   => victim('gender IS NOT NULL'),
	infinite => victim(),
	doubled  => victim());
update_member($first{gender}, 'gender = 7');
update_member($first{infinite}, "birthday = 'infinity'");
$db->sql(<<"SQL");
INSERT INTO membership_comrade (name, ssn, date_joined) VALUES
	('Tvöfaldur', '$first{doubled}', now());
ALTER TABLE membership_comrade ADD COLUMN shoe_size integer;
SQL
$db->attach;
$db->sql(q{SELECT ekksync_map('shoe_size', 'profile.shoeSize', 'int',
	relation => 'membership_comrade', "column" => 'shoe_size')});

my $run = $db->run;
is_deeply(figures($run, qw(to_firestore failed)), [ 'success', MEMBERS - 1, 3 ],
	'the first run pushes all members but those whose key cannot be used');
my %reason = (
	$first{gender}   => q(gender: "7" is not one of the field's codes),
	$first{infinite} => 'birthday: date is infinite or outside the years 1 to 9999',
	$first{doubled}  => 'kennitala is held by 2 rows');
for my $key (sort keys %reason)
{
	my @rows = queue_rows($key, 'failed');
	is_deeply([ map { [ @$_{qw(error_message retry_count)} ] } @rows ], [ [ $reason{$key}, 1 ] ],
		"a member that no queue row stood for is visible as failed: $reason{$key}");
}
is($db->doc($first{gender})->{profile}{name}, member($first{gender})->{name},
	'the other fields of such a member are pushed');
is($db->doc($first{infinite})->{metadata}{django_id}, member($first{infinite})->{id},
	'... of each of them');
is($db->doc($first{doubled}), undef, 'nothing is pushed for a doubled key');
quiet_run('after first contact');

# -------------------------------------------------------- Firestore to Django

$db->sql(<<'SQL');
ALTER TABLE membership_contactinfo
	ADD CONSTRAINT email_has_at CHECK (email LIKE '%@%') NOT VALID,
	ADD COLUMN consent boolean;
UPDATE membership_contactinfo SET consent = true;
ALTER TABLE membership_contactinfo ALTER COLUMN consent SET NOT NULL;
CREATE FUNCTION refuse_name() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a member cannot be called Enginn'; END $$;
CREATE TRIGGER refuse_name BEFORE UPDATE ON membership_comrade
	FOR EACH ROW WHEN (NEW.name = 'Enginn') EXECUTE FUNCTION refuse_name();
SQL

my $long_name = 'Þ' x 300;
my @poison;						# {what, id of the entry, reason, key, before}

# An edit of one field as the profile page makes it, that must fail.
sub poison_edit
{
	my ($what, $field, $value, $reason, $key) = @_;
	$key //= victim(has_contactinfo());
	my $path = $field =~ /\./ ? $field : "profile.$field";
	my ($map, $name) = split /\./, $path;
	rest(PATCH => "/members/$key?updateMask.fieldPaths=$path&mask.fieldPaths=updated_at",
		{ fields => EkkSync::to_fields({ $map => { $name => $value } }) });
	my $answer = rest(POST => '/sync_queue?mask.fieldPaths=docId',
		{ fields => EkkSync::to_fields($db->entry_fields(docId => $key, changes => { $path => $value })) });
	my ($id) = $answer =~ m{"name": ".*/(.*)"};
	push @poison, { what => $what, id => $id, reason => $reason, key => $key, before => member($key) };
	return;
}

# A queue document that must fail, as it stands.
sub poison_entry
{
	my ($what, $reason, $key, $fields, @without) = @_;
	my $entry = $db->entry_fields(docId => $key, changes => { 'profile.name' => 'Ekki notað' }, %$fields);
	delete @$entry{@without};
	push @poison, { what => $what, id => $db->add_doc('sync_queue', $entry), reason => $reason,
		key => $key, before => $key =~ /^\d{10}$/ && $key ne $KNOWN_TO_NOBODY ? member($key) : undef };
	return;
}

poison_edit('300 characters into varchar(250)', name => $long_name,
	'profile.name: text of 300 characters is too long for 250');
poison_edit('a text where a date belongs', birthday => 'í fyrra',
	'profile.birthday: text is not a date of the form YYYY-MM-DD');
poison_edit('a day that does not exist', birthday => '1999-02-30',
	'profile.birthday: "1999-02-30" is not a date of the form YYYY-MM-DD');
poison_edit('1 MB of text', facebook => 'x' x 1_000_000,
	'profile.facebook: text of 1000000 characters is too long for 255');
poison_edit('an unknown path', 'profile.hat_size' => 7, 'profile.hat_size: unknown path');
poison_edit('a map for a text', email => { work => 'a@b.is' },
	'profile.email: codec "text" does not read values of type mapValue');
poison_edit('an array for a text', phone => [ '555-1234' ],
	'profile.phone: codec "phone" does not read values of type arrayValue');
poison_edit('a text for a boolean', 'membership.reachable' => 'já',
	'membership.reachable: codec "bool" does not read values of type stringValue');
poison_edit('the character \u0000', email => "a\@b.is\0",
	'profile.email: text holds the character \u0000, which PostgreSQL cannot store');
poison_edit('an int out of range', shoeSize => 5_000_000_000,
	'profile.shoeSize: number is out of range for type integer');
poison_edit('a code out of range', gender => 99,
	q(profile.gender: "99" is not one of the field's codes));
poison_edit('null for a column that takes none', 'membership.date_joined' => undef,
	'membership.date_joined: the column takes no null');
poison_edit('what a CHECK constraint refuses', email => 'ekkert hér',
	'profile.email: new row for relation "membership_contactinfo" violates check constraint "email_has_at"');
poison_edit('what a trigger refuses', name => 'Enginn',
	'profile.name: a member cannot be called Enginn');
poison_edit('what a NOT NULL column refuses', email => 'ny@example.is',
	'profile.email: null value in column "consent" of relation "membership_contactinfo" violates not-null constraint',
	victim('NOT ' . has_contactinfo()));
poison_edit('a field that only Django writes', kennitala => '0000000000',
	'profile.kennitala: not writable from Firestore');

poison_entry('a member not known', 'member not found', $KNOWN_TO_NOBODY, {});
poison_entry('no changes', 'the entry has no changes', victim(), {}, 'changes');
poison_entry('no member', 'the entry names no member', '', {}, 'docId', 'kennitala');
poison_entry('a malformed kennitala', 'kennitala is malformed', '123-456', {});
poison_entry('an unknown action', 'unknown action "explode"', victim(), { action => 'explode' });
poison_entry('another collection', 'unknown collection "unions"', victim(), { collection => 'unions' });
poison_entry('an entry only, no document', 'profile.name: text of 300 characters is too long for 250',
	victim(), { changes => { 'profile.name' => $long_name } });

# Entries that are good and bad at once: the good fields are applied.
my @mixed;
for my $mix (
	[ { name => $long_name }, 'profile.name: text of 300 characters is too long for 250' ],
	[ { name => "a\0" }, 'profile.name: text holds the character \u0000, which PostgreSQL cannot store' ],
	[ { name => 'Enginn' }, 'profile.name: a member cannot be called Enginn' ],
	[ { email => 'ekkert hér' },
		'profile.email: new row for relation "membership_contactinfo" violates check constraint "email_has_at"' ])
{
	my ($bad, $reason) = @$mix;
	my $key = victim(has_contactinfo());
	my %changes = map { ("profile.$_" => $bad->{$_}) } keys %$bad;
	@changes{qw(profile.birthday profile.phone)} = ('1988-07-06', '555-6543');
	$db->patch_doc($key, \%changes);
	push @mixed, { id => $db->queue_entry(docId => $key, changes => \%changes), reason => $reason,
		key => $key, before => member($key) };
}

# A member whose row another session holds.
my $locked = victim();
my $locked_entry = $db->profile_edit($locked, name => 'Læst Læstsdóttir');
my ($in, $out, $err) = ("BEGIN;\nSELECT 'holding' FROM membership_comrade WHERE ssn = '$locked' FOR UPDATE;\n", '', '');
my $holder = IPC::Run::start(
	[ 'psql', '-X', '-A', '-t', '-q', '-U', 'socialism', '-d', $db->node->connstr('socialism') ],
	'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
$holder->pump until $out =~ /holding/;

# The good ones: half of them as the profile page saves, half only enqueued.
my $documents = 'projects/' . $db->project . '/databases/(default)/documents';
rest(POST => ':commit', { writes => [ map { {
	update     => { name => "$documents/members/$_", fields => EkkSync::to_fields({ profile => { name => "Góð $_" } }) },
	updateMask => { fieldPaths => ['profile.name'] } } } @good[ 0 .. GOOD / 2 - 1 ] ] });
$db->set_docs('sync_queue', map {
	[ "good-$_" => $db->entry_fields(docId => $_, changes => { 'profile.name' => "Góð $_" }) ]
} @good);

$run = $db->run;
is_deeply(figures($run, qw(to_django failed)), [ 'success', GOOD + @mixed, @poison + @mixed ],
	'a run over ' . GOOD . ' good entries, ' . (@poison + @mixed) . ' bad ones and a locked member')
  or diag(explain($db->rows('SELECT * FROM ekksync_runs ORDER BY run')));
note(explain($db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1')));

my $entries = documents('sync_queue', 'sync_status', 'error_message');
my %name = split /[|\n]/, $db->sql('SELECT ssn, name FROM membership_comrade WHERE length(ssn) = 10');
is(scalar(grep { $name{$_} eq "Góð $_" } @good), GOOD, 'all good entries are applied');
is(scalar(grep { $entries->{"good-$_"}{sync_status} eq 'synced' } @good), GOOD,
	'... and synced, in their documents');
my $members = documents('members', 'profile.name');
is(scalar(grep { $members->{$_}{profile}{name} eq "Góð $_" } @good), GOOD,
	"... and members' documents say the same");

my %failed = map { $_->{id} => $_ } $db->rows(q{SELECT * FROM ekksync_failed WHERE side = 'firestore'});
is(scalar(keys %failed), @poison + @mixed, 'ekksync_failed lists each bad entry once');
for my $bad (@poison, @mixed)
{
	my $what = $bad->{what} // "good and bad, $bad->{reason}";
	my $entry = $entries->{ $bad->{id} };
	is($entry->{sync_status}, 'failed', "$what: failed")
	  or diag(explain($entry->{error_message}));
	is($entry->{error_message}, $bad->{reason}, '... for its own reason');
	is($failed{ $bad->{id} }{error_message}, $bad->{reason}, '... in ekksync_failed too');
	my $expected = $bad->{before};
	$expected = { %$expected, birthday => '1988-07-06', phone => '555-6543' } unless $bad->{what};
	is_deeply(member($bad->{key}), $expected, $bad->{what} ? '... and nothing is applied' :
		'... and the good fields are applied, no other') if $expected;
}

is($entries->{$locked_entry}{sync_status}, 'pending', 'the entry of a locked member waits');
isnt($name{$locked}, 'Læst Læstsdóttir', '... not applied');
ok(!$failed{$locked_entry}, '... not failed');
$in .= "ROLLBACK;\n\\q\n";
$holder->finish;
$run = $db->run;
is_deeply(figures($run, qw(to_django failed)), [ 'success', 1, 0 ], 'the next run applies it');
is(member($locked)->{name}, 'Læst Læstsdóttir', '... to its row');
is($db->entry($locked_entry)->{sync_status}, 'synced', '... and closes it');
quiet_run('after poison from Firestore');

# -------------------------------------------------------- Django to Firestore

$db->sql(<<'SQL');
DROP TRIGGER refuse_name ON membership_comrade;
ALTER TABLE membership_contactinfo DROP CONSTRAINT email_has_at,
	ALTER COLUMN email TYPE text, ALTER COLUMN facebook TYPE text;
ALTER TABLE membership_comrade ALTER COLUMN name TYPE text;
SQL

my $large = victim();
my $coded = victim();
my $endless = victim();
my $sum = victim(has_contactinfo());
my $twice = victim();
my %before = map { $_ => $db->doc($_) } $large, $coded, $endless, $sum, $twice;

update_member($large, q{name = repeat('Þ', 1024 * 1024), reachable = NOT reachable});
update_member($large, "birthday = '1971-02-03'");
update_member($coded, q{gender = 7, groupable = NOT groupable});
update_member($endless, q{birthday = 'infinity', name = 'Eilífur'});
$db->sql(<<"SQL");
UPDATE membership_contactinfo SET email = repeat('e', 400000), facebook = repeat('f', 400000)
WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$sum');
UPDATE membership_comrade SET name = repeat('n', 500000) WHERE ssn = '$sum';
UPDATE membership_comrade SET birthday = '1972-03-04' WHERE ssn = '$sum';
INSERT INTO membership_comrade (name, ssn, date_joined) VALUES
	('Annar', '$twice', now()), ('Bókstafir', '12AB567890', now());
UPDATE membership_comrade SET name = 'Bætt ' || ssn WHERE ssn IN ('@{[join "', '", @good]}');
SQL
is($db->sql('SELECT count(*) FROM ekksync_pending'), GOOD + 9, GOOD . ' good rows and 9 others are pending');

$run = $db->run;
is($run->{status}, 'success', 'a run over them');
$members = documents('members', qw(profile.name profile.birthday membership));
is(scalar(grep { $members->{$_}{profile}{name} eq "Bætt $_" } @good), GOOD, 'all good ones are pushed');
is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE ssn IN ('@{[join \"', '\", @good]}')"
	  . " AND sync_status = 'synced' AND error_message = '' AND retry_count = 0"), GOOD, '... and synced');
is($db->sql('SELECT count(*) FROM ekksync_pending'), 0, 'nothing is left pending');

# One failed row of a key, with its reason.
sub fails
{
	my ($what, $key, $reason, $nrows) = @_;
	my @rows = queue_rows($key, 'failed');
	is(scalar(@rows), $nrows // 1, "$what: failed");
	like($rows[0]{error_message}, $reason, '... for its own reason');
	is($rows[0]{retry_count}, 1, '... tried once');
	is($db->sql("SELECT count(*) FROM ekksync_failed WHERE side = 'django' AND member = '$key'"), $nrows // 1,
		'... seen in ekksync_failed');
	return @rows;
}

my $doc = $members->{$large};
fails('2 MiB of text', $large, qr/^name: text of 2097152 bytes is over Firestore's limit of 1048487 bytes$/);
is($doc->{membership}{reachable}, member($large)->{reachable}, 'the other field of that row is pushed');
is($doc->{profile}{birthday}, '1971-02-03', "... and the member's other row");
is($doc->{profile}{name}, $before{$large}{profile}{name}, '... and the name is as it was');
is(scalar(queue_rows($large, 'synced')), 1, '... which is synced');

$doc = $members->{$coded};
fails('a code outside the enum', $coded, qr/^gender: "7" is not one of the field's codes$/);
is($doc->{membership}{groupable}, member($coded)->{groupable}, 'the other field of that row is pushed');

fails('an infinite date', $endless, qr/^birthday: date is infinite or outside the years 1 to 9999$/);
is($members->{$endless}{profile}{name}, 'Eilífur', 'the other field of that row is pushed');

fails('a malformed kennitala', '12AB567890', qr/^kennitala is malformed$/);
ok(!exists $members->{'12AB567890'}, 'it gets no document');

fails('a doubled kennitala', $twice, qr/^kennitala is held by 2 rows$/);
is_deeply($db->doc($twice), $before{$twice}, 'its document is as it was');

# The longest value is left out.
my ($too_much) = fails('a document of 1.3 MB', $sum, qr/^name: .*1048576 bytes/);
is_deeply([ keys %{ $too_much->{fields_changed} } ], ['name'], '... of its rows the one that is too much');
is($members->{$sum}{profile}{birthday}, '1972-03-04', 'the other fields of that member are pushed');
my $long = $db->doc($sum)->{profile};
ok($long->{$_} eq substr($_, 0, 1) x 400_000, "... $_ too, which is long but fits") for qw(email facebook);

quiet_run('after poison from Django');

# -------------------------------------------------------------------- mended

$db->sql(<<"SQL");
UPDATE membership_comrade SET name = 'Mátuleg' WHERE ssn IN ('$large', '$sum');
UPDATE membership_comrade SET gender = 1 WHERE ssn = '$coded';
UPDATE membership_comrade SET birthday = '1973-04-05' WHERE ssn = '$endless';
UPDATE membership_comrade SET ssn = '$KNOWN_TO_NOBODY' WHERE ssn = '12AB567890';
DELETE FROM membership_comrade WHERE ssn = '$twice' AND name = 'Annar';
UPDATE membership_membersyncqueue SET sync_status = 'pending'
WHERE sync_status = 'failed' AND ssn IN ('$large', '$sum', '$coded', '$endless', '$twice', '12AB567890');
SQL
$run = $db->run;
is_deeply(figures($run, 'failed'), [ 'success', 0 ], 'mended, and set back to pending');
is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE sync_status <> 'synced'"
	  . " AND ssn IN ('$large', '$sum', '$coded', '$endless', '$twice', '12AB567890', '$KNOWN_TO_NOBODY')"),
	0, 'their rows are synced');
for my $key ($large, $sum, $coded, $endless, $twice, $KNOWN_TO_NOBODY)
{
	my ($member, $fields) = (member($key), $db->doc($key));
	is_deeply([ @{ $fields->{profile} }{qw(name birthday)} ], [ @$member{qw(name birthday)} ],
		'both sides are equal');
}
is($db->doc($coded)->{profile}{gender}, 'male', '... in the code');
quiet_run('after all is mended');

done_testing();
