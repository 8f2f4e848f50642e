# Retention: what is old goes, in batches, on both sides, and nothing that is
# still needed: unacknowledged rows, failures, held conflicts, what late echoes
# are known by, the documents that tell who we are.  And ekksync_forget(), which
# erases a person.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use JSON::PP ();
use Session;

my $db = EkkSync->new(members => 20, conf => "log_statement = 'none'\nlog_min_error_statement = panic\nekksync.max_retries = 0\nekksync.max_delete_percent = 100");
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);

# ------------------------------------------------------------------- helpers

my $queue = 'membership_membersyncqueue';
my $last_id = 0;

sub next_key { $last_id++; return $db->sql("SELECT ssn FROM membership_comrade WHERE id = $last_id"); }

sub setting
{
	my (%set) = @_;
	$db->admin_sql("ALTER DATABASE socialism " . (defined $set{$_} ? "SET ekksync.$_ = '$set{$_}'" : "RESET ekksync.$_"))
	  for keys %set;
	return;
}

sub run_ok
{
	my ($figures, $name, %arg) = @_;
	my $run = $db->run(%arg);
	is("$run->{status} @$run{qw(to_firestore to_django conflicts failed)}", "success $figures", "$name: the run's figures")
	  or diag($run->{message});
	return $run;
}

# What the last run, or cleanup, removed.
sub cleaned
{
	my $json = $db->sql('SELECT cleaned FROM ekksync_runs ORDER BY run DESC LIMIT 1');
	return $json eq '' ? {} : JSON::PP->new->decode($json);
}

# ekksync_cleanup() as {what => removed}.
sub cleanup
{
	my ($days) = @_;
	return { map { $_->{what} => $_->{removed} } $db->rows('SELECT * FROM ekksync_cleanup(' . ($days // '') . ')') };
}

# Values of a column, in order.
sub column
{
	my ($sql) = @_;
	return join ' ', split /\n/, $db->admin_sql($sql);
}

sub remove
{
	my ($key) = @_;
	my $id = $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'");
	$db->sql(join ';', (map { "DELETE FROM membership_$_ WHERE comrade_id = $id" }
			qw(contactinfo comrade_emails unionmembership comradetitle newlocaladdress)), "DELETE FROM membership_comrade WHERE id = $id");
	return;
}

# An error with its SQLSTATE: "55006: message".
sub refused
{
	my ($sql) = @_;
	my (undef, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\n$sql");
	$error =~ s/^psql:[^:]*:\d+: //mg;
	$error =~ s/^ERROR:\s+//m;
	$error =~ s/^LOCATION:.*//m;
	return $error;
}

run_ok('20 0 0 0', 'first push');

# ----------------------------------------------------------------- the queue

# Rows of members that differ in nothing, days old.
sub queue_row
{
	my ($name, $key, $days, $status, %more) = @_;
	my $member = $more{member} // 'NULL';
	my $synced = $more{synced} // $days;
	my $action = $more{action} // 'update';
	$db->sql(<<"SQL");
INSERT INTO $queue (member_id, ssn, action, fields_changed, created_at, synced_at, sync_status, error_message)
VALUES ($member, '$key', '$action', '{"note": "$name"}', now() - interval '$days days',
	CASE WHEN '$status' = 'synced' THEN now() - interval '$synced days' END, '$status', '')
SQL
	return;
}

sub queue_names { return column(qq{SELECT fields_changed->>'note' FROM $queue WHERE fields_changed ? 'note' ORDER BY 1}); }

{
	my ($a, $b, $c) = map { next_key() } 1 .. 3;
	queue_row('old', $a, 31, 'synced');
	queue_row('young', $a, 29, 'synced');
	queue_row('late', $a, 40, 'synced', synced => 3);
	queue_row('failed', $b, 400, 'failed');
	run_ok('0 0 0 0', 'old rows');
	is(queue_names(), 'failed late young', 'synced rows go when they were created and synced so many days ago');
	is_deeply(cleaned(), { 'queue rows' => 1 }, '... which the run says');

	# rows that somebody still needs
	$db->admin_sql("UPDATE ekksync.member SET first_contact = true, due = true WHERE key = '$c'");
	queue_row('first contact', $c, 40, 'synced');
	queue_row('pending', $b, 400, 'pending', member => 7);
	queue_row('moved', $a, 40, 'synced', member => 7, action => 'delete');
	queue_row('by hand', $b, 40, 'pending');
	$db->sql(qq{UPDATE $queue SET sync_status = 'synced' WHERE fields_changed->>'note' = 'by hand'});
	is_deeply(cleanup(), {}, 'ekksync_cleanup() removes none of what runs still need');
	is(queue_names(), 'by hand failed first contact late moved pending young', '... neither here nor there');
	is(column(q{SELECT mode || dry_run FROM ekksync.run ORDER BY id DESC LIMIT 1}), 'cleanuptrue', '... and is a record of its own kind');
	is($db->row('SELECT * FROM ekksync_status()')->{last_run}, $db->sql(q{SELECT max(run) FROM ekksync_runs WHERE mode = 'sync'}), '... but no run');
	run_ok('0 0 0 0', 'what was needed');
	is_deeply(cleanup(), {}, 'a run cleans up at its end');
	is(queue_names(), 'failed late pending young', '... also what was needed until then');

	# by days
	is_deeply(cleanup(20), { 'queue rows' => 1 }, 'ekksync_cleanup(20) takes other days for the queue');
	is(queue_names(), 'failed late pending', '... and the rows of that age');
	like(refused('SELECT ekksync_cleanup(-1)'), qr/^22023: invalid number of days: -1\nDETAIL: .*\nHINT: /, 'an impossible number of days is an error');
	setting(queue_days => 0);
	queue_row('ancient', $a, 4000, 'synced');
	run_ok('0 0 0 0', 'for ever');
	is(queue_names(), 'ancient failed late pending', 'queue_days = 0 keeps rows for ever');
	setting(queue_days => undef);

	# in observe mode the queue is as it was
	setting(mode => 'observe');
	is_deeply(cleanup(), {}, 'in observe mode the queue is left alone');
	setting(mode => undef);
	is_deeply(cleanup(), { 'queue rows' => 1 }, '... not otherwise');
	$db->sql("DELETE FROM $queue");
	run_ok('0 0 0 0', 'an empty queue');
}

# In batches, without waiting for anybody, and whole whenever it dies.
{
	my $key = next_key();
	$db->sql(<<"SQL");
INSERT INTO $queue (ssn, action, created_at, synced_at, sync_status, fields_changed)
SELECT '$key', 'update', now() - interval '50 days', now() - interval '50 days', 'synced', '{}' FROM generate_series(1, 1200)
SQL
	my $session = Session->new($db);
	$session->sql("BEGIN; SELECT id FROM $queue ORDER BY id LIMIT 1 FOR UPDATE");
	$db->stop_at('in_clean');
	$db->steps;
	my $caller = Session->new($db);
	$caller->send('SELECT * FROM ekksync_cleanup()');
	my $pid = $db->wait_stopped;
	is($db->admin_sql("SELECT count(*) FROM pg_locks WHERE pid = $pid AND mode IN ('ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AND locktype = 'relation'"), 0, 'no table is locked against others');
	like(refused('SELECT ekksync_cleanup()'), qr/^55006: run \d+ is in progress/, 'a second call is told of the first');
	kill TERM => $pid;
	$db->wait_for(sub { !kill 0, $pid });
	$db->go_on;
	is($db->sql("SELECT count(*) FROM $queue"), 1200, 'a cleanup that dies leaves what it was at');
	$db->steps;
	is_deeply(cleanup(), { 'queue rows' => 1199 }, 'the next one removes it, but a row that is locked');
	is((grep { $_ eq 'in_clean' } $db->steps), 3 + 4, '... in batches');
	$session->sql('COMMIT');
	is_deeply(cleanup(), { 'queue rows' => 1 }, '... which the one after it removes');
	unlink $db->_step_file('steps');
}

# ------------------------------------------------------------- our own tables

{
	my $key = next_key();
	my $day = sub { return "now() - interval '$_[0] days'"; };
	my $run = $db->sql('SELECT max(run) FROM ekksync_runs');
	my $conflict = sub {
		my ($name, $days, $winner, $resolved) = @_;
		$db->admin_sql("INSERT INTO ekksync.conflict (run, key, field, winner, rule, created_at, resolved_at) VALUES ($run, '$key', '$name', '$winner', 'policy', "
			  . $day->($days) . ', ' . (defined $resolved ? $day->($resolved) : 'NULL') . ')');
	};
	$conflict->(decided => 401, 'django');
	$conflict->(recent => 399, 'django');
	$conflict->(open => 2000, 'none');
	$conflict->(resolved => 500, 'none', 450);
	$conflict->(lately => 500, 'none', 10);
	my $entry = sub {
		my ($id, $status, $days, $error) = @_;
		$db->admin_sql("INSERT INTO ekksync.inbox (doc_id, key, action, stamp, status, done_at, error_message, run) VALUES ('$id', '$key', 'update', "
			  . $day->($days) . ", '$status', " . $day->($days) . ', ' . ($error ? "'$error'" : 'NULL') . ", $run)");
	};
	$entry->(closed => 'closed', 91);
	$entry->(new => 'closed', 89);
	$entry->(failed => 'closed', 400, 'member not found');
	$db->admin_sql("INSERT INTO ekksync.change_log (run, key, side, changed_at, changes) VALUES ($run, '$key', 'django', " . $day->($_) . ", '{}')") for 399, 401;
	is_deeply(cleanup(), { conflicts => 2, entries => 1, 'change log' => 1 }, 'each kind goes by its own days');
	is(column(q{SELECT field FROM ekksync.conflict ORDER BY 1}), 'lately open recent', 'of conflicts what is decided or resolved');
	is(column(q{SELECT doc_id FROM ekksync.inbox ORDER BY 1}), 'failed new', 'of entries what is closed and has not failed');
	is(column(q{SELECT count(*) FROM ekksync.change_log WHERE changed_at < now() - interval '400 days'}), 0, 'of the change log what is old');
	setting(map { ("${_}_days" => 0) } qw(conflict inbox change_log run));
	$db->admin_sql("UPDATE ekksync.$_->[0] SET $_->[1] = $_->[1] - interval '10 years'") for [ conflict => 'created_at' ], [ inbox => 'done_at' ], [ change_log => 'changed_at' ];
	is_deeply(cleanup(), {}, 'with 0 everything is kept for ever');
	setting(map { ("${_}_days" => undef) } qw(conflict inbox change_log run));
	$db->admin_sql("DELETE FROM ekksync.conflict; DELETE FROM ekksync.inbox");
}

# Runs: the last ones stay, whatever their age.
{
	run_ok('0 0 0 0', "run $_") for 1 .. 4;
	my $before = $db->sql('SELECT count(*) FROM ekksync_runs');
	$db->admin_sql(q{UPDATE ekksync.run SET started_at = started_at - interval '500 days', finished_at = finished_at - interval '500 days'});
	my $removed = cleanup()->{runs};
	is($db->admin_sql(q{SELECT count(*) FROM ekksync.run WHERE log_document IS NOT NULL}), 3, 'of old runs the last three stay that have a document');
	is($removed + 4, $before + 1, '... all others go');
	$db->sql('SELECT ekksync_pause()');
	$db->sql('SELECT ekksync_resume()');
	run_ok('0 0 0 0', 'after that');
}

# ------------------------------------------------------------------ late echoes

# What was pushed once is known as long as a copy of it may come: also where no
# run has looked for long.
{
	my $key = next_key();
	for my $name (qw(Fyrst Seinna))
	{
		$db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'");
		run_ok('1 0 0 0', $name);
	}
	# the function's copy of the first write, which no run has seen
	my $echo = $db->queue_entry(docId => $key, changes => { profile => { name => 'Fyrst' } }, created_at => timestamp());
	setting(change_log_days => 10);
	$db->admin_sql(q{UPDATE ekksync.change_log SET changed_at = changed_at - interval '20 days'});
	$db->admin_sql(q{UPDATE ekksync.run SET started_at = started_at - interval '15 days'});
	is(cleanup()->{'change log'}, undef, 'the change log of the days before the last run is kept while runs do not succeed');
	my $failing = $db->run(direction => 'to_firestore');
	is($failing->{status}, 'success', 'a run to Firestore has not seen entries');
	is(cleanup()->{'change log'}, undef, '... and does not let it go');
	run_ok('0 0 0 0', 'a late echo');
	is(column("SELECT note FROM ekksync.inbox WHERE doc_id = '$echo'"), 'echo', '... is known as one');
	is($db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key'"), 'Seinna', '... and changes nothing');
	run_ok('0 0 0 0', 'the run after that');
	cmp_ok(cleaned()->{'change log'} // 0, '>=', 2, '... lets the change log go');
	setting(change_log_days => undef);
}

# --------------------------------------------------------------- in Firestore

sub check { my ($name) = @_; return $db->row("SELECT * FROM ekksync_check() WHERE \"check\" = '$name'")->{detail}; }

{
	my @keys = map { next_key() } 1 .. 4;
	my @ids = map { $db->profile_edit($_, 'name', "Ný $_") } @keys;
	my $failed = $db->queue_entry(docId => $keys[0], changes => { 'profile.óþekkt' => 'x' });
	my $other = $db->queue_entry(docId => $keys[0], target => 'elsewhere', sync_status => 'synced', synced_at => timestamp('2020-01-01T00:00:00Z'));
	my $portal = $db->add_doc('sync_logs', { type => 'bidirectional_sync', status => 'success', created_at => timestamp('2020-01-01T00:00:00Z'), completed_at => timestamp('2020-01-01T00:00:00Z') });
	run_ok('0 4 0 1', 'entries');
	$db->admin_sql(q{UPDATE ekksync.inbox SET done_at = done_at - interval '200 days'});
	$db->admin_sql(q{UPDATE ekksync.run SET started_at = started_at - interval '200 days'});
	my $entries = $db->count_docs('sync_queue');
	my $logs = $db->count_docs('sync_logs');
	$proxy->start;
	setting(inbox_days => 0);
	run_ok('0 0 0 0', 'off');
	is($db->count_docs('sync_queue'), $entries, 'nothing is deleted in Firestore unless it is asked for');
	is($db->count_docs('sync_logs'), $logs + 1, '... nor of the runs');
	like(check('retention in Firestore'), qr/^off/, '... which ekksync_check() says');

	# somebody asks for another try of an entry
	$db->patch_doc("sync_queue/$ids[3]", { sync_status => 'pending', synced_at => undef });
	setting(remote_queue_days => 100, remote_log_days => 100, inbox_days => 150);
	run_ok('0 0 0 0', 'on');
	is(column(q{SELECT count(*) FROM ekksync.inbox WHERE status = 'closed' AND error_message IS NULL}), 1, 'entries are forgotten here when their documents have gone');
	is_deeply([ map { $db->entry($_) ? 1 : 0 } @ids, $failed, $other ], [ 0, 0, 0, 1, 1, 1 ], 'synced entries of runs go, not one that is pending again, failed, or of others');
	is($db->entry($ids[3])->{sync_status}, 'synced', '... and the one that was pending again was worked on');
	my $documents = $db->docs('sync_logs');
	ok($documents->{$portal}, "others' documents stay in sync_logs");
	is((grep { /^ekksync-/ } keys %$documents), 3, '... and the last of our own');
	my $last = $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1');
	is($last->{docs_deleted}, $last->{cleaned}{'sync_queue documents'} + $last->{cleaned}{'sync_logs documents'}, 'it is in the figures of the run');
	like(check('retention in Firestore'), qr/a week costs \d+ documents read and \d+ deleted: \d+\.\d{4}$/, '... and ekksync_check() has the price');
	run_ok('0 0 0 0', 'and again');
	is(cleaned()->{'sync_queue documents'}, undef, '... no entry is left to be removed');

	# where the day's reads are limited, as many as they leave
	$db->commit(map { [ "sync_queue/old$_", $db->entry_fields(docId => $keys[1], changes => {}, sync_status => 'synced', synced_at => timestamp('2020-01-01T00:00:00Z')) ] } 1 .. 130);
	$db->admin_sql(qq{INSERT INTO ekksync.inbox (doc_id, key, action, stamp, status, done_at, run)
		SELECT 'old' || i, '$keys[1]', 'update', now(), 'closed', now() - interval '200 days', 1 FROM generate_series(1, 130) AS i});
	setting(max_reads_per_day => 120);
	my @removed;
	for (1 .. 3)
	{
		$db->admin_sql('DELETE FROM ekksync.cost');
		is($db->run->{status}, 'success', 'a run with a limit of reads');
		push @removed, cleaned()->{'sync_queue documents'};
		last if !$db->admin_sql(q{SELECT count(*) FROM ekksync.inbox WHERE doc_id LIKE 'old%'});
	}
	is(scalar @removed, 2, '... removes as many entries as the day leaves it to read');
	cmp_ok($removed[0], '>=', 50, '... on the first day');
	is($removed[0] + $removed[1], 130, '... and the rest on the next');
	is((grep { /^old/ } keys %{ $db->docs('sync_queue') }), 0, '... and they have gone');
	setting(max_reads_per_day => undef);
	setting(remote_queue_days => undef, remote_log_days => undef, inbox_days => undef);
}

# ------------------------------------------------------------- erase a person

# Everything that both sides hold, as text.
sub everything
{
	my $text = '';
	for my $table ($queue, map { "ekksync.$_" } split /\n/, $db->admin_sql(q{SELECT relname FROM pg_class WHERE relnamespace = 'ekksync'::regnamespace AND relkind = 'r'}))
	{
		$text .= $db->admin_sql("SELECT t FROM $table AS t") . "\n";
	}
	for my $collection (qw(members sync_queue sync_logs))
	{
		$text .= JSON::PP->new->encode([ $db->raw_docs($collection) ]);
	}
	return $text;
}

{
	my $key = next_key();
	my $hyphened = substr($key, 0, 6) . '-' . substr $key, 6;
	my $name = $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key'");
	my $personal = qr/\Q$key\E|\Q$hyphened\E|gleymd|Gleymd/;
	my @ids;

	# traces of all kinds
	$db->sql("UPDATE membership_comrade SET name = 'Gleymd Einu' WHERE ssn = '$key'");
	$db->profile_edit($key, 'name', 'Gleymd Tvisvar');
	run_ok('0 1 1 0', 'a conflict');
	push @ids, $db->queue_entry(kennitala => $hyphened, changes => { 'profile.óþekkt' => 'gleymd' });
	$db->run;
	like(refused("SELECT ekksync_forget('$key')"), qr/^55000: the person is still a member\nDETAIL:  There is a row .*\nHINT:  Delete the member first\.$/m, 'who is a member is not erased');
	like(everything(), qr/Gleymd Einu.*gleymd/s, '... and nothing has gone');
	remove($key);
	$db->run;
	$db->sql("INSERT INTO $queue (ssn, action, fields_changed, created_at, sync_status) VALUES ('9999999999', 'delete', '{\"ssn\": \"$key\"}', now(), 'failed')");
	$db->admin_sql("INSERT INTO ekksync.plan (run, key, side) VALUES (1, '$key', 'django')");
	$db->admin_sql("INSERT INTO ekksync.diff (run, key, why) VALUES (1, '$key', 'gleymd')");
	$db->admin_sql("INSERT INTO ekksync.backlog (run, key) VALUES (1, '$key')");
	$db->admin_sql("INSERT INTO ekksync.stranger (key, doc_time, problem) VALUES ('$key', now(), 'x')");
	$db->admin_sql(qq{INSERT INTO ekksync.inbox (doc_id, key, action, changes, stamp, status, error_message, run)
		VALUES ('nobody', NULL, 'update', '{"profile.note": {"stringValue": "$hyphened"}}', now(), 'closed', 'the entry names no member', 1)});
	$db->admin_sql("UPDATE ekksync.run SET error = 'member $key, $hyphened' WHERE id = 1 OR id = (SELECT max(id) FROM ekksync.run)");
	$db->queue_entry(docId => $key, changes => { 'profile.name' => 'Gleymd Enn' });

	# who may, and when
	$db->admin_sql('CREATE ROLE ungranted LOGIN; GRANT EXECUTE ON FUNCTION ekksync_forget(text) TO ungranted');
	my (undef, undef, $denied) = $db->_psql('ungranted', $db->database, "SELECT ekksync_forget('$key')");
	like($denied, qr/permission denied to call ekksync_forget\(\)/, 'who may not write members may not erase them');
	$db->stop_at('fenced');
	$db->sql('SELECT ekksync_run(wait => false, direction => $$to_firestore$$)');
	ok($db->wait_stopped, 'a run is at work') or diag('none');
	like(refused("SELECT ekksync_forget('$key')"), qr/^55006: a run is in progress\nDETAIL:  .*\nHINT:  /m, 'while a run is at work nobody is erased');
	$db->go_on;
	$db->wait_for(sub { $db->admin_sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'}) == 0 });
	$db->admin_sql(qq{UPDATE ekksync.member SET in_flight = '[{"run": 1, "at": 0, "pre": null, "mark": "x", "fields": {}}]' WHERE key = '$key'});
	like(refused("SELECT ekksync_forget('$key')"), qr/^55006: a write to the person's document may be under way\nDETAIL:  .*\nHINT:  /m, 'nor while a write may be under way');
	$db->admin_sql(qq{UPDATE ekksync.member SET in_flight = '[]' WHERE key = '$key'});
	$db->sql("SELECT ekksync_pause('x')");
	like(refused("SELECT ekksync_forget('$key')"), qr/^55000: ekksync is paused/, 'nor while runs are paused');
	$db->sql('SELECT ekksync_resume()');
	setting(mode => 'observe');
	like(refused("SELECT ekksync_forget('$key')"), qr/^55000: .*observe/, 'nor in observe mode');
	setting(mode => undef);
	my $project = $db->project;
	$db->use_project('demo-elsewhere');
	like(refused("SELECT ekksync_forget('$key')"), qr/^55000: the Firestore project/, 'nor in another project');
	$db->use_project($project);

	# what a rollback brings back, and Firestore does not
	{
		my $member = $db->row('SELECT id, ssn FROM membership_comrade ORDER BY id DESC LIMIT 1');
		like(refused("BEGIN; DELETE FROM membership_contactinfo WHERE comrade_id = $member->{id}; SELECT ekksync_forget('$member->{ssn}'); ROLLBACK"),
			qr/^25001: cannot erase a person in a transaction that has written\nDETAIL:  .*\nHINT:  /m, 'nor in a transaction that has written');
		ok($db->doc($member->{ssn}), '... and the document stays');
	}

	# all or nothing; also what no run has looked at
	$db->sql("INSERT INTO $queue (ssn, action, created_at, sync_status, fields_changed) VALUES ('$key', 'update', now(), 'pending', '{}')");
	$proxy->start(fault => 'answer', status => 503, error => 'UNAVAILABLE', match => qr/"delete"/, times => 0);
	like(refused("SELECT ekksync_forget('$key')"), qr/^08006: could not erase the person in Firestore: .*\nDETAIL:  Nothing was erased here/m, 'when Firestore fails it is an error');
	$proxy->start;
	like(everything(), $personal, '... and nothing has gone');

	my %erased = map { $_->{what} => $_->{erased} } $db->rows("SELECT * FROM ekksync_forget('$hyphened')");
	is($erased{'documents in Firestore'}, 1, 'ekksync_forget() erases the document');
	cmp_ok($erased{$_}, '>=', 1, "... and $_") for 'queue rows', 'entries', 'conflicts', 'change log', 'base', 'entries in Firestore';
	unlike(everything(), $personal, '... and all that both sides had of the person');
	is($db->sql("SELECT fields_changed FROM $queue WHERE ssn = '9999999999'"), '{}', '... also in rows of others');
	like($db->admin_sql('SELECT hash FROM ekksync.forgotten'), qr/^\\x[0-9a-f]{64}$/, 'what stays is a hash');
	$db->sql("DELETE FROM $queue WHERE ssn = '9999999999'");

	# what comes late
	my $marked = { profile => { name => 'Gleymd Aftur', kennitala => $key }, metadata => { sync_write => 'x/1' } };
	setting(on_remote_create => 'insert');
	my @late = (
		$db->queue_entry(docId => $key, changes => { 'profile.name' => 'Gleymd Seint' }),
		$db->queue_entry(docId => $key, action => 'delete'),
		$db->queue_entry(kennitala => $hyphened, action => 'create', changes => $marked),
		$db->queue_entry(docId => $key, action => 'create', changes => { profile => { name => 'Gleymd Fyrir' } }, created_at => timestamp('2020-01-01T00:00:00Z'))
	);
	$db->admin_sql(q{UPDATE ekksync.forgotten SET at = now() + interval '1 minute'});
	run_ok('0 0 0 0', 'late entries');
	unlike(everything(), $personal, '... do not bring the person back');
	is_deeply([ map { $db->entry($_) ? 1 : 0 } @late ], [ 0, 0, 0, 0 ], '... and go themselves');
	is($db->sql("SELECT count(*) FROM membership_comrade WHERE ssn = '$key'"), 0, '... and nobody is inserted');
	$db->admin_sql(q{UPDATE ekksync.forgotten SET at = now() - interval '1 minute'});
	my $copy = $db->queue_entry(docId => $key, action => 'create', changes => $marked);
	run_ok('0 0 0 0', 'a copy of a document that a run made');
	unlike(everything(), $personal, '... does not either');

	# who comes back is a member as any other
	$db->sql("INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (5000, 'Gleymd Aldrei', '$key', now())");
	run_ok('1 0 0 0', 'a person who joins again');
	is($db->doc($key)->{profile}{name}, 'Gleymd Aldrei', '... has a document');
	$db->profile_edit($key, 'name', 'Gleymd Heima');
	run_ok('0 1 0 0', '... and edits it');
	remove($key);
	$db->run;
	$db->rows("SELECT * FROM ekksync_forget('$key')");
	unlike(everything(), $personal, '... and can be erased again');
	is($db->admin_sql('SELECT count(*) FROM ekksync.forgotten'), 1, '... which is one fact');
	setting(on_remote_create => undef);
	run_ok('0 0 0 0', 'quiet');
	my $log = PostgreSQL::Test::Utils::slurp_file($db->node->logfile);
	unlike($log, qr/\Q$key\E/, 'the server log does not name the person');
}

# What a run fails with goes into its document: without the kennitala.
{
	my $key = next_key();
	$db->admin_sql(<<"SQL");
CREATE FUNCTION office() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''row of % is locked by the office'', NEW.ssn; END';
CREATE TRIGGER office BEFORE UPDATE ON $queue FOR EACH ROW WHEN (NEW.ssn = '$key' AND NEW.sync_status <> 'pending') EXECUTE FUNCTION office();
SQL
	$db->sql("UPDATE membership_comrade SET name = 'Gleymd' WHERE ssn = '$key'");
	my $run = $db->run;
	is($run->{status}, 'failed', 'a run that could not record a member');
	like($run->{message}, qr/row of $key is locked by the office/, '... says who, here');
	my ($said) = grep { /locked by the office/ } map { $_->{stats}{error} // '' } values %{ $db->docs('sync_logs') };
	like($said, qr/row of \*{10} is locked by the office/, '... but not in its document');
	$db->admin_sql("DROP FUNCTION office() CASCADE");
	is($db->run->{status}, 'success', '... until it can');
	remove($key);
	$db->run;
	$db->rows("SELECT * FROM ekksync_forget('$key')");
	unlike(everything(), qr/$key/, '... and nothing names the person who was erased since');
}

# A scan that goes on another day stands at somebody's document.
for my $scan (qw(full changed))
{
	setting(scan => $scan, max_reads_per_day => 100);
	$db->admin_sql('DELETE FROM ekksync.cost');
	run_ok('0 0 0 0', "before a scan ($scan)");
	$db->commit(map { [ "members/$_->{ssn}", { updated_at => timestamp() }, 1 ] } $db->rows('SELECT ssn FROM membership_comrade'));
	$db->admin_sql(q{UPDATE ekksync.cost SET reads = 65 WHERE day = (SELECT max(day) FROM ekksync.cost)});
	like($db->run->{message}, qr/scan goes on in the next run/, '... of which a part is done');
	my $column = $scan eq 'full' ? 'scan_after' : 'changed_after';
	my ($key) = $db->admin_sql("SELECT $column FROM ekksync.state") =~ m{/members/(\d{10})$};
	ok($key, '... up to a member');
	remove($key);
	$db->rows("SELECT * FROM ekksync_forget('$key')");
	unlike(everything(), qr/$key/, '... who is erased');
	like($db->admin_sql("SELECT $column FROM ekksync.state"), qr{/members/\d{6}$}, '... which is no reason to begin anew');
	my $last = $db->sql('SELECT max(ssn) FROM membership_comrade');
	$db->patch_doc($last, { 'profile.name' => "Fundin $scan", updated_at => timestamp() });
	$db->admin_sql('DELETE FROM ekksync.cost');
	run_ok('0 1 0 0', '... and the scan goes on');
	is($db->admin_sql("SELECT $column IS NULL FROM ekksync.state"), 't', '... to its end');
}
setting(scan => undef, max_reads_per_day => undef);

done_testing();
