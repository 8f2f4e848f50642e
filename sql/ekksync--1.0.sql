/* sql/ekksync--1.0.sql: the extension's objects, version 1.0 */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION ekksync" to load this file. \quit

/*
 * The extension keeps its tables in a schema of its own; its functions and
 * views live in the schema that it is installed in.  The two must differ.
 */
DO $$
BEGIN
	IF '@extschema@' OPERATOR(pg_catalog.=) 'ekksync' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_schema_name',
			MESSAGE = 'extension "ekksync" cannot be installed into schema "ekksync"',
			DETAIL = 'The extension keeps its own tables in that schema.',
			HINT = 'Use CREATE EXTENSION ekksync SCHEMA public.';
	END IF;
END
$$;

CREATE SCHEMA ekksync;
COMMENT ON SCHEMA ekksync IS 'tables of the extension ekksync, written only by its own code';

/* ---------------------------------------------------------------- tables */

CREATE TABLE ekksync.state (
	id boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (id),
	uuid uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
	member_table regclass NOT NULL,
	queue_table regclass NOT NULL,
	id_column text NOT NULL,
	key_column text NOT NULL,
	filter text,
	initial text NOT NULL DEFAULT 'django' CHECK (initial OPERATOR(pg_catalog.=) ANY (ARRAY['django', 'firestore', 'newest'])),
	run_as regrole,
	attached_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	created_functions text[] NOT NULL DEFAULT '{}',
	project text,
	database_id text,
	system_identifier bigint,
	refused boolean NOT NULL DEFAULT false,
	accepted uuid,
	fence bigint NOT NULL DEFAULT 0,
	fence_token uuid,
	fence_next uuid,
	last_scan timestamptz,
	last_full_scan timestamptz,
	scan_after text,
	scan_since timestamptz,
	changed_after text,
	changed_value text,
	stage_after text,
	logs_removed bigint NOT NULL DEFAULT 0,
	schedule text,
	scheduled timestamptz,
	scheduled_tries bigint NOT NULL DEFAULT 0,
	paused boolean NOT NULL DEFAULT false,
	paused_at timestamptz,
	paused_reason text
);
COMMENT ON TABLE ekksync.state IS 'the attachment: one row';

CREATE TABLE ekksync.mapping (
	field text NOT NULL PRIMARY KEY,
	relation regclass,
	"column" text,
	link text,
	path text NOT NULL UNIQUE,
	codec text NOT NULL,
	options jsonb,
	direction text NOT NULL DEFAULT 'both' CHECK (direction OPERATOR(pg_catalog.=) ANY (ARRAY['both', 'push'])),
	policy text NOT NULL DEFAULT 'lww' CHECK (policy OPERATOR(pg_catalog.=) ANY (ARRAY['lww', 'django_wins', 'firestore_wins', 'manual'])),
	compute text,
	apply text,
	CHECK ((relation IS NULL) OPERATOR(pg_catalog.=) ("column" IS NULL)),
	CHECK ((relation IS NULL) OPERATOR(pg_catalog.<>) (compute IS NULL)),
	CHECK (compute IS NULL OR direction OPERATOR(pg_catalog.=) 'push' OR apply IS NOT NULL)
);
COMMENT ON TABLE ekksync.mapping IS 'one row per mapped field: column or computing function, document path, codec';

CREATE TABLE ekksync.dependency (
	field text NOT NULL REFERENCES ekksync.mapping ON DELETE CASCADE ON UPDATE CASCADE,
	relation regclass NOT NULL,
	link text,
	members text,
	PRIMARY KEY (field, relation),
	CHECK ((link IS NULL) OPERATOR(pg_catalog.<>) (members IS NULL))
);
COMMENT ON TABLE ekksync.dependency IS 'tables that a computed field depends on: by a link column, or by a query that gives the member ids for a row id ($1)';

CREATE TABLE ekksync.member (
	key text COLLATE "C" NOT NULL PRIMARY KEY,
	due boolean NOT NULL DEFAULT true,
	first_contact boolean NOT NULL DEFAULT true,
	doc_update_time timestamptz,
	base jsonb NOT NULL DEFAULT '{}',
	in_flight jsonb NOT NULL DEFAULT '[]',
	tombstone timestamptz,
	away timestamptz,
	last_run bigint
);
CREATE INDEX member_due ON ekksync.member (key) WHERE due;
CREATE INDEX member_first_contact ON ekksync.member (key) WHERE first_contact;
CREATE INDEX member_tombstone ON ekksync.member (key) WHERE tombstone IS NOT NULL;
COMMENT ON TABLE ekksync.member IS 'per member: base values with stamps and origins, document updateTime, notes of writes in flight, tombstone, since when its document may be away';

CREATE TABLE ekksync.stranger (
	key text COLLATE "C" NOT NULL PRIMARY KEY,
	doc_time timestamptz NOT NULL,
	tried timestamptz,
	problem text NOT NULL
);
COMMENT ON TABLE ekksync.stranger IS 'documents in members that PostgreSQL does not know: updateTime when last seen, and when last tried';

CREATE TABLE ekksync.inbox (
	doc_id text COLLATE "C" NOT NULL PRIMARY KEY,
	key text COLLATE "C",
	action text NOT NULL,
	changes jsonb NOT NULL DEFAULT '{}',
	stamp timestamptz NOT NULL,
	clamped boolean NOT NULL DEFAULT false,
	staged_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	status text NOT NULL DEFAULT 'staged' CHECK (status OPERATOR(pg_catalog.=) ANY (ARRAY['staged', 'synced', 'failed', 'closed'])),
	error_message text,
	note text,
	retry_count integer NOT NULL DEFAULT 0,
	run bigint,
	done_at timestamptz,
	gone boolean NOT NULL DEFAULT false
);
CREATE INDEX inbox_staged ON ekksync.inbox (key) WHERE status OPERATOR(pg_catalog.=) 'staged';
CREATE INDEX inbox_unclosed ON ekksync.inbox (doc_id) WHERE status OPERATOR(pg_catalog.=) 'synced' OR status OPERATOR(pg_catalog.=) 'failed';
CREATE INDEX inbox_failed ON ekksync.inbox (key) WHERE error_message IS NOT NULL;
CREATE INDEX inbox_kept ON ekksync.inbox (done_at) WHERE status OPERATOR(pg_catalog.=) 'closed' AND NOT gone;
CREATE INDEX inbox_done ON ekksync.inbox (done_at) WHERE status OPERATOR(pg_catalog.=) 'closed';
COMMENT ON TABLE ekksync.inbox IS 'entries of the Firestore collection sync_queue: staged, decided (synced, failed), closed on both sides';

CREATE TABLE ekksync.conflict (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	run bigint,
	key text COLLATE "C" NOT NULL,
	field text NOT NULL,
	django_value jsonb,
	firestore_value jsonb,
	django_time timestamptz,
	firestore_time_from timestamptz,
	firestore_time timestamptz,
	winner text NOT NULL CHECK (winner OPERATOR(pg_catalog.=) ANY (ARRAY['django', 'firestore', 'none'])),
	rule text NOT NULL,
	potential boolean NOT NULL DEFAULT false,
	skew interval,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	resolved_at timestamptz,
	resolved_by text
);
CREATE INDEX conflict_key ON ekksync.conflict (key, field);
CREATE INDEX conflict_held ON ekksync.conflict (key, field) WHERE winner OPERATOR(pg_catalog.=) 'none' AND resolved_at IS NULL;
CREATE INDEX conflict_created ON ekksync.conflict (created_at);
COMMENT ON TABLE ekksync.conflict IS 'every concurrent change that lost, or is held: both values, both times, winner and rule; run null: met by ekksync_apply()';

CREATE TABLE ekksync.run (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	status text NOT NULL DEFAULT 'running' CHECK (status OPERATOR(pg_catalog.=) ANY (ARRAY['running', 'success', 'failed', 'stopped', 'interrupted'])),
	direction text NOT NULL,
	dry_run boolean NOT NULL DEFAULT false,
	mode text NOT NULL DEFAULT 'sync' CHECK (mode OPERATOR(pg_catalog.=) ANY (ARRAY['sync', 'observe', 'backfill', 'repair', 'diff', 'cleanup'])),
	partial boolean NOT NULL DEFAULT false,
	scan text NOT NULL,
	started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	scheduled timestamptz,
	finished_at timestamptz,
	phase text NOT NULL DEFAULT 'start',
	phases jsonb NOT NULL DEFAULT '[]',
	pid integer,
	to_firestore integer NOT NULL DEFAULT 0,
	to_firestore_failed integer NOT NULL DEFAULT 0,
	to_django integer NOT NULL DEFAULT 0,
	to_django_failed integer NOT NULL DEFAULT 0,
	conflicts integer NOT NULL DEFAULT 0,
	docs_read bigint NOT NULL DEFAULT 0,
	docs_scanned bigint NOT NULL DEFAULT 0,
	docs_written bigint NOT NULL DEFAULT 0,
	docs_deleted bigint NOT NULL DEFAULT 0,
	bytes_sent bigint NOT NULL DEFAULT 0,
	bytes_received bigint NOT NULL DEFAULT 0,
	requests bigint NOT NULL DEFAULT 0,
	retries bigint NOT NULL DEFAULT 0,
	peak_memory_kb bigint,
	skew interval,
	skew_error interval,
	cleaned jsonb,
	log_document text,
	sqlstate text,
	error text
);
CREATE INDEX run_started ON ekksync.run (started_at);
COMMENT ON TABLE ekksync.run IS 'one row per run: figures, cost, outcome, what each phase took';

CREATE TABLE ekksync.total (
	mode text NOT NULL,
	status text NOT NULL,
	runs bigint NOT NULL,
	seconds numeric NOT NULL,
	to_firestore bigint NOT NULL,
	to_django bigint NOT NULL,
	to_firestore_failed bigint NOT NULL,
	to_django_failed bigint NOT NULL,
	conflicts bigint NOT NULL,
	docs_read bigint NOT NULL,
	docs_written bigint NOT NULL,
	docs_deleted bigint NOT NULL,
	requests bigint NOT NULL,
	retries bigint NOT NULL,
	bytes_sent bigint NOT NULL,
	bytes_received bigint NOT NULL,
	PRIMARY KEY (mode, status)
);
COMMENT ON TABLE ekksync.total IS 'the figures of all runs that have ended, summed by mode and outcome: they outlive the records of the runs';

CREATE TABLE ekksync.cost (
	day date NOT NULL PRIMARY KEY,
	reads bigint NOT NULL DEFAULT 0,
	writes bigint NOT NULL DEFAULT 0,
	deletes bigint NOT NULL DEFAULT 0,
	requests bigint NOT NULL DEFAULT 0,
	retries bigint NOT NULL DEFAULT 0,
	bytes_sent bigint NOT NULL DEFAULT 0,
	bytes_received bigint NOT NULL DEFAULT 0,
	price numeric NOT NULL DEFAULT 0
);
COMMENT ON TABLE ekksync.cost IS 'what runs have cost, by day of Firestore''s quota';

CREATE TABLE ekksync.forgotten (
	hash bytea NOT NULL PRIMARY KEY,
	salt uuid NOT NULL,
	at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE ekksync.forgotten IS 'persons erased by ekksync_forget(): a hash of each kennitala with the one salt of this table';

CREATE TABLE ekksync.change_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	run bigint,
	key text COLLATE "C" NOT NULL,
	side text NOT NULL CHECK (side OPERATOR(pg_catalog.=) ANY (ARRAY['django', 'firestore'])),
	changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	changes jsonb NOT NULL,
	stamp timestamptz
);
CREATE INDEX change_log_key ON ekksync.change_log (key, id);
CREATE INDEX change_log_changed ON ekksync.change_log (changed_at);
CREATE INDEX change_log_run ON ekksync.change_log (run);
COMMENT ON TABLE ekksync.change_log IS 'the audit trail: one row per member, run and side written; changes maps field to [old, new], with a third element where a side that had nothing was filled in; run null: a change given to ekksync_apply(), of the time stamp';

CREATE TABLE ekksync.plan (
	run bigint NOT NULL,
	id bigint GENERATED ALWAYS AS IDENTITY,
	key text COLLATE "C" NOT NULL,
	side text NOT NULL,
	field text,
	old_value jsonb,
	new_value jsonb,
	note text,
	PRIMARY KEY (run, id)
);
COMMENT ON TABLE ekksync.plan IS 'what the last dry run, or run in observe mode, would have written';

CREATE TABLE ekksync.touched (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	key text COLLATE "C" NOT NULL,
	queue_id bigint NOT NULL,
	at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX touched_key ON ekksync.touched (key);
COMMENT ON TABLE ekksync.touched IS 'queue rows that were settled or deleted by hand, and members that a backfill has left (row 0): the next run looks at them';

CREATE TABLE ekksync.diff (
	run bigint NOT NULL,
	id bigint GENERATED ALWAYS AS IDENTITY,
	key text COLLATE "C" NOT NULL,
	field text,
	django_value jsonb,
	firestore_value jsonb,
	why text NOT NULL,
	detail text,
	PRIMARY KEY (run, id)
);
COMMENT ON TABLE ekksync.diff IS 'what the last ekksync_diff() or ekksync_repair() found';

CREATE TABLE ekksync.backlog (
	run bigint NOT NULL,
	key text COLLATE "C" NOT NULL,
	PRIMARY KEY (run, key)
);
CREATE INDEX backlog_shuffled ON ekksync.backlog (run, pg_catalog.hashtextextended(key, 0), key);
COMMENT ON TABLE ekksync.backlog IS 'members that a backfill or a repair is still to work on, in the order of a hash: a call that goes on takes up what is left';

SELECT pg_catalog.pg_extension_config_dump('ekksync.state', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.mapping', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.dependency', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.member', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.stranger', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.inbox', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.conflict', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.conflict_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.run', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.total', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.cost', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.forgotten', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.change_log', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.change_log_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.touched', '');
SELECT pg_catalog.pg_extension_config_dump('ekksync.touched_id_seq', '');

REVOKE ALL ON ALL TABLES IN SCHEMA ekksync FROM PUBLIC;

/* ---------------------------------------------------------- set up, take down */

CREATE FUNCTION ekksync.capture() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_capture';
COMMENT ON FUNCTION ekksync.capture() IS 'trigger: writes the queue row of a changed member';

CREATE FUNCTION ekksync.note_by_hand() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_note_by_hand';
COMMENT ON FUNCTION ekksync.note_by_hand() IS 'trigger on the queue table: notes rows that are settled or deleted by hand';

CREATE FUNCTION ekksync_attach(
	member_table regclass,
	initial text DEFAULT 'django',
	filter text DEFAULT NULL,
	key_column text DEFAULT 'ssn',
	queue_table text DEFAULT NULL,
	run_as regrole DEFAULT NULL,
	OUT object text, OUT outcome text, OUT detail text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_attach';
COMMENT ON FUNCTION ekksync_attach(regclass, text, text, text, text, regrole) IS
'attach to the member table: queue table, triggers, default mapping, first contact; says what it did';

CREATE FUNCTION ekksync_detach(OUT object text, OUT outcome text, OUT detail text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_detach';
COMMENT ON FUNCTION ekksync_detach() IS
'remove triggers, mapping and base; the queue table and the history of runs stay';

CREATE FUNCTION ekksync_map(
	field text,
	path text,
	codec text,
	relation regclass DEFAULT NULL,
	"column" text DEFAULT NULL,
	link text DEFAULT NULL,
	direction text DEFAULT 'both',
	policy text DEFAULT 'lww',
	options jsonb DEFAULT NULL,
	compute regprocedure DEFAULT NULL,
	apply regprocedure DEFAULT NULL,
	depends jsonb DEFAULT NULL)
	RETURNS void
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_map';
COMMENT ON FUNCTION ekksync_map(text, text, text, regclass, text, text, text, text, jsonb, regprocedure, regprocedure, jsonb) IS
'map a field, or change its mapping, and note every member as due for it';

CREATE FUNCTION ekksync_unmap(field text) RETURNS boolean
	STRICT LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_unmap';
COMMENT ON FUNCTION ekksync_unmap(text) IS
'stop mapping a field; its values stay on both sides; false if it was not mapped';

/* ------------------------------------------------------------------- runs */

CREATE FUNCTION ekksync_run(
	direction text DEFAULT 'both',
	dry_run boolean DEFAULT false,
	wait boolean DEFAULT true,
	"only" text[] DEFAULT NULL,
	force boolean DEFAULT false,
	OUT run bigint, OUT status text,
	OUT to_firestore integer, OUT to_django integer,
	OUT conflicts integer, OUT failed integer,
	OUT duration interval, OUT message text,
	OUT member text, OUT side text, OUT field text,
	OUT old_value jsonb, OUT new_value jsonb, OUT note text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_run';
COMMENT ON FUNCTION ekksync_run(text, boolean, boolean, text[], boolean) IS
'one run by a worker: its figures; for a dry run also one row for each value that it would write';

CREATE FUNCTION ekksync_backfill(
	direction text DEFAULT 'to_firestore',
	dry_run boolean DEFAULT false,
	force boolean DEFAULT false,
	OUT run bigint, OUT status text,
	OUT to_firestore integer, OUT to_django integer,
	OUT conflicts integer, OUT failed integer,
	OUT duration interval, OUT message text,
	OUT docs_read bigint, OUT docs_written bigint, OUT price numeric,
	OUT member text, OUT side text, OUT field text,
	OUT old_value jsonb, OUT new_value jsonb, OUT note text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_backfill';
COMMENT ON FUNCTION ekksync_backfill(text, boolean, boolean) IS
'all members again, to Firestore or from it, by a worker; goes on where an earlier call was ended; says the price first';

CREATE FUNCTION ekksync_repair(
	take text,
	dry_run boolean DEFAULT false,
	force boolean DEFAULT false,
	OUT run bigint, OUT status text,
	OUT to_firestore integer, OUT to_django integer,
	OUT conflicts integer, OUT failed integer,
	OUT duration interval, OUT message text,
	OUT docs_read bigint, OUT docs_written bigint, OUT price numeric,
	OUT member text, OUT side text, OUT field text,
	OUT old_value jsonb, OUT new_value jsonb, OUT note text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_repair';
COMMENT ON FUNCTION ekksync_repair(text, boolean, boolean) IS
'mend what ekksync_diff() would show: as a run does, and by the chosen side''s value where nobody has said what is to be';

CREATE FUNCTION ekksync_cleanup(
	days integer DEFAULT NULL,
	OUT what text, OUT removed bigint)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_cleanup';
COMMENT ON FUNCTION ekksync_cleanup(integer) IS
'remove what is older than it is to be kept, by a worker in short transactions: how much of each kind';

CREATE FUNCTION ekksync_forget(
	key text,
	OUT what text, OUT erased bigint)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_forget';
COMMENT ON FUNCTION ekksync_forget(text) IS
'erase a person who is no member any more, on both sides; a salted hash of the kennitala stays';

CREATE FUNCTION ekksync_pause(reason text DEFAULT NULL) RETURNS void
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_pause';
COMMENT ON FUNCTION ekksync_pause(text) IS 'refuse runs until ekksync_resume()';

CREATE FUNCTION ekksync_resume() RETURNS void
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_resume';
COMMENT ON FUNCTION ekksync_resume() IS
'allow runs again; where a run has paused by itself, accept the project, database and cluster that the next one finds';

CREATE FUNCTION ekksync_next_runs(
	n integer DEFAULT 5,
	schedule text DEFAULT NULL,
	timezone text DEFAULT NULL,
	after timestamptz DEFAULT NULL,
	OUT at timestamptz, OUT local_time timestamp)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_next_runs';
COMMENT ON FUNCTION ekksync_next_runs(integer, text, text, timestamptz) IS
'when the next runs are due, by the settings, or by another schedule, in another time zone, after another time';

/* ------------------------------------------------------- overturn, look back */

CREATE FUNCTION ekksync_resolve(conflict bigint, take text DEFAULT NULL, value jsonb DEFAULT NULL) RETURNS text
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_resolve';
COMMENT ON FUNCTION ekksync_resolve(bigint, text, jsonb) IS
'decide a conflict for a side or for a value, and close it; the next run carries it out';

CREATE FUNCTION ekksync_undo(
	run bigint,
	dry_run boolean DEFAULT false,
	OUT member text, OUT side text, OUT field text,
	OUT old_value jsonb, OUT new_value jsonb, OUT outcome text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_undo';
COMMENT ON FUNCTION ekksync_undo(bigint, boolean) IS
'take back what a run wrote and nobody has changed since: in Django now, in Firestore by the next run';

CREATE FUNCTION ekksync_history(
	key text,
	field text DEFAULT NULL,
	OUT at timestamptz, OUT what text, OUT field text,
	OUT old_value jsonb, OUT new_value jsonb,
	OUT run bigint, OUT detail text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_history';
COMMENT ON FUNCTION ekksync_history(text, text) IS
'who changed a member, or one of its fields, when, on which side, what lost and why';

/* ------------------------------------------------------------------- look */

CREATE FUNCTION ekksync_status(
	OUT pending bigint, OUT synced bigint, OUT failed bigint,
	OUT oldest_pending timestamptz,
	OUT first_contact bigint,
	OUT last_run bigint, OUT last_run_at timestamptz, OUT last_run_status text,
	OUT next_run timestamptz,
	OUT paused boolean,
	OUT health text, OUT reason text, OUT reasons text[])
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_status';
COMMENT ON FUNCTION ekksync_status() IS 'queue counts, last and next run, pause, health with its reasons';

CREATE FUNCTION ekksync.metrics(
	OUT name text, OUT labels jsonb, OUT value double precision, OUT type text, OUT help text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_metrics';
COMMENT ON FUNCTION ekksync.metrics() IS
'what a monitoring system should know, without personal data; read through the view ekksync_metrics';

CREATE FUNCTION ekksync_check(OUT "check" text, OUT ok boolean, OUT detail text, OUT hint text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_check';
COMMENT ON FUNCTION ekksync_check() IS 'each precondition of a run: met or not, and what to do';

CREATE FUNCTION ekksync_diff(
	OUT member text, OUT field text,
	OUT django_value jsonb, OUT firestore_value jsonb,
	OUT why text, OUT detail text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_diff';
COMMENT ON FUNCTION ekksync_diff() IS
'where the two sides differ now, field by field, and why; writes nothing on either side';

CREATE FUNCTION ekksync_member(key text) RETURNS jsonb
	STRICT LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_member';
COMMENT ON FUNCTION ekksync_member(text) IS 'the member as its Firestore document would be, from PostgreSQL alone; null if there is none';

CREATE FUNCTION ekksync_doc(key text) RETURNS jsonb
	STRICT LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_doc';
COMMENT ON FUNCTION ekksync_doc(text) IS 'the member''s Firestore document as it is now; null if there is none';

CREATE FUNCTION ekksync.queue_rows(
	status text,
	OUT id bigint, OUT member_id bigint, OUT ssn text, OUT action text,
	OUT fields_changed jsonb, OUT created_at timestamptz, OUT synced_at timestamptz,
	OUT sync_status text, OUT error_message text, OUT retry_count integer)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_queue_rows';
COMMENT ON FUNCTION ekksync.queue_rows(text) IS
'rows of the attached queue table with this status (null: all), for a caller who may select from it';

CREATE FUNCTION ekksync.queue_counts(
	OUT sync_status text, OUT count bigint, OUT oldest timestamptz, OUT newest timestamptz)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_queue_counts';
COMMENT ON FUNCTION ekksync.queue_counts() IS
'rows of the attached queue table counted by status, for a caller who may select from it';

/* --------------------------------------------- the queue, for the endpoints */

CREATE FUNCTION ekksync_changes(
	since timestamptz DEFAULT NULL,
	max integer DEFAULT NULL,
	OUT id bigint, OUT member_id bigint, OUT ssn text, OUT action text,
	OUT fields_changed jsonb, OUT created_at timestamptz)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_changes';
COMMENT ON FUNCTION ekksync_changes(timestamptz, integer) IS
'queue rows that are pending, oldest first, whatever their age';

CREATE FUNCTION ekksync_apply(
	changes jsonb,
	OUT ordinal integer, OUT ssn text, OUT status text,
	OUT updated_fields text[], OUT message text)
	RETURNS SETOF record
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_apply';
COMMENT ON FUNCTION ekksync_apply(jsonb) IS
'apply changes from Firestore, in the form of the endpoint, through the merge of a run: one result for each, in the order given';

CREATE FUNCTION ekksync_mark_synced(ids bigint[]) RETURNS bigint
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_mark_synced';
COMMENT ON FUNCTION ekksync_mark_synced(bigint[]) IS
'mark pending queue rows as synced: how many; the next run looks whether it is so';

CREATE FUNCTION ekksync_retry(ids bigint[] DEFAULT NULL) RETURNS bigint
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_retry';
COMMENT ON FUNCTION ekksync_retry(bigint[]) IS
'let the next run try failed queue rows again, or all of them and failed entries of Firestore: how many';

CREATE FUNCTION ekksync_clear(status text) RETURNS bigint
	LANGUAGE C AS 'MODULE_PATHNAME', 'ekksync_clear';
COMMENT ON FUNCTION ekksync_clear(text) IS
'remove the queue rows of one status: how many; the next run looks at the members of those that were not synced';

/* ----------------------------------------------------------------- values */

CREATE FUNCTION ekksync.encode_value(codec text, value jsonb, options jsonb DEFAULT NULL) RETURNS jsonb
	LANGUAGE C IMMUTABLE AS 'MODULE_PATHNAME', 'ekksync_encode_value';
COMMENT ON FUNCTION ekksync.encode_value(text, jsonb, jsonb) IS
'the Firestore Value that a codec makes of a canonical value';

CREATE FUNCTION ekksync.decode_value(codec text, value jsonb, options jsonb DEFAULT NULL) RETURNS jsonb
	LANGUAGE C IMMUTABLE AS 'MODULE_PATHNAME', 'ekksync_decode_value';
COMMENT ON FUNCTION ekksync.decode_value(text, jsonb, jsonb) IS
'the canonical value that a codec reads from a Firestore Value';

CREATE FUNCTION ekksync.canonical(codec text, value anyelement, options jsonb DEFAULT NULL) RETURNS jsonb
	LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'ekksync_canonical';
COMMENT ON FUNCTION ekksync.canonical(text, anyelement, jsonb) IS
'the canonical form in which a codec compares a column''s value';

CREATE FUNCTION ekksync.plain(value jsonb) RETURNS jsonb
	STRICT LANGUAGE C IMMUTABLE AS 'MODULE_PATHNAME', 'ekksync_plain';
COMMENT ON FUNCTION ekksync.plain(jsonb) IS 'a Firestore Value of any type as plain JSON';

CREATE FUNCTION ekksync.field_path(path text) RETURNS text
	STRICT LANGUAGE C IMMUTABLE AS 'MODULE_PATHNAME', 'ekksync_field_path';
COMMENT ON FUNCTION ekksync.field_path(text) IS 'a field path with the quoting that Firestore wants';

/* ------------------------------------------------------------------ views */

CREATE VIEW ekksync_queue_status AS SELECT * FROM ekksync.queue_counts();
COMMENT ON VIEW ekksync_queue_status IS 'the queue counted by status';

CREATE VIEW ekksync_pending AS
	SELECT id, member_id, ssn, action, fields_changed, created_at, error_message, retry_count
	FROM ekksync.queue_rows('pending');
COMMENT ON VIEW ekksync_pending IS 'queue rows that wait for a run';

CREATE VIEW ekksync_failed AS
	SELECT 'django'::text AS side, id::text AS id, ssn AS member, action, fields_changed AS changes,
		created_at, error_message, retry_count
	FROM ekksync.queue_rows('failed')
	UNION ALL
	SELECT 'firestore', doc_id, key, action, changes, stamp, error_message, retry_count
	FROM ekksync.inbox
	WHERE error_message IS NOT NULL;
COMMENT ON VIEW ekksync_failed IS 'changes of both sides that could not be applied, with the reason';

CREATE VIEW ekksync_conflicts AS
	SELECT id, run, key AS member, field, django_value, firestore_value,
		django_time, firestore_time_from, firestore_time,
		skew, winner, rule, potential, created_at, resolved_at, resolved_by
	FROM ekksync.conflict;
COMMENT ON VIEW ekksync_conflicts IS 'concurrent changes of one field: both values, both times, who won and why';

CREATE VIEW ekksync_strangers AS
	SELECT key AS member, doc_time, tried IS NOT NULL AS tried, problem
	FROM ekksync.stranger;
COMMENT ON VIEW ekksync_strangers IS 'documents in members that PostgreSQL does not know, as far as scans and entries have shown, and why they are not inserted';

CREATE VIEW ekksync_runs AS
	SELECT id AS run, status, direction, dry_run, mode, scan, scheduled, started_at,
		finished_at OPERATOR(pg_catalog.-) started_at AS duration,
		to_firestore, to_firestore_failed, to_django, to_django_failed, conflicts,
		docs_read, docs_scanned, docs_written, docs_deleted, requests, retries,
		bytes_sent, bytes_received, peak_memory_kb, skew, skew_error, phase, cleaned, sqlstate, error, log_document
	FROM ekksync.run;
COMMENT ON VIEW ekksync_runs IS 'the history of runs, with their cost';

CREATE VIEW ekksync_phases AS
	SELECT r.id AS run, p.phase,
		p.took OPERATOR(pg_catalog.*) interval '1 microsecond' AS duration,
		p.done, p.requests, p.retries, p.docs_read, p.docs_written,
		p.bytes_sent, p.bytes_received
	FROM ekksync.run AS r,
		ROWS FROM (pg_catalog.jsonb_to_recordset(r.phases) AS (
			phase text, took bigint, done bigint, requests bigint, retries bigint,
			docs_read bigint, docs_written bigint, bytes_sent bigint, bytes_received bigint)) WITH ORDINALITY AS p
	ORDER BY r.id, p.ordinality;
COMMENT ON VIEW ekksync_phases IS 'what each phase of each run did, took and cost';

CREATE VIEW ekksync.at_work AS
	SELECT pid FROM pg_catalog.pg_locks
	WHERE locktype OPERATOR(pg_catalog.=) 'advisory'
		AND database OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_database
			WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
		AND classid OPERATOR(pg_catalog.=) 'ekksync.run'::regclass::oid
		AND objid OPERATOR(pg_catalog.=) 0::oid AND objsubid OPERATOR(pg_catalog.=) 3
		AND mode OPERATOR(pg_catalog.=) 'ExclusiveLock' AND granted;
COMMENT ON VIEW ekksync.at_work IS 'the process that holds the run lock of this database';

CREATE VIEW ekksync_progress AS
	SELECT n.id AS run, n.pid,
		CASE WHEN n.dry_run AND n.mode OPERATOR(pg_catalog.=) 'sync' THEN 'dry run' ELSE n.mode END AS mode,
		n.direction, n.phase, n.done, n.total,
		pg_catalog.round(n.done OPERATOR(pg_catalog./) n.seconds, 1) AS rate,
		CASE WHEN n.done OPERATOR(pg_catalog.>) 0 THEN pg_catalog.date_trunc('second',
			pg_catalog.make_interval(secs => ((n.total OPERATOR(pg_catalog.-) n.done)
				OPERATOR(pg_catalog.*) n.seconds OPERATOR(pg_catalog./) n.done)::double precision)) END AS eta,
		pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) n.started_at) AS elapsed
	FROM (SELECT r.id, r.pid, r.dry_run, r.mode, r.direction, r.phase, r.started_at,
			(p.x OPERATOR(pg_catalog.->>) 'done')::numeric AS done,
			(p.x OPERATOR(pg_catalog.->>) 'total')::numeric AS total,
			GREATEST(0.001, EXTRACT(epoch FROM pg_catalog.clock_timestamp())::numeric
				OPERATOR(pg_catalog.-) (p.x OPERATOR(pg_catalog.->>) 'since')::numeric) AS seconds
		FROM ekksync.run AS r
			JOIN ekksync.at_work AS w ON w.pid OPERATOR(pg_catalog.=) r.pid
			CROSS JOIN LATERAL (SELECT r.phases OPERATOR(pg_catalog.->) -1) AS p (x)
		WHERE r.status OPERATOR(pg_catalog.=) 'running') AS n;
COMMENT ON VIEW ekksync_progress IS 'the run that is at work: phase, what is done of how much, by the second, and how long the phase will still take';

CREATE VIEW ekksync_metrics AS SELECT * FROM ekksync.metrics();
COMMENT ON VIEW ekksync_metrics IS 'figures for a monitoring system, by names that stay, without personal data';
CREATE VIEW ekksync_costs AS
	SELECT day, reads, writes, deletes, requests, retries, bytes_sent, bytes_received,
		pg_catalog.round(price, 4) AS price
	FROM ekksync.cost;
COMMENT ON VIEW ekksync_costs IS 'what runs have cost, by day of Firestore''s quota, at the prices of their time';

CREATE VIEW ekksync_plan AS
	SELECT key AS member, side, field, old_value, new_value, note, run
	FROM ekksync.plan ORDER BY run, id;
COMMENT ON VIEW ekksync_plan IS 'what the last dry run, or run in observe mode, would have written, and why';

CREATE VIEW ekksync_mapping AS
	SELECT field, relation, "column", link, path, codec, options, direction, policy, compute, apply
	FROM ekksync.mapping;
COMMENT ON VIEW ekksync_mapping IS 'the mapping in force: each field''s column or computing function, path, codec, direction and policy';

/* ------------------------------------------------------------- privileges */

REVOKE ALL ON FUNCTION
	ekksync_map(text, text, text, regclass, text, text, text, text, jsonb, regprocedure, regprocedure, jsonb),
	ekksync_unmap(text),
	ekksync_run(text, boolean, boolean, text[], boolean),
	ekksync_backfill(text, boolean, boolean),
	ekksync_repair(text, boolean, boolean),
	ekksync_cleanup(integer),
	ekksync_forget(text),
	ekksync_pause(text),
	ekksync_resume(),
	ekksync_next_runs(integer, text, text, timestamptz),
	ekksync_resolve(bigint, text, jsonb),
	ekksync_undo(bigint, boolean),
	ekksync_history(text, text),
	ekksync_status(),
	ekksync_check(),
	ekksync_diff(),
	ekksync_doc(text),
	ekksync_member(text),
	ekksync_changes(timestamptz, integer),
	ekksync_apply(jsonb),
	ekksync_mark_synced(bigint[]),
	ekksync_retry(bigint[]),
	ekksync_clear(text)
FROM PUBLIC;

/* Monitoring sees how it goes, and no member. */
GRANT EXECUTE ON FUNCTION ekksync_status() TO pg_monitor;
GRANT SELECT ON ekksync_progress, ekksync_phases, ekksync_metrics TO pg_monitor;
