# What a person sees (issue "There and back"): every scenario of the demo,
# asserted on both sides by reading the tables and the documents; "Documents
# keep every field that isn't mapped, at every depth"; "The update mask of an
# ORM-style save names only what changed"; and what the SQL functions around a
# run promise: dry run, direction, only, wait, pause.

use strict;
use warnings;
use utf8;
use Test::More;
use JSON::PP ();
use EkkSync qw(timestamp true false);
use FaultProxy;

my $db = EkkSync->new(members => 40, attach => 0);
my $json = JSON::PP->new->canonical->allow_nonref;

# Members by hand, with every kind of value that the invented ones may lack.
my ($ASA, $BARE, $PHONE) = qw(1503851239 0101302399 2412561459);
$db->sql(<<"SQL");
INSERT INTO membership_comrade (name, ssn, birthday, date_joined, reachable, groupable, housing_situation, gender) VALUES
	('Ása Þöll "Æða" O''Björk \\ Ýr', '$ASA', '1985-03-15', '2020-02-29 23:59:59.123456+00', false, true, 6, 2),
	('Bárður Engilráð', '$BARE', NULL, '1999-12-31 00:00:00+00', true, false, NULL, NULL),
	('Þrúður Símavörður', '$PHONE', '1956-12-24', '2001-01-01 00:00:00.5+00', true, true, 0, 3);
INSERT INTO membership_contactinfo
	SELECT id, '00354 555 1234', 'ása\@þöll.example.is', '' FROM membership_comrade WHERE ssn = '$ASA';
INSERT INTO membership_contactinfo
	SELECT id, '+45 33 12 34 56', NULL, 'https://facebook.example/þrúður?a=1&b=2' FROM membership_comrade WHERE ssn = '$PHONE';
INSERT INTO membership_union (name, abbreviation) VALUES ('Öldungaráð', 'Ö'), ('Ábendingafélagið', 'Á');
INSERT INTO membership_unionmembership (comrade_id, union_id)
	SELECT c.id, u.id FROM membership_comrade c, membership_union u
	WHERE c.ssn = '$ASA' AND u.abbreviation IN ('Ö', 'Á', 'FF');
INSERT INTO membership_comradetitle (comrade_id, title_id)
	SELECT c.id, t.id FROM membership_comrade c, membership_title t
	WHERE c.ssn = '$ASA' AND t.name IN ('Ritari', 'Gjaldkeri');
INSERT INTO membership_newlocaladdress (comrade_id, address_id)
	SELECT c.id, (SELECT id FROM map_address WHERE letter = 'b' ORDER BY id LIMIT 1)
	FROM membership_comrade c WHERE c.ssn = '$ASA';
SQL
$db->attach;

# ------------------------------------------------------------------- helpers

# Members' rows as their documents should be, by key, from tables alone.
sub expected
{
	my %by_key;
	for my $r ($db->rows(<<'SQL'))
SELECT c.*, to_char(c.date_joined AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') AS joined, i.phone, i.email, i.facebook,
	ARRAY(SELECT u.name FROM membership_unionmembership x JOIN membership_union u ON u.id = x.union_id
		WHERE x.comrade_id = c.id) AS unions,
	ARRAY(SELECT t.name FROM membership_comradetitle x JOIN membership_title t ON t.id = x.title_id
		WHERE x.comrade_id = c.id) AS titles,
	s.name || ' ' || a.number || a.letter AS street, p.code, m.name AS city
FROM membership_comrade c LEFT JOIN membership_contactinfo i ON i.comrade_id = c.id
	LEFT JOIN (membership_newlocaladdress l JOIN map_address a ON a.id = l.address_id
		JOIN map_street s ON s.id = a.street_id JOIN map_postalcode p ON p.id = s.postal_code_id
		JOIN map_municipality m ON m.id = s.municipality_id) ON l.comrade_id = c.id
SQL
	{
		my $phone = $r->{phone};
		if (defined $phone)
		{
			(my $digits = $phone) =~ s/[\s-]//g;
			$digits =~ s/^(?:\+|00)354//;
			$phone = "$1-$2" if $digits =~ /^(\d{3})(\d{4})$/;
		}
		$by_key{ $r->{ssn} } = {
			profile => {
				kennitala => $r->{ssn},
				name      => $r->{name},
				birthday  => $r->{birthday},
				gender    => defined $r->{gender}
				? (qw(unknown male female other))[ $r->{gender} ]
				: undef,
				housingSituation => defined $r->{housing_situation}
				? (qw(unknown owner rental cooperative family other homeless))[ $r->{housing_situation} ]
				: undef,
				phone    => $phone,
				email    => $r->{email},
				facebook => length($r->{facebook} // '') ? $r->{facebook} : undef,
			},
			membership => {
				status      => 'active',
				date_joined => $r->{joined},
				reachable   => $r->{reachable},
				groupable   => $r->{groupable},
				unions      => [ sort @{ $r->{unions} } ],
				titles      => [ sort @{ $r->{titles} } ],
			},
			address  => { street => $r->{street}, postal_code => $r->{code}, city => $r->{city} },
			metadata => { django_id => $r->{id} },
		};
	}
	return \%by_key;
}

# A time with all six digits of its fraction and no zone.
sub micro
{
	my ($time) = @_;
	my ($whole, $fraction) = $time =~ /^(.*?)(?:\.(\d+))?Z$/;
	return $whole . '.' . substr(($fraction // '') . '000000', 0, 6);
}

# A document of ours in the form of expected(): times normalised, what every
# write stamps left out.
sub comparable
{
	my ($doc) = @_;
	$doc->{membership}{date_joined} = micro($doc->{membership}{date_joined});
	delete @{ $doc->{metadata} }{qw(last_modified last_sync sync_write)};
	return $doc;
}

my @MAPPED = (
	(map { "profile.$_" } qw(kennitala name birthday gender housingSituation phone email facebook)),
	(map { "membership.$_" } qw(status date_joined reachable groupable unions titles)),
	(map { "address.$_" } qw(street postal_code city)),
	(map { "metadata.$_" } qw(django_id last_modified last_sync sync_write deleted_at)));

# A document's fields that are not mapped, with their types.
sub unmapped
{
	my ($key) = @_;
	my $fields = $db->raw_doc($key)->{fields};
	for (@MAPPED)
	{
		my ($map, $field) = split /\./;
		delete $fields->{$map}{mapValue}{fields}{$field} if $fields->{$map};
	}
	return $fields;
}

# All rows of the registry's tables, as text.
sub tables
{
	return $db->sql(join ' UNION ALL ', map { "SELECT '$_' || t::text FROM $_ AS t" }
		  qw(membership_comrade membership_contactinfo membership_membersyncqueue
		  membership_unionmembership membership_comradetitle membership_newlocaladdress));
}

# updateTime of every document in some collections.
sub update_times
{
	my %times;
	for my $collection (@_)
	{
		$times{"$collection/$_"} = $db->doc_update_time("$collection/$_")
		  for keys %{ $db->docs($collection) };
	}
	return \%times;
}

# A run that must succeed with these figures: to Firestore, to Django.
sub run_ok
{
	my ($push, $pull, $name, %arg) = @_;
	my $run = $db->run(%arg);
	is(join(' ', @$run{qw(status to_firestore to_django failed)}),
		"success $push $pull 0", "$name: the run's figures")
	  or diag($run->{message});
	return $run;
}

sub pending { return $db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE sync_status = 'pending'"); }

sub member_row
{
	my ($key) = @_;
	return $db->row("SELECT * FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'");
}

sub key_of { my ($id) = @_; return $db->sql("SELECT ssn FROM membership_comrade WHERE id = $id"); }

# Django's save(): every column set, one of them to something new.
sub orm_save
{
	my ($key, %new) = @_;
	my $row = $db->row("SELECT * FROM membership_comrade WHERE ssn = '$key'");
	my %set = (%$row, %new);
	my $id = delete $set{id};
	$db->sql('UPDATE membership_comrade SET ' . join(', ', map {
				my $value = $set{$_};
				"$_ = " . (JSON::PP::is_bool($value) ? ($value ? 'true' : 'false') : $db->quote($value))
			} sort keys %set) . " WHERE id = $id");
}

sub delete_member
{
	my ($key) = @_;
	my $id = $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'");
	$db->sql(join('', map { "DELETE FROM $_ WHERE comrade_id = $id;" } qw(membership_contactinfo
				membership_comrade_emails membership_unionmembership membership_comradetitle
				membership_newlocaladdress)) . "DELETE FROM membership_comrade WHERE id = $id");
}

# --------------------------------------------------------- the first full push

my $all = keys %{ expected() };
is($all, 43, 'there are 43 members');
is($db->sql('SELECT first_contact FROM ekksync_status()'), 43, '... all never synced');
run_ok(43, 0, 'first push');
is($db->count_docs('members'), 43, 'each member has a document, and nobody else');
{
	my $docs = $db->docs('members');
	my $rows = expected();
	is_deeply({ map { ($_ => comparable($docs->{$_})) } keys %$docs }, $rows,
		'every document is its rows, every mapped path');
	is($docs->{$ASA}{profile}{name}, q{Ása Þöll "Æða" O'Björk \ Ýr}, 'letters of all kinds');
	is($docs->{$ASA}{profile}{phone}, '555-1234', 'a phone number without the country');
	is($docs->{$PHONE}{profile}{phone}, '+45 33 12 34 56', '... and one of another country');
	is_deeply($docs->{$ASA}{membership}{unions}, [ 'Félag fjörusteina', 'Ábendingafélagið', 'Öldungaráð' ], 'unions');
	like($docs->{$ASA}{address}{street}, qr/^\w+ \d+b$/, 'an address line over several tables');
	ok(exists $docs->{$BARE}{profile}{birthday} && !defined $docs->{$BARE}{profile}{birthday},
		'a birthday that is null');
	my $raw = $db->raw_doc($ASA)->{fields};
	is_deeply([ map { keys %{ $raw->{metadata}{mapValue}{fields}{$_} } } qw(django_id last_modified last_sync sync_write) ],
		[qw(integerValue timestampValue timestampValue stringValue)], 'metadata, with its types');
	is_deeply([ map { keys %{ $raw->{membership}{mapValue}{fields}{$_} } } qw(date_joined reachable unions) ],
		[qw(timestampValue booleanValue arrayValue)], 'membership, with its types');
}
is($db->sql('SELECT first_contact FROM ekksync_status()'), 0, 'nobody is never synced now');
is(pending(), 0, 'nothing is pending');

# ---------------------------------------------- fields that nobody has mapped

my %OTHERS = (
	notes          => 'Önnur kerfi skrifa hér',
	tags           => [ 'a', { b => 1, c => [] }, undef, 2.5 ],
	empty_map      => {},
	empty_array    => [],
	'símanúmer'    => '555-9999',
	'a.b'          => { 'c.d' => 1 },
	'tick`back\\s' => true,
	where          => { geoPointValue => { latitude => 64.25, longitude => -21.5 } },
	raw            => { bytesValue => 'w74=' },
	ref            => timestamp('2020-01-01T00:00:00Z'),
	profile        => {
		foreign_phone => '+45 1',
		'gælunafn'    => 'Bói',
		settings      => {
			theme       => 'dökkt',
			'dark.mode' => { 'x y' => [ 1, { deep => { deeper => 'já' } } ] },
			name        => 'not the mapped name',
		},
	},
	membership => { card => { number => 12, valid => false } },
	address    => { country => 'IS', letter => 'b' },
	metadata   => { source => 'signup', created_at => timestamp('2019-05-05T05:05:05.000005Z') },
);

# Let others write their fields into a member's document.
sub decorate
{
	my ($key) = @_;
	my %paths;
	for my $top (keys %OTHERS)
	{
		my $quote = sub { my $t = shift; $t =~ s/([`\\])/\\$1/g; return $t =~ /^[a-z_]+$/ ? $t : "`$t`"; };
		my $nested = $top =~ /^(?:profile|membership|address|metadata)$/;
		$paths{ $quote->($top) . ($nested ? '.' . $quote->($_) : '') } = $nested ? $OTHERS{$top}{$_} : $OTHERS{$top}
		  for $nested ? keys %{ $OTHERS{$top} } : 1;
	}
	$db->patch_doc($key, \%paths, exists => 1);
	return unmapped($key);
}

my $KEPT = key_of(5);
my $others = decorate($KEPT);
{
	my $want = EkkSync::to_fields(\%OTHERS);
	delete $_->{mapValue} for grep { !keys %{ $_->{mapValue}{fields} // { x => 1 } } } values %$want;
	is(scalar keys %$others, scalar keys %$want, 'a document has fields that are not mapped');
	is_deeply($others->{profile}, $want->{profile}, '... at several depths');
}

# ------------------------------------------ an edit as Django's ORM makes it

my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);
my $known = $db->doc_update_time($KEPT);
my $before = $db->doc($KEPT);
orm_save($KEPT, name => 'Björn Þór Öxdal');
is_deeply([ $db->rows("SELECT ssn, action, fields_changed FROM membership_membersyncqueue WHERE sync_status = 'pending'") ],
	[ { ssn => $KEPT, action => 'update', fields_changed => { name => 'Björn Þór Öxdal' } } ],
	'a save of all columns queues the one that changed');
run_ok(1, 0, 'ORM save');
{
	my @writes = grep { $_->{update}{name} && $_->{update}{name} =~ m{/members/} }
	  map { @{ $_->{body}{writes} } } grep { $_->{verb} =~ /^(?:commit|batchWrite)$/ } $proxy->requests;
	is(scalar @writes, 1, 'one write of one member was sent');
	my $write = $writes[0];
	is_deeply($write->{updateMask}{fieldPaths}, [ 'profile.name', 'metadata.sync_write' ], 'its mask names the name, and the mark of the write');
	like((delete $write->{update}{fields}{metadata})->{mapValue}{fields}{sync_write}{stringValue}, qr{^ekksync-[-0-9a-f]{36}-\d+/\d+$},
		'... which says whose it is');
	is_deeply($write->{update}{fields},
		{ profile => { mapValue => { fields => { name => { stringValue => 'Björn Þór Öxdal' } } } } },
		'... and it brings nothing else');
	is_deeply([ map { [ @$_{qw(fieldPath setToServerValue)} ] } @{ $write->{updateTransforms} } ],
		[ map { [ "metadata.$_", 'REQUEST_TIME' ] } qw(last_modified last_sync) ],
		'... but the two server times');
	is(micro($write->{currentDocument}{updateTime} // 'Z'), micro($known), '... on the document that was read');
	$before->{profile}{name} = 'Björn Þór Öxdal';
	my $after = $db->doc($KEPT);
	for (qw(last_modified last_sync sync_write))
	{
		isnt($after->{metadata}{$_}, $before->{metadata}{$_}, "metadata.$_ is new");
		$before->{metadata}{$_} = $after->{metadata}{$_};
	}
	is_deeply($after, $before, 'nothing else in the document is different');
}
$db->use_host($db->host);
undef $proxy;
is_deeply(unmapped($KEPT), $others, 'an edit in Django keeps what is not mapped');

# ------------------------------------- an edit as the profile page makes it

{
	my $id = $db->profile_edit($KEPT, 'email', 'nýtt@example.is');
	$others = unmapped($KEPT);			# updated_at is the page's
	run_ok(0, 1, 'profile page');
	is(member_row($KEPT)->{email}, 'nýtt@example.is', 'the table has what the page saved');
	my $entry = $db->entry($id);
	is($entry->{sync_status}, 'synced', 'its entry is closed');
	ok($entry->{synced_at} gt $entry->{created_at}, '... with a server time after it was made');
	is_deeply($entry->{changes}, { 'profile.email' => 'nýtt@example.is' }, '... and otherwise as it was');
	is(pending(), 0, 'applying it queues nothing');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE ssn = '$KEPT' AND fields_changed ? 'email'"),
		0, '... at all');
	is_deeply(unmapped($KEPT), $others, 'an edit in Firestore keeps what is not mapped');
	my $times = update_times('members', 'sync_queue');
	my $rows = tables();
	run_ok(0, 0, 'after it');
	is_deeply(update_times('members', 'sync_queue'), $times, 'the next run writes no document');
	is(tables(), $rows, '... and no row');
}

# ------------------------------------------------------------- a new member

my $NEW = '0202402299';
$db->sql(<<"SQL");
BEGIN;
INSERT INTO membership_comrade (name, ssn, birthday, date_joined, reachable, groupable, gender)
	VALUES ('Ægir Þór Öxdal', '$NEW', '1940-02-02', now(), true, true, 1);
INSERT INTO membership_contactinfo (comrade_id, phone, email)
	SELECT id, '+3545550199', 'aegir\@example.is' FROM membership_comrade WHERE ssn = '$NEW';
COMMIT;
SQL
run_ok(1, 0, 'new member');
is_deeply(comparable($db->doc($NEW)), expected()->{$NEW}, 'a new member and the contact info make a document');

# ------------------------------- a member who has no contact info row so far

is($db->sql("SELECT count(*) FROM membership_contactinfo JOIN membership_comrade ON id = comrade_id WHERE ssn = '$BARE'"),
	0, 'a member has no contact info');
$db->profile_edit($BARE, 'phone', '555 4321');
run_ok(0, 1, 'first phone number');
is_deeply($db->row("SELECT phone, email, facebook FROM membership_contactinfo JOIN membership_comrade ON id = comrade_id WHERE ssn = '$BARE'"),
	{ phone => '555-4321', email => undef, facebook => undef }, 'a phone number from the page makes the row');
is($db->doc($BARE)->{profile}{phone}, '555 4321', '... and stays in the document as the page wrote it');
is(pending(), 0, '... and is no change of ours');

# -------------------------------------------------- delete, revive, new key

my $began = $db->sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')");
my $name = member_row($KEPT)->{name};
my $old_id = member_row($KEPT)->{id};
delete_member($KEPT);
run_ok(1, 0, 'deleted member');
{
	my $doc = $db->doc($KEPT);
	is($doc->{membership}{status}, 'inactive', 'a deleted member is inactive in Firestore');
	cmp_ok($doc->{metadata}{deleted_at}, 'ge', $began, '... since this moment');
	is($doc->{profile}{name}, $name, '... and otherwise there');
	is_deeply(unmapped($KEPT), $others, '... with all that is not mapped');
	is($db->admin_sql("SELECT tombstone IS NOT NULL FROM ekksync.member WHERE key = '$KEPT'"), 't', 'a tombstone is left');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE member_id = $old_id"), 0,
		'no queue row points at the row that is gone');
}
my $times = $db->doc_update_time($KEPT);
run_ok(0, 0, 'after the delete');
is($db->doc_update_time($KEPT), $times, 'the document of a deleted member is left alone');

$db->sql("INSERT INTO membership_comrade (name, ssn, birthday, date_joined) VALUES ('Björn Afturgenginn', '$KEPT', NULL, '2024-01-01')");
run_ok(1, 0, 'revived member');
{
	my $doc = $db->doc($KEPT);
	is_deeply([ $doc->{membership}{status}, exists $doc->{metadata}{deleted_at}, $doc->{metadata}{deleted_at} ],
		[ 'active', 1, undef ], 'the same kennitala again makes the document active');
	my $want = expected()->{$KEPT};
	is_deeply([ $doc->{profile}{name}, $doc->{profile}{email}, $doc->{metadata}{django_id} ],
		[ 'Björn Afturgenginn', undef, $want->{metadata}{django_id} ], '... with the new row\'s values');
	is_deeply(unmapped($KEPT), $others, '... and all that is not mapped');
	is($db->admin_sql("SELECT tombstone IS NULL FROM ekksync.member WHERE key = '$KEPT'"), 't', 'the tombstone is gone');
}

my $MOVED = '0303502499';
$db->sql("UPDATE membership_comrade SET ssn = '$MOVED' WHERE ssn = '$KEPT'");
run_ok(2, 0, 'changed kennitala');
{
	my ($old, $new) = ($db->doc($KEPT), $db->doc($MOVED));
	is($old->{membership}{status}, 'inactive', 'the document of the old kennitala is inactive');
	ok(defined $old->{metadata}{deleted_at}, '... with the time');
	my $want = expected()->{$MOVED};
	is_deeply([ map { $new->{$_}{ { profile => 'kennitala', membership => 'status', metadata => 'django_id' }->{$_} } }
			qw(profile membership metadata) ],
		[ $MOVED, 'active', $want->{metadata}{django_id} ], 'the new one is the member\'s');
	is_deeply({ map { ($_ => $new->{profile}{$_}) } keys %{ $want->{profile} } }, $want->{profile}, '... with all values');
	is_deeply(unmapped($MOVED), $others, '... and what was not mapped in the old one');
}

$db->admin_sql("ALTER DATABASE socialism SET ekksync.on_local_delete = 'delete'");
delete_member($MOVED);
run_ok(1, 0, 'on_local_delete = delete');
is($db->doc($MOVED), undef, 'with on_local_delete = delete the document goes');
is($db->sql('SELECT docs_deleted FROM ekksync_runs ORDER BY run DESC LIMIT 1'), 1, '... and the record counts it');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.on_local_delete');

# ------------------------------------------------- a run with nothing to do

{
	my $times = update_times('members', 'sync_queue');
	my $logs = $db->count_docs('sync_logs');
	my $rows = tables();
	my $run = run_ok(0, 0, 'nothing to do');
	is_deeply(update_times('members', 'sync_queue'), $times, 'it writes no member and no entry');
	is(tables(), $rows, '... and no row');
	is($db->count_docs('sync_logs'), $logs + 1, '... but its own document');
	my $record = $db->row("SELECT * FROM ekksync_runs WHERE run = $run->{run}");
	is($record->{docs_written}, 2, '... when it begins and when it ends');
	is_deeply([ @$record{qw(status direction dry_run scan to_firestore to_django to_firestore_failed to_django_failed
			conflicts docs_deleted retries phase sqlstate error)} ],
		[ 'success', 'both', false, 'changed', 0, 0, 0, 0, 0, 0, 0, 'end', undef, undef ], 'the record of a run');
	cmp_ok($record->{$_}, '>', 0, "... with its $_") for qw(requests bytes_sent bytes_received peak_memory_kb);
	like($record->{duration}, qr/^00:00:\d\d/, '... and its duration');

	my $log = $db->doc($record->{log_document} =~ m{/} ? $record->{log_document} : "sync_logs/$record->{log_document}");
	is_deeply([ sort keys %$log ], [ sort qw(type status run attachment token stats created_at completed_at) ], 'a sync_logs document');
	is_deeply([ @$log{qw(type status run)} ], [ 'bidirectional_sync', 'success', $run->{run} ], '... says what it is');
	my $stats = $log->{stats};
	is_deeply([ sort keys %$stats ],
		[ sort qw(started_at completed_at duration_seconds last_sync firestore_to_django django_to_firestore error) ],
		'... with the stats that the portal reads');
	is_deeply([ @$stats{qw(firestore_to_django django_to_firestore error)} ],
		[ { success => 0, failed => 0 }, { success => 0, failed => 0 }, undef ], '... and their figures');
	is($stats->{completed_at}, $log->{completed_at}, '... completed when it says');
	cmp_ok(micro($stats->{started_at}), 'lt', micro($stats->{completed_at}), '... after it was started');
}

# -------------------------------- a run in progress: wait, the history page

# Runs that the portal's history page lists, newest first.
sub history
{
	my $answer = $db->_call(POST => '/v1/' . $db->_root . ':runQuery',
		{
			structuredQuery => {
				from    => [ { collectionId => 'sync_logs' } ],
				orderBy => [ { field => { fieldPath => 'completed_at' }, direction => 'DESCENDING' } ]
			}
		});
	return map { EkkSync::from_fields($_->{document}{fields}) } grep { $_->{document} } @$answer;
}

{
	# The application's own trigger, which lets the run wait for us.
	my $key = key_of(7);
	$db->sql(<<"SQL");
CREATE TABLE gate (open boolean);
CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	WHILE NOT EXISTS (SELECT FROM public.gate) LOOP
		PERFORM pg_sleep(0.02);
	END LOOP;
	RETURN NEW;
END \$\$;
CREATE TRIGGER gate BEFORE UPDATE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION wait_at_gate();
SQL
	my $finished = history();
	my $id = $db->profile_edit($key, 'name', 'Sá sem bíður');
	my $run = $db->run(wait => 0);
	is_deeply([ @$run{qw(status message)} ], [ 'running', 'the run goes on; see ekksync_runs' ], 'wait => false returns at once');
	ok($db->wait_for(sub { $db->sql("SELECT phase FROM ekksync_runs WHERE run = $run->{run}") eq 'members' }, 60), 'the run is at work');
	my ($log) = grep { $_->{run} == $run->{run} } values %{ $db->docs('sync_logs') };
	is_deeply([ $log->{status}, exists $log->{completed_at} ], [ 'running', '' ], 'its document is not completed');
	is(scalar(grep { $_->{run} == $run->{run} } history()), 0, 'the history page does not list it');
	my ($status, undef, $error) = $db->sql_err('\set VERBOSITY verbose' . "\nSELECT ekksync_run(dry_run => true)");
	like($error, qr/55006: run $run->{run} is in progress/, 'another kind of run is told of it');
	my $second = $db->run(wait => 0);
	is_deeply([ @$second{qw(run message)} ], [ $run->{run}, 'joined a run that was in progress' ], '... a plain one joins it');
	$db->sql('INSERT INTO gate VALUES (true)');
	my $joined = $db->run;
	is($joined->{status}, 'success', 'a run can be waited for');
	ok($db->wait_for(sub { $db->sql("SELECT status FROM ekksync_runs WHERE run = $run->{run}") eq 'success' }, 60), 'the run ends');
	is(member_row($key)->{name}, 'Sá sem bíður', '... and has done its work');
	my @history = history();
	is(scalar(grep { $_->{run} == $run->{run} && $_->{status} eq 'success' } @history), 1, 'now the history page lists it');
	is_deeply([ map { $_->{completed_at} } @history ], [ reverse sort { $a cmp $b } map { $_->{completed_at} } @history ], '... in order');
	$db->sql('DROP TRIGGER gate ON membership_comrade');
}

# ------------------------------------------------------------------- dry run

# What mapped paths and columns hold: "side key field" => JSON of the value.
sub snapshot
{
	my %values;
	my %fields = (map({ ($_->{field} => $_) } $db->rows('SELECT * FROM shown_mapping')),
		status => { path => 'membership.status' });
	my $docs = $db->docs('members');
	while (my ($key, $doc) = each %$docs)
	{
		for my $field (keys %fields)
		{
			my ($map, $last) = split /\./, $fields{$field}{path};
			$values{"firestore $key $field"} = $json->encode($doc->{$map}{$last}) if exists $doc->{$map}{$last};
		}
	}
	my @columns = grep { $fields{$_}{column} } keys %fields;
	for my $row ($db->rows('SELECT * FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id'))
	{
		$values{"django $row->{ssn} $_"} = $json->encode($row->{ $fields{$_}{column} }) for @columns;
	}
	return \%values;
}

$db->admin_sql('CREATE VIEW shown_mapping AS SELECT field, "column", path FROM ekksync.mapping; GRANT SELECT ON shown_mapping TO socialism');
{
	my ($local, $remote, $conflict, $enqueued, $gone) = map { key_of($_) } 11 .. 15;
	orm_save($local, name => 'Ný í Django', reachable => $db->sql("SELECT NOT reachable FROM membership_comrade WHERE ssn = '$local'"));
	$db->profile_edit($remote, 'name', 'Ný í Firestore');
	orm_save($conflict, name => 'Django fyrst');
	$db->profile_edit($conflict, 'name', 'Firestore svo');
	$db->profile_edit($enqueued, 'facebook', 'https://facebook.example/aðeins', document => 0);
	delete_member($gone);
	my $new = '0404502599';
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Nýr', '$new', now())");
	$db->queue_entry(docId => $local, changes => { 'profile.nothing' => 1 });

	my $before = snapshot();
	my ($rows, $times) = (tables(), update_times(qw(members sync_queue sync_logs)));
	my ($figures, @plan) = $db->run_rows(dry_run => 1);
	is_deeply(snapshot(), $before, 'a dry run changes no value');
	is(tables(), $rows, '... no row');
	is_deeply(update_times(qw(members sync_queue sync_logs)), $times, '... no document');
	is($db->sql("SELECT dry_run FROM ekksync_runs WHERE run = $figures->{run}"), 't', 'its record says what it was');

	my $run = $db->run;
	is_deeply([ @$run{qw(to_firestore to_django conflicts)} ], [ @$figures{qw(to_firestore to_django conflicts)} ],
		'the run after it has its figures');
	my $after = snapshot();
	my %done;
	for (keys %$after)
	{
		$done{$_} = $after->{$_} unless defined $before->{$_} && $before->{$_} eq $after->{$_};
	}
	my %planned = map { ("$_->{side} $_->{member} $_->{field}" => $json->encode($_->{new_value})) }
	  grep { $_->{side} ne 'none' } @plan;
	is_deeply([ sort keys %planned ], [ sort keys %done ], 'a dry run shows just what the run after it writes');
	is_deeply({ map { ($_ => $planned{$_}) } grep { / (?:name|facebook|reachable|status)$/ } keys %planned },
		{ map { ($_ => $done{$_}) } grep { / (?:name|facebook|reachable|status)$/ } keys %done }, '... and the values');
	is_deeply([ map { $_->{note} } grep { $_->{side} eq 'none' } @plan ],
		['entry fails: profile.nothing: unknown path'], '... and what will fail');
	my ($lost) = grep { $_->{member} eq $conflict && $_->{field} eq 'name' } @plan;
	is_deeply([ @$lost{qw(side old_value new_value note)} ],
		[ 'django', 'Django fyrst', 'Firestore svo', 'conflict: later write' ], '... and why');
}

# ---------------------------------------------------------- direction, only

{
	my ($local, $remote) = map { key_of($_) } 17, 18;
	orm_save($local, name => 'Í aðra átt');
	my $id = $db->profile_edit($remote, 'name', 'Í hina átt');
	my $name = member_row($remote)->{name};
	run_ok(1, 0, 'to_firestore', direction => 'to_firestore');
	is($db->doc($local)->{profile}{name}, 'Í aðra átt', 'to_firestore: the local edit goes');
	is(member_row($remote)->{name}, $name, '... the remote one waits');
	is($db->entry($id)->{sync_status}, 'pending', '... pending');
	is($db->doc($remote)->{profile}{name}, 'Í hina átt', '... and is not written over');
	orm_save($local, name => 'Bíður nú');
	run_ok(0, 1, 'to_django', direction => 'to_django');
	is(member_row($remote)->{name}, 'Í hina átt', 'to_django: the remote edit comes');
	is($db->entry($id)->{sync_status}, 'synced', '... and is closed');
	is($db->doc($local)->{profile}{name}, 'Í aðra átt', '... the local one waits');
	is(pending(), 1, '... pending');

	orm_save($remote, name => 'Ekki alveg strax');
	my $hyphened = $local =~ s/^(.{6})/$1-/r;
	run_ok(1, 0, 'only', only => [$hyphened]);
	is($db->doc($local)->{profile}{name}, 'Bíður nú', 'only: the member that is named');
	is($db->doc($remote)->{profile}{name}, 'Í hina átt', '... and no other');
	run_ok(1, 0, 'both');
	is($db->doc($remote)->{profile}{name}, 'Ekki alveg strax', '... who comes with the next run');

	my $runs = $db->sql('SELECT count(*) FROM ekksync_runs');
	my (undef, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\nSELECT ekksync_run('sideways')");
	like($error, qr/22023: unknown direction "sideways"/, 'a direction that is none is refused');
	like($error, qr/HINT:  Use "both", "to_firestore" or "to_django"\./, '... with a hint');
	(undef, undef, $error) = $db->sql_err(q{SELECT ekksync_run("only" => ARRAY['12345'])});
	like($error, qr/element 1 of "only" is not a kennitala/, 'as is a member that can be none');
	is($db->sql('SELECT count(*) FROM ekksync_runs'), $runs, '... and nothing ran');
}

# ------------------------------------------- pause, ekksync_doc, no project

{
	my $key = key_of(19);
	orm_save($key, name => 'Eftir hlé');
	$db->sql(q{SELECT ekksync_pause('flutningar')});
	my (undef, undef, $error) = $db->sql_err('SELECT ekksync_run()');
	like($error, qr/ekksync is paused\n.*DETAIL:  Reason: flutningar\n.*HINT:  Call ekksync_resume\(\)/s, 'a paused database is not synced, and says why');
	is_deeply($db->row('SELECT paused, health, reason FROM ekksync_status()'),
		{ paused => true, health => 'paused', reason => 'flutningar' }, '... as does its status');
	isnt($db->doc($key)->{profile}{name}, 'Eftir hlé', '... and nothing was written');
	$db->sql('SELECT ekksync_resume()');
	run_ok(1, 0, 'resumed');
	is($db->doc($key)->{profile}{name}, 'Eftir hlé', 'after ekksync_resume it goes on');

	my $shown = $json->decode($db->sql("SELECT ekksync_doc('$key')"));
	my $doc = $db->doc($key);
	for my $d ($shown, $doc)
	{
		$_ = micro($_) for $d->{membership}{date_joined}, @{ $d->{metadata} }{qw(last_modified last_sync)};
	}
	is_deeply($shown, $doc, 'ekksync_doc gives the document');
	is($db->sql("SELECT ekksync_doc('3112999999') IS NULL"), 't', '... and null where there is none');

	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.project');
	(undef, undef, $error) = $db->sql_err('SELECT ekksync_run()');
	like($error, qr/no Firestore project is set\n.*HINT:  .*ALTER DATABASE socialism SET ekksync\.project/s,
		'a run with no project set says what to set');
	$db->use_project($db->project);
	run_ok(0, 0, 'set again');
}

is($db->sql(q{SELECT string_agg(status, ' ') FROM (SELECT DISTINCT status FROM ekksync_runs) AS s}), 'success',
	'every run is on record as a success');

done_testing();
