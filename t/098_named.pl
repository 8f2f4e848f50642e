# What is known to go wrong, by name: the failures of the system that ekksync
# replaces ("world"), and the anomalies that two-way syncs suffer from
# ("anomaly").  Each is a scenario of its own, in a member that no other one
# uses; the rules of the merge have tests of their own, see docs/merging.md.

use strict;
use warnings;
use utf8;
use EkkSync qw(timestamp true);
use FaultProxy;
use PostgreSQL::Test::Utils ();
use Session;
use Test::More;

my $MEMBERS = 1200;
my $db = EkkSync->new(members => $MEMBERS, conf => "ekksync.max_retries = 0\nekksync.max_delete_percent = 100");
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);
my $in_documents = qr{/documents/members/};

# ------------------------------------------------------------------- helpers

my $last_id = 0;
sub next_key { $last_id++; return $db->sql("SELECT ssn FROM membership_comrade WHERE id = $last_id"); }

sub field
{
	my ($key, $field) = @_;
	return $db->sql("SELECT $field FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'");
}

sub profile { my ($key, $field) = @_; return $db->doc($key)->{profile}{$field}; }
sub set_name { my ($key, $name) = @_; return "UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key';"; }
sub queue { my ($key) = @_; return $db->rows("SELECT * FROM membership_membersyncqueue WHERE ssn = '$key' ORDER BY id"); }

sub both_are
{
	my ($key, $field, $value, $name) = @_;
	is_deeply([ field($key, $field), profile($key, $field) ], [ $value, $value ], $name);
	return;
}

sub losers
{
	my ($key) = @_;
	return join ', ', map { "$_->{field}: " . ($_->{winner} eq 'django' ? $_->{firestore_value} : $_->{django_value}) . " ($_->{rule})" }
	  $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id");
}

sub run_ok
{
	my ($name, %arg) = @_;
	my $run = $db->run(%arg);
	is($run->{status}, 'success', $name) or diag($run->{message});
	return $run;
}

sub cost { return $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1'); }

# A further run has nothing to do, and writes no more than its own document.
sub quiet
{
	my $run = run_ok('... one more run');
	is(join(' ', @$run{qw(to_firestore to_django conflicts failed)}), '0 0 0 0', '... has nothing to do');
	is(cost()->{docs_written}, 2, '... and writes its own document alone');
	return;
}

# Start a run that stops at a step; go_on() lets it end and returns its record.
sub stop_run
{
	my ($step) = @_;
	$db->stop_at($step);
	my $run = $db->run(wait => 0)->{run};
	ok($db->wait_stopped, "... while a run is at its step $step");
	return sub {
		$db->go_on;
		$db->wait_for(sub { $db->sql("SELECT status FROM ekksync_runs WHERE run = $run") ne 'running' });
		return $db->row("SELECT * FROM ekksync_runs WHERE run = $run");
	};
}

# The time of the last local change of a member, as Firestore takes it.
sub local_time
{
	my ($key) = @_;
	return timestamp($db->sql("SELECT to_char(max(created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
		  . " FROM membership_membersyncqueue WHERE ssn = '$key'"));
}

# The entry of a document that track_member_changes makes of a field.
sub track { my ($key, $field, $value) = @_; return $db->queue_entry(docId => $key, changes => { "profile.$field" => $value }); }

# -------------------------------------------------- what went wrong in the world

subtest 'world 1: a full sync took a quarter of an hour, one item in twenty failed' => sub {
	my $run = run_ok("$MEMBERS members");
	is("@$run{qw(to_firestore failed)}", "$MEMBERS 0", '... all of them, without a failure');
	is($db->count_docs('members'), $MEMBERS, '... are documents');
	cmp_ok(cost()->{requests}, '<', 20, '... in a few requests');
	$db->sql(join '', map { set_name(next_key(), "Breytt $_") } 1 .. 10);
	is(run_ok('ten changes')->{to_firestore}, 10, '... are written');
	cmp_ok(cost()->{requests}, '<', 12, '... in fewer');
	quiet();
};

subtest 'world 2: a network error marked the whole batch failed, for ever' => sub {
	my @keys = map { next_key() } 1 .. 5;
	$db->sql(join '', map { set_name($_, 'Eftir sambandsleysi') } @keys);
	$proxy->start({ fault => 'drop', match => $in_documents });
	is($db->run->{status}, 'failed', 'a run without a network');
	is($db->sql("SELECT DISTINCT sync_status, retry_count, error_message FROM membership_membersyncqueue WHERE ssn IN ("
			. join(',', map { "'$_'" } @keys) . ')'), 'pending|0|', '... leaves its rows pending, blaming nobody');
	$proxy->start;
	is(run_ok('the next one')->{to_firestore}, 5, '... writes them');
	quiet();
};

subtest 'world 3: old pending items were lost' => sub {
	my ($here, $there) = map { next_key() } 1 .. 2;
	$db->sql(set_name($here, 'Löngu gleymd'));
	$db->sql("UPDATE membership_membersyncqueue SET created_at = created_at - interval '2 years' WHERE ssn = '$here'");
	my $old = timestamp('2024-11-01T00:00:00Z');
	my $entry = $db->profile_edit($there, 'name', 'Gömul breyting', created_at => $old);
	run_ok('rows and entries of long ago');
	both_are($here, 'name', 'Löngu gleymd', '... the row');
	both_are($there, 'name', 'Gömul breyting', '... the entry');
	is($db->entry($entry)->{sync_status}, 'synced', '... which is closed');
	quiet();
};

subtest 'world 4: results were matched by position' => sub {
	my @keys = map { next_key() } 1 .. 9;
	$db->sql(join '', map { set_name($keys[$_], "Röð $_") } 0 .. 8);
	$db->sql("UPDATE membership_comrade SET name = repeat('Þ', 249), ssn = '12x4567890' WHERE ssn = '$keys[4]'");
	my $run = run_ok('nine changes, of which the fifth cannot be');
	my @queue = $db->rows('SELECT ssn, sync_status FROM membership_membersyncqueue WHERE ssn IN ('
		  . join(',', map { "'$_'" } @keys, '12x4567890') . ') ORDER BY id');
	is_deeply([ sort { $a cmp $b } map { $_->{ssn} } grep { $_->{sync_status} eq 'failed' } @queue ], ['12x4567890'], '... fail alone');
	is(profile($keys[$_], 'name'), "Röð $_", '... and each of the others has its own') for 0 .. 3, 5 .. 8;
	$db->sql("UPDATE membership_comrade SET name = 'Röð 4', ssn = '$keys[4]' WHERE ssn = '12x4567890'");
	run_ok('mended');
	both_are($keys[4], 'name', 'Röð 4', '... it follows');
	$db->sql(q{UPDATE membership_membersyncqueue SET sync_status = 'pending' WHERE sync_status = 'failed'});
	run_ok('its failed row is tried again');
	quiet();
};

subtest 'world 5: only a hundred queue documents were read' => sub {
	my @keys = map { next_key() } 1 .. 250;
	$db->commit(map { ([ "members/$_", { 'profile.email' => "b$_\@example.is", updated_at => timestamp() }, 1 ],
			[ "sync_queue/hundred-$_", $db->entry_fields(docId => $_, changes => { 'profile.email' => "b$_\@example.is" }) ]) } @keys);
	is(run_ok('250 entries')->{to_django}, 250, '... are applied');
	is(scalar(keys %{ $db->docs('sync_queue', where => [ sync_status => 'pending' ]) }), 0, '... and closed');
	quiet();
};

subtest 'world 6: every save tracked all fields, and overwrote newer remote ones' => sub {
	my $key = next_key();
	my ($row) = $db->rows("SELECT * FROM membership_comrade WHERE ssn = '$key'");
	$db->profile_edit($key, 'name', 'Frá síðunni');
	$db->sql("UPDATE membership_comrade SET name = " . $db->quote($row->{name}) . ", ssn = '$key', gender = 3, reachable = reachable,"
		  . " groupable = groupable, birthday = birthday, date_joined = date_joined, housing_situation = housing_situation"
		  . " WHERE ssn = '$key'");
	is_deeply([ map { keys %{ $_->{fields_changed} } } (queue($key))[-1] ], ['gender'], 'a save of all columns queues the one that changed');
	run_ok('a run');
	both_are($key, 'name', 'Frá síðunni', '... what the page saved stays');
	is(profile($key, 'gender'), 'other', '... as does what was saved here');
	is(losers($key), '', '... without a conflict');
	quiet();
};

subtest 'world 7: conflicts were never detected' => sub {
	my ($window, $merged, $held) = map { next_key() } 1 .. 3;
	my $log = -s $db->node->logfile;
	$db->sql(set_name($window, 'Hér fyrst') . set_name($merged, 'Nafn héðan'));
	$db->profile_edit($window, 'name', 'Þar seinna');
	$db->profile_edit($merged, 'email', 'thadan@example.is');
	run_ok('changes on both sides');
	both_are($window, 'name', 'Þar seinna', 'the same field: the later one stays');
	is(losers($window), 'name: Hér fyrst (later write)', '... the other is kept');
	is($db->sql("SELECT potential FROM ekksync_conflicts WHERE member = '$window'"), 't', '... as a potential conflict');
	like(PostgreSQL::Test::Utils::slurp_file($db->node->logfile, $log), qr/WARNING:  potential conflict in field "name" of member \*{7}\d{3}/,
		'... with a warning');
	both_are($merged, 'name', 'Nafn héðan', 'different fields: one');
	both_are($merged, 'email', 'thadan@example.is', '... and the other');
	$db->sql(q{SELECT ekksync_map('name', 'profile.name', 'text', "column" => 'name', policy => 'manual')});
	run_ok('a field that people decide');
	$db->sql(set_name($held, 'Bíður hér'));
	$db->profile_edit($held, 'name', 'Bíður þar');
	run_ok('changes on both sides of it');
	is_deeply([ field($held, 'name'), profile($held, 'name') ], [ 'Bíður hér', 'Bíður þar' ], '... are both kept');
	is($db->sql("SELECT winner FROM ekksync_conflicts WHERE member = '$held'"), 'none', '... and nobody wins');
	$db->sql(q{SELECT ekksync_map('name', 'profile.name', 'text', "column" => 'name')});
	$db->sql(set_name($held, 'Ákveðið síðar'));
	run_ok('a later write, where the later one wins again');
	both_are($held, 'name', 'Ákveðið síðar', '... does');
	quiet();
};

subtest 'world 8: unknown paths were dropped in silence' => sub {
	my $key = next_key();
	my $entry = $db->queue_entry(docId => $key, changes => { 'profile.nickname' => 'Lóa' });
	is(run_ok('an entry with an unknown path')->{failed}, 1, '... fails');
	is($db->entry($entry)->{error_message}, 'profile.nickname: unknown path', '... by name');
	is($db->sql("SELECT count(*) FROM ekksync_failed WHERE side = 'firestore' AND member = '$key' AND error_message = 'profile.nickname: unknown path'"),
		1, '... which ekksync_failed shows');
	quiet();
};

subtest 'world 9: a day was too long, and webhooks lost what came while the other side was down' => sub {
	my $key = next_key();
	$db->sql(set_name($key, 'Meðan lokað var'));
	$db->use_host('127.0.0.1:1');
	is($db->run->{status}, 'failed', 'the other side is down');
	$db->use_host($proxy->host);
	is($db->sql("SELECT count(*) FROM ekksync_pending WHERE ssn = '$key'"), 1, '... the change waits');
	is(run_ok('a run at once')->{to_firestore}, 1, '... brings it over');
	both_are($key, 'name', 'Meðan lokað var', '... indeed');
	quiet();
};

subtest 'world 10: fake kennitala were to be skipped' => sub {
	my ($plain, $filtered) = $db->copies('plain', 'filtered');
	for ($plain, $filtered)
	{
		$_->sql('SELECT ekksync_detach()');
		$_->sql(q{INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Gervimaður', '9999123456', '2024-01-01')});
	}
	$plain->attach;
	is($plain->run->{status}, 'success', 'without a filter');
	isnt($plain->doc('9999123456'), undef, '... they are synced');
	$filtered->attach(q{filter => 'ssn NOT LIKE ''9999%'''});
	my $run = $filtered->run;
	is($run->{status}, 'success', 'with one') or diag($run->{message});
	is($filtered->count_docs('members'), $filtered->sql("SELECT count(*) FROM membership_comrade WHERE ssn NOT LIKE '9999%'"), '... all others are');
	is($filtered->doc('9999123456'), undef, '... and they are not');
};

# -------------------------------------------------------------------- anomalies

subtest 'anomaly: a transaction that began first writes last' => sub {
	my $key = next_key();
	my $first = Session->new($db);
	$first->sql('BEGIN');
	$first->sql('SELECT now()');
	$db->sql(set_name($key, 'Önnur færsla'));
	my $between = $db->profile_edit($key, 'name', 'Milli þeirra');
	$first->sql(set_name($key, 'Fyrsta færslan síðast'));
	$first->sql('COMMIT');
	is($db->sql("SELECT array_agg(fields_changed->>'name' ORDER BY created_at) FROM membership_membersyncqueue WHERE ssn = '$key' AND sync_status = 'pending'"),
		'{"Önnur færsla","Fyrsta færslan síðast"}', 'the time is that of the write');
	run_ok('a run');
	both_are($key, 'name', 'Fyrsta færslan síðast', '... the last write stays');
	is(losers($key), 'name: Milli þeirra (later write)', '... and beats what came before it there');
	quiet();
};

subtest 'anomaly: the clock of a browser is wrong' => sub {
	my ($ahead, $behind) = map { next_key() } 1 .. 2;
	$db->profile_edit($ahead, 'name', 'Úr framtíðinni', created_at => timestamp(time + 2 * 86400));
	$db->profile_edit($behind, 'name', 'Úr fortíðinni', created_at => timestamp(time - 40 * 86400));
	$db->sql(set_name($ahead, 'Seinna hér'));
	run_ok('a run');
	both_are($ahead, 'name', 'Seinna hér', 'an entry is not of a later time than when it came');
	is(losers($ahead), 'name: Úr framtíðinni (later write)', '... so a later write beats it');
	both_are($behind, 'name', 'Úr fortíðinni', 'nor much earlier');
	is($db->admin_sql("SELECT bool_and(clamped) FROM ekksync.inbox WHERE key = '$behind'"), 't', '... which is flagged');
	quiet();
};

subtest 'anomaly: ties' => sub {
	my $key = next_key();
	$db->sql(set_name($key, 'Jafnt hér'));
	$db->profile_edit($key, 'name', 'Jafnt þar', created_at => local_time($key));
	run_ok('writes of the same microsecond');
	both_are($key, 'name', 'Jafnt hér', '... Django wins');
	is(losers($key), 'name: Jafnt þar (tie)', '... and the other is kept');
	quiet();
};

subtest 'anomaly: a blind overwrite between reading and writing' => sub {
	my ($same, $other, $row) = map { next_key() } 1 .. 3;
	$db->sql(set_name($same, 'Héðan') . set_name($other, 'Héðan líka'));
	$db->profile_edit($row, 'name', 'Þaðan');
	my $go_on = stop_run('documents');
	$db->profile_edit($same, 'name', 'Eftir lestur');
	$db->profile_edit($other, 'email', 'eftir@example.is');
	$db->sql(set_name($row, 'Eftir lestur hér'));
	is($go_on->()->{status}, 'success', '... goes on');
	run_ok('and another one');
	both_are($same, 'name', 'Eftir lestur', 'the document moved, the same field: the later one stays');
	is(losers($same), 'name: Héðan (later write)', '... and the other is kept');
	both_are($other, 'name', 'Héðan líka', 'another field: both stay');
	both_are($other, 'email', 'eftir@example.is', '... indeed');
	both_are($row, 'name', 'Eftir lestur hér', 'the row moved: the later one stays');
	is(losers($row), 'name: Þaðan (later write)', '... and the other is kept');
	quiet();
};

subtest 'anomaly: a stale form writes back what was changed elsewhere' => sub {
	my $key = next_key();
	my $stale = field($key, 'email');
	$db->sql("INSERT INTO membership_contactinfo (comrade_id) SELECT id FROM membership_comrade WHERE ssn = '$key' ON CONFLICT DO NOTHING");
	run_ok('a member');
	$stale = field($key, 'email');
	$db->profile_edit($key, 'email', 'nytt@example.is');
	run_ok('a change of the page');
	is(field($key, 'email'), 'nytt@example.is', '... arrives');
	my $before = $db->sql('SELECT count(*) FROM membership_membersyncqueue');
	$db->sql("UPDATE membership_contactinfo SET email = " . $db->quote($stale)
		  . ", facebook = 'facebook.example/form' WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key')");
	is_deeply([ sort keys %{ (queue($key))[-1]{fields_changed} } ], [ 'email', 'facebook' ],
		'a form that was opened before it writes both: an edit, on record as one');
	run_ok('a run');
	is(profile($key, 'email') // '', $stale, '... is taken at its word');
	is($db->admin_sql("SELECT changes->'email' FROM ekksync.change_log WHERE key = '$key' AND side = 'firestore' ORDER BY id DESC LIMIT 1"),
		'["nytt@example.is", ' . (defined $stale && $stale ne '' ? "\"$stale\"" : 'null') . ']', '... and the change log has what it replaced');
	quiet();
};

subtest 'anomaly: an answer is lost' => sub {
	my $key = next_key();
	$db->sql(set_name($key, 'Skrifað einu sinni'));
	$proxy->start({ fault => 'lose', verb => 'commit', match => $in_documents });
	is($db->run->{status}, 'failed', 'a run does not hear that its write was done');
	my $time = $db->doc_update_time($key);
	$proxy->start;
	run_ok('the next one');
	is($db->doc_update_time($key), $time, '... does not write it again');
	is($db->sql("SELECT string_agg(sync_status, ' ') FROM membership_membersyncqueue WHERE ssn = '$key'"), 'synced', '... and closes its row');
	is(losers($key), '', '... nor takes it for somebody else\'s');
	quiet();
};

subtest 'anomaly: an edit while its member is being pushed' => sub {
	my $key = next_key();
	$db->sql(set_name($key, 'Send'));
	my $go_on = stop_run('applied');
	$db->sql(set_name($key, 'Breytt á leiðinni'));
	is($go_on->()->{status}, 'success', '... goes on');
	is_deeply([ map { $_->{sync_status} } queue($key) ], [qw(synced pending)], 'what was sent is acknowledged, what came since is not');
	is(profile($key, 'name'), 'Send', '... nor written');
	run_ok('the next run');
	both_are($key, 'name', 'Breytt á leiðinni', '... writes it');
	quiet();
};

subtest 'anomaly: an edit of what is deleted brings it back' => sub {
	my ($gone, $anew) = map { next_key() } 1 .. 2;
	my $delete = sub {
		my ($key) = @_;
		my $id = "(SELECT id FROM membership_comrade WHERE ssn = '$key')";
		return "BEGIN;" . join('', map { "DELETE FROM membership_$_ WHERE comrade_id = $id;" }
			  qw(contactinfo comrade_emails unionmembership comradetitle newlocaladdress))
		  . "DELETE FROM membership_comrade WHERE ssn = '$key';COMMIT;";
	};
	$db->sql($delete->($_)) for $gone, $anew;
	my $unseen = $db->profile_edit($gone, 'name', 'Aftur til lífsins');
	run_ok('two members are deleted');
	my $late = $db->profile_edit($gone, 'email', 'seint@example.is');
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Kominn aftur', '$anew', '2025-01-01')");
	run_ok('an edit of one, the other is entered again');
	is($db->sql("SELECT count(*) FROM membership_comrade WHERE ssn = '$gone'"), 0, 'who was deleted stays away');
	is($db->doc($gone)->{membership}{status}, 'inactive', '... on both sides');
	is($db->entry($_)->{error_message}, 'member not found', '... the edit fails') for $unseen, $late;
	like(losers($gone), qr/name: Aftur til lífsins \(member not found\).*email: seint\@example.is \(member not found\)/, '... and is kept');
	both_are($anew, 'name', 'Kominn aftur', 'who was entered again is back');
	is($db->doc($anew)->{membership}{status}, 'active', '... on both sides');
	quiet();
};

subtest 'anomaly: echoes' => sub {
	my ($here, $there) = map { next_key() } 1 .. 2;
	$db->sql(set_name($here, 'Bergmál'));
	$db->profile_edit($there, 'name', 'Þeirra eigið');
	run_ok('a change on either side');
	my @echoes = map { track($here, name => 'Bergmál'), track($there, name => 'Þeirra eigið') } 1 .. 2;
	my $run = run_ok('which track_member_changes repeats');
	is(join(' ', @$run{qw(to_firestore to_django conflicts failed)}), '0 0 0 0', '... changes nothing');
	is(cost()->{docs_written}, 2 + @echoes, '... but its own document, and entries that are closed');
	$db->sql(set_name($here, 'Nýrra en bergmálið') . set_name($there, 'Nýrra en þeirra'));
	run_ok('newer changes');
	track($here, name => 'Bergmál');
	track($there, name => 'Þeirra eigið');
	run_ok('and late echoes of the older ones');
	both_are($here, 'name', 'Nýrra en bergmálið', '... which bring nothing back');
	both_are($there, 'name', 'Nýrra en þeirra', '... on either side');
	quiet();
};

subtest 'anomaly: one hour, to the microsecond' => sub {
	my ($at, $beyond) = map { next_key() } 1 .. 2;
	for ([ $at, 0 ], [ $beyond, 1 ])
	{
		my ($key, $more) = @$_;
		my $entry = $db->profile_edit($key, 'name', 'Þar');
		$db->sql(set_name($key, 'Hér'));
		my ($created) = map { $_->{createTime} } $db->raw_doc("sync_queue/$entry");
		$db->sql("UPDATE membership_membersyncqueue SET created_at = now() - interval '2 hours' WHERE ssn = '$key'");
		my $stamp = $db->sql("SELECT to_char((max(created_at) + interval '1 hour' + interval '$more us') AT TIME ZONE 'UTC', "
			  . "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM membership_membersyncqueue WHERE ssn = '$key' AND sync_status = 'pending'");
		$db->patch_doc("sync_queue/$entry", { created_at => timestamp($stamp) });
	}
	run_ok('two conflicts');
	my $potential = sub { return $db->sql("SELECT potential FROM ekksync_conflicts WHERE member = '$_[0]'"); };
	is($potential->($at), 't', 'a difference of an hour is a potential conflict');
	is($potential->($beyond), 'f', '... one of a microsecond more is not');
	both_are($_, 'name', 'Þar', '... and the later one stays') for $at, $beyond;
	quiet();
};

subtest 'anomaly: a batch of which a part is refused' => sub {
	my @keys = map { next_key() } 1 .. 5;
	$db->sql(join '', map { set_name($_, 'Í hópi') } @keys);
	my $go_on = stop_run('applied');
	$db->profile_edit($keys[2], 'name', 'Á undan hópnum');
	is($go_on->()->{status}, 'success', '... goes on');
	is(profile($_, 'name'), 'Í hópi', '... and writes the others') for @keys[ 0, 1, 3, 4 ];
	is($db->sql('SELECT count(*) FROM ekksync_pending WHERE ssn IN (' . join(',', map { "'$_'" } @keys[ 0, 1, 3, 4 ]) . ')'), 0,
		'... whose rows are acknowledged');
	run_ok('the next run');
	both_are($keys[2], 'name', 'Á undan hópnum', 'the one that moved has the later value');
	is(losers($keys[2]), 'name: Í hópi (later write)', '... and the other is kept');
	quiet();
};

subtest 'anomaly: a restored backup' => sub {
	my $key = next_key();
	$db->admin_sql('CREATE TABLE backup AS SELECT fence, fence_token, fence_next FROM ekksync.state');
	$db->sql(set_name($key, 'Eftir afritið'));
	run_ok('a run after the backup');
	$db->admin_sql('UPDATE ekksync.state SET fence = b.fence, fence_token = b.fence_token, fence_next = b.fence_next FROM backup b');
	my $time = $db->doc_update_time($key);
	$db->sql(set_name($key, 'Í endurheimtu eintaki'));
	my $run = $db->run;
	is($run->{status}, 'failed', 'a run of what was restored');
	like($run->{message}, qr/^ekksync is paused: /, '... pauses');
	is($db->doc_update_time($key), $time, '... and writes nothing');
	$db->sql('SELECT ekksync_resume()');
	run_ok('when somebody has looked, it goes on');
	both_are($key, 'name', 'Í endurheimtu eintaki', '... and writes');
	quiet();
};

done_testing();
