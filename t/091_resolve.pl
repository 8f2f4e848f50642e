# Conflicts as people use them: what is held waits for ekksync_resolve(), which
# decides it through the next run, whatever came after the conflict and
# whatever run is at work meanwhile; what a run decided is overturned by an
# edit; what needs nobody any more is closed by the run; a NOTIFY without
# personal data tells of new conflicts.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp true false);
use Session;

my $db = EkkSync->new(members => 100, conf => 'ekksync.max_delete_percent = 100');

# A field that is computed and written back, one that is computed only, two
# that people decide.
$db->sql(<<'SQL');
CREATE TABLE nicknames (comrade_id integer PRIMARY KEY, nickname text, label text);
INSERT INTO nicknames (comrade_id) SELECT id FROM membership_comrade;
CREATE FUNCTION nick(integer) RETURNS text STABLE LANGUAGE sql
	AS 'SELECT nickname FROM public.nicknames WHERE comrade_id = $1';
CREATE FUNCTION set_nick(integer, jsonb) RETURNS void LANGUAGE sql
	AS 'UPDATE public.nicknames SET nickname = $2 #>> ''{}'' WHERE comrade_id = $1';
CREATE FUNCTION label(integer) RETURNS text STABLE LANGUAGE sql
	AS 'SELECT label FROM public.nicknames WHERE comrade_id = $1';
SELECT ekksync_map('nickname', 'profile.nickname', 'text', compute => 'nick(integer)',
	apply => 'set_nick(integer, jsonb)', depends => '{"public.nicknames": {"link": "comrade_id"}}');
SELECT ekksync_map('label', 'profile.label', 'text', direction => 'push', compute => 'label(integer)',
	depends => '{"public.nicknames": {"link": "comrade_id"}}');
SELECT ekksync_map('name', 'profile.name', 'text', "column" => 'name', policy => 'manual');
SELECT ekksync_map('facebook', 'profile.facebook', 'text', 'membership_contactinfo', 'facebook', 'comrade_id', policy => 'manual');
SQL

# ------------------------------------------------------------------- helpers

my $last_id = 0;

# Kennitala of an invented member that no other part of this test uses.
sub next_key { $last_id++; return $db->sql("SELECT ssn FROM membership_comrade WHERE id = $last_id"); }

my %table = ((map { $_ => 'membership_contactinfo' } qw(email facebook phone)), (map { $_ => 'nicknames' } qw(nickname label)));

sub set_field
{
	my ($key, $field, $value) = @_;
	$value = $db->quote($value);
	my $id = $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'");
	return $db->sql($table{$field}
		? "INSERT INTO $table{$field} (comrade_id, $field) VALUES ($id, $value) ON CONFLICT (comrade_id) DO UPDATE SET $field = excluded.$field"
		: "UPDATE membership_comrade SET $field = $value WHERE id = $id");
}

sub get_field
{
	my ($key, $field) = @_;
	my $row = $db->row("SELECT $field AS value FROM membership_comrade LEFT JOIN membership_contactinfo c ON c.comrade_id = id LEFT JOIN nicknames n ON n.comrade_id = id WHERE ssn = '$key'");
	return $row->{value};
}

sub path
{
	my ($key, $field) = @_;
	return $db->doc($key)->{profile}{$field};
}

sub sides { my ($key, $field) = @_; return [ get_field($key, $field), path($key, $field) ]; }

# A change in the console, seen by the scan.
sub console_edit
{
	my ($key, $field, $value) = @_;
	$db->patch_doc($key, { "profile.$field" => $value, updated_at => timestamp() }, exists => 1);
	return;
}

# Conflicts of a member, oldest first.
sub conflicts { my ($key) = @_; return $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id"); }

# Those that wait for a person, as [id, field, django, firestore].
sub open_conflicts
{
	my ($key) = @_;
	return map { [ @$_{qw(id field django_value firestore_value)} ] } grep { $_->{winner} eq 'none' && !$_->{resolved_at} } conflicts($key);
}

sub open_id { my ($key) = @_; my @open = open_conflicts($key); return $open[-1][0]; }

# Statuses in the queue, without those of the past.
sub queue
{
	my ($key) = @_;
	return $db->sql("SELECT coalesce(string_agg(DISTINCT sync_status, ' '), '') FROM membership_membersyncqueue WHERE ssn = '$key' AND sync_status <> 'synced'");
}

sub run_ok
{
	my ($figures, $name, %arg) = @_;
	my $run = $db->run(%arg);
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message});
	return $run;
}

sub quiet { my ($name) = @_; return run_ok('0 0 0 0', "quiet after $name"); }

sub resolve
{
	my ($id, $how) = @_;
	return $db->sql("SELECT ekksync_resolve($id, $how)");
}

# A call that must fail, with its SQLSTATE and a text in what it says.
sub refused
{
	my ($sql, $state, $says, $name) = @_;
	my ($status, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\n$sql");
	ok($status != 0, "$name is refused");
	like($error, qr/ERROR:  $state: .*$says/s, '... and says why');
	return;
}

# A field that both sides have changed, and that is held; its conflict.
my $serial = 0;
sub hold
{
	my ($field) = @_;
	my $key = next_key();
	my $n = ++$serial;
	set_field($key, $field, "upphaf $n");
	$db->run;
	set_field($key, $field, "django $n");
	console_edit($key, $field, "firestore $n");
	my $run = $db->run;
	my @open = open_conflicts($key);
	is_deeply([ $run->{status}, map { [ @$_[1 .. 3] ] } @open ], [ 'success', [ $field, "django $n", "firestore $n" ] ],
		"$field $n: both values are held");
	return ($key, $open[0][0], $n);
}

# It is over: both sides have the value, nothing is open, nothing is left.
sub settled
{
	my ($key, $field, $value, $name) = @_;
	is_deeply(sides($key, $field), [ $value, $value ], "$name: both sides have the value");
	is_deeply([ open_conflicts($key) ], [], '... no conflict is open');
	is(queue($key), '', '... nothing is left in the queue');
	return quiet($name);
}

run_ok('100 0 0 0', 'first push');

# -------------------------------------------------------------- held, resolved

for my $field (qw(name facebook))
{
	my ($key, $id, $n) = hold($field);
	like($db->sql("SELECT error_message FROM membership_membersyncqueue WHERE ssn = '$key' AND sync_status = 'failed'"),
		qr/^$field: held/, 'its row waits for a person');
	is(resolve($id, "take => 'firestore'"), "the next run takes Firestore's value", "$field: Firestore is taken");
	is_deeply(sides($key, $field), [ "django $n", "firestore $n" ], '... which writes neither side');
	is(queue($key), 'pending', '... but leaves a pending row');
	my ($conflict) = conflicts($key);
	is($conflict->{resolved_by}, 'socialism', '... and the conflict says who did it');
	run_ok('0 1 0 0', "$field, Firestore");
	settled($key, $field, "firestore $n", "$field, Firestore");

	($key, $id, $n) = hold($field);
	is(resolve($id, "'django'"), "the next run sends Django's value", "$field: Django is taken");
	is(queue($key), 'pending', '... its row is pending again');
	run_ok('1 0 0 0', "$field, Django");
	settled($key, $field, "django $n", "$field, Django");

	($key, $id, $n) = hold($field);
	is(resolve($id, qq(value => '"þriðja $n"')), 'the row has the value now; the next run sends it', "$field: another value is taken");
	is(get_field($key, $field), "þriðja $n", '... which the row has at once');
	run_ok('1 0 0 0', "$field, another value");
	settled($key, $field, "þriðja $n", "$field, another value");

	($key, $id, $n) = hold($field);
	is(resolve($id, qq(value => '"firestore $n"')), "the next run takes Firestore's value", "$field: Firestore's value by name");
	run_ok('0 1 0 0', "$field, by name");
	settled($key, $field, "firestore $n", "$field, by name");
}
{
	my ($key, $id, $n) = hold('facebook');
	resolve($id, "value => 'null'");
	run_ok('1 0 0 0', 'no value');
	settled($key, 'facebook', undef, 'no value');
}

# A resolution is one of its transaction.
{
	my ($key, $id, $n) = hold('name');
	$db->sql("BEGIN; SELECT ekksync_resolve($id, value => '\"gleymt\"'); ROLLBACK");
	is_deeply([ get_field($key, 'name'), queue($key), open_id($key) ], [ "django $n", 'failed', $id ], 'rolled back, it leaves no trace');
	quiet('a resolution that was rolled back');
	resolve($id, "take => 'django'");
	run_ok('1 0 0 0', 'after all');
	settled($key, 'name', "django $n", 'after all');
}

# ----------------------------------------- edits between conflict and decision

{
	my ($key, $id, $n) = hold('name');
	console_edit($key, 'name', "nýrra $n");
	resolve($id, "take => 'firestore'");
	run_ok('0 1 0 0', 'Firestore edited, Firestore taken');
	settled($key, 'name', "nýrra $n", 'Firestore edited, Firestore taken');

	($key, $id, $n) = hold('name');
	set_field($key, 'name', "nýrra $n");
	resolve($id, "take => 'django'");
	is(get_field($key, 'name'), "nýrra $n", 'an edit of the side that is taken stays');
	run_ok('1 0 0 0', 'Django edited, Django taken');
	settled($key, 'name', "nýrra $n", 'Django edited, Django taken');

	($key, $id, $n) = hold('name');
	console_edit($key, 'name', "óséð $n");
	resolve($id, "take => 'django'");
	run_ok('0 0 1 1', 'Firestore edited, Django taken');
	is_deeply([ map { [ @$_[1 .. 3] ] } open_conflicts($key) ], [ [ 'name', "django $n", "óséð $n" ] ],
		'an edit of the other side that nobody has seen is a new conflict');
	resolve(open_id($key), "take => 'django'");
	run_ok('1 0 0 0', 'seen');
	settled($key, 'name', "django $n", 'seen');

	($key, $id, $n) = hold('name');
	set_field($key, 'name', "óséð $n");
	refused("SELECT ekksync_resolve($id, take => 'firestore')", '55000', "conflict $id is out of date.*\"name\".*HINT", 'Django edited, Firestore taken');
	run_ok('0 0 1 1', 'Django edited, Firestore taken');
	is_deeply([ map { [ @$_[1 .. 3] ] } open_conflicts($key) ], [ [ 'name', "óséð $n", "firestore $n" ] ], '... in Django likewise');
	resolve(open_id($key), "take => 'firestore'");
	run_ok('0 1 0 0', 'seen there');
	settled($key, 'name', "firestore $n", 'seen there');

	($key, $id, $n) = hold('name');
	console_edit($key, 'name', "óséð $n");
	resolve($id, qq(value => '"þriðja $n"'));
	run_ok('0 0 1 2', 'Firestore edited, another value');
	is_deeply([ map { [ @$_[1 .. 3] ] } open_conflicts($key) ], [ [ 'name', "þriðja $n", "óséð $n" ] ], '... and against another value');
	resolve(open_id($key), "take => 'firestore'");
	run_ok('0 1 0 0', 'seen at last');
	settled($key, 'name', "óséð $n", 'seen at last');

	($key, $id, $n) = hold('name');
	set_field($key, 'name', "firestore $n");
	is(resolve($id, "take => 'firestore'"), "the next run takes Firestore's value", 'Django edited to what is taken');
	console_edit($key, 'name', "nýrra $n");
	run_ok('0 1 0 0', 'Django edited to what is taken');
	settled($key, 'name', "nýrra $n", 'Django edited to what is taken');

	($key, $id, $n) = hold('name');
	set_field($key, 'name', "óséð $n");
	is(resolve($id, qq(value => '"firestore $n"')), 'the row has the value now; the next run sends it', 'Django edited, Firestore\'s value by name');
	run_ok('0 0 0 0', 'by name');
	settled($key, 'name', "firestore $n", 'by name');
}

# Where the later edit wins, deciding is no edit, and none is lost to it unsaid.
for my $take (qw(django firestore))
{
	my $key = next_key();
	my $n = ++$serial;
	set_field($key, 'email', "upphaf $n");
	$db->run;
	$db->sql("ALTER TABLE membership_contactinfo ADD CONSTRAINT no_ban CHECK (email NOT LIKE 'bann%') NOT VALID");
	console_edit($key, 'email', "bann $n");
	$db->run;
	my $id = open_id($key);
	$db->sql('ALTER TABLE membership_contactinfo DROP CONSTRAINT no_ban');
	set_field($key, 'email', "django $n");
	$db->profile_edit($key, email => "firestore $n");
	my $rows = $db->sql('SELECT count(*) FROM membership_membersyncqueue');
	refused("SELECT ekksync_resolve($id, take => 'firestore')", '55000', "conflict $id is out of date.*\"email\"", 'Firestore, whatever Django has now') if $take eq 'firestore';
	is(resolve($id, "take => 'django'"), "the next run sends Django's value", 'Django, whatever Firestore has now') if $take eq 'django';
	is($db->sql('SELECT count(*) FROM membership_membersyncqueue'), $rows, '... which leaves no edit in the queue');
	run_ok('0 1 1 0', "both edited, $take taken");
	settled($key, 'email', "firestore $n", "the later edit wins, $take taken");
}

# ---------------------------------------------------------- while a run is at it

sub no_run { return $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0; }

for my $place (map { ([ $_, 0 ], [ $_, 1 ]) } qw(documents decided applied))
{
	my ($step, $pulls) = @$place;
	for my $case ([ "take => 'django'", 'django' ], [ "take => 'firestore'", 'firestore' ], [ q(value => '"þriðja N"'), 'þriðja' ])
	{
		my ($how, $value) = @$case;
		my ($key, $id, $n) = hold('name');
		my $name = "$how during a run" . ($pulls ? ' that applies something' : '') . ", at $step";
		# what brings the run to this member: an edit here, or on each side
		set_field($key, 'phone', "555-" . (1000 + $n));
		$db->profile_edit($key, 'email', "$n\@example.is") if $pulls;
		$db->stop_at($step);
		$db->run(wait => 0);
		ok($db->wait_stopped, "$name: the run is there");
		resolve($id, $how =~ s/N/$n/r);
		$db->go_on;
		$db->wait_for(\&no_run) or BAIL_OUT('a run does not end');
		is(scalar(conflicts($key)), 1, '... holds nothing once more');
		$db->run;
		is_deeply(sides($key, 'name'), [ ("$value $n") x 2 ], '... and is carried out by the next one');
		is_deeply([ open_conflicts($key) ], [], '... which leaves no conflict');
		$db->run;
		is(queue($key), '', '... nor anything in the queue');
		quiet($name);
	}
}

# What no queue row speaks of is not forgotten by a run that was past its check.
{
	my $key = next_key();
	set_field($key, 'birthday', '1980-01-02');
	$db->run;
	console_edit($key, 'birthday', 'í vor');
	run_ok('0 0 1 0', 'a value that does not fit');
	set_field($key, 'name', 'á meðan');
	$db->stop_at('applied');
	$db->run(wait => 0);
	ok($db->wait_stopped, '... while a run is there');
	resolve(open_id($key), "take => 'django'");
	$db->go_on;
	$db->wait_for(\&no_run) or BAIL_OUT('a run does not end');
	is(path($key, 'birthday'), 'í vor', '... which does not send it');
	run_ok('1 0 0 0', 'due');
	settled($key, 'birthday', '1980-01-02', 'the next run does: due');
}

# An edit that is under way is waited for.
{
	my ($key, $id, $n) = hold('name');
	my $editor = Session->new($db);
	my $judge = Session->new($db);
	$editor->sql("BEGIN; UPDATE membership_comrade SET name = 'síðast $n' WHERE ssn = '$key'");
	$judge->send("SELECT ekksync_resolve($id, 'django')");
	ok($db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = @{[ $judge->pid ]} AND wait_event_type = 'Lock'") }),
		'who resolves waits for an edit of the row');
	$editor->sql('COMMIT');
	is($judge->answer, "the next run sends Django's value", '... and sees it');
	$_->end for $editor, $judge;
	run_ok('1 0 0 0', 'after an edit');
	settled($key, 'name', "síðast $n", 'after an edit');
}

# ----------------------------------------------------- what needs nobody any more

{
	my ($key, $id, $n) = hold('name');
	console_edit($key, 'name', "annað $n");
	$db->profile_edit($key, 'email', "annad$n\@example.is");
	$db->run;
	is_deeply([ map { [ @$_[1 .. 3] ] } open_conflicts($key) ], [ [ 'name', "django $n", "annað $n" ] ],
		'a value that changes while it is held is held anew, in place of the old one');
	console_edit($key, 'name', "firestore $n");
	$db->run(only => [$key]);
	isnt(open_id($key), $id, 'the first values again are a conflict that is open');
	is(scalar(open_conflicts($key)), 1, '... the only one');

	console_edit($key, 'name', "django $n");
	my $run = run_ok('0 0 0 0', 'both agree');
	is_deeply([ open_conflicts($key) ], [], 'a held conflict is closed when both sides agree');
	my @by = map { $_->{resolved_by} } conflicts($key);
	is($by[-1], "run $run->{run}", '... by the run');
	$db->run;
	is(queue($key), '', '... and its row is settled');
	refused("SELECT ekksync_resolve($id, 'django')", '55000', "conflict $id is resolved already.*run \\d+ at 20", 'a conflict that a run closed');
	settled($key, 'name', "django $n", 'agreement');
}
{
	my ($key, $id) = hold('name');
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = $last_id; DELETE FROM membership_newlocaladdress WHERE comrade_id = $last_id; "
		. "DELETE FROM membership_comrade_emails WHERE comrade_id = $last_id; DELETE FROM membership_unionmembership WHERE comrade_id = $last_id; "
		. "DELETE FROM membership_comradetitle WHERE comrade_id = $last_id; DELETE FROM membership_comrade WHERE id = $last_id");
	refused("SELECT ekksync_resolve($id, take => 'firestore')", '55000', 'its member is not there.*HINT:.*django', 'a conflict of a member who is gone');
	is(open_id($key), $id, '... which stays open');
	$db->run;
	is_deeply([ open_conflicts($key) ], [], '... until the run sees that he is gone');

	console_edit($key, 'facebook', 'of seint');
	$db->run(only => [$key]);
	my ($conflict) = grep { $_->{rule} eq 'member not found' } conflicts($key);
	refused("SELECT ekksync_resolve($conflict->{id}, value => '1')", '55000', 'its member is not there', 'an edit of a member who is gone');
	is(resolve($conflict->{id}, "take => 'django'"), 'closed', '... can only be closed');
	quiet('a member who is gone');
}
{
	my ($key, $id, $n) = hold('name');
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Tvífari', '$key', now())");
	refused("SELECT ekksync_resolve($id, take => 'firestore')", '55000', 'its kennitala is held by 2 rows', 'a doubled kennitala');
	$db->sql("DELETE FROM membership_comrade WHERE name = 'Tvífari'");
	$db->run;
	resolve(open_id($key), "take => 'django'");
	$db->run;
	is_deeply(sides($key, 'name'), [ ("django $n") x 2 ], '... and when it no longer is, it can be decided');
	$db->sql("DELETE FROM membership_membersyncqueue WHERE ssn = '$key' AND sync_status = 'failed'");
	quiet('a doubled kennitala');
}

# --------------------------------------------------------- values that do not fit

{
	my $key = next_key();
	set_field($key, 'birthday', '1980-01-02');
	$db->run;
	console_edit($key, 'birthday', 'í vor');
	run_ok('0 0 1 0', 'no date');
	my $id = open_id($key);
	refused("SELECT ekksync_resolve($id, take => 'firestore')", '22\w+', 'does not fit field "birthday".*DETAIL', 'taking a value that does not fit');
	refused("SELECT ekksync_resolve($id, value => '\"1980-02-30\"')", '22\w+', 'does not fit field "birthday"', 'another one');
	is(resolve($id, "take => 'django'"), "the next run sends Django's value", 'Django is taken');
	run_ok('1 0 0 0', 'no date');
	is_deeply(sides($key, 'birthday'), [ ('1980-01-02') x 2 ], '... and written over it');
	quiet('no date');

	console_edit($key, 'birthday', 'í haust');
	$db->run;
	is(resolve(open_id($key), q(value => '"1981-03-04"')), 'the row has the value now; the next run sends it', 'or another value');
	$db->run;
	settled($key, 'birthday', '1981-03-04', 'another date');
}
{
	# held where the value itself could be Django's
	my $key = next_key();
	$db->run;
	console_edit($key, 'facebook', { bytesValue => 'AAEC' });
	$db->run;
	my $id = open_id($key);
	set_field($key, 'facebook', 'AAEC');
	resolve($id, "take => 'django'");
	$db->run;
	settled($key, 'facebook', 'AAEC', 'a value that only looks the same');
}
{
	my $key = next_key();
	$db->run;
	$db->sql("ALTER TABLE membership_comrade ADD CONSTRAINT no_three CHECK (gender NOT IN (0, 3)) NOT VALID");
	console_edit($key, 'gender', 'other');
	run_ok('0 0 1 0', 'a value that PostgreSQL refuses');
	my $id = open_id($key);
	refused("SELECT ekksync_resolve($id, value => '3.5')", '22\w+', 'does not fit', 'a number that is no code');
	resolve($id, "take => 'firestore'");
	run_ok('0 0 1 0', 'refused again');
	isnt(open_id($key), $id, 'what is refused again is a new conflict');
	resolve(open_id($key), q(value => '"female"'));
	is(get_field($key, 'gender'), 2, 'a value may be given as a document has it');
	run_ok('1 0 0 0', 'a label');
	quiet('a label');

	console_edit($key, 'gender', 'other');
	$db->run;
	$id = open_id($key);
	refused("SELECT ekksync_resolve($id, value => '0')", '23514', 'no_three', 'a value that the table refuses');
	$db->sql('ALTER TABLE membership_comrade DROP CONSTRAINT no_three');
	resolve($id, "take => 'firestore'");
	run_ok('0 1 0 0', 'the constraint is gone');
	is(get_field($key, 'gender'), 3, '... and when nothing refuses it, it is taken');
	quiet('the constraint is gone');
}

# ------------------------------------------------------------- decided, overturned

# A conflict that Firestore, or with django 1, Django has won.
sub decided
{
	my ($field, $django) = @_;
	my $key = next_key();
	my $n = ++$serial;
	set_field($key, $field, "upphaf $n");
	$db->run;
	console_edit($key, $field, "firestore $n") if $django;
	set_field($key, $field, "django $n");
	my $at = $db->sql("SELECT to_char((max(created_at) + interval '@{[ $django ? -1 : 1 ]} microseconds') AT TIME ZONE 'UTC', "
		  . "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM membership_membersyncqueue WHERE ssn = '$key'");
	$db->profile_edit($key, $field, "firestore $n", created_at => timestamp($at));
	$db->run;
	my ($conflict) = conflicts($key);
	is_deeply([ @$conflict{qw(field winner)} ], [ $field, $django ? 'django' : 'firestore' ], "$field $n: a conflict that is decided");
	return ($key, $conflict->{id}, $n);
}

for my $field (qw(email nickname))
{
	my ($key, $id, $n) = decided($field, 0);
	is(resolve($id, "'django'"), 'the row has the value now; the next run sends it', "$field: Firestore's win is overturned");
	is_deeply(sides($key, $field), [ "django $n", "firestore $n" ], '... in the row, at once');
	run_ok('1 0 0 0', "$field, overturned");
	settled($key, $field, "django $n", "$field, overturned");

	($key, $id, $n) = decided($field, 1);
	resolve($id, "take => 'firestore'");
	run_ok('1 0 0 0', "$field, Django's");
	settled($key, $field, "firestore $n", "$field, Django's win overturned");

	($key, $id, $n) = decided($field, 0);
	is(resolve($id, "take => 'firestore'"), 'nothing to change: the row has this value', "$field: a decision is accepted");
	$db->run;	# what was applied to a computed field is looked at once more
	settled($key, $field, "firestore $n", "$field, accepted");

	($key, $id, $n) = decided($field, 0);
	resolve($id, qq(value => '"betra $n"'));
	run_ok('1 0 0 0', "$field, another value");
	settled($key, $field, "betra $n", "$field, another value for a decision");
}
{
	my ($key, $id, $n) = decided('email', 0);
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = $last_id");
	resolve($id, "'django'");
	is(get_field($key, 'email'), "django $n", 'a related row that is missing is made');
	$db->run;
	settled($key, 'email', "django $n", 'a related row');
}
for my $case ([ 'profile.label', 'label' ], [ 'membership.status', 'status' ])
{
	my ($path, $field) = @$case;
	my $key = next_key();
	set_field($key, 'label', 'merki');
	$db->run;
	$db->patch_doc($key, { $path => 'annað', updated_at => timestamp() }, exists => 1);
	$db->run;
	my ($conflict) = conflicts($key);
	is("$conflict->{field}: $conflict->{rule}", "$field: not writable from Firestore", "$field is Django's");
	refused("SELECT ekksync_resolve($conflict->{id}, 'firestore')", '55000', 'is not written from Firestore.*HINT:  Change it in Django', 'taking Firestore there');
	is(resolve($conflict->{id}, "'django'"), 'nothing to change: the row has this value', '... but it can be closed');
	quiet($field);
}

# ------------------------------------------------------------------ wrong calls

{
	my ($key, $id, $n) = hold('name');
	refused("SELECT ekksync_resolve($id)", '22023', 'either "take" or "value".*HINT', 'neither take nor value');
	refused("SELECT ekksync_resolve($id, 'django', '1')", '22023', 'either "take" or "value"', 'both');
	refused("SELECT ekksync_resolve($id, 'Django')", '22023', 'invalid value for "take": "Django".*HINT', 'an unknown side');
	refused("SELECT ekksync_resolve(NULL, 'django')", '22004', 'conflict must not be null', 'no conflict');
	refused("SELECT ekksync_resolve(999999, 'django')", '22023', 'conflict 999999 does not exist.*HINT:  See the view ekksync_conflicts', 'an unknown conflict');
	refused("SELECT ekksync_resolve($id, value => '\"" . 'ó' x 251 . "\"')", '22001', 'does not fit field "name".*250', 'a value that is too long');
	refused("SELECT ekksync_resolve($id, value => '5')", '22\w+|42804', 'does not fit field "name"', 'a value of another type');
	refused("BEGIN READ ONLY; SELECT ekksync_resolve($id, 'django')", '25006', 'ekksync_resolve', 'a read-only transaction');
	$db->admin_sql('CREATE ROLE watcher LOGIN');
	my $watcher = Session->new($db, 'watcher');
	eval { $watcher->sql("SELECT ekksync_resolve($id, 'django')") };
	like($@, qr/42501: permission denied for function ekksync_resolve/, 'a role without the right');
	$db->admin_sql('GRANT EXECUTE ON FUNCTION ekksync_resolve(bigint, text, jsonb) TO watcher');
	eval { $watcher->sql("SELECT ekksync_resolve($id, value => '\"x\"')") };
	like($@, qr/42501: permission denied to call ekksync_resolve\(\).*"socialism".*HINT/s, '... or without those of the role that writes the row');
	$watcher->end;
	is_deeply([ get_field($key, 'name'), queue($key), open_id($key) ], [ "django $n", 'failed', $id ], 'all of that changes nothing');

	$db->sql('CREATE FUNCTION keep_name() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.name := OLD.name; RETURN NEW; END$$');
	$db->sql('CREATE TRIGGER keep_name BEFORE UPDATE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION keep_name()');
	refused("SELECT ekksync_resolve($id, value => '\"x\"')", '27000', 'a trigger of the table did not let the value stay', 'a value that a trigger takes back');
	$db->sql('DROP TRIGGER keep_name ON membership_comrade');
	resolve($id, "'django'");
	refused("SELECT ekksync_resolve($id, 'django')", '55000', "conflict $id is resolved already.*It was by socialism at 20", 'twice the same');
	run_ok('1 0 0 0', 'after wrong calls');

	($key, $id, $n) = hold('facebook');
	$db->sql("SELECT ekksync_unmap('facebook')");
	refused("SELECT ekksync_resolve($id, 'firestore')", '55000', 'field "facebook" is not mapped.*HINT', 'a field that is no longer mapped');
	is(resolve($id, "'django'"), 'closed', '... whose conflict can be closed');
	($key, $id, $n) = hold('name');
	$db->sql('ALTER TABLE membership_comrade RENAME name TO full_name');
	refused("SELECT ekksync_resolve($id, 'django')", '55000', 'field "name" is suspended', 'a field that is suspended');
	$db->sql('ALTER TABLE membership_comrade RENAME full_name TO name');
	resolve($id, "'django'");
	$db->run;
	is_deeply(sides($key, 'name'), [ ("django $n") x 2 ], '... until it is not');
	$db->run;
	quiet('wrong calls');
}

# -------------------------------------------------------------------- NOTIFY

{
	my $listener = Session->new($db);
	$listener->sql('LISTEN ekksync');
	$db->run;
	is($listener->sql('SELECT 1'), '1', 'a run without a conflict notifies nobody');
	my ($key) = hold('name');
	my $heard = '';
	ok($db->wait_for(sub { $heard .= $listener->sql('SELECT'); return $heard =~ /notification/ }), 'a listener is told of a conflict');
	my $run = $db->sql("SELECT run FROM ekksync_conflicts WHERE member = '$key'");
	like($heard, qr/notification "ekksync" with payload "\{"event":"conflict","run":$run,"conflicts":1,"potential":1\}"/, '... by which run, and how many');
	unlike($heard, qr/$key|django \d|firestore \d/, '... and not whose or what');
	$heard = '';
	quiet('a conflict that is held');
	$heard .= $listener->sql('SELECT') for 1 .. 3;
	unlike($heard, qr/notification/, 'it is told once');
	$listener->end;
}

$db->sql('SELECT * FROM ekksync_detach()');
refused("SELECT ekksync_resolve(1, 'django')", '55000', 'ekksync is not attached.*HINT', 'resolving without an attachment');

done_testing();
