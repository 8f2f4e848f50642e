# What a run must not do by mistake.  The mass guard counts, over the whole run
# and before anything is written, the rows that are gone, the documents that
# are gone and the values that become blank; another project that was
# accepted by ekksync_resume() is a first contact, so that nothing there
# overwrites Django unseen, and a copied cluster keeps its base; notes of
# writes in flight come to an end; attach, detach and map do not mix with a
# run; only a scan that was made counts as one; and a call never gets another
# kind of run for its own.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use IPC::Run ();
use JSON::PP ();
use Time::HiRes qw(time);

my $push = qr{:commit.*/documents/members/}s;
my $busy = qr/ERROR:  55006: /;

# The registry's keys in the order of a run.
sub keys_of
{
	my ($db) = @_;
	return map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C"');
}

sub setting
{
	my ($db, $setting) = @_;
	$db->admin_sql("ALTER DATABASE socialism SET ekksync.$setting");
	return;
}

sub list { return join ', ', map { "'$_'" } @_; }

# Delete members as Django does, or unseen by any trigger.
sub remove
{
	my ($db, $unseen, @keys) = @_;
	my $ids = $db->sql('SELECT string_agg(id::text, \', \') FROM membership_comrade WHERE ssn IN ('
		  . list(@keys) . ')');
	my @tables = map { "membership_$_" }
	  qw(contactinfo comrade_emails unionmembership comradetitle newlocaladdress);
	$db->admin_sql(join ";\n",
		$unseen ? 'SET session_replication_role = replica' : (), 'BEGIN',
		(map { "DELETE FROM $_ WHERE comrade_id IN ($ids)" } @tables),
		"DELETE FROM membership_comrade WHERE id IN ($ids)", 'COMMIT');
	return;
}

# How many of these members have an active document, an inactive one, none.
sub statuses
{
	my ($db, @keys) = @_;
	my $docs = $db->docs('members', select => ['membership.status']);
	my %count = (active => 0, inactive => 0, none => 0);
	$count{ $docs->{$_} ? $docs->{$_}{membership}{status} : 'none' }++ for @keys;
	return join ' ', map { $count{$_} } qw(active inactive none);
}

# All that a run may write, but for its own records and who is to be looked at:
# documents and entries by their updateTime, rows, queue, base, conflicts,
# change log.
sub world
{
	my ($db) = @_;
	my %world;
	for my $collection (qw(members sync_queue))
	{
		$world{"$_->{name}"} = $_->{updateTime} for $db->raw_docs($collection, select => ['__name__']);
	}
	$world{$_} = $db->admin_sql("SELECT count(*), md5(string_agg(t, '|' ORDER BY t))"
		  . " FROM (SELECT (to_jsonb(t) - 'due')::text AS t FROM $_ AS t) AS t")
	  for qw(membership_comrade membership_contactinfo membership_unionmembership
	  membership_membersyncqueue ekksync.member ekksync.conflict ekksync.change_log);
	return \%world;
}

# Give members something to lose in Facebook, and let both sides agree on it.
sub give
{
	my ($db, @keys) = @_;
	my $where = @keys ? 'WHERE ssn IN (' . list(@keys) . ')' : '';
	$db->sql("INSERT INTO membership_contactinfo (comrade_id, facebook)"
		  . " SELECT id, 'fb.' || id FROM membership_comrade $where"
		  . " ON CONFLICT (comrade_id) DO UPDATE SET facebook = excluded.facebook");
	return;
}

# Take it away in PostgreSQL, or in the documents.
sub take
{
	my ($db, $side, @keys) = @_;
	$db->sql("UPDATE membership_contactinfo SET facebook = NULL WHERE comrade_id IN"
		  . ' (SELECT id FROM membership_comrade WHERE ssn IN (' . list(@keys) . '))')
	  if $side eq 'django';
	$db->commit(map { [ $_, { 'profile.facebook' => undef }, 1 ] } @keys) if $side eq 'firestore';
	return;
}

# How many of these members have a value in Facebook: in rows, in documents.
sub values_of
{
	my ($db, @keys) = @_;
	my $docs = $db->docs('members', select => ['profile.facebook']);
	return $db->sql('SELECT count(facebook) FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id'
		  . ' WHERE ssn IN (' . list(@keys) . ')') . ' '
	  . grep { defined $docs->{$_}{profile}{facebook} } @keys;
}

# Let the next run look at all members.
sub all_due { return $_[0]->admin_sql('UPDATE ekksync.member SET due = true'); }

# A run that must stop at the guard with this text, and write nothing.
sub stops
{
	my ($db, $message, $name, %arg) = @_;
	my $before = world($db);
	my $run = $db->run(%arg);
	is($run->{message}, "the run would $message", $name);
	is($db->row("SELECT sqlstate FROM ekksync_runs WHERE run = $run->{run}")->{sqlstate},
		'53400', '... with its SQLSTATE');
	is_deeply(world($db), $before, '... and nothing is written, on neither side');
	return;
}

sub succeeds
{
	my ($db, $name, %arg) = @_;
	my $run = $db->run(%arg);
	is($run->{status}, 'success', $name) or diag($run->{message});
	return $run;
}

# ------------------------------------------------------- rows that are gone

{
	my $db = EkkSync->new(name => 'rows', members => 20);
	my @keys = keys_of($db);
	succeeds($db, 'rows: a first run');
	setting($db, 'scan = off');

	# five unseen, one of the ordinary kind that is due as well, one key changed
	remove($db, 1, @keys[ 0 .. 4 ]);
	remove($db, 0, $keys[5]);
	my $new = '0101302989';
	$db->sql("UPDATE membership_comrade SET ssn = '$new' WHERE ssn = '$keys[6]'");
	all_due($db);
	$db->sql("UPDATE membership_comrade SET name = 'Ægir' WHERE ssn = '$keys[19]'");
	stops($db, 'delete 6 of 20 members', 'rows: those that went without a trigger are counted, once');
	stops($db, 'delete 6 of 20 members', '... by the next run too');
	stops($db, 'delete 6 of 20 members', '... and in one direction', direction => 'to_firestore');
	my (undef, @plan) = $db->run_rows(dry_run => 1);
	is(scalar(grep { ($_->{note} // '') eq 'member deleted' && $_->{field} eq 'status' } @plan), 7,
		'... and a dry run shows them, and the changed key');
	setting($db, 'max_delete_percent = 29');
	stops($db, 'delete 6 of 20 members', 'rows: just below what the run would do');
	setting($db, 'max_delete_percent = 30');
	succeeds($db, '... the limit itself passes');
	is(statuses($db, @keys[ 0 .. 6 ]), '0 7 0', '... and the documents are inactive');
	is($db->doc($new)->{membership}{status}, 'active', '... and the new key has its document');
	is($db->doc($keys[19])->{profile}{name}, 'Ægir', '... and the rest is done');

	# an entry brings up what is not due
	setting($db, 'max_delete_percent = 10');
	remove($db, 1, @keys[ 7 .. 9 ]);
	$db->profile_edit($_, 'facebook', 'x', document => 0) for @keys[ 7 .. 9 ];
	stops($db, 'delete 3 of 14 members', 'rows: those that an entry brings up are counted');
	succeeds($db, '... and force lets them through', force => 1);
	is(statuses($db, @keys[ 7 .. 9 ]), '0 3 0', '... and the documents are inactive');

	setting($db, 'max_delete_percent = 0');
	remove($db, 1, $keys[10]);
	all_due($db);
	succeeds($db, 'rows: one alone passes, whatever the limit');
	is(statuses($db, $keys[10]), '0 1 0', '... and its document is inactive');

	# a key that becomes none is no changed key: there is no new document
	$db->sql("UPDATE membership_comrade SET ssn = '' WHERE ssn IN (" . list(@keys[ 11 .. 12 ]) . ')');
	stops($db, 'delete 2 of 10 members', 'rows: keys that are cleared are counted');
}

# -------------------------------------------------- documents that are gone

{
	my $db = EkkSync->new(name => 'documents', members => 20);
	my @keys = keys_of($db);
	succeeds($db, 'documents: a first run');
	my @gone = @keys[ 0 .. 2 ];
	setting($db, 'scan = full');
	$db->delete_doc($_) for @gone;
	stops($db, 'create again the documents of 3 of 20 members', 'documents: those that are gone are counted');
	setting($db, 'scan = off');
	stops($db, 'create again the documents of 3 of 20 members', '... if some members were asked for, of all',
		only => \@gone);
	succeeds($db, '... of whom no more are counted', only => [ @gone[ 0, 1 ] ]);
	is(statuses($db, @gone), '2 0 1', '... than they are');
	$db->delete_doc($_) for @gone[ 0, 1 ];
	all_due($db);
	succeeds($db, 'documents: a run that writes none passes', direction => 'to_django');
	is(statuses($db, @gone), '0 0 3', '... and writes none');
	succeeds($db, '... and force lets them through', force => 1);
	is(statuses($db, @gone), '3 0 0', '... all of them');

	# deleted and entered anew: nothing of that is a document that went
	setting($db, 'max_delete_percent = 0');
	setting($db, 'on_local_delete = delete');
	my @back = @keys[ 0 .. 2 ];
	remove($db, 0, @back);
	stops($db, 'delete 3 of 20 members', 'documents: those to be deleted are counted');
	succeeds($db, '... and force lets them through', force => 1);
	is(statuses($db, @back), '0 0 3', '... and they go');
	$db->sql("INSERT INTO membership_comrade (ssn, name, date_joined) VALUES " . join ', ',
		map { "('$_', 'Bót', now())" } @back);
	succeeds($db, '... and who comes back is not counted');
	is(statuses($db, @back), '3 0 0', '... and gets a document');
}

# ------------------------------------------------- values that become blank

{
	my $db = EkkSync->new(name => 'blank', members => 20);
	my @keys = keys_of($db);
	my ($edited, @some) = @keys[ 0 .. 3 ];
	give($db);
	$db->sql('DELETE FROM membership_unionmembership');
	$db->sql('INSERT INTO membership_unionmembership (comrade_id, union_id) SELECT c.id, u.id FROM membership_comrade c,'
		  . ' (SELECT min(id) AS id FROM membership_union) u WHERE ssn IN (' . list(@some) . ')');
	succeeds($db, 'blank: a first run');
	setting($db, 'scan = off');
	my $blank = 'blank values of 3 of 20 members';

	# a member of whom two values go is one; a value that comes is none
	take($db, 'django', @some);
	$db->sql("UPDATE membership_comrade SET birthday = NULL WHERE ssn = '$some[0]'");
	$db->sql("UPDATE membership_comrade SET name = 'Breytt' WHERE ssn = '$edited'");
	stops($db, $blank, 'blank: values cleared in Django');
	stops($db, $blank, '... also for a run to Firestore', direction => 'to_firestore');
	succeeds($db, '... but one to Django writes none of them', direction => 'to_django');
	is(values_of($db, @some), '0 3', '... and leaves the documents');
	give($db, $some[2]);
	succeeds($db, 'blank: two are the limit, and pass');
	is(values_of($db, @some), '1 1', '... on both sides');
	give($db, @some);
	succeeds($db, 'blank: values are given anew');
	is(values_of($db, @some), '3 3', '... on both sides');

	# by the scan, by the page, and by the page's entry alone
	take($db, 'firestore', $some[0]);
	all_due($db);
	$db->profile_edit($some[1], 'facebook', undef);
	$db->profile_edit($some[2], 'facebook', undef, document => 0);
	stops($db, $blank, 'blank: values cleared in Firestore');
	stops($db, $blank, '... also for a run to Django', direction => 'to_django');
	succeeds($db, '... but one to Firestore writes none of them', direction => 'to_firestore');
	is(values_of($db, @some), '3 1', '... and leaves the rows');
	succeeds($db, '... and force lets them through', force => 1);
	is(values_of($db, @some), '0 0', '... to both sides');

	# only when the rows are read again under their locks do they show it
	give($db, @some);
	succeeds($db, 'blank: values are given anew');
	$db->profile_edit($_, 'facebook', undef) for @some;
	$db->profile_edit($_, 'email', 'nytt@example.is') for @some;
	$db->sql("UPDATE membership_contactinfo SET facebook = facebook || '!' WHERE comrade_id IN (SELECT id FROM membership_comrade WHERE ssn IN ("
		  . list(@some) . '))');
	$db->stop_at('decided');
	my $run = $db->run(wait => 0)->{run};
	ok($db->wait_stopped, 'blank: a run has decided to write Django\'s values');
	$db->sql("UPDATE membership_contactinfo SET facebook = rtrim(facebook, '!') WHERE comrade_id IN (SELECT id FROM membership_comrade WHERE ssn IN ("
		  . list(@some) . '))');
	$db->go_on;
	my $record = sub { return $db->row("SELECT status, error FROM ekksync_runs WHERE run = $run"); };
	$db->wait_for(sub { $record->()->{status} ne 'running' }) or die 'the run does not end';
	is($record->()->{error}, "the run would $blank", '... which are taken back then: it stops');
	is(values_of($db, @some), '3 0', '... and leaves the rows');
	succeeds($db, '... and force lets them through', force => 1);

	# one of the three in each direction, and a list
	give($db, @some);
	succeeds($db, 'blank: values are given anew');
	take($db, 'django', $some[0]);
	take($db, 'firestore', $some[1]);
	all_due($db);
	$db->sql('DELETE FROM membership_unionmembership WHERE comrade_id IN'
		  . " (SELECT id FROM membership_comrade WHERE ssn = '$some[2]')");
	stops($db, $blank, 'blank: in both directions, and a list that is emptied');

	# each kind once
	$db->sql('DELETE FROM membership_membersyncqueue');
	give($db, @some);
	remove($db, 0, $keys[10]);
	$db->delete_doc($keys[11]);
	stops($db, 'delete 1, create again the documents of 1 and blank values of 2 of 20 members',
		'blank: all kinds are counted together');
	$db->admin_sql("UPDATE ekksync.member SET due = false WHERE key = '$keys[11]'");
	stops($db, 'delete 1 and blank values of 2 of 20 members', '... or two of them');
}
# ------------------------------------------------------ more than one batch

{
	# two batches: 500 members and 20; the limit is 52
	my $db = EkkSync->new(name => 'batches', members => 520, attach => 0);
	my @keys = keys_of($db);
	my $read = sub { return $db->sql("SELECT docs_read FROM ekksync_runs WHERE run = $_[0]{run}"); };
	give($db);
	$db->sql("DELETE FROM membership_unionmembership; ALTER TABLE membership_comrade ADD labels text[] DEFAULT '{}'");
	$db->attach;
	setting($db, 'max_delete_percent = 5');

	# a first contact: lists that are empty in Django win over those there
	my @met = @keys[ 475 .. 519 ];
	my $blank = 'blank values of 45 of 520 members';
	$db->set_docs('members', map { [ $_ => { membership => { unions => ['Efling'], labels => ['merki'] } } ] } @met);
	stops($db, $blank, 'batches: values that a first contact would blank are counted, of a field that is pushed only');
	$db->sql("SELECT ekksync_unmap('$_')") for qw(unions titles street_address postal_code city);
	$db->sql(q{SELECT ekksync_map('labels', 'membership.labels', 'text[]', "column" => 'labels')});
	stops($db, $blank, '... and of one that is not');
	$db->sql("SELECT ekksync_unmap('labels')");
	$db->commit(map { [$_] } @met);
	setting($db, 'max_delete_percent = 10');
	my $run = succeeds($db, 'batches: a first run');
	cmp_ok($read->($run), '<', 530, '... which reads each document once');
	setting($db, 'scan = off');

	my @deleted = @keys[ 0 .. 14 ];
	my @lost = @keys[ 100 .. 119 ];
	my @second = @keys[ 500 .. 519 ];
	remove($db, 1, @deleted[ 0 .. 9 ]);
	remove($db, 0, @deleted[ 10 .. 14 ]);
	$db->commit(map { [$_] } @lost);
	take($db, 'django', @second[ 0 .. 9 ]);
	take($db, 'firestore', @second[ 10 .. 19 ]);
	$db->sql("UPDATE membership_comrade SET name = 'Ægir' WHERE ssn = '$keys[50]'");
	my $entry = $db->profile_edit($keys[51], 'name', 'Þrúður');
	all_due($db);
	my $mixed = 'delete 15, create again the documents of 20 and blank values of 20 of 520 members';
	stops($db, $mixed, 'batches: the whole run is counted, though each batch is below the limit');
	stops($db, $mixed, '... by the next one too');
	my ($figures) = $db->run_rows(dry_run => 1);
	is($figures->{to_firestore} + $figures->{to_django}, 57, '... and a dry run passes, and shows them');

	give($db, @second[ 0 .. 2 ]);
	all_due($db);
	succeeds($db, 'batches: the limit itself passes');
	is(statuses($db, @deleted, @lost), '20 15 0', '... and all of it is done');
	is(values_of($db, @second), '3 3', '... in both batches');
	is($db->doc($keys[50])->{profile}{name}, 'Ægir', '... with everything else');
	is($db->entry($entry)->{sync_status}, 'synced', '... in both directions');

	# a table that is locked: what cannot be counted is not written
	setting($db, 'max_delete_percent = 2');
	$db->commit(map { [$_] } @lost);
	all_due($db);
	my $lock = session('lock', "BEGIN;\nLOCK TABLE membership_contactinfo IN ACCESS EXCLUSIVE MODE;\nSELECT 'locked';\n", $db);
	$lock->{harness}->pump until $lock->{out} =~ /locked/;
	my $id = $db->run(wait => 0)->{run};
	my $record = sub { return $db->row("SELECT * FROM ekksync_runs WHERE run = $id"); };
	$db->wait_for(sub { my $now = $record->(); return $now->{phase} eq 'members' || $now->{status} ne 'running' });
	$lock->{in} .= "ROLLBACK;\n";
	$lock->{harness}->finish;
	$db->wait_for(sub { $record->()->{status} ne 'running' });
	is($record->()->{status}, 'success', 'batches: a run that finds a table locked');
	like($record->()->{error}, qr/^members left for the next run, .*: 520$/, '... leaves all members to the next one');
	is(statuses($db, @lost), '0 0 20', '... and writes none');
	stops($db, 'create again the documents of 20 of 505 members', '... which counts them');
	succeeds($db, '... and force lets them through', force => 1);

	# Documents go after they were looked at; the limit is 10.
	all_due($db);
	$db->sql("UPDATE membership_comrade SET name = 'Sæmundur' WHERE ssn = '$keys[50]'");
	$db->stop_at('documents');
	$id = $db->run(wait => 0)->{run};
	ok($db->wait_stopped, 'batches: a run that has looked at all members, and begins');
	is($db->sql("SELECT phase FROM ekksync_runs WHERE run = $id"), 'members', '... to write them');
	$db->commit(map { [$_] } @second);
	$db->go_on;
	$db->wait_for(sub { $db->sql("SELECT status FROM ekksync_runs WHERE run = $id") ne 'running' });
	is($db->sql("SELECT error FROM ekksync_runs WHERE run = $id"),
		'the run would create again the documents of 20 of 505 members', '... stops where the world has changed');
	is(statuses($db, @second), '0 0 20', '... before it writes the second batch');
	is($db->doc($keys[50])->{profile}{name}, 'Sæmundur', '... after the first');
}

# ------------------------------------------- rows that change under the guard

{
	my $db = EkkSync->new(name => 'moving', members => 20);
	my @some = (keys_of($db))[ 0 .. 2 ];
	give($db);
	succeeds($db, 'moving: a first run');
	$db->profile_edit($_, 'name', 'Annað nafn') for @some;
	$db->stop_at('decided');
	my $id = $db->run(wait => 0)->{run};
	ok($db->wait_stopped, '... and one that has decided about a batch');
	take($db, 'django', @some);
	$db->go_on;
	$db->wait_for(sub { $db->sql("SELECT status FROM ekksync_runs WHERE run = $id") ne 'running' });
	is($db->sql("SELECT error FROM ekksync_runs WHERE run = $id"),
		'the run would blank values of 3 of 20 members', '... counts what was cleared meanwhile');
	is(values_of($db, @some), '0 3', '... and leaves the documents');
	stops($db, 'blank values of 3 of 20 members', '... as the next one does');
}

# -------------------------------------------------- another project, accepted

{
	my $db = EkkSync->new(name => 'reload', members => 10);
	succeeds($db, 'reload: a first run');
	$db->sql(<<'SQL');
BEGIN;
CREATE TEMP TABLE kept AS SELECT * FROM membership_comrade WHERE id <= 4;
DELETE FROM membership_comrade WHERE id <= 4;
INSERT INTO membership_comrade SELECT * FROM kept;
COMMIT;
SQL
	is($db->sql("SELECT count(*) FROM ekksync_pending WHERE action = 'delete'"), '4', 'reload: rows are deleted and inserted again');
	succeeds($db, '... which is no mass deletion');
	is(statuses($db, keys_of($db)), '10 0 0', '... and nobody becomes inactive');
}

{
	my $db = EkkSync->new(name => 'project', members => 4);
	my ($ssn, $second) = keys_of($db);
	my $first = $db->project;
	my $name = sub { return $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$_[0]'"); };
	my $base = sub {
		return $db->admin_sql("SELECT count(*) FILTER (WHERE first_contact), count(*) FILTER (WHERE base = '{}'),"
			  . ' count(*) FILTER (WHERE due) FROM ekksync.member');
	};
	$db->sql("UPDATE membership_comrade SET name = 'Þóra' WHERE ssn = '$ssn'");
	succeeds($db, 'project: a first run');

	# ekksync_resume() without need accepts nothing for later
	$db->sql('SELECT ekksync_resume()');
	succeeds($db, '... and one after ekksync_resume()');

	$db->sql("SELECT ekksync_pause('kaffi')");
	$db->sql('SELECT ekksync_resume()');
	$db->use_project("$first-2");
	$db->set_doc($ssn,
		{
			profile    => { name => 'Úr hinu', kennitala => $ssn },
			membership => { status => 'active' },
			updated_at => timestamp()
		});
	my $run = $db->run;
	is($run->{message}, 'ekksync is paused: the Firestore project or database is not the one of the last run',
		'project: another one pauses');
	is($base->(), '0|0|0', '... and the base is kept');

	$db->sql('SELECT ekksync_resume()');
	my ($figures, @plan) = $db->run_rows(dry_run => 1);
	is_deeply(
		[ map { "$_->{side} $_->{old_value} $_->{new_value}" }
			  grep { $_->{field} eq 'name' && $_->{member} eq $ssn } @plan ],
		['firestore Úr hinu Þóra'], '... and a dry run shows a first contact');
	is(scalar(keys %{ { map { $_->{member} => 1 } @plan } }), 4, '... of everybody');
	is($base->(), '0|0|0', '... and forgets nothing');
	is($db->count_docs('members'), 1, '... and writes nothing');

	$run = succeeds($db, '... and the run goes on');
	is($name->($ssn), 'Þóra', 'project: Django is not overwritten');
	is($db->doc($ssn)->{profile}{name}, 'Þóra', '... and its value is in the document');
	is($db->row("SELECT rule || ' ' || (firestore_value #>> '{}') AS lost FROM ekksync_conflicts WHERE field = 'name'")
		  ->{lost}, 'first contact Úr hinu', '... and the loser is kept');
	is($db->doc($second)->{profile}{name}, $name->($second), '... and everybody has a document there');
	is($base->(), '0|0|0', '... and a base');

	# the old project is another one now, and acceptance was for once
	$db->use_project($first);
	$run = $db->run;
	like($run->{message}, qr/^ekksync is paused: the Firestore project/, 'project: the old one pauses as well');
	$db->use_project("$first-2");
	$db->sql('SELECT ekksync_resume()');
	$db->profile_edit($ssn, 'name', 'Ný Þóra', entry => 0);
	succeeds($db, '... and once it is set back');
	is($name->($ssn), 'Ný Þóra', '... the base was kept: an edit there arrives');

	# a cluster that is another only by its identifier
	$db->admin_sql('UPDATE ekksync.state SET system_identifier = 1');
	$db->profile_edit($ssn, 'name', 'Enn önnur', entry => 0);
	is($db->run->{message}, 'ekksync is paused: this is not the database cluster of the last run',
		'project: another cluster pauses');
	$db->sql('SELECT ekksync_resume()');
	succeeds($db, '... and goes on when it is accepted');
	is($name->($ssn), 'Enn önnur', '... with its base: an edit in Firestore arrives');
	is($db->admin_sql('SELECT accepted IS NULL FROM ekksync.state'), 't', '... and nothing more is accepted');
}

# --------------------------------------- notes of writes in flight, scans, runs

my $db = EkkSync->new(members => 6, conf => 'autovacuum = off');
setting($db, $_) for 'max_retries = 0', 'request_timeout = 600000';
my @keys = keys_of($db);
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);

sub value
{
	my ($column, $key) = @_;
	return $db->sql("SELECT $column FROM membership_comrade WHERE ssn = '$key'");
}

# Only scans that were made count.  Nobody is due after a push alone.
succeeds($db, 'scan: a push', direction => 'to_firestore');
$db->profile_edit($keys[0], 'name', 'Fyrsta skönnun', entry => 0);
succeeds($db, '... and a first run that reads');
is(value('name', $keys[0]), 'Fyrsta skönnun', '... and scans from the time of the attachment');

my $state = 'SELECT last_scan FROM ekksync.state';
my $scanned = $db->admin_sql($state);
isnt($scanned, '', '... and notes it');
succeeds($db, 'scan: a run of some members', only => [ $keys[1] ]);
is($db->admin_sql($state), $scanned, '... is no scan');
$db->admin_sql("UPDATE ekksync.state SET last_scan = now() - interval '10 days'");
setting($db, 'scan = off');
$db->patch_doc($keys[0],
	{ 'profile.name' => 'Seint', updated_at => timestamp(time - 5 * 86400) });
succeeds($db, 'scan: a run without one');
is(value('name', $keys[0]), 'Fyrsta skönnun', '... sees nothing');
setting($db, 'scan = changed');
succeeds($db, '... and the next one with a scan');
is(value('name', $keys[0]), 'Seint', '... goes back to the last scan');
setting($db, 'scan = off');

sub notes
{
	my ($key) = @_;
	return $db->admin_sql("SELECT due, jsonb_array_length(in_flight) FROM ekksync.member WHERE key = '$key'");
}

# A delete whose answer is lost: its note is over, the document is missing.
setting($db, 'on_local_delete = delete');
remove($db, 0, $keys[5]);
$proxy->start(fault => 'lose_and_gone', match => $push);
is($db->run->{status}, 'failed', 'notes: the answer to a delete is lost');
is(notes($keys[5]), 't|1', '... and noted');
is($db->doc($keys[5]), undef, '... though it was done');
$proxy->start;
succeeds($db, '... and the next run');
is(notes($keys[5]), 'f|0', '... settles it');

# A creation whose answer is lost, and that comes once more after the member
# and its document were deleted.
$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Stutt Viðdvöl', '0101302989', now())");
$proxy->start(fault => 'lose_and_gone', match => $push);
is($db->run->{status}, 'failed', 'notes: the answer to a creation is lost');
my ($creation) = grep { $_->{verb} eq 'commit' && $_->{fault} } $proxy->requests;
remove($db, 0, '0101302989');
$proxy->start;
succeeds($db, '... and the member deleted with its document');
is($db->doc('0101302989'), undef, '... which is gone');
$db->batch_write($creation->{body}{writes});
isnt($db->doc('0101302989'), undef, '... and comes again');
succeeds($db, '... and the next run');
is($db->doc('0101302989'), undef, '... deletes it again');
is(notes('0101302989'), 't|1', '... and looks again, as long as it may come');

# A write that never came, taken back: nothing will ever overtake its note.
my $before = value('name', $keys[4]);
$db->sql("UPDATE membership_comrade SET name = 'Afturkallað' WHERE ssn = '$keys[4]'");
$proxy->start(fault => 'cut', match => $push);
is($db->run->{status}, 'failed', 'notes: a write is cut off');
$proxy->start;
$db->sql("UPDATE membership_comrade SET name = '$before' WHERE ssn = '$keys[4]'");
succeeds($db, '... and taken back');
is(notes($keys[4]), 't|1', '... and may still come');
is($db->admin_sql("SELECT to_timestamp((in_flight -> 0 ->> 'at')::int8 / 1e6) BETWEEN now() - interval '10 minutes'"
		  . " AND now() FROM ekksync.member WHERE key = '$keys[4]'"), 't', '... by a note that has a time');
my $age = sub {
	$db->admin_sql("UPDATE ekksync.member SET in_flight = jsonb_set(in_flight, '{0,at}',"
		  . " to_jsonb((extract(epoch FROM clock_timestamp() - interval '$_[0]') * 1e6)::int8))"
		  . " WHERE key = '$keys[4]'");
};
# request_timeout is 10 minutes, without another try
$age->('19 minutes');
succeeds($db, '... also after a while');
is(notes($keys[4]), 't|1', '... as long as a request can live');
$age->('21 minutes');
succeeds($db, '... but not for ever');
is(notes($keys[4]), 'f|0', '... then it is over');

# ------------------------------------------- attach, detach, map during a run

my @setup = (
	"SELECT ekksync_map('name', 'profile.nafn', 'text', \"column\" => 'name')",
	"SELECT ekksync_unmap('name')",
	"SELECT * FROM ekksync_attach('membership_comrade')",
	'SELECT * FROM ekksync_detach()'
);

sub refused
{
	my ($sql, $name) = @_;
	my ($status, $out, $err) = $db->sql_err("\\set VERBOSITY verbose\n$sql");
	like($err, $busy, $name);
	return $err;
}

# Start a run that hangs at its first request of this kind.
sub hang
{
	my ($match, $call) = @_;
	$proxy->start(fault => 'hang', match => $match);
	$db->sql($call);
	$proxy->wait_fired or die 'the run did not come to its request';
	return $db->sql('SELECT max(run) FROM ekksync_runs');
}

sub end_of_hang
{
	$db->admin_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ekksync run'");
	$db->wait_for(sub {
		!$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'");
	}) or die 'the run goes on';
	$proxy->start;
	return;
}

my $plain = 'SELECT * FROM ekksync_run(wait => false)';
my $edit = 0;
sub edit
{
	$edit++;
	$db->sql("UPDATE membership_comrade SET name = 'Breytt $edit' WHERE ssn = '$keys[1]'");
	return;
}

edit();
hang($push, $plain);
my $kept = "SELECT string_agg(m::text, ' ' ORDER BY key) FROM ekksync.member AS m";
my $members = $db->admin_sql($kept);
for my $sql (@setup)
{
	my ($what) = $sql =~ /(ekksync_\w+)/;
	my $err = refused($sql, "$what during a run is refused");
	like($err, qr/a run is in progress.*HINT:  Try again when it is over/s, '... and says why');
}
is($db->admin_sql($kept), $members, '... and changes nothing');
end_of_hang();

is($db->sql("SELECT status FROM ekksync_run(); SELECT ekksync_unmap('nothing');" x 3),
	join("\n", ("success\nf") x 3), 'right after a run it is allowed');

# An open transaction holds a run off.
sub session
{
	my ($app, $in, $of) = @_;
	my $self = { in => $in, out => '', err => '' };
	local $ENV{PGAPPNAME} = $app;
	$self->{harness} = IPC::Run::start(
		[ 'psql', qw(-X -A -t -q -v ON_ERROR_STOP=1 -U socialism -d), ($of // $db)->node->connstr('socialism'), -f => '-' ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err}, IPC::Run::timeout(60));
	return $self;
}

my $holder = session('holder', "BEGIN;\nSELECT ekksync_unmap('facebook');\n");
$holder->{harness}->pump until $holder->{out} =~ /t\n/;
my $err = refused($plain, 'while one is open, a run that must not wait is refused');
like($err, qr/no run can start now/, '... and says why');

sub waits
{
	my ($app) = @_;
	return ok(
		$db->wait_for(sub {
			$db->admin_sql('SELECT count(*) FROM pg_stat_activity WHERE'
				  . " application_name = '$app' AND wait_event_type = 'Lock'");
		}), "... and one that may wait, waits ($app)");
}
my $run_sql = "SELECT status FROM ekksync_run();\n";
edit();
my $cancelled = session('cancelled', $run_sql);
$cancelled->{harness}->pump_nb;
waits('cancelled');
$db->admin_sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'cancelled'");
$cancelled->{harness}->finish;
like($cancelled->{err}, qr/canceling statement due to user request/, '... and can be cancelled');
my $waiting = session('waiting', $run_sql);
$waiting->{harness}->pump_nb;
waits('waiting');
$holder->{in} .= "COMMIT;\n";
$holder->{harness}->finish;
$waiting->{harness}->finish;
is("$waiting->{out}$waiting->{err}", "success\n", '... and goes on when that one is over');
is($db->doc($keys[1])->{profile}{name}, "Breytt $edit", '... and does its work');
is($db->admin_sql("SELECT count(*) FROM ekksync.member WHERE base ? 'facebook'"), 0,
	'... with the new mapping');
(undef, undef, $err) = $db->sql_err("BEGIN; SELECT ekksync_unmap('nothing'); SELECT * FROM ekksync_run()");
like($err, qr/cannot wait for a run in a transaction that has written/,
	'a transaction does not wait for a run that it holds off');

# --------------------------------------------------- whose run a call joins

my $docs = qr{:batchGet.*/documents/members/}s;
for my $case (
	[ $docs, 'dry_run => true', 'a dry run' ],
	[ $docs, "\"only\" => ARRAY['$keys[1]']", 'a run of some members' ],
	[ $docs, "direction => 'to_django'", 'a run in one direction' ])
{
	my ($match, $args, $what) = @$case;
	edit();
	my $id = hang($match, "SELECT * FROM ekksync_run(wait => false, $args)");
	$err = refused($plain, "$what is not joined by a plain call");
	like($err, qr/run $id is in progress.*HINT:  Try again/s, '... which is told of it');
	end_of_hang();
}
edit();
my $id = hang($push, "SELECT * FROM ekksync_run('to_firestore', wait => false)");
refused($plain, 'a push is not joined by a call for both directions');
is($db->sql("SELECT run, status, message FROM ekksync_run('to_firestore', wait => false)"),
	"$id|running|joined a run that was in progress", '... but by a call for the same');
end_of_hang();
succeeds($db, 'at last a run');
is($db->doc($keys[1])->{profile}{name}, "Breytt $edit", '... does what is left');

done_testing();
