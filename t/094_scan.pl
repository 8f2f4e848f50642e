# What scans find and cost: the full scan by itself, once a week, and when it is
# not made; deletions and strangers that it finds; members of Firestore that
# PostgreSQL does not know (ekksync.on_remote_create), rejected or inserted,
# found by the scan and by entries; and tombstones, which are collected when
# nothing older can come any more.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp to_value true false);
use FaultProxy;
use Session;

my $db = EkkSync->new(
	members => 20,
	conf    => "ekksync.max_delete_percent = 100\nekksync.max_retries = 1\nlog_statement = 'none'");
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);

# ------------------------------------------------------------------- helpers

my $last_id = 0;
my $serial = 0;

sub next_key { $last_id++; return $db->sql("SELECT ssn FROM membership_comrade WHERE id = $last_id"); }

# A kennitala that nobody has.
sub stranger { return sprintf '0202%06d', ++$serial; }

sub setting
{
	my (%set) = @_;
	$db->admin_sql("ALTER DATABASE socialism SET ekksync.$_ = '$set{$_}'") for keys %set;
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

sub last_run { return $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1'); }

sub quiet
{
	my ($name) = @_;
	run_ok('0 0 0 0', "quiet after $name");
	is(last_run()->{docs_written}, 2, '... and writes its record alone');
	return;
}

sub outcome
{
	my ($id) = @_;
	return $db->entry($id)->{sync_status} . ': '
	  . $db->admin_sql("SELECT coalesce(error_message, note, '') FROM ekksync.inbox WHERE doc_id = '$id'");
}

sub row_of
{
	my ($key) = @_;
	my @rows = $db->rows("SELECT name, birthday, gender, reachable, email, phone FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'");
	return @rows > 1 ? scalar @rows : $rows[0];
}

sub strangers { return { map { $_->{member} => $_->{problem} } $db->rows('SELECT member, problem FROM ekksync_strangers') }; }

sub check { my ($name) = @_; return $db->row("SELECT * FROM ekksync_check() WHERE \"check\" = '$name'")->{detail}; }

sub pending { return $db->sql(q{SELECT string_agg(ssn || ' ' || action || ' ' || fields_changed, '; ') FROM membership_membersyncqueue WHERE sync_status = 'pending'}); }

# The last full scan, or the attachment, was days ago.
sub days_ago
{
	my ($days) = @_;
	$db->admin_sql("UPDATE ekksync.state SET attached_at = now() - interval '30 days', last_full_scan = now() - interval '$days days'");
	return;
}

# A document as a client makes it.
sub new_doc
{
	my ($key, %more) = @_;
	return {
		profile => { kennitala => $key, name => "Ný $key", birthday => '1980-02-02', gender => 'female', email => "$key\@example.is", phone => '5551234', %{ $more{profile} // {} } },
		membership => { status => $more{status} // 'active', reachable => false, date_joined => timestamp('2020-01-01T00:00:00Z'), unions => [], %{ $more{membership} // {} } },
		notes => 'annarra',
		updated_at => timestamp()
	};
}

# As track_member_changes enqueues a new document: its fields, nested.
sub create_entry
{
	my ($key, $doc, %more) = @_;
	my %changes = %$doc;
	delete @changes{qw(notes)};
	return $db->queue_entry(docId => $key, action => 'create', changes => \%changes, %more);
}

sub remove { return $db->delete_member(@_); }

run_ok('20 0 0 0', 'first push');

# ------------------------------------------------------ when a full scan is made

{
	my $key = next_key();
	quiet('the first push');
	is(last_run()->{scan}, 'changed', 'no full scan soon after the attachment');
	$db->patch_doc($key, { 'profile.name' => 'Enginn sagði frá' });
	days_ago(6);
	quiet('six days');
	is(last_run()->{scan}, 'changed', 'nor six days after the last one');
	days_ago(8);
	run_ok('0 0 0 0', 'some members', only => [ next_key() ]);
	run_ok('0 0 0 0', 'one direction', direction => 'to_firestore');
	is($db->sql(q{SELECT count(*) FROM ekksync_runs WHERE scan = 'full'}), 0, 'nor in a run of some members, or to Firestore alone');
	run_ok('0 1 0 0', 'a dry run', dry_run => 1);
	is(last_run()->{scan}, 'full', 'eight days after, a dry run makes one');
	run_ok('0 1 0 0', 'a week later');
	my $run = last_run();
	is("$run->{scan} $run->{docs_scanned}", 'full 20', '... and so does a run, of all documents');
	is(row_of($key)->{name}, 'Enginn sagði frá', '... which finds a change that nobody told of');
	quiet('the full scan');
	is(last_run()->{scan}, 'changed', '... and is not made again');

	setting(scan => 'off');
	days_ago(8);
	quiet('scan = off');
	is(last_run()->{scan}, 'full', 'it is made with scan = off, too');
	quiet('scan = off');
	is(last_run()->{docs_scanned} . ' ' . last_run()->{scan}, '0 off', '... once');
	days_ago(1000);
	setting(full_scan_interval => 0);
	quiet('an interval of 0');
	is(last_run()->{scan}, 'off', 'an interval of 0: never by itself');
	setting(full_scan_interval => 7);
	$db->admin_sql('UPDATE ekksync.state SET last_full_scan = NULL');
	$db->delete_doc($key);
	run_ok('1 0 0 0', 'a deleted document');
	is($db->doc($key)->{profile}{name}, 'Enginn sagði frá', 'a full scan finds documents that are gone');
	days_ago(0);
	setting(scan => 'changed');
}

# What a full scan asks for: the names of the documents, no field of them.
{
	setting(scan => 'full');
	$proxy->start;
	quiet('scan = full');
	my @scans = map { $_->{body}{structuredQuery} } grep { $_->{verb} eq 'runQuery' && $_->{body}{structuredQuery}{from}[0]{collectionId} eq 'members' } $proxy->requests;
	is_deeply([ map { $_->{select} } @scans ], [ { fields => [ { fieldPath => '__name__' } ] } ], 'a full scan asks for the names of documents alone');
	like(check('scan'), qr/^scan = full, full in each run; a full scan reads 20 documents; scans of the last 7 days read \d+$/, 'ekksync_check() knows its price');
	setting(scan => 'changed');
	like(check('scan'), qr/^scan = changed, full every 7 days; a full scan reads 20 documents, 20 a week; /, '... and that of a weekly one');
}

# ------------------------------------------------------------------- strangers

my $inactive = stranger();
{
	my ($key, $entered) = (stranger(), stranger());
	$db->set_doc($key, new_doc($key));
	$db->set_doc($inactive, new_doc($inactive, status => 'inactive'));
	$db->set_doc('ekki-kennitala', { profile => { name => 'Rusl' } });
	$db->set_doc($entered, new_doc($entered));
	my $create = create_entry($entered, new_doc($entered));
	my $update = $db->queue_entry(docId => $key, changes => { 'profile.name' => 'Breytt' });
	days_ago(8);
	run_ok('0 0 0 2', 'reject');
	is(outcome($_), 'failed: member not found', 'reject: an entry of a member that is not known fails') for $create, $update;
	is($db->sql("SELECT count(*) FROM membership_comrade WHERE ssn IN ('$key', '$entered')"), 0, '... and makes no row');
	is_deeply(strangers(), {
			(map { $_ => 'PostgreSQL does not know the member' } $key, $inactive, $entered), 'ekki-kennitala' => 'kennitala is malformed' },
		'documents that PostgreSQL does not know are visible');
	is(check('unknown documents'), '4 documents are of nobody that PostgreSQL knows; 0 of them could not be inserted', '... and counted');
	like(check('scan'), qr/a full scan reads 24 documents/, '... and cost what they cost');
	quiet('reject');
	days_ago(8);
	quiet('reject, and a full scan');
	$db->delete_doc($_) for $entered, 'ekki-kennitala';
	days_ago(8);
	quiet('they go');
	is(join(' ', sort keys %{ strangers() }), join(' ', sort $key, $inactive), '... and are forgotten by the next full scan');
}

# ---------------------------------------------------------------------- insert

setting(on_remote_create => 'insert');
{
	my ($scanned) = grep { $_ ne $inactive } sort keys %{ strangers() };
	my @plan = grep { ($_->{member} // '') eq $scanned } $db->run_rows(dry_run => 1);
	is_deeply([ map { "$_->{side} $_->{field} $_->{new_value} $_->{note}" } grep { $_->{field} eq 'name' } @plan ],
		["django name Ný $scanned new in Firestore"], 'insert: a dry run shows what would come');
	is(row_of($scanned), undef, '... and writes no row');
	run_ok('1 1 0 0', 'insert');
	is_deeply(row_of($scanned), { name => "Ný $scanned", birthday => '1980-02-02', gender => 2, reachable => false, email => "$scanned\@example.is", phone => '555-1234' },
		'insert: a stranger gets a row, and what belongs to it');
	my $doc = $db->doc($scanned);
	is_deeply([ $doc->{metadata}{django_id}, $doc->{membership}{status}, $doc->{notes}, $doc->{profile}{name} ],
		[ $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$scanned'"), 'active', 'annarra', "Ný $scanned" ], '... its document gets what only we write, and keeps the rest');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE ssn = '$scanned'"), 0, '... nothing is queued, nor was');
	is($db->admin_sql("SELECT changes -> 'name' FROM ekksync.change_log WHERE key = '$scanned' AND side = 'django'"), qq{[null, "Ný $scanned", "filled"]}, '... the change log says what came');
	is($db->admin_sql("SELECT (base #>> '{name,v}') || ' ' || (base #>> '{name,o}') FROM ekksync.member WHERE key = '$scanned'"), "Ný $scanned f", '... and the base is the document\'s');
	is_deeply(strangers(), { $inactive => 'the document is inactive' }, '... one that is inactive is not inserted');
	quiet('insert');
	days_ago(8);
	quiet('insert, and a full scan');
	$db->sql("UPDATE membership_comrade SET name = 'Breytt í Django' WHERE ssn = '$scanned'");
	run_ok('1 0 0 0', 'it is a member');
	is($db->doc($scanned)->{profile}{name}, 'Breytt í Django', '... like any other');
}
{
	my ($nested, $flat, $updated, $alone, $nobody, $null, $deleted) = map { stranger() } 1 .. 7;
	$db->set_doc($_, new_doc($_)) for $nested, $flat, $updated, $deleted;
	$db->set_doc($null, { profile => { name => undef, kennitala => $null } });
	my @entries = (
		create_entry($nested, new_doc($nested)),
		$db->queue_entry(docId => $flat, action => 'create', changes => { 'profile.name' => "Ný $flat" }),
		$db->queue_entry(docId => $updated, changes => { 'profile.phone' => '5551234' }),
		$db->queue_entry(docId => $alone, action => 'create', changes => { 'profile.name' => 'Aðeins í færslu', 'profile.email' => 'adeins@example.is', 'membership.date_joined' => timestamp('2021-01-01T00:00:00Z') }));
	my $nowhere = $db->queue_entry(docId => $nobody, changes => { 'profile.name' => 'Hvergi' });
	my $empty = $db->queue_entry(docId => $null, action => 'create', changes => { 'profile.name' => undef });
	my $first = create_entry($deleted, new_doc($deleted), created_at => timestamp(time - 60));
	my $then = $db->queue_entry(docId => $deleted, action => 'delete');
	run_ok('4 4 0 4', 'entries');
	is(row_of($_)->{email}, "$_\@example.is", 'insert: by an entry') for $nested, $flat, $updated;
	is(outcome($_), 'synced: applied', '... which is applied') for @entries;
	is_deeply([ row_of($alone)->{name}, $db->doc($alone)->{profile}{name}, $db->doc($alone)->{membership}{status} ],
		[ 'Aðeins í færslu', 'Aðeins í færslu', 'active' ], '... also one of which there is no document yet');
	is(outcome($nowhere) . (row_of($nobody) // ''), 'failed: member not found', 'an edit of nobody fails');
	like(outcome($empty), qr/^failed: the member could not be inserted: null value in column "date_joined".*\(SQLSTATE 23502\)$/, 'a row that PostgreSQL does not take fails in its entry');
	like(strangers()->{$null}, qr/SQLSTATE 23502/, '... and among the strangers');
	is(outcome($_), 'failed: member not found', 'one that was deleted since is not inserted') for $first, $then;
	is(row_of($deleted), undef, '... and has no row');
	is(pending(), '', '... nothing is queued');
	quiet('entries');

	# corrected: an empty name is '', a default is the table's
	$db->sql('ALTER TABLE membership_comrade ALTER date_joined SET DEFAULT now(), ADD COLUMN remark varchar(20) NOT NULL DEFAULT \'\'');
	$db->sql('ALTER TABLE membership_comrade ALTER remark DROP DEFAULT');
	$db->patch_doc($null, { updated_at => timestamp() });
	run_ok('1 1 0 0', 'corrected');
	is(row_of($null)->{name} . '|' . $db->sql("SELECT remark || date_joined::date FROM membership_comrade WHERE ssn = '$null'"), '|' . $db->sql('SELECT current_date'),
		'a text without a value is empty, a column with a default has that');
	quiet('corrected');
	$db->sql('ALTER TABLE membership_comrade DROP COLUMN remark, ALTER date_joined DROP DEFAULT');
}

# ----------------------------------------------------------------- poison, races

{
	my ($bad, $good, $taken, $busy) = map { stranger() } 1 .. 4;
	$db->sql("ALTER TABLE membership_comrade ADD CONSTRAINT no_such CHECK (ssn <> '$bad')");
	$db->set_doc($_, new_doc($_)) for $bad, $good;
	my $run = $db->run;
	is("$run->{status} $run->{to_django} $run->{failed}", 'success 1 1', 'a stranger that cannot be inserted stops nobody else');
	is(row_of($good)->{name}, "Ný $good", '... the other has a row');
	like(strangers()->{$bad}, qr/^the member could not be inserted: .*"no_such" \(SQLSTATE 23514\)$/, '... the reason is visible');
	like(check('unknown documents'), qr/ of them could not be inserted$/, '... and counted');
	quiet('poison');
	$db->sql('ALTER TABLE membership_comrade DROP CONSTRAINT no_such');
	run_ok('1 1 0 0', 'tried again', only => [$bad]);
	is(row_of($bad)->{name}, "Ný $bad", '... and tried again when a run is told to');

	# Django inserts the same member while a run is at work; nothing declares
	# the kennitala unique
	$db->set_doc($taken, new_doc($taken));
	$db->stop_at('decided');
	my $session = Session->new($db);
	$session->send('SELECT * FROM ekksync_run()');
	ok($db->wait_stopped, 'a run stops with an insert decided');
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Úr Django', '$taken', now())");
	$db->go_on;
	$session->answer;
	is($db->sql("SELECT count(*) || ' ' || max(name) FROM membership_comrade WHERE ssn = '$taken'"), '1 Úr Django', 'a row that comes meanwhile is the only one');
	is($db->doc($taken)->{profile}{name}, 'Úr Django', '... and meets the document');
	quiet('a row that comes meanwhile');

	# ... and one that is not committed
	$db->set_doc($busy, new_doc($busy));
	my $other = Session->new($db);
	$other->sql("BEGIN; INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Óvíst', '$busy', now())");
	$run = $db->run;
	is("$run->{status} $run->{to_django}", 'success 0', 'a row that is being inserted is not waited for');
	like($run->{message}, qr/^members left for the next run.*: 1$/, '... its member is left for the next run');
	$other->sql('ROLLBACK');
	run_ok('1 1 0 0', 'nobody inserted it');
	is($db->sql("SELECT count(*) || ' ' || max(name) FROM membership_comrade WHERE ssn = '$busy'"), "1 Ný $busy", '... which inserts it, if nobody else has');

	my ($unique, $refused) = map { stranger() } 1 .. 2;
	$db->sql('CREATE UNIQUE INDEX one_ssn ON membership_comrade (ssn)');
	$db->set_doc($_, new_doc($_)) for $unique, $refused;
	$other->sql("BEGIN; INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Óvíst', '$refused', now())");
	$run = $db->run;
	is("$run->{status} $run->{to_django} " . row_of($unique)->{name}, "success 1 Ný $unique", 'where a unique index keeps a second row out, others may insert');
	$other->sql('COMMIT');
	$db->run;
	is($db->sql("SELECT count(*) || ' ' || max(name) FROM membership_comrade WHERE ssn = '$refused'"), '1 Óvíst', '... and one row results');
	$db->sql('DROP INDEX one_ssn');
	$_->end for $session, $other;
	quiet('races');
}

for my $step (qw(in_rows in_record applied sent in_settle))
{
	my $key = stranger();
	$db->set_doc($key, new_doc($key));
	my $id = create_entry($key, new_doc($key));
	$db->stop_at($step);
	my $session = Session->new($db);
	$session->send('SELECT * FROM ekksync_run()');
	my $pid = $db->wait_stopped;
	ok($pid, "a worker stops at $step");
	kill 'TERM', $pid;
	$db->go_on;
	eval { $session->answer };
	$session->end;
	$db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0 });
	$db->run;
	is($db->sql("SELECT count(*) FROM membership_comrade WHERE ssn = '$key'"), 1, '... and the member has one row in the end');
	is($db->doc($key)->{metadata}{django_id}, $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'"), '... and its id is in the document');
	is(outcome($id), 'synced: applied', '... and the entry is closed');
	quiet("an end at $step");
}

# ------------------------------------------------------------------ tombstones

{
	my ($edited, $created, $reborn, $old) = map { next_key() } 1 .. 4;
	remove($_) for $edited, $created, $reborn, $old;
	run_ok('4 0 0 0', 'deleted');
	my $ghost = $db->profile_edit($edited, 'name', 'Andi');
	my $before = create_entry($old, new_doc($old), created_at => timestamp(time - 3600));
	run_ok('0 0 1 2', 'ghosts');
	is(outcome($_), 'failed: member not found', 'a member with a tombstone is not unknown: an edit, or an older creation, fails') for $ghost, $before;
	is(row_of($_), undef, '... and inserts nothing') for $edited, $old;
	is($db->doc($edited)->{membership}{status}, 'inactive', '... the document stays inactive');

	$db->set_doc($created, new_doc($created));
	my $after = create_entry($created, new_doc($created));
	$db->delete_doc($reborn);
	$db->set_doc($reborn, new_doc($reborn));
	run_ok('2 2 0 0', 'created anew');
	is(row_of($_)->{name}, "Ný $_", 'one that is created anew, after its deletion, is inserted') for $created, $reborn;
	is($db->doc($_)->{membership}{status}, 'active', '... and active') for $created, $reborn;
	is($db->admin_sql("SELECT count(*) FROM ekksync.member WHERE key IN ('$created', '$reborn') AND tombstone IS NULL"), 2, '... and has no tombstone');
	quiet('created anew');

	# what others copied of our creation comes when the document has gone
	setting(on_local_delete => 'delete');
	my ($copied, $late) = (next_key(), next_key());
	my $copy = $db->raw_doc($copied)->{fields};
	remove($_) for $copied, $late;
	run_ok('2 0 0 0', 'the documents go');
	my $echo = $db->queue_entry(docId => $copied, action => 'create', changes => { map { $_ => $copy->{$_} } qw(profile membership metadata) });
	my $older = create_entry($late, new_doc($late), created_at => timestamp(time - 3600));
	my $forgotten = stranger();
	my $very_late = $db->queue_entry(docId => $forgotten, action => 'create', changes => { map { $_ => $copy->{$_} } qw(profile membership metadata) });
	run_ok('0 0 0 3', 'a late echo of a creation');
	is(outcome($echo) . (row_of($copied) // ''), 'failed: member not found', 'a copy of our own document inserts nobody');
	is(outcome($very_late) . (row_of($forgotten) // ''), 'failed: member not found', '... not even where nothing is known of the member any more');
	is(outcome($older) . (row_of($late) // ''), 'failed: member not found', '... nor does a creation that is older than the deletion');
	create_entry($copied, new_doc($copied));
	run_ok('1 1 0 0', 'a new creation');
	is(row_of($copied)->{name}, "Ný $copied", '... but what is new does');
	setting(on_local_delete => 'deactivate');
	quiet('a new creation');

	# set active by hand: that is an edit, not a creation
	$db->patch_doc($edited, { 'membership.status' => 'active', updated_at => timestamp() });
	run_ok('1 0 0 0', 'set active');
	is($db->doc($edited)->{membership}{status}, 'inactive', 'a status set active by hand is set back');
	quiet('set active');
}

# ------------------------------------------------------------ registered again

# Others make a member's document anew, after both sides have dropped it.
sub register
{
	my ($key, $doc) = @_;
	$db->delete_doc($key);
	$db->set_doc($key, $doc);
	return;
}

{
	my ($pushed, $same, $entered, $foreign) = map { next_key() } 1 .. 4;
	my %doc = map { ($_ => $db->doc($_)) } $same, $entered;
	delete $_->{metadata} for values %doc;
	remove($_) for $pushed, $same, $foreign;
	run_ok('3 0 0 0', 'deleted');

	# nobody but a run that inserts decides about it
	register($pushed, new_doc($pushed));
	run_ok('0 0 0 0', 'to Firestore alone', direction => 'to_firestore');
	is_deeply([ $db->doc($pushed)->{membership}{status}, $db->doc($pushed)->{notes} ], [ 'active', 'annarra' ], 'a run to Firestore leaves a document that was made anew');
	run_ok('1 1 0 0', 'both ways');
	is(row_of($pushed)->{name}, "Ný $pushed", '... for one that inserts');

	# what only we write
	my $other = new_doc($foreign);
	$other->{metadata} = { django_id => 999999 };
	register($foreign, $other);
	run_ok('1 1 0 0', 'an id of another time');
	is($db->doc($foreign)->{metadata}{django_id}, $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$foreign'"), 'what only we write is written');
	is($db->sql("SELECT count(*) FROM ekksync_conflicts WHERE member = '$foreign'"), 0, '... and is no conflict');

	# an entry alone, with the values that were there
	setting(on_local_delete => 'delete');
	remove($entered);
	run_ok('1 0 0 0', 'deleted, with its document');
	my $entry = create_entry($entered, $doc{$entered});
	run_ok('1 1 0 0', 'a creation of what was there');
	is(row_of($entered)->{name}, $doc{$entered}{profile}{name}, 'one who is created with the same values is inserted');
	quiet('a creation of what was there');

	# rejected: a stranger
	setting(on_remote_create => 'reject');
	$doc{$same}{notes} = 'annarra';
	$doc{$same}{updated_at} = timestamp();
	for my $policy (qw(delete deactivate))
	{
		setting(on_local_delete => $policy);
		register($same, $doc{$same});
		run_ok('0 0 0 0', "registered again, $policy");
		is_deeply($db->doc($same)->{notes}, 'annarra', "$policy: a document that was made anew is left alone");
		is($db->doc($same)->{membership}{status}, 'active', '... and active');
		is(strangers()->{$same}, 'PostgreSQL does not know the member', '... and visible');
		days_ago(8);
		quiet('registered again, and a full scan');
		is(strangers()->{$same}, 'PostgreSQL does not know the member', '... and stays so');
	}
	setting(on_remote_create => 'insert');
	run_ok('1 1 0 0', 'insert again');
	is(row_of($same)->{name}, $doc{$same}{profile}{name}, '... until it may be inserted');

	# a key that PostgreSQL has in another form
	my $key = stranger();
	my $hyphen = substr($key, 0, 6) . '-' . substr($key, 6);
	$db->sql("ALTER TABLE membership_comrade ALTER ssn TYPE varchar(20); INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Með striki', '$hyphen', now())");
	$db->run;
	$db->set_doc($key, new_doc($key));
	$db->run;
	like(strangers()->{$key}, qr/^the member could not be inserted: .*has the kennitala \(SQLSTATE 23505\)$/, 'a row with a hyphen keeps a second one out');
	is($db->sql("SELECT count(*) FROM membership_comrade WHERE ssn IN ('$key', '$hyphen')"), 1, '... which has the same kennitala');
	$db->sql("DELETE FROM membership_comrade WHERE ssn = '$hyphen'");
	$db->delete_doc($key);
	days_ago(8);
	$db->run;
	$db->admin_sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'failed'");
}

# --------------------------------------------------------- collecting tombstones

sub tombstones { return $db->admin_sql('SELECT count(*) FROM ekksync.member WHERE tombstone IS NOT NULL'); }

{
	my ($free, $queued, $entry, $conflict, $flight) = map { next_key() } 1 .. 5;
	remove($_) for $free, $queued, $entry, $conflict, $flight;
	run_ok('5 0 0 0', 'deleted');
	my $all = tombstones();
	quiet('deleted');
	is(tombstones(), $all, 'tombstones are kept for their time');
	my $unquote = "'$free', '$queued', '$entry', '$conflict', '$flight'";
	$db->admin_sql("UPDATE ekksync.member SET tombstone = now() - interval '399 days' WHERE key IN ($unquote)");
	quiet('399 days');
	is(tombstones(), $all, '... and a day less than their time');
	$db->admin_sql("UPDATE ekksync.member SET tombstone = now() - interval '401 days' WHERE key IN ($unquote)");
	setting(tombstone_days => 0);
	quiet('tombstone_days = 0');
	is(tombstones(), $all, '... or for ever');
	setting(tombstone_days => 400);
	$db->admin_sql("INSERT INTO ekksync.conflict (run, key, field, winner, rule) VALUES (1, '$conflict', 'name', 'none', 'policy')");
	$db->admin_sql(qq{UPDATE ekksync.member SET in_flight = '[{"run": 1, "mark": "x/1", "at": 4000000000000000, "pre": 4000000000000000, "fields": {"status": ["active", 1, "d"]}}]' WHERE key = '$flight'});

	# what others add while a run is at its end, and what stays open
	my $nobody = $db->queue_entry(docId => stranger(), changes => { 'profile.name' => 'Enginn' });
	$db->stop_at('known');
	my $session = Session->new($db);
	$session->send('SELECT * FROM ekksync_run()');
	ok($db->wait_stopped, 'a run stops before it collects');
	$db->admin_sql("INSERT INTO ekksync.inbox (doc_id, key, action, stamp, status) VALUES ('opin', '$entry', 'update', now(), 'staged')");
	$db->sql("INSERT INTO membership_membersyncqueue (ssn, action, fields_changed, created_at, sync_status, error_message, retry_count) VALUES ('$queued', 'update', '{}', now(), 'pending', '', 0)");
	$db->go_on;
	$session->answer;
	$session->end;
	is($db->admin_sql("SELECT string_agg(key, ' ' ORDER BY key) FROM ekksync.member WHERE key IN ($unquote)"),
		join(' ', sort $queued, $conflict, $flight, $entry), 'a tombstone goes only when no queue row, conflict, write or entry of its member is open');
	is($db->doc($free)->{membership}{status}, 'inactive', '... its document stays, inactive');
	is(strangers()->{$free}, 'the member was deleted long ago', '... of a member that is not known any more');
	$db->admin_sql(qq{UPDATE ekksync.member SET in_flight = '[]' WHERE key = '$flight'; DELETE FROM ekksync.conflict WHERE key = '$conflict'});
	run_ok('0 0 0 0', 'nothing is open');
	is($db->admin_sql("SELECT count(*) FROM ekksync.member WHERE key IN ('$entry', '$conflict', '$flight')"), 0, 'then they go as well');

	# nothing brings back a member that was forgotten, but Django
	my $late = $db->profile_edit($free, 'name', 'Löngu síðar');
	run_ok('0 0 0 1', 'a late edit');
	is(outcome($late), 'failed: member not found', 'an edit of one that was forgotten is one of nobody');
	days_ago(8);
	quiet('a full scan');
	is_deeply([ row_of($free), $db->doc($free)->{membership}{status} ], [ undef, 'inactive' ], '... and brings nothing back');
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Aftur', '$free', now())");
	is($db->run->{to_firestore}, 1, 'inserted in Django');
	is($db->doc($free)->{membership}{status} . ' ' . $db->doc($free)->{profile}{name}, 'active Aftur', '... its document is active again');
	is(strangers()->{$free}, undef, '... and no stranger');
	quiet('inserted again');
}

# --------------------------------------------------------------------- a filter

{
	my ($out, $in) = ('9999990001', stranger());
	my $filtered = EkkSync->new(name => 'filtered', members => 0, attach_args => q{filter => 'ssn NOT LIKE ''9999%'''},
		conf => "ekksync.on_remote_create = 'insert'\nekksync.scan = 'full'");
	$filtered->set_doc($_, new_doc($_)) for $out, $in;
	my $run = $filtered->run;
	is("$run->{status} $run->{to_django} $run->{failed}", 'success 1 1', 'a row that the filter keeps out is not inserted');
	is($filtered->sql('SELECT string_agg(ssn, \' \') FROM membership_comrade'), $in, '... only the other one');
	is($filtered->sql('SELECT problem FROM ekksync_strangers'), 'the member could not be inserted: the row does not pass the filter (SQLSTATE 23514)', '... and that is visible');
	$filtered->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Utan', '$out', now())");
	$run = $filtered->run(only => [$out]);
	is($filtered->sql('SELECT problem FROM ekksync_strangers'), 'the member could not be inserted: a row outside the filter, or with a hyphen, has the kennitala (SQLSTATE 23505)', 'nor is one that has a row outside of it');
	is($filtered->sql("SELECT count(*) FROM membership_comrade WHERE ssn = '$out'"), 1, '... which stays the only one');
}

done_testing();
