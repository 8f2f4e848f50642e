# ekksync_backfill(): all members again, to Firestore or from it.  Says what it
# costs first, takes members in no order of their keys, goes on where it was
# killed or stopped, writes nothing that is there, and overrules nobody.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use Session;

my $MEMBERS = 1_100;			# two batches of 500, and a third one
my $db = EkkSync->new(members => $MEMBERS, conf => <<'CONF');
restart_after_crash = on
log_statement = none
CONF
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C"');
my $write = qr{:commit.*/documents/members/}s;

# ------------------------------------------------------------------- helpers

sub setting
{
	my (%set) = @_;
	$db->admin_sql('ALTER DATABASE socialism ' . (defined $set{$_} ? "SET ekksync.$_ = '$set{$_}'" : "RESET ekksync.$_"))
	  for keys %set;
	return;
}

# Figures of a backfill, and what it said before; its plan is in @plan.
my @plan;
sub backfill
{
	my ($args) = @_;
	my ($status, $out, $said) = $db->sql_err('WITH q AS (SELECT * FROM ekksync_backfill(' . ($args // '') . ')) SELECT row_to_json(q) FROM q');
	return { said => $said, status => 'error' } if $status != 0;
	my ($figures, @rest) = map { JSON::PP->new->decode($_) } split /\n/, $out;
	@plan = @rest;
	$figures->{said} = $said;
	return $figures;
}

sub is_run
{
	my ($run, $figures, $name) = @_;
	return is(join(' ', map { $_ // 'null' } @$run{qw(status to_firestore to_django conflicts failed)}), $figures, "$name: the run's figures")
	  || diag($run->{message} // $run->{said});
}

# Without triggers, as a careless restore would.
sub unseen { my ($sql) = @_; $db->admin_sql("SET session_replication_role = replica; $sql"); }

# Of the members, those whose documents have the row's name.
sub in_step
{
	my $docs = $db->docs('members', select => ['profile.name']);
	return scalar grep { ($docs->{ $_->{ssn} }{profile}{name} // '') eq $_->{name} }
	  $db->rows('SELECT ssn, name FROM membership_comrade');
}

sub unexplained { return $db->sql(q{SELECT count(*) FROM ekksync_diff() WHERE why = 'unexplained'}); }
sub backlog { return $db->admin_sql('SELECT count(*) FROM ekksync.backlog'); }
sub no_worker { return $db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0 }); }
sub last_run { return $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1'); }
sub name_of { my ($key) = @_; return $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key'"); }

# --------------------------------------------------------------- all of them

my $dry = backfill('dry_run => true');
is_run($dry, "success $MEMBERS 0 0 0", 'a dry run');
is_deeply([ @$dry{qw(docs_read docs_written)} ], [ 2 * $MEMBERS + 1, $MEMBERS ], '... says what would be read, by the guard, too, and written');
is($dry->{price} + 0, sprintf('%.6f', ((2 * $MEMBERS + 1) * 0.06 + $MEMBERS * 0.18) / 100000) + 0, '... and the price');
is($dry->{said}, '', '... and nothing before it');
my %planned = map { $_->{member} => 1 } grep { $_->{side} eq 'firestore' } @plan;
is(scalar keys %planned, $MEMBERS, 'its plan has all members');
is($db->count_docs('members'), 0, 'it writes nothing');
is(backlog(), 0, '... and leaves no list');

my $run = backfill();
is_run($run, "success $MEMBERS 0 0 0", 'a backfill');
like($run->{said}, qr/NOTICE:  ekksync_backfill\(\): $MEMBERS members, at most 2200 documents read and $MEMBERS written, at a price of at most 0\.0033, and what entries of sync_queue take$/,
	'it says the price first');
is(in_step(), $MEMBERS, 'it brings all members to Firestore');
is(backlog(), 0, '... and nothing is left');
cmp_ok($run->{docs_written}, '>=', $MEMBERS, 'its figures say what it wrote');
is_deeply([ @{ last_run() }{qw(mode direction status)} ], [qw(backfill to_firestore success)], 'its record says what it was');
is($db->sql("SELECT value FROM ekksync_metrics WHERE name = 'ekksync_runs_total' AND labels @> '{\"mode\": \"backfill\", \"status\": \"success\"}'"),
	1, '... the metrics, too');
my ($page) = grep { ($_->{body}{writes}[0]{update}{name} // '') =~ m{/members/} } $proxy->requests;
my %place = map { ($key[$_] => $_ / @key) } 0 .. $#key;
my @tenths = (0) x 10;
$tenths[ int 10 * $place{ $_->{update}{name} =~ s{.*/}{}r } ]++ for @{ $page->{body}{writes} };
is(scalar(grep { $_ > 0 } @tenths), 10, 'the first documents that it writes are from all parts of the collection') or diag("@tenths");
is_run(backfill(), 'success 0 0 0 0', 'a second one');
is(unexplained(), 0, 'and nothing is unexplained');

# ---------------------------------------------------- what nobody has captured

unseen("UPDATE membership_comrade SET name = 'Hljótt ' || id WHERE id <= 40");
unseen("INSERT INTO membership_comrade (id, name, ssn, date_joined, reachable, groupable) VALUES (9001, 'Hljóð Nýliði', '2010805559', now(), true, true)");
unseen("DELETE FROM membership_comrade WHERE ssn = '$key[-1]'");
is($db->run->{to_firestore}, 0, 'a plain run sees nothing of it');
cmp_ok(unexplained(), '>=', 42, '... which is unexplained');
is_run(backfill('dry_run => true'), 'success 42 0 0 0', 'a dry run');
is_run(backfill(), 'success 42 0 0 0', 'a backfill');
is(in_step(), $MEMBERS, '... brings it across');
is($db->doc('2010805559')->{profile}{name}, 'Hljóð Nýliði', '... who is new');
is($db->doc($key[-1])->{membership}{status}, 'inactive', '... and who is gone');
is(unexplained(), 0, '... and explains all');
is_run($db->run, 'success 0 0 0 0', 'quiet after it');

# It overrules nobody: what Firestore has changed waits for a run that takes it.
$db->profile_edit($key[0], name => 'Úr vafra');
$db->patch_doc($key[1], { 'profile.name' => 'Úr stjórnborði' });
$db->sql("UPDATE membership_comrade SET name = 'Beðið' WHERE ssn = '$key[2]'");
is_run(backfill(), 'success 1 0 0 0', 'a backfill beside edits');
is_deeply([ map { $db->doc($_)->{profile}{name} } @key[ 0 .. 2 ] ], [ 'Úr vafra', 'Úr stjórnborði', 'Beðið' ], '... overwrites none');
is(unexplained(), 0, '... and all is known');
is_run($db->run, 'success 0 2 0 0', 'the next run');
is_deeply([ map { name_of($_) } @key[ 0, 1 ] ], [ 'Úr vafra', 'Úr stjórnborði' ], '... takes them');

# ------------------------------------------------------------ from Firestore

# Documents that a run has seen, so that none looks again.
$db->patch_doc($_, { 'profile.name' => "Hljótt skjal $_" }) for @key[ 3 .. 6 ];
$db->admin_sql("UPDATE ekksync.member SET doc_update_time = '" . $db->doc_update_time($_) . "' WHERE key = '$_'") for @key[ 3 .. 6 ];
unseen("UPDATE membership_comrade SET name = 'Hljótt hér' WHERE ssn = '$key[7]'");
$db->set_doc('0101302989', { profile => { kennitala => '0101302989', name => 'Ný þar' }, membership => { status => 'active', date_joined => timestamp() } });
setting(on_remote_create => 'insert');
is(unexplained(), 5, 'what runs have overlooked is unexplained');
$run = backfill("'to_django'");
is_run($run, 'success 0 5 0 0', 'a backfill from Firestore');
like($run->{said}, qr/: 1101 members, at most 3303 documents read and 0 written/, '... has its price');
is_deeply([ map { name_of($_) } @key[ 3, 6 ] ], [ "Hljótt skjal $key[3]", "Hljótt skjal $key[6]" ], '... brings it across');
is(name_of('0101302989'), 'Ný þar', '... and who is new there');
is(name_of($key[7]), 'Hljótt hér', '... and leaves what Django has changed');
is(last_run()->{scan}, 'full', '... by a full scan');
is(unexplained(), 0, '... and all is explained');
is_run(backfill("direction => 'both'"), 'success 2 0 0 0', 'a backfill both ways') or diag($db->admin_sql("SELECT string_agg(key || changes, E'\n') FROM ekksync.change_log WHERE run = (SELECT max(id) FROM ekksync.run)"));
is($db->doc($key[7])->{profile}{name}, 'Hljótt hér', '... does the rest');
setting(on_remote_create => undef);
is_run($db->run, 'success 0 0 0 0', 'quiet after it');

# ------------------------------------------------------- killed, and gone on

sub start
{
	my ($session) = @_;
	$session->send('SELECT run, status FROM ekksync_backfill()');
	return;
}

# Kill it while its second batch is on its way.
my $n = $db->sql('SELECT count(*) FROM membership_comrade');
my $all = $db->admin_sql('SELECT count(*) FROM ekksync.member');		# those who are gone, too
my $rest = $all - 500;
for my $how (qw(TERM KILL))
{
	unseen("UPDATE membership_comrade SET name = 'Drepið $how ' || id");
	$proxy->start(fault => 'delay', match => $write, nth => 2);
	my $caller = Session->new($db);
	start($caller);
	ok($proxy->wait_fired, "$how: the second batch is on its way");
	my $worker = $db->row('SELECT pid, mode, phase, done, total FROM ekksync_progress');
	is_deeply([ @$worker{qw(mode phase done total)} ], [ 'backfill', 'members', 500, $all ], '... which its progress shows')
	  or diag(explain($worker));
	my $killed = $db->sql('SELECT max(run) FROM ekksync_runs');
	kill $how => $worker->{pid};
	eval { $caller->answer };
	ok($@, '... and it dies');
	$db->wait_for(sub { eval { ($db->admin_err('SELECT 1'))[0] == 0 } });
	no_worker();
	$proxy->start;
	is(backlog(), $rest, '... with the rest on its list');
	$dry = backfill('dry_run => true');
	cmp_ok($dry->{docs_read}, '<=', 2 * $rest + 10, 'a dry run shows the rest');
	is(backlog(), $rest, '... and leaves it');
	$run = backfill();
	is($run->{status}, 'success', 'the next call goes on');
	like($run->{said}, qr/: $rest members, .*\nDETAIL:  It goes on with what run $killed has left\./, '... and says so');
	cmp_ok($run->{docs_read}, '<=', 2 * $rest + 10, '... and reads no more than the rest') or diag($run->{docs_read});
	is(in_step(), $n, '... and all members are there');
	is(backlog(), 0, '... and nothing is left');
	is_run(backfill(), 'success 0 0 0 0', 'the next one begins anew, and finds nothing');
	cmp_ok(last_run()->{docs_read}, '>=', 2 * $all, '... in all documents');
	is(unexplained(), 0, '... and nothing is unexplained');
}

# At other steps, one after the other, until it comes through.
unseen("UPDATE membership_comrade SET name = 'Skref ' || id");
for my $step (qw(decided in_record applied sent settled members))
{
	$db->stop_at($step);
	my $caller = Session->new($db);
	start($caller);
	my $pid = $db->wait_stopped or BAIL_OUT("no backfill comes to $step");
	kill TERM => $pid;
	eval { $caller->answer };
	$db->go_on;
	no_worker();
}
is(backfill()->{status}, 'success', 'ended at other steps, it comes through');
is(in_step(), $n, '... and all members are there');
is(unexplained(), 0, '... and nothing is unexplained');
is_run($db->run, 'success 0 0 0 0', 'quiet after it');

# -------------------------------------------------------- stopped, and gone on

# At a limit of the day.
unseen("UPDATE membership_comrade SET name = 'Mörk ' || id");
$db->admin_sql('TRUNCATE ekksync.cost');
setting(max_writes_per_day => 620);
$run = backfill();
is($run->{status}, 'stopped', 'it stops at a limit of the day');
like($run->{message}, qr/max_writes_per_day is reached/, '... and says why');
$db->admin_sql('UPDATE ekksync.cost SET day = day - 1');
$run = backfill();
is($run->{status}, 'success', 'it goes on on the next day');
cmp_ok($run->{docs_read}, '<=', 2 * 620, '... with what was left');
is(in_step(), $n, '... and all members are there');
setting(max_writes_per_day => undef);

# By the guard: documents that were there and are gone.
$db->commit(map { ["members/$_"] } @key[ 100 .. 299 ]);
is($db->run->{to_firestore}, 0, 'a plain run need not see that documents are gone');
$run = backfill();
is($run->{status}, 'failed', 'the guard stops a backfill');
like($run->{message}, qr/^the run would create again the documents of 200 of \d+ members$/, '... before it makes documents again');
is($db->count_docs('members'), $n + 1 - 200, '... and nothing was written');
is_run(backfill('force => true'), 'success 200 0 0 0', 'force');
is(in_step(), $n, '... lets it through');

# ------------------------------------------------------------------- wrong calls

sub refused
{
	my ($sql, $state, $says, $name) = @_;
	my ($status, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\n$sql");
	like($error, qr/ERROR:  $state: .*$says/s, "$name is refused");
	return;
}

my $runs = $db->sql('SELECT max(run) FROM ekksync_runs');
refused("SELECT * FROM ekksync_backfill('upwards')", '22023', 'unknown direction "upwards".*HINT', 'another direction');
refused('CREATE TABLE written (x int); BEGIN; INSERT INTO written VALUES (1); SELECT * FROM ekksync_backfill()', '25001', 'has written.*HINT', 'a call in a transaction that has written');
refused('BEGIN READ ONLY; SELECT * FROM ekksync_backfill()', '25006', 'ekksync_backfill', 'a read-only transaction');
$db->sql("SELECT ekksync_pause('bíðum')");
refused('SELECT * FROM ekksync_backfill()', '55000', 'paused.*bíðum', 'a call while runs are paused');
is(backfill('dry_run => true')->{status}, 'success', '... but no dry run');
$db->sql('SELECT ekksync_resume()');
$runs = $db->sql('SELECT max(run) FROM ekksync_runs');
$db->admin_sql('CREATE ROLE watcher LOGIN');
my $watcher = Session->new($db, 'watcher');
eval { $watcher->sql('SELECT * FROM ekksync_backfill()') };
like($@, qr/42501: permission denied for function ekksync_backfill/, 'a role without the right is refused');
$watcher->end;
is($db->sql('SELECT max(run) FROM ekksync_runs'), $runs, 'none of that is a run');

setting(mode => 'observe');
unseen("UPDATE membership_comrade SET name = 'Aðeins horft' WHERE ssn = '$key[9]'");
is_run(backfill(), 'success 1 0 0 0', 'in observe mode');
is_deeply([ map { "$_->{member} $_->{side} $_->{new_value}" } @plan ], ["$key[9] firestore Aðeins horft"], '... it is a plan');
isnt($db->doc($key[9])->{profile}{name}, 'Aðeins horft', '... and nothing else');
setting(mode => undef);

# ------------------------------------------------------------------ beside others

# During a run, and while another one cannot begin.
$db->stop_at('decided');
my $caller = Session->new($db);
start($caller);
ok($db->wait_stopped, 'a backfill is at work');
refused('SELECT * FROM ekksync_backfill()', '55006', 'run \d+ is in progress.*HINT', 'another one');
refused(q{SELECT * FROM ekksync_run('to_firestore')}, '55006', 'run \d+ is in progress.*HINT', 'a plain run, which it is not,');
$db->go_on;
$caller->answer;
is($db->doc($key[9])->{profile}{name}, 'Aðeins horft', 'it comes to its end');

# The member table is locked for a while.
my $other = Session->new($db);
$other->sql('BEGIN; LOCK TABLE membership_comrade IN ACCESS EXCLUSIVE MODE');
$caller = Session->new($db);
$caller->send('SELECT status FROM ekksync_backfill(dry_run => true) LIMIT 1');
ok($db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run' AND query LIKE '%: list%' AND state = 'active' AND wait_event_type = 'Lock'") == 1 }),
	'it waits for who has locked the table');
ok($db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run' AND query LIKE '%: list%' AND xact_start IS NULL") == 1 }),
	'... not for long at a time');
$other->sql('COMMIT');
is($caller->answer, 'success', '... and goes on when it is free');

# One row is locked all the while: the next run looks at its member.
$db->patch_doc($key[3], { 'profile.name' => 'Læst þar' });
$db->admin_sql("UPDATE ekksync.member SET doc_update_time = '" . $db->doc_update_time($key[3]) . "' WHERE key = '$key[3]'");
$other->sql("BEGIN; SELECT FROM membership_comrade WHERE ssn = '$key[3]' FOR UPDATE");
$run = backfill("'to_django'");
is_run($run, 'success 0 0 0 0', 'a backfill that cannot write a row');
like($run->{message}, qr/^members left for the next run, .*: 1$/, '... says so');
is($db->sql(q{SELECT string_agg(member || ' ' || field || ' ' || why || ': ' || detail, ',') FROM ekksync_diff()}),
	"$key[3] name pending: a backfill has left the member for the next run", '... and its member is pending');
$other->sql('COMMIT');
is_run($db->run, 'success 0 1 0 0', 'the next run');
is(name_of($key[3]), 'Læst þar', '... does what was left');
is($db->admin_sql('SELECT count(*) FROM ekksync.touched') . unexplained(), '00', '... and no more is');

# With another project all is a first contact, and no list is gone on with.
$db->admin_sql("INSERT INTO ekksync.backlog SELECT max(id), '$key[0]' FROM ekksync.run WHERE mode = 'backfill' AND direction = 'to_firestore' AND NOT dry_run");
like(backfill('dry_run => true')->{docs_read}, qr/^[2-9]$/, 'a list that is left');
my $project = $db->project;
$db->use_project("$project-b");
is(backfill()->{status}, 'failed', 'with another project it pauses');
$db->sql('SELECT ekksync_resume()');
is_run(backfill(), "success $n 0 0 0", '... and, accepted, works on all');

# Detached, nothing of it is left.
$db->admin_sql("INSERT INTO ekksync.backlog SELECT 1, key FROM ekksync.member LIMIT 5");
$db->rows('SELECT * FROM ekksync_detach()');
is(backlog(), 0, 'a detach forgets the list');

done_testing();
