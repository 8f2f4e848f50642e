# "10,000 pending rows and 10,000 pending queue documents in one run, worker
# memory flat (say how you measured); the second run writes nothing but its
# record, and with scan = off reads O(1) documents."
#
# How memory is measured: the worker looks at RssAnon in /proc/self/status at
# the start of each phase and after each batch of members, and keeps the
# largest in the run's record (peak_memory_kb).  Shared buffers are no part of
# it; what malloc, and with it curl and cJSON, holds is.  It is flat when a
# run with five times the changes peaks no more than MEMORY_SLACK higher.
#
# Documents are read and written in bulk here: the requests are put together,
# and the answers taken apart, by SQL.

use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP ();
use Test::More;
use EkkSync;

use constant {
	FEW          => 2_000,
	MANY         => 10_000,
	MEMORY_SLACK => 8 * 1024,		# kB
};

my $http = HTTP::Tiny->new(timeout => 120, http_proxy => undef);

# Name of all documents of a registry's project.
sub root
{
	my ($db) = @_;
	return 'projects/' . $db->project . '/databases/(default)/documents';
}

# POST JSON to the emulator; returns its answer as it stands.
sub post
{
	my ($db, $verb, $json) = @_;
	utf8::encode($json) if utf8::is_utf8($json);
	my $answer = $http->post('http://' . $db->host . '/v1/' . root($db) . $verb,
		{ content => $json, headers => { 'content-type' => 'application/json' } });
	die "$verb: $answer->{status} $answer->{content}" unless $answer->{success};
	return $answer->{content};
}

# Commit the writes that a query gives, one JSON object a row.
sub commit_query
{
	my ($db, $query) = @_;
	my @writes = split /\n/, $db->sql($query);
	my $count = @writes;
	while (my @page = splice @writes, 0, 500)
	{
		post($db, ':commit', '{"writes":[' . join(',', @page) . ']}');
	}
	return $count;
}

# Fetch a whole collection into the table "docs": id, fields, written.
sub fetch_docs
{
	my ($db, $collection) = @_;
	my $file = $db->node->basedir . '/documents.json';
	open my $out, '>', $file or die "$file: $!";
	print $out post($db, ':runQuery',
		qq({"structuredQuery":{"from":[{"collectionId":"$collection"}]}}));
	close $out or die "$file: $!";
	$db->admin_sql(<<"SQL");
DROP TABLE IF EXISTS docs;
CREATE TABLE docs AS
SELECT substring(d->>'name' from '[^/]*\$') AS id, d->'fields' AS fields,
	d->>'updateTime' AS written
FROM jsonb_array_elements(pg_read_file('$file')::jsonb) AS e, LATERAL (SELECT e->'document') AS x (d)
WHERE d IS NOT NULL;
ALTER TABLE docs ADD PRIMARY KEY (id);
GRANT SELECT ON docs TO socialism;
ANALYZE docs;
SQL
	return;
}

# Names and times of all documents but the runs' own, as one hash.
sub documents_hash
{
	my ($db) = @_;
	my @hashes;
	for my $collection (qw(members sync_queue))
	{
		fetch_docs($db, $collection);
		push @hashes, $db->sql("SELECT count(*), md5(string_agg(id || written, ',' ORDER BY id)) FROM docs");
	}
	return "@hashes";
}

# Every row version of the tables that a run may write, but for its record
# (the run itself, and in ekksync.state when it last looked), as one hash.
sub tables_hash
{
	my ($db) = @_;
	return join ' ', map {
		$db->admin_sql("SELECT count(*), md5(string_agg(ctid::text || xmin, ',' ORDER BY ctid)) FROM $_")
	} qw(membership_comrade membership_contactinfo membership_membersyncqueue
	  ekksync.member ekksync.inbox ekksync.change_log ekksync.conflict);
}

# Compare all members, row by document, field by field; returns what differs
# as "field: number of members".  The expectation is made from the tables
# alone, by what the mapping promises.
sub differences
{
	my ($db) = @_;
	fetch_docs($db, 'members');
	return $db->sql(<<'SQL');
WITH pair AS (
	SELECT c.ssn, d.id IS NULL AS missing, d.fields->'profile'->'mapValue'->'fields' AS p,
		d.fields->'membership'->'mapValue'->'fields' AS m,
		d.fields->'address'->'mapValue'->'fields' AS a,
		d.fields->'metadata'->'mapValue'->'fields' AS meta,
		c.id, c.name, c.birthday, c.date_joined, c.reachable, c.groupable,
		(ARRAY['unknown','male','female','other'])[c.gender + 1] AS gender,
		(ARRAY['unknown','owner','rental','cooperative','family','other','homeless'])[c.housing_situation + 1] AS housing,
		i.email, i.facebook,
		regexp_replace(i.phone, '^(?:\+354)?[ ]*(\d{3})[- ]*(\d{4})$', '\1-\2') AS phone,
		s.name || ' ' || a.number || a.letter AS street, z.code, t.name AS city,
		ARRAY(SELECT u.name::text FROM membership_unionmembership JOIN membership_union u ON u.id = union_id
			WHERE comrade_id = c.id ORDER BY u.name COLLATE "C") AS unions,
		ARRAY(SELECT x.name::text FROM membership_comradetitle JOIN membership_title x ON x.id = title_id
			WHERE comrade_id = c.id ORDER BY x.name COLLATE "C") AS titles
	FROM membership_comrade c
	FULL JOIN docs d ON d.id = c.ssn
	LEFT JOIN membership_contactinfo i ON i.comrade_id = c.id
	LEFT JOIN membership_newlocaladdress l ON l.comrade_id = c.id
	LEFT JOIN map_address a ON a.id = l.address_id
	LEFT JOIN map_street s ON s.id = a.street_id
	LEFT JOIN map_postalcode z ON z.id = s.postal_code_id
	LEFT JOIN map_municipality t ON t.id = s.municipality_id)
SELECT field || ': ' || count(*)
FROM pair, LATERAL (VALUES
	('row', 'there', CASE WHEN ssn IS NOT NULL THEN 'there' END),
	('document', 'there', CASE WHEN NOT missing THEN 'there' END),
	('ssn', ssn, p->'kennitala'->>'stringValue'),
	('name', name, p->'name'->>'stringValue'),
	('birthday', birthday::text, p->'birthday'->>'stringValue'),
	('gender', gender, p->'gender'->>'stringValue'),
	('housing_situation', housing, p->'housingSituation'->>'stringValue'),
	('email', nullif(email, ''), p->'email'->>'stringValue'),
	('facebook', nullif(facebook, ''), p->'facebook'->>'stringValue'),
	('phone', phone, p->'phone'->>'stringValue'),
	('reachable', reachable::text, m->'reachable'->>'booleanValue'),
	('groupable', groupable::text, m->'groupable'->>'booleanValue'),
	('date_joined', date_joined::text, (m->'date_joined'->>'timestampValue')::timestamptz::text),
	('status', 'active', m->'status'->>'stringValue'),
	('id', id::text, meta->'django_id'->>'integerValue'),
	('unions', unions::text, ARRAY(SELECT e->>'stringValue' FROM
		jsonb_array_elements(m->'unions'->'arrayValue'->'values') e)::text),
	('titles', titles::text, ARRAY(SELECT e->>'stringValue' FROM
		jsonb_array_elements(m->'titles'->'arrayValue'->'values') e)::text),
	('street', street, a->'street'->>'stringValue'),
	('postal_code', code, a->'postal_code'->>'stringValue'),
	('city', city, a->'city'->>'stringValue')) AS f (field, expected, found)
WHERE expected IS DISTINCT FROM found
GROUP BY field ORDER BY field
SQL
}

# Rename $n members in the tables, and save another e-mail address for the
# same members as the profile page does: in the document, then as an entry.
# Every second entry writes the kennitala with its hyphen.
sub change_both_sides
{
	my ($db, $n, $what) = @_;
	my $root = root($db);
	my $chosen = "(SELECT * FROM membership_comrade WHERE id <= $n ORDER BY id) AS c";
	my $now = EkkSync::timestamp()->{timestampValue};
	my $email = "jsonb_build_object('stringValue', '$what' || id || '\@example.is')";

	$db->sql("UPDATE membership_comrade SET name = 'Æsa ' || id || ' $what' WHERE id <= $n");
	commit_query($db, <<"SQL");
SELECT jsonb_build_object(
	'update', jsonb_build_object('name', '$root/members/' || ssn, 'fields', jsonb_build_object(
		'profile', jsonb_build_object('mapValue', jsonb_build_object('fields', jsonb_build_object('email', $email))),
		'updated_at', jsonb_build_object('timestampValue', '$now'))),
	'updateMask', '{"fieldPaths": ["profile.email", "updated_at"]}'::jsonb,
	'currentDocument', '{"exists": true}'::jsonb)
FROM $chosen
SQL
	commit_query($db, <<"SQL");
SELECT jsonb_build_object('update', jsonb_build_object('name', '$root/sync_queue/$what-' || id,
	'fields', jsonb_build_object(
		'source', '{"stringValue": "firestore"}'::jsonb,
		'target', '{"stringValue": "django"}'::jsonb,
		'collection', '{"stringValue": "members"}'::jsonb,
		'docId', jsonb_build_object('stringValue', key),
		'kennitala', jsonb_build_object('stringValue', key),
		'action', '{"stringValue": "update"}'::jsonb,
		'changes', jsonb_build_object('mapValue', jsonb_build_object('fields',
			jsonb_build_object('profile.email', $email))),
		'created_at', jsonb_build_object('timestampValue', '$now'),
		'synced_at', '{"nullValue": null}'::jsonb,
		'sync_status', '{"stringValue": "pending"}'::jsonb)))
FROM $chosen, LATERAL (SELECT CASE WHEN id % 2 = 0 THEN ssn
	ELSE left(ssn, 6) || '-' || right(ssn, 4) END) AS k (key)
SQL
	return;
}

# One run over such changes: all of it done, in both directions.
sub run_over
{
	my ($db, $n, $what) = @_;
	change_both_sides($db, $n, $what);
	is($db->sql("SELECT count(*) FROM ekksync_pending"), $n, "$n rows are pending");

	my $run = $db->run;
	note("$n + $n: " . $run->{duration});
	is_deeply([ @$run{qw(status to_firestore to_django conflicts failed)} ],
		[ 'success', $n, $n, 0, 0 ], "one run over $n rows and $n entries")
	  or diag(explain($run));
	is($db->sql('SELECT string_agg(DISTINCT sync_status, $$,$$) FROM membership_membersyncqueue'),
		'synced', 'every row is synced');
	is(differences($db), '', 'both sides are equal, field by field, for all members');
	is($db->sql(<<"SQL"), $n, 'the names are the new ones');
SELECT count(*) FROM docs
WHERE fields->'profile'->'mapValue'->'fields'->'name'->>'stringValue' LIKE 'Æsa % $what'
SQL
	is($db->sql("SELECT count(*) FROM membership_contactinfo WHERE email = '$what' || comrade_id || '\@example.is'"),
		$n, 'the addresses are the new ones');
	fetch_docs($db, 'sync_queue');
	is($db->sql(<<"SQL"), $n, 'every entry is synced, with the time');
SELECT count(*) FROM docs WHERE id LIKE '$what-%'
AND fields->'sync_status'->>'stringValue' = 'synced'
AND fields->'synced_at' ? 'timestampValue' AND NOT fields ? 'error_message'
SQL
	my $record = $db->row("SELECT * FROM ekksync_runs WHERE run = $run->{run}");
	note(JSON::PP->new->canonical->encode($record));
	cmp_ok($record->{peak_memory_kb}, '>', 1024, 'its memory was measured');
	return $record;
}

# A run that has nothing to do.  %seen keeps the documents of the last one.
my %seen;
sub quiet_run
{
	my ($db, $what) = @_;
	my $documents = $seen{ $db->project } // documents_hash($db);
	my $tables = tables_hash($db);
	my $run = $db->run;
	is_deeply([ @$run{qw(status to_firestore to_django conflicts failed)} ],
		[ 'success', 0, 0, 0, 0 ], "a run with nothing to do, $what");
	is(tables_hash($db), $tables, '... writes no row but its record');
	is($seen{ $db->project } = documents_hash($db), $documents, '... moves no updateTime');
	my $record = $db->row("SELECT * FROM ekksync_runs WHERE run = $run->{run}");
	is($record->{docs_written}, 2, '... writes its sync_logs document, at start and end');
	is($record->{docs_deleted}, 0, '... deletes none');
	return $record;
}

# ------------------------------------------------------------------ in bulk

my $db = EkkSync->new(members => MANY);
my $first = $db->run;
note("first push: " . $first->{duration});
is_deeply([ @$first{qw(status to_firestore failed)} ], [ 'success', MANY, 0 ],
	'the first push of ' . MANY . ' members');

my $few = run_over($db, FEW, 'few');
my $many = run_over($db, MANY, 'many');
cmp_ok($many->{peak_memory_kb} - $few->{peak_memory_kb}, '<=', MEMORY_SLACK,
	"memory is flat: $few->{peak_memory_kb} kB for " . FEW . " + " . FEW
	  . ", $many->{peak_memory_kb} kB for " . MANY . " + " . MANY);

# -------------------------------------------------------- nothing, in bulk

quiet_run($db, 'with the default scan');

# The query for entries finds none, which Firestore counts as one read; the
# other document is that of the last run.
my $small = EkkSync->new(name => 'small', members => 1_000);
$small->run;
$_->admin_sql('ALTER DATABASE socialism SET ekksync.scan = off') for $db, $small;
is(quiet_run($db, 'without a scan')->{docs_read}, 2, '... reads two documents, of ' . MANY . ' members');
is(quiet_run($small, 'without a scan')->{docs_read}, 2, '... reads two documents, of 1000 members');

done_testing();
