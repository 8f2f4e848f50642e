# Clocks.  A run measures how far the server's clock is from Firestore's.  Where
# that is more than ekksync.max_clock_skew, a field that both sides changed is
# held until a run has a right clock; everything else goes on.  A row's time
# ahead of Firestore's is no later than the run; and so are those of browsers.
# The server's clock is set wrong by a library that it loads (t/wrong_clock.c).

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(time);

my $library = "$PostgreSQL::Test::Utils::tmp_check/wrong_clock.so";
system('gcc', qw(-O -shared -fPIC -Wall -Wextra -Werror -o), $library, "$ENV{EKKSYNC_TOP}/t/wrong_clock.c") == 0
  or BAIL_OUT('the library for a wrong clock cannot be built');

my $db = EkkSync->new(members => 30);
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

# Start the server anew with a clock that is so many seconds ahead.
sub set_clock
{
	my ($ahead) = @_;
	local %ENV = %ENV;
	if ($ahead)
	{
		@ENV{qw(LD_PRELOAD WRONG_CLOCK)} = ($library, $ahead);
	}
	$db->node->restart;
	my $now = $db->sql('SELECT extract(epoch FROM clock_timestamp())');
	cmp_ok(abs($now - time - $ahead), '<', 30, "the server's clock is $ahead s ahead");
	return;
}

sub set_name { my ($key, $name) = @_; $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'"); }
sub names { my ($key) = @_; return $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key'") . ', ' . $db->doc($key)->{profile}{name}; }

sub run_ok
{
	my ($figures, $name) = @_;
	my $run = $db->run;
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message});
	return $run->{run};
}

sub skew { return $db->sql('SELECT extract(epoch FROM skew) FROM ekksync_runs ORDER BY run DESC LIMIT 1'); }
sub health { return $db->sql('SELECT health, reason FROM ekksync_status()'); }
sub clock_row { return $db->sql(q(SELECT ok, detail FROM ekksync_check() WHERE "check" = 'clock')); }

# Conflicts of a member: [winner, rule, potential].
sub conflicts
{
	my ($key) = @_;
	return join '; ', map { "$_->{winner}, $_->{rule}" . ($_->{potential} ? ', potential' : '') }
	  $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id");
}

sub pending { my ($key) = @_; return $db->sql("SELECT count(*) FROM ekksync_pending WHERE ssn = '$key'"); }

# ----------------------------------------------------------- the clock is right

run_ok('30 0 0 0', 'first push');
cmp_ok(abs(skew()), '<', 5, 'a run records the skew');
cmp_ok($db->sql('SELECT extract(epoch FROM skew_error) FROM ekksync_runs ORDER BY run DESC LIMIT 1'),
	'<', 5, '... and how sure it is');
like(clock_row(), qr/^t\|.*the limit is 60 s/, 'ekksync_check() finds the clock right');
like(health(), qr{^ok\|nothing is scheduled}, 'and all is well');

# A dry run and a comparison measure it too.
$db->run(dry_run => 1);
cmp_ok(abs(skew() // 99), '<', 5, 'a dry run records it');

# ---------------------------------------------------------------- it is ahead

my $ahead = 2 * 3600;
my ($both, $row, $doc, $other, $page) = @key[ 0 .. 4 ];
set_clock($ahead);
like(clock_row(), qr/^f\|this server's clock is 7\d\d\d\.\d s ahead of Firestore's/, 'ekksync_check() says that it is ahead');

set_name($both, 'Röð');
$db->sql("UPDATE membership_comrade SET reachable = NOT reachable WHERE ssn = '$both'");
my $entry = $db->profile_edit($both, name => 'Skjal');
set_name($row, 'Aðeins röð');
$db->profile_edit($doc, name => 'Aðeins skjal');
set_name($other, 'Önnur röð');
$db->profile_edit($other, facebook => 'annad');
set_name($page, 'Sama');
$db->profile_edit($page, name => 'Sama');

run_ok('3 2 1 0', 'clock ahead');
cmp_ok(abs(skew() + $ahead), '<', 30, 'the run records that it is ahead');
is(names($both), 'Röð, Skjal', 'a field that both sides changed is held');
is(conflicts($both), 'none, clock skew, potential', '... as a conflict that nobody has won');
like($db->sql("SELECT skew FROM ekksync_conflicts WHERE member = '$both'"), qr/^-0[12]:/, '... with the skew');
is(pending($both), 1, '... its queue row waits, the one of another field does not');
is($db->entry($entry)->{sync_status}, 'pending', '... and so does the entry');
is($db->sql("SELECT reachable FROM membership_comrade WHERE ssn = '$both'") eq 't' ? 1 : 0,
	$db->doc($both)->{membership}{reachable} ? 1 : 0, '... while another field goes on');
is(names($row), 'Aðeins röð, Aðeins röð', 'what only the row changed goes on');
is(names($doc), 'Aðeins skjal, Aðeins skjal', 'what only the document changed goes on');
is($db->sql("SELECT facebook FROM membership_contactinfo JOIN membership_comrade ON id = comrade_id WHERE ssn = '$other'"),
	'annad', 'different fields go on');
is(pending($page), 0, 'the same value on both sides is no question of clocks');
like(health(), qr/^degraded\|at the last run this server's clock was 7\d\d\d\.\d s ahead/, 'ekksync_status() says so');

run_ok('0 0 0 0', 'clock still ahead');
is(conflicts($both), 'none, clock skew, potential', 'the conflict is recorded once');
is($db->sql('SELECT count(*) FROM ekksync_failed'), 0, 'nobody has failed');
my ($figures, @plan) = $db->run_rows(dry_run => 1);
is_deeply([ map { "$_->{side} $_->{field} $_->{note}" } grep { $_->{member} eq $both } @plan ],
	['none name held: clock skew'], 'a dry run says so');

# With the clock right again it is decided.  The row's time, which is ahead, is
# no later than the run.
set_clock(0);
run_ok('1 0 1 0', 'clock right again');
is(names($both), 'Röð, Röð', 'the field that was held is decided');
like(conflicts($both), qr/; django, later write, potential$/, '... as any other, by a time within the window');
is($db->sql("SELECT django_time <= clock_timestamp() FROM ekksync_conflicts WHERE member = '$both' AND winner = 'django'"),
	't', '... that is not in the future');
is(pending($both), 0, '... and the queue row is settled');
is($db->entry($entry)->{sync_status}, 'synced', '... and the entry');
like(health(), qr{^ok\|nothing is scheduled}, 'and all is well again');
run_ok('0 0 0 0', 'quiet');

# --------------------------------------------------------------- it is behind

my ($behind, $alone) = @key[ 5, 6 ];
set_clock(-$ahead);
like(clock_row(), qr/^f\|this server's clock is 7\d\d\d\.\d s behind Firestore's/, 'ekksync_check() says that it is behind');
$db->profile_edit($behind, name => 'Skjal á undan');
set_name($behind, 'Röð á eftir');
set_name($alone, 'Ein');
run_ok('1 0 1 0', 'clock behind');
is(names($behind), 'Röð á eftir, Skjal á undan', 'a field that both sides changed is held');
is(names($alone), 'Ein, Ein', 'another goes on');
set_clock(0);
run_ok('0 1 1 0', 'clock right again');
is(names($behind), 'Skjal á undan, Skjal á undan', 'the times decide, as they were written');
like(conflicts($behind), qr/; firestore, later write$/, '... and the loser is kept');

# --------------------------------------------------- a skew within the limit

my ($small) = $key[7];
set_clock(40);
set_name($small, 'Röð');
$db->profile_edit($small, name => 'Skjal');
run_ok('1 0 1 0', 'clock a little ahead');
is(conflicts($small), 'django, later write, potential', 'within the limit the times decide');
$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_clock_skew = 20');
like(clock_row(), qr/^f\|.*the limit is 20 s/, 'the limit can be set');
set_name($small, 'Röð 2');
$db->profile_edit($small, name => 'Skjal 2');
run_ok('0 0 1 0', '... and holds');
like(conflicts($small), qr/; none, clock skew, potential$/, '... what is above it');

# ------------------------------------------------------------------- no limit

$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_clock_skew = 0');
set_clock($ahead);
like(clock_row(), qr/^t\|.*there is no limit/, 'without a limit the clock is as it is');
is(run_ok('1 0 1 0', 'no limit') && names($small), 'Röð 2, Röð 2', 'what was held is decided');

my ($clamped, $only) = @key[ 8, 9 ];
set_name($clamped, 'Röð');
$db->profile_edit($clamped, name => 'Skjal');
set_name($only, 'Röð');
run_ok('2 0 1 0', 'a row ahead of Firestore');
is(conflicts($clamped), 'django, later write, potential', "its time is no later than Firestore's");
my $says = $db->sql("SELECT extract(epoch FROM django_time) FROM ekksync_conflicts WHERE member = '$clamped'");
cmp_ok(abs($says - time), '<', 60, '... as the conflict says');
# It was synced at that time: what comes later is later.
$db->profile_edit($only, name => 'Aðeins í biðröð', document => 0);
run_ok('1 1 0 0', 'an edit after that, only enqueued');
is(names($only), 'Aðeins í biðröð, Aðeins í biðröð', '... is not taken for an earlier one');
set_clock(0);
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.max_clock_skew');
run_ok('0 0 0 0', 'quiet');

# ------------------------------------------------------- clocks of browsers

# A row, then an edit of a page whose clock is so many seconds ahead.
sub browser
{
	my ($key, $ahead) = @_;
	set_name($key, 'Röð');
	return $db->profile_edit($key, name => 'Vafri', created_at => timestamp(time + $ahead));
}

my %said = map { ($_ => browser($key[ 10 + $_ ], [ 172800, 7200, -7200, -172800 ]->[$_])) } 0 .. 3;
# And the other way around: a row after what the browser did.
$said{4} = $db->profile_edit($key[14], name => 'Vafri', created_at => timestamp(time + 172800));
set_name($key[14], 'Röð');
run_ok('2 3 5 0', 'browsers with wrong clocks');
is(names($key[10]), 'Vafri, Vafri', 'two days ahead: the edit came when Firestore got it, after the row');
is(names($key[11]), 'Vafri, Vafri', 'two hours ahead: the same');
is(names($key[12]), 'Röð, Röð', 'two hours behind: it may have been so, the row is later');
is(names($key[13]), 'Vafri, Vafri', 'two days behind: nobody waits so long, the edit is as late as its entry');
is(names($key[14]), 'Röð, Röð', 'two days ahead, before the row: the row is later');
is_deeply([ map { $db->admin_sql("SELECT clamped FROM ekksync.inbox WHERE doc_id = '$said{$_}'") } 0 .. 4 ],
	[qw(f f f t f)], 'an entry that claims to be older than a day is flagged');

# ----------------------------------------------------------- a first contact

# With 'newest' times decide there, too.
$db->sql('SELECT ekksync_detach()');
$db->sql("UPDATE membership_comrade SET housing_situation = NULL WHERE ssn = '$key[20]'");
$db->attach(q(initial => 'newest'));
$db->patch_doc($key[20], { 'profile.name' => 'Skjal', 'profile.housingSituation' => 'rental' });
my $had = $db->doc_update_time($key[20]);
set_clock($ahead);
run_ok('0 0 1 0', 'first contact, clock ahead');
is(conflicts($key[20]), 'none, clock skew', 'a member with a held field waits');
is($db->doc_update_time($key[20]), $had, '... with all it has');
is($db->sql('SELECT first_contact FROM ekksync_status()'), 1, '... and is the only one');
set_clock(0);
run_ok('0 1 1 0', 'clock right again');
is(names($key[20]), 'Skjal, Skjal', 'then the newest wins');
is($db->sql("SELECT housing_situation FROM membership_comrade WHERE ssn = '$key[20]'"), 2, '... and what was missing is filled');
run_ok('0 0 0 0', 'quiet');

# ------------------------------------------- members that Firestore deleted

# No row goes, and nobody comes back, by a time that may be wrong.
$db->admin_sql("ALTER DATABASE socialism SET ekksync.$_") for "scan = 'full'", "on_remote_create = 'insert'", 'max_delete_percent = 100';
sub there { my ($key) = @_; return $db->sql("SELECT count(*) FROM membership_comrade WHERE ssn = '$key'") . ($db->doc($key) ? ' row, document' : ' row, no document'); }
sub remove { return $db->delete_member(@_); }
$db->run;
run_ok('0 0 0 0', 'quiet');

my ($edited, $named, $away, $born) = @key[ 24 .. 27 ];
remove($born);
$db->admin_sql("ALTER DATABASE socialism SET ekksync.on_local_delete = 'delete'");
run_ok('1 0 0 0', 'deleted');
set_clock(-$ahead);
$db->admin_sql("ALTER DATABASE socialism SET ekksync.on_remote_delete = 'delete'");
$db->delete_doc($edited);
set_name($edited, 'Breytt eftir eyðingu');
my $delete = $db->queue_entry(docId => $named, action => 'delete');
my $create = $db->queue_entry(docId => $born, action => 'create', changes => { 'profile.name' => 'Aftur', 'membership.date_joined' => timestamp('2021-01-01T00:00:00Z') });
run_ok('0 0 0 0', 'clock behind');
is(there($edited), '1 row, no document', 'a row that was edited, and whose document is gone, stays');
is(pending($edited), 1, '... and its queue row waits');
is(there($named), '1 row, document', 'an entry does not delete');
is(there($born), '0 row, no document', '... nor create one that was deleted');
is($db->entry($_)->{sync_status}, 'pending', '... and waits') for $delete, $create;
$db->admin_sql("ALTER DATABASE socialism SET ekksync.on_remote_delete = 'ignore'");
$db->delete_doc($away);
set_name($away, 'Breytt eftir eyðingu');
$db->run;
is(there($away), '1 row, no document', 'nor is it said which edit was later when it is ignored');
is(pending($away), 1, '... its queue row waits');
$db->admin_sql("ALTER DATABASE socialism SET ekksync.on_remote_delete = 'delete'");
set_clock(0);
set_name($_, 'Breytt með réttri klukku') for $edited, $away;
$db->run;
is(there($_), '1 row, document', 'with the clock right again the times decide: the edit was later') for $edited, $away;
is(there($born), '1 row, document', '... and the creation');

done_testing();
