# What looks back: ekksync_undo() takes back what a run wrote on both sides,
# and says of everything else why not; ekksync_history() tells the whole life
# of a field, whoever changed it.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp true false);
use FaultProxy;
use Session;

my $db = EkkSync->new(members => 40, conf => 'ekksync.max_delete_percent = 100');
my $proxy = FaultProxy->new(to => $db->host);
$proxy->start;
$db->use_host($proxy->host);
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

sub sides { my ($key, $field) = @_; return [ get_field($key, $field), $db->doc($key)->{profile}{$field} ]; }

sub console_edit
{
	my ($key, $field, $value) = @_;
	$db->patch_doc($key, { "profile.$field" => $value, updated_at => timestamp() }, exists => 1);
	return;
}

sub run_ok
{
	my ($figures, $name, %arg) = @_;
	my $run = $db->run(%arg);
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message} // $db->admin_sql("SELECT string_agg(key || ' ' || side || ' ' || changes, E'\n') FROM ekksync.change_log WHERE run = $run->{run}"));
	return $run->{run};
}

sub quiet { my ($name) = @_; return run_ok('0 0 0 0', "quiet after $name"); }

# What undo says, as {key => {"side field" => outcome}}, or {key => {whole => ...}}.
sub undo
{
	my ($run, $args) = @_;
	my %said;
	for my $row ($db->rows("SELECT * FROM ekksync_undo($run" . ($args ? ", $args" : '') . ')'))
	{
		$said{ $row->{member} }{ $row->{side} . ' ' . ($row->{field} // 'whole') } = $row->{outcome};
	}
	return \%said;
}

sub refused
{
	my ($sql, $state, $says, $name) = @_;
	my ($status, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\n$sql");
	ok($status != 0, "$name is refused");
	like($error, qr/ERROR:  $state: .*$says/s, '... and says why');
	return;
}

# All that an undo could change.
sub state
{
	return $db->admin_sql('SELECT ' . join ' || ', map { "(SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM $_ t)" }
		qw(membership_comrade membership_contactinfo nicknames membership_membersyncqueue ekksync.member ekksync.change_log ekksync.conflict ekksync.run));
}

my $first = run_ok('40 0 0 0', 'first push');

# ---------------------------------------------------- a run that did much at once

{
	my @pulled = map { next_key() } 1 .. 3;
	my @pushed = map { next_key() } 1 .. 3;
	set_field($_, 'name', "Áður $_") for @pulled, @pushed;
	$db->run;
	set_field($_, 'name', "Nýtt $_") for @pushed;
	console_edit($_, 'name', "Nýtt $_") for @pulled;
	my $run = run_ok('3 3 0 0', 'three pulled, three pushed');

	# since then: one of each was changed in Django, one of each in Firestore
	set_field($_, 'name', "Síðar $_") for $pulled[1], $pushed[1];
	console_edit($_, 'name', "Síðar $_") for $pulled[2], $pushed[2];
	my $expected = sub {
		my ($undone) = @_;
		return { map { ($pulled[$_] => { 'django name' => ($undone, 'changed since in Django', 'changed since in Firestore')[$_] },
			$pushed[$_] => { 'firestore name' => ($undone, 'changed since in Django', 'changed since in Firestore')[$_] }) } 0 .. 2 };
	};
	my $before = state();
	is_deeply(undo($run, 'dry_run => true'), $expected->('would be undone'), 'a dry run says what would be undone, and why not');
	is(state(), $before, '... and changes nothing');
	is_deeply(undo($run), $expected->('undone'), 'undo does it');
	is_deeply(sides($_, 'name'), [ "Áður $_", "Nýtt $_" ], '... in the row, at once') for $pulled[0], $pushed[0];
	my $undo_run = run_ok('4 2 0 0', 'undone');
	is_deeply(sides($_, 'name'), [ ("Áður $_") x 2 ], '... and by the next run in the document') for $pulled[0], $pushed[0];
	is_deeply(sides($_, 'name'), [ ("Síðar $_") x 2 ], '... while later edits stay') for @pulled[ 1, 2 ], @pushed[ 1, 2 ];
	quiet('undo');
	my $again = undo($run);
	is_deeply([ map { values %$_ } @$again{ $pulled[0], $pushed[0] } ], [ ('changed since in Django') x 2 ], 'what is undone is not undone twice');

	undo($undo_run);
	$db->run;
	is_deeply(sides($_, 'name'), [ ("Nýtt $_") x 2 ], 'an undo can be undone') for $pulled[0], $pushed[0];
	is_deeply(sides($pushed[1], 'name'), [ ("Nýtt $pushed[1]") x 2 ], '... with all else that its run wrote');
	quiet('an undo of an undo');
	my $row = $db->row("SELECT * FROM ekksync_undo($run, true) WHERE member = '$pulled[0]'");
	is_deeply([ @$row{qw(side field old_value new_value outcome)} ], [ 'django', 'name', "Áður $pulled[0]", "Nýtt $pulled[0]", 'would be undone' ],
		'a row says what was written over what');
}

# ------------------------------------------------------------ all kinds of fields

{
	my $key = next_key();
	set_field($key, 'gender', 1);
	set_field($key, 'nickname', 'Áður');
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = $last_id");
	$db->run;
	console_edit($key, 'gender', 'female');
	console_edit($key, 'nickname', 'Nýtt');
	console_edit($key, 'email', 'ny@example.is');
	set_field($key, 'label', 'merki');
	my $run = run_ok('1 1 0 0', 'kinds');
	is_deeply(undo($run), { $key => { 'django gender' => 'undone', 'django nickname' => 'undone', 'django email' => 'undone', 'firestore label' => 'not writable' } },
		'columns, related rows and computed fields are undone, what is Django\'s own is not');
	run_ok('1 0 0 0', 'kinds undone');
	is_deeply([ map { @{ sides($key, $_) } } qw(gender nickname email label) ], [ 1, 'male', 'Áður', 'Áður', undef, undef, 'merki', 'merki' ], '... on both sides');
	quiet('kinds');
}
{
	# a document's value that no column takes, written over
	my $key = next_key();
	set_field($key, 'birthday', '1980-01-01');
	$db->run;
	console_edit($key, 'birthday', 'í vor');
	set_field($key, 'birthday', '1980-01-02');
	my $run = run_ok('1 0 1 0', 'over what does not fit');
	my $said = undo($run);
	like($said->{$key}{'firestore birthday'}, qr/^refused: .*date/, 'what does not fit its column is refused');
	is(get_field($key, 'birthday'), '1980-01-02', '... and the row stays');
	quiet('what does not fit');
}
{
	# both sides written: a client only enqueued
	my $key = next_key();
	set_field($key, 'name', 'Áður');
	$db->run;
	$db->profile_edit($key, 'name', 'Aðeins í röð', document => 0);
	my $run = run_ok('1 1 0 0', 'enqueued');
	is_deeply(undo($run), { $key => { 'django name' => 'undone', 'firestore name' => 'undone' } }, 'what was written on both sides is undone');
	run_ok('1 0 0 0', 'enqueued, undone');
	is_deeply(sides($key, 'name'), [ ('Áður') x 2 ], '... on both');
}

# ------------------------------------------------------------------ what cannot be

{
	my $key = $db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Nýliði', '2001700009', now()) RETURNING ssn");
	my $run = run_ok('1 0 0 0', 'a new member');
	is_deeply(undo($run), { $key => { 'firestore whole' => 'the document was created by this run' } }, 'a document that was created stays, said once');
	ok($db->doc($key), '... it is there');
	quiet('a new member');

	my ($gone, $doubled, $poison, $good) = ($key, next_key(), next_key(), next_key());
	console_edit($_, 'name', "Nýtt $_") for $gone, $doubled, $poison, $good;
	$run = run_ok('0 4 0 0', 'four');
	$db->sql("DELETE FROM membership_comrade WHERE ssn = '$gone'");
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Tvífari', '$doubled', now())");
	$db->sql(<<"SQL");
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN IF NEW.ssn = '$poison' THEN RAISE EXCEPTION 'ekki þennan'; END IF; RETURN NULL; END\$\$;
CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON membership_comrade DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
SQL
	is_deeply(undo($run), { $gone => { 'django name' => 'member not found' }, $doubled => { 'django name' => 'refused: kennitala is held by 2 rows' },
			$poison => { 'django name' => 'refused: ekki þennan' }, $good => { 'django name' => 'undone' } },
		'who is gone, doubled or refused is said, and stops nobody');
	$db->sql("DROP TRIGGER refuse ON membership_comrade; DELETE FROM membership_comrade WHERE name = 'Tvífari'");
	$db->run;
	isnt(get_field($good, 'name'), "Nýtt $good", '... the others are undone');
	is_deeply(sides($poison, 'name'), [ ("Nýtt $poison") x 2 ], '... and he is as he was');
	is($db->doc($gone)->{membership}{status}, 'inactive', 'a member who is gone is inactive');
	my $deactivated = $db->sql('SELECT max(run) FROM ekksync_runs');
	is(undo($deactivated, "true")->{$gone}{'firestore status'}, 'not writable', '... which is not undone');
	$db->sql(q{DELETE FROM membership_membersyncqueue WHERE sync_status = 'failed'});
	quiet('what cannot be');
}
{
	my $key = next_key();
	console_edit($key, 'facebook', 'nytt');
	my $run = run_ok('0 1 0 0', 'facebook');
	$db->delete_doc($key);
	is_deeply(undo($run, 'true'), { $key => { 'django facebook' => 'changed since in Firestore' } }, 'a document that is gone was changed');
	$db->sql("SELECT ekksync_unmap('facebook')");
	is_deeply(undo($run), { $key => { 'django facebook' => 'not writable: the field is not mapped' } }, 'a field that is no longer mapped');
	$db->sql(q{SELECT ekksync_map('facebook', 'profile.facebook', 'text', 'membership_contactinfo', 'facebook', 'comrade_id')});
	$db->run(force => 1);
	quiet('facebook');
}

# ------------------------------------------------------------------ wrong calls

sub no_run { return $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0; }

{
	my $key = next_key();
	console_edit($key, 'name', 'Nýtt nafn');
	my $dry = $db->run(dry_run => 1)->{run};
	my $run = run_ok('0 1 0 0', 'to be undone');
	my $before = state();
	refused('SELECT * FROM ekksync_undo(999999)', '22023', 'run 999999 does not exist.*HINT:  See the view ekksync_runs', 'an unknown run');
	refused('SELECT * FROM ekksync_undo(NULL)', '22004', 'run must not be null', 'no run');
	refused("SELECT * FROM ekksync_undo($dry)", '22023', "run $dry was a dry run", 'a dry run');
	$db->admin_sql("UPDATE ekksync.run SET status = 'running' WHERE id = $run");
	refused("SELECT * FROM ekksync_undo($run)", '55000', "run $run has not ended.*HINT", 'a run whose worker died');
	$db->admin_sql("UPDATE ekksync.run SET status = 'success' WHERE id = $run");
	refused("BEGIN READ ONLY; SELECT * FROM ekksync_undo($run)", '25006', 'ekksync_undo', 'a read-only transaction');
	is_deeply([ values %{ undo(quiet('nothing')) } ], [], 'a run that wrote nothing has nothing to undo');
	$before = state();
	is($db->sql("BEGIN READ ONLY; SELECT outcome FROM ekksync_undo($run, dry_run => true); COMMIT"), 'would be undone', 'a dry run writes nothing');
	$proxy->stop;
	refused("SELECT * FROM ekksync_undo($run)", '08\w+', 'could not read the documents', 'undo without Firestore');
	$proxy->start;
	$db->admin_sql('CREATE ROLE watcher LOGIN');
	my $watcher = Session->new($db, 'watcher');
	eval { $watcher->sql("SELECT * FROM ekksync_undo($run)") };
	like($@, qr/42501: permission denied for function ekksync_undo/, 'a role without the right');
	eval { $watcher->sql("SELECT * FROM ekksync_history('$key')") };
	like($@, qr/42501: permission denied for function ekksync_history/, '... to history either');
	$db->admin_sql('GRANT EXECUTE ON FUNCTION ekksync_history(text, text) TO watcher');
	eval { $watcher->sql("SELECT * FROM ekksync_history('$key')") };
	like($@, qr/42501: permission denied for table membership_membersyncqueue/, '... nor, with it, to what the queue says');
	$db->sql('GRANT SELECT ON membership_membersyncqueue TO watcher');
	like($watcher->sql("SELECT * FROM ekksync_history('$key')"), qr/written to Django/, '... but to both');
	$db->admin_sql('GRANT EXECUTE ON FUNCTION ekksync_undo(bigint, boolean) TO watcher');
	for my $dry (qw(false true))
	{
		eval { $watcher->sql("SELECT * FROM ekksync_undo($run, $dry)") };
		like($@, qr/42501: permission denied to call ekksync_undo\(\).*"socialism".*HINT/s, '... a role that is not that of the table, dry_run ' . $dry);
	}
	$watcher->end;

	# what the caller's own statements left to the commit
	$db->sql('CREATE TABLE elders (id integer PRIMARY KEY); CREATE TABLE youths (elder integer REFERENCES elders DEFERRABLE INITIALLY DEFERRED)');
	refused("BEGIN; INSERT INTO youths VALUES (1); SELECT * FROM ekksync_undo($run)", '23503', 'youths', 'undo after what the caller may not commit');
	is($db->sql("BEGIN; INSERT INTO youths VALUES (1); SELECT outcome FROM ekksync_undo($run, true); DELETE FROM youths; COMMIT"), 'would be undone', '... but for a dry run');
	is(state(), $before, 'all of that changes nothing');

	$db->stop_at('decided');
	set_field(next_key(), 'name', 'Heldur keyrslu gangandi');
	$db->run(wait => 0);
	ok($db->wait_stopped, 'a run is at it');
	refused("SELECT * FROM ekksync_undo($run)", '55006', 'a run is in progress.*HINT', 'undo during a run');
	refused("SELECT * FROM ekksync_undo($run, true)", '55006', 'a run is in progress', '... also a dry one');
	$db->go_on;
	$db->wait_for(\&no_run) or BAIL_OUT('a run does not end');

	# a run does not start between undo and its commit
	my $session = Session->new($db);
	$session->sql("BEGIN; SELECT * FROM ekksync_undo($run)");
	my ($status, undef, $error) = $db->sql_err('SELECT * FROM ekksync_run(wait => false)');
	like($error, qr/no run can start now/, 'no run starts before undo is committed');
	$session->sql('COMMIT');
	$session->end;
	run_ok('1 0 0 0', 'undone');
	isnt(get_field($key, 'name'), 'Nýtt nafn', '... then it is carried out');

	# no row is locked while Firestore is asked
	$run = do { console_edit($key, 'name', 'Enn nýtt'); run_ok('0 1 0 0', 'once more') };
	$proxy->start(fault => 'delay', match => qr/batchGet/);
	$session = Session->new($db);
	$session->send("SELECT outcome FROM ekksync_undo($run)");
	ok($proxy->wait_fired, 'while undo waits for Firestore');
	is($db->sql("SELECT count(*) FROM (SELECT FROM membership_comrade WHERE ssn = '$key' FOR UPDATE NOWAIT) x"), 1, '... nobody\'s row is locked');
	set_field($key, 'name', 'Á meðan');
	$proxy->resume;
	is($session->answer, 'changed since in Django', '... and what changes then has changed since');
	$session->end;
	$db->run;
}

# -------------------------------------------------------------------- history

# The history of a member as "what field old new run detail", one a line, with
# runs as numbers from the first given one.
sub history
{
	my ($key, $field) = @_;
	return [ map {
		my $row = $_;
		join ' | ', map { ref $_ || !defined $_ ? JSON::PP->new->allow_nonref->encode($_) : $_ } @$row{qw(what field old_value new_value)}, $row->{detail} // ''
	} $db->rows("SELECT * FROM ekksync_history('$key'" . ($field ? ", '$field'" : '') . ')') ];
}

{
	my $key = next_key();
	my ($hyphened) = map { substr($_, 0, 6) . '-' . substr $_, 6 } $key;
	$db->sql(q{SELECT ekksync_map('facebook', 'profile.facebook', 'text', 'membership_contactinfo', 'facebook', 'comrade_id', policy => 'manual')});
	set_field($key, 'facebook', 'fyrst');
	$db->run;
	$db->profile_edit($key, 'facebook', 'af-vef');
	my $pull = run_ok('0 1 0 0', 'a pull');
	my $echo = $db->queue_entry(docId => $key, changes => { 'profile.facebook' => 'fyrst' });
	$db->run;
	set_field($key, 'facebook', 'django');
	$db->profile_edit($key, 'facebook', 'firestore');
	$db->run;
	my ($id) = map { $_->{id} } $db->rows("SELECT id FROM ekksync_conflicts WHERE member = '$key' AND winner = 'none'");
	$db->sql("SELECT ekksync_resolve($id, 'firestore')");
	$db->run;
	$db->queue_entry(docId => $key, changes => { 'profile.facebook' => 'x' x 300 });
	$db->run;
	my $all = history($hyphened, 'facebook');
	is_deeply($all, [
		'edited in Django | facebook | null | fyrst | synced',
		'written to Firestore | facebook | null | fyrst | ',
		'edited in Firestore | facebook | null | af-vef | applied',
		'written to Django | facebook | fyrst | af-vef | ',
		'edited in Firestore | facebook | null | fyrst | echo',
		'edited in Django | facebook | null | django | synced',
		'edited in Firestore | facebook | null | firestore | held',
		"held | facebook | django | firestore | conflict $id: policy, potential",
		"resolved | facebook | null | null | conflict $id: by socialism",
		'written to Django | facebook | django | firestore | ',
		(grep { /failed: / } @$all)[0] ], 'the whole life of a field');
	like($all->[-1], qr/^edited in Firestore \| facebook \| null \| null \| failed: profile\.facebook: .*255/, '... with what failed, and why');
	is_deeply([ grep { /\| facebook \|/ } @{ history($key) } ], $all, '... which is a part of the member\'s');
	my @at = map { $_->{at} } $db->rows("SELECT extract(epoch FROM at) AS at FROM ekksync_history('$key')");
	is_deeply(\@at, [ sort { $a <=> $b } @at ], '... by time');
	is($db->sql("SELECT run FROM ekksync_history('$key', 'facebook') WHERE what = 'written to Django' LIMIT 1"), $pull, '... by their runs');

	$db->sql("SELECT ekksync_unmap('facebook')");
	is(scalar(grep { /^written to|held/ } @{ history($key, 'facebook') }), 4, 'a field that is no longer mapped has its history');
	refused("SELECT * FROM ekksync_history('$key', 'fésbók')", '22023', 'field "fésbók" is not mapped.*HINT', 'a field that never was');
	refused(q{SELECT * FROM ekksync_history('123')}, '22023', 'not a kennitala', 'what is no kennitala');
	is_deeply(history('0101010101'), [], 'nobody has no history');
	is($db->sql('SELECT count(*) FROM ekksync_history(NULL)'), 0, '... nor has null');
}
{
	# who won, who lost, and the end
	my $key = next_key();
	set_field($key, 'name', 'Django tapar');
	$db->profile_edit($key, 'name', 'Firestore vinnur');
	$db->run;
	is(scalar(grep { /^Django's value lost \| name \| Django tapar \| Firestore vinnur \| conflict \d+: later write, potential$/ } @{ history($key, 'name') }),
		1, 'history tells what lost, and why');
	$db->sql("DELETE FROM $_ WHERE comrade_id = $last_id") for map { "membership_$_" } qw(contactinfo comrade_emails unionmembership comradetitle newlocaladdress);
	$db->sql("DELETE FROM membership_comrade WHERE id = $last_id");
	$db->run;
	my $name = history($key, 'name');
	is($name->[-1], 'deleted in Django | null | null | null | synced', '... and that a member was deleted');
	is(scalar(grep { /^written to Firestore \| status \| active \| inactive/ } @{ history($key) }), 1, '... and what became of the document');
}

# ------------------------------------------------------------ on behalf of others

{
	# by a function of the owner, who may call it: what he deferred stays his
	my $key = next_key();
	console_edit($key, 'name', 'Nýtt');
	my $run = run_ok('0 1 0 0', 'to be undone for somebody');
	$db->sql(<<'SQL');
CREATE FUNCTION take_back(run bigint) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
	AS 'SELECT outcome FROM ekksync_undo(run)';
SQL
	$db->admin_sql('CREATE ROLE support LOGIN; GRANT TEMP ON DATABASE socialism TO support');
	my $support = Session->new($db, 'support');
	is($support->sql(<<"SQL"), 'undone', 'a role without rights may use a function of the owner');
BEGIN; CREATE TEMP TABLE own (i int); GRANT ALL ON own TO PUBLIC;
CREATE FUNCTION pg_temp.tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''deferred as %'', current_user; RETURN NULL; END';
CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON own DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.tell();
INSERT INTO own VALUES (1); SELECT take_back($run); COMMIT
SQL
	like($support->{err}, qr/deferred as support/, '... and what he deferred runs as himself');
	$support->end;
	run_ok('1 0 0 0', 'undone for somebody');
}

$db->sql('SELECT * FROM ekksync_detach()');
refused("SELECT * FROM ekksync_undo($first)", '55000', 'ekksync is not attached.*HINT', 'undo without an attachment');
refused(q{SELECT * FROM ekksync_history('0101010101')}, '55000', 'ekksync is not attached', 'history without one');

done_testing();
