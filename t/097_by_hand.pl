# Rows of the queue that somebody settles by hand, as Django's admin does: the
# next run looks whether nothing is left to do, and takes the row up again if
# the sides differ.  Who does that waits for nobody and meets no error.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use Session;

my $db = EkkSync->new(members => 30);
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

sub set_name { my ($key, $name) = @_; $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'"); }
sub names { my ($key) = @_; return $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key'") . ', ' . $db->doc($key)->{profile}{name}; }
sub touched { return $db->admin_sql('SELECT count(*) FROM ekksync.touched'); }
sub last_row { my ($key) = @_; return $db->sql("SELECT sync_status || coalesce(' ' || (synced_at IS NOT NULL), '') FROM membership_membersyncqueue WHERE ssn = '$key' ORDER BY id DESC LIMIT 1"); }
sub conflicts { my ($key) = @_; return join '; ', map { "$_->{winner}, $_->{rule}" } $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id"); }

sub mark
{
	my ($key, $status) = @_;
	$db->sql("UPDATE membership_membersyncqueue SET sync_status = '$status', "
		  . 'synced_at = ' . ($status eq 'synced' ? 'now()' : 'NULL') . " WHERE ssn = '$key' AND sync_status IN ('pending', 'failed')");
	return;
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

run_ok('30 0 0 0', 'first push');
is(touched(), 0, 'what a run settles is not settled by hand');

# ------------------------------------------------------------ marked synced

my $key = shift @key;
set_name($key, 'Merkt');
mark($key, 'synced');
is(touched(), 1, 'a row that is marked synced is noted');
is($db->sql("SELECT sync_status FROM membership_membersyncqueue WHERE ssn = '$key' ORDER BY id DESC LIMIT 1"), 'synced', '... and is as it was marked');
run_ok('1 0 0 0', 'the next run');
is(names($key), 'Merkt, Merkt', '... finds that the sides differ');
is(last_row($key), 'synced true', '... and settles the row');
is(touched(), 0, '... and the note is gone');
quiet('that');

# By somebody who has done it himself.
$key = shift @key;
set_name($key, 'Samið');
$db->patch_doc($key, { 'profile.name' => 'Samið' });
mark($key, 'synced');
my $at = $db->sql("SELECT synced_at FROM membership_membersyncqueue WHERE ssn = '$key' ORDER BY id DESC LIMIT 1");
run_ok('0 0 0 0', 'one that was true');
is($db->sql("SELECT synced_at FROM membership_membersyncqueue WHERE ssn = '$key' ORDER BY id DESC LIMIT 1"), $at, '... stays as it was marked');
is(touched(), 0, '... and is done with');

# The row's own time is the time of the change: before or after the page's.
$key = shift @key;
set_name($key, 'Fyrr');
mark($key, 'synced');
$db->profile_edit($key, name => 'Síðar');
run_ok('0 1 1 0', 'a row before the page');
is(names($key), 'Síðar, Síðar', '... loses');
is(conflicts($key), 'firestore, later write', '... by its time');
$key = shift @key;
$db->profile_edit($key, name => 'Fyrr');
set_name($key, 'Síðar');
mark($key, 'synced');
run_ok('1 0 1 0', 'a row after the page');
is(names($key), 'Síðar, Síðar', '... wins');
is(conflicts($key), 'django, later write', '... by its time, which is known');

# One that failed, and still does.
$key = shift @key;
$db->admin_sql("UPDATE membership_comrade SET ssn = '$key' WHERE ssn = '$key[-1]'");
my $twin = pop @key;
$db->run;
is($db->sql("SELECT count(*) FROM ekksync_failed WHERE member = '$key'") > 0, 1, 'rows of a doubled kennitala fail');
mark($key, 'synced');
$db->run;
is($db->sql("SELECT count(*) FROM ekksync_failed WHERE member = '$key' AND error_message LIKE '%held by 2 rows%'") > 0, 1,
	'... and fail again when they are marked synced');
$db->admin_sql("UPDATE membership_comrade SET ssn = '$twin' WHERE id = (SELECT max(id) FROM membership_comrade WHERE ssn = '$key')");
$db->run;
mark($key, 'synced');
$db->run;
quiet('a doubled one');

# ------------------------------------------------------- marked failed, deleted

$key = shift @key;
set_name($key, 'Merkt sem villa');
mark($key, 'failed');
run_ok('1 0 0 0', 'a row marked failed');
is(names($key), 'Merkt sem villa, Merkt sem villa', '... is no reason to lose the change');
is($db->sql("SELECT count(*) FROM ekksync_failed WHERE member = '$key'"), 1, '... and stays as it was marked');
mark($key, 'synced');
quiet('that');

$key = shift @key;
set_name($key, 'Eytt');
$db->sql("DELETE FROM membership_membersyncqueue WHERE ssn = '$key' AND sync_status = 'pending'");
run_ok('1 0 0 0', 'a row that was deleted');
is(names($key), 'Eytt, Eytt', '... is no reason to lose the change');
$db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'");
is(touched(), 0, 'rows that were settled may be deleted');
quiet('that');

# Of a member that is gone.
$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable) VALUES ('Ný', '2010805559', now(), true, true)");
run_ok('1 0 0 0', 'a new member');
$db->sql("DELETE FROM membership_comrade WHERE ssn = '2010805559'");
mark('2010805559', 'synced');
run_ok('1 0 0 0', 'a deletion that was marked synced');
is($db->doc('2010805559')->{membership}{status}, 'inactive', '... is carried out');
is(last_row('2010805559'), 'synced true', '... and settled');

# --------------------------------------------------- by anybody, without a wait

# Another role that may update the queue, in one statement for many.
$db->admin_sql('CREATE ROLE clerk LOGIN; GRANT SELECT, UPDATE, DELETE ON membership_membersyncqueue TO clerk');
set_name($_, 'Margir') for @key;
my $clerk = Session->new($db, 'clerk');
$clerk->sql('BEGIN');
$clerk->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE sync_status = 'pending'");
# Her transaction is open: nobody waits for her.
my $other = Session->new($db, 'clerk');
set_name($key[0], 'Einn enn');
$other->sql("SET lock_timeout = '1s'");
$other->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE sync_status = 'pending' AND ssn = '$key[0]' "
	  . "AND id = (SELECT max(id) FROM membership_membersyncqueue WHERE ssn = '$key[0]')");
is(touched(), 1, 'others mark rows meanwhile');
is($db->run->{status}, 'success', '... and a run goes on');
is(names($key[0]), 'Einn enn, Einn enn', '... and does what it sees');
$clerk->sql('COMMIT');
is(touched(), scalar @key, "the other role's rows are noted");
run_ok('0 0 0 0', 'the next run');
is(names($_), 'Margir, Margir', '... finds that all is done') for @key[ 1 .. 3 ];
is(touched(), 0, '... and has looked at them all');
quiet('that');

# Undone, it leaves no trace.
set_name($key[1], 'Ekkert');
$clerk->sql('BEGIN');
$clerk->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE sync_status = 'pending'");
$clerk->sql('ROLLBACK');
is(touched(), 0, 'what is rolled back is not noted');
run_ok('1 0 0 0', 'the row waits as before');

# Our own table is locked, or gone bad: a warning, no wait, no error.
set_name($key[2], 'Læst');
$db->admin_sql('ALTER TABLE ekksync.touched ADD CHECK (false) NOT VALID');
my ($status, undef, $said) = $db->sql_err("UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE ssn = '$key[2]' AND sync_status = 'pending'");
is($status, 0, 'when nothing can be noted the statement goes on');
like($said, qr/WARNING:  ekksync will not look at the rows that were settled by hand: /, '... with a warning');
like($said, qr/HINT:  ekksync_diff\(\) shows/, '... and a hint');
$db->admin_sql("DO \$\$ BEGIN EXECUTE (SELECT format('ALTER TABLE ekksync.touched DROP CONSTRAINT %I', conname) FROM pg_constraint WHERE conrelid = 'ekksync.touched'::regclass AND contype = 'c'); END \$\$");
is($db->sql("SELECT why FROM ekksync_diff() WHERE member = '$key[2]'"), 'unexplained', '... which is true');
$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'pending' WHERE id = (SELECT max(id) FROM membership_membersyncqueue WHERE ssn = '$key[2]')");
run_ok('1 0 0 0', 'a row set back to pending');

set_name($key[3], 'Læst');
my $super = Session->new($db, $db->admin_sql('SELECT current_user'));
$super->sql('BEGIN');
$super->sql('LOCK TABLE ekksync.touched IN ACCESS EXCLUSIVE MODE');
($status, undef, $said) = $db->sql_err("SET lock_timeout = '5s'; UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE ssn = '$key[3]' AND sync_status = 'pending'");
is("$status $said" =~ /^0 .*touched is locked/s, 1, 'a lock on it is not waited for') or diag($said);
$super->sql('ROLLBACK');
$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'pending' WHERE id = (SELECT max(id) FROM membership_membersyncqueue WHERE ssn = '$key[3]')");
run_ok('1 0 0 0', 'a row set back to pending');

# ------------------------------------------------------------- while a run goes

# Marked while the member's write is on its way: a change more, and it is seen.
my $proxy = FaultProxy->new(to => $db->host);
$db->use_host($proxy->host);
$proxy->start(fault => 'delay', verb => 'commit', match => 'profile.name|membership');
set_name($key[4], 'Á leiðinni');
$db->sql('SELECT ekksync_run(wait => false)');
ok($proxy->wait_fired, 'a write is on its way');
set_name($key[4], 'Enn nýrra');
mark($key[4], 'synced');
$proxy->resume;
$db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0 });
is($db->run->{status}, 'success', 'a run after it');
is(names($key[4]), 'Enn nýrra, Enn nýrra', '... finds what was marked synced meanwhile');

# A run that does not write to Firestore leaves it for the next one.
set_name($key[5], 'Hin áttin');
mark($key[5], 'synced');
$db->run(direction => 'to_django');
run_ok('1 0 0 0', 'after a run in the other direction');
is(names($key[5]), 'Hin áttin, Hin áttin', '... it is found');

# A dry run shows it, and leaves the row.
set_name($key[6], 'Prufa');
mark($key[6], 'synced');
my ($figures, @plan) = $db->run_rows(dry_run => 1);
is($figures->{to_firestore}, 1, 'a dry run shows it');
is(last_row($key[6]), 'synced true', '... and changes nothing');
run_ok('1 0 0 0', 'then it is done');

# -------------------------------------------------------------- the triggers

is($db->sql(q(SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'membership_membersyncqueue'::regclass)),
	'ekksync_deleted_by_hand ekksync_settled_by_hand', 'the queue has its triggers');
$db->sql('ALTER TABLE membership_membersyncqueue DISABLE TRIGGER ekksync_settled_by_hand');
like($db->sql(q(SELECT ok, detail FROM ekksync_check() WHERE "check" = 'triggers')), qr/^f\|a trigger on public\.membership_membersyncqueue is missing/,
	'ekksync_check() misses one that is disabled');
is_deeply([ map { "$_->{object} $_->{outcome}" } grep { $_->{object} =~ /by_hand/ } $db->attach ],
	[ 'trigger ekksync_settled_by_hand on public.membership_membersyncqueue mended', 'trigger ekksync_deleted_by_hand on public.membership_membersyncqueue kept' ],
	'... and attach mends it');
$db->run;
my @dropped = map { "$_->{object} $_->{outcome}" } grep { $_->{object} =~ /by_hand/ } $db->rows('SELECT * FROM ekksync_detach()');
is(scalar(grep { /dropped$/ } @dropped), 2, 'detach drops them');
is($db->sql(q(SELECT count(*) FROM pg_trigger WHERE tgrelid = 'membership_membersyncqueue'::regclass)), 0, '... and leaves none');
$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced'");
pass('the queue can be written without them');

done_testing();
