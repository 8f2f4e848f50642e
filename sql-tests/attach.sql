--
-- Attach and detach: what is made, kept, mended, refused and taken away.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set registry :abs_srcdir '/sql/registry.inc'
\set ECHO none
\i :registry
\set ECHO all
\set VERBOSITY terse

-- doubled, missing and malformed keys are said
INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Tvöföld', '0101302989', '2024-01-01'),
	('Engin', '', '2024-01-01'), ('Gölluð', '12', '2024-01-01');
SELECT * FROM ekksync_attach('membership_comrade');
-- at every attach, and not noted as missed
SELECT * FROM ekksync_attach('membership_comrade') WHERE outcome <> 'kept';
DELETE FROM membership_comrade WHERE id = 6;
SELECT * FROM ekksync_attach('membership_comrade') WHERE outcome <> 'kept';
DELETE FROM membership_comrade WHERE id > 3;
DELETE FROM membership_membersyncqueue;

-- what was made belongs to the owner of the member table
SELECT c.relname, c.relowner::regrole FROM pg_class c WHERE c.relname = 'membership_membersyncqueue';
SELECT p.proname, p.proowner::regrole, p.proconfig FROM pg_proc p
	WHERE p.proname LIKE 'membership\_comrade\_ekksync%' ORDER BY 1;
SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
	FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	WHERE attrelid = 'membership_membersyncqueue'::regclass AND attnum > 0 ORDER BY attnum;
SELECT indexdef FROM pg_indexes WHERE tablename = 'membership_membersyncqueue' ORDER BY 1;
RESET ROLE;
SELECT member_table, queue_table, id_column, key_column, filter, initial, run_as, project, database_id,
	cardinality(created_functions) FROM ekksync.state;
SELECT key, due, first_contact FROM ekksync.member ORDER BY key;
SELECT field, relation, "column", link, path, codec, direction, policy, compute FROM ekksync.mapping ORDER BY field COLLATE "C";
SELECT * FROM ekksync.dependency ORDER BY field COLLATE "C", relation::text COLLATE "C";
-- the owner may run and look
SELECT has_function_privilege('regress_ekksync_app', 'ekksync_status()', 'EXECUTE') AS run,
	has_table_privilege('regress_ekksync_app', 'ekksync_runs', 'SELECT') AS look,
	has_function_privilege('regress_ekksync_clerk', 'ekksync_status()', 'EXECUTE') AS clerk;

-- attaching again changes nothing
SET ROLE regress_ekksync_app;
SELECT DISTINCT outcome FROM ekksync_attach('membership_comrade');
-- and mends what is missing
DROP TRIGGER ekksync_capture ON membership_comrade;
ALTER TABLE membership_contactinfo DISABLE TRIGGER ekksync_capture_truncate;
DROP FUNCTION membership_comrade_ekksync_titles(int);
ALTER TABLE membership_membersyncqueue DROP COLUMN retry_count, ALTER COLUMN error_message DROP DEFAULT;
-- a change that the queue cannot take is refused, and says what to do
\set VERBOSITY default
UPDATE membership_contactinfo SET phone = '5550000' WHERE comrade_id = 1;
\set VERBOSITY terse
TRUNCATE membership_comrade CASCADE;
RESET ROLE;
DELETE FROM ekksync.member WHERE key = '0101302989';
UPDATE ekksync.member SET due = false;
SET ROLE regress_ekksync_app;
SELECT * FROM ekksync_attach('membership_comrade') WHERE outcome <> 'kept';
RESET ROLE;
SELECT key, due FROM ekksync.member ORDER BY key;
SET ROLE regress_ekksync_app;
UPDATE membership_comrade SET name = 'Aftur' WHERE id = 1;
:show

-- the queue table cannot go alone
DROP TABLE membership_membersyncqueue;
\set VERBOSITY default
-- a table that the mapping uses takes no queue's place
BEGIN;
SET LOCAL client_min_messages = warning;
DROP TABLE membership_membersyncqueue CASCADE;
SELECT * FROM ekksync_attach('membership_comrade', queue_table => 'membership_contactinfo');
ROLLBACK;

-- what cannot be changed by attaching again
SELECT * FROM ekksync_attach('membership_comrade', initial => 'newest');
SELECT * FROM ekksync_attach('membership_comrade', filter => 'id > 0');
SELECT * FROM ekksync_attach('membership_comrade', key_column => 'name');
SELECT * FROM ekksync_attach('membership_comrade', queue_table => 'other_queue');
SELECT * FROM ekksync_attach('membership_union');

-- who may not
RESET ROLE;
SET ROLE regress_ekksync_clerk;
SELECT * FROM ekksync_attach('membership_comrade');
SELECT * FROM ekksync_detach();
RESET ROLE;
SET ROLE regress_ekksync_app;
-- everything goes but the queue, and the rights to look at the history
SELECT * FROM ekksync_detach();
SELECT * FROM ekksync_detach();
UPDATE membership_comrade SET name = 'Enginn sér' WHERE id = 1;
:show
RESET ROLE;
SELECT has_function_privilege('regress_ekksync_app', 'ekksync_status()', 'EXECUTE') AS run,
	has_table_privilege('regress_ekksync_app', 'ekksync_runs', 'SELECT') AS look;
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'ekksync.capture'::regproc;
SELECT count(*) FROM pg_proc WHERE proname LIKE 'membership\_comrade\_ekksync%';
SELECT (SELECT count(*) FROM ekksync.state) AS state, (SELECT count(*) FROM ekksync.mapping) AS mapping,
	(SELECT count(*) FROM ekksync.dependency) AS dependency, (SELECT count(*) FROM ekksync.member) AS member;
SET ROLE regress_ekksync_app;

-- arguments
SELECT * FROM ekksync_attach('membership_comrade', initial => 'oldest');
SELECT * FROM ekksync_attach('membership_comrade', initial => NULL);
SELECT * FROM ekksync_attach('membership_comrade', key_column => 'kennitala');
SELECT * FROM ekksync_attach('membership_comrade', key_column => 'birthday');
SELECT * FROM ekksync_attach('membership_comrade', queue_table => 'membership_comrade');
SELECT * FROM ekksync_attach('membership_comrade', queue_table => 'a.b.c.d');
SELECT * FROM ekksync_attach(NULL);
SELECT * FROM ekksync_attach('pg_class');
CREATE VIEW members AS SELECT * FROM membership_comrade;
SELECT * FROM ekksync_attach('members');
CREATE TABLE no_key (ssn text);
SELECT * FROM ekksync_attach('no_key');
CREATE TABLE wrong_queue (id int, fields_changed text);
SELECT * FROM ekksync_attach('membership_comrade', queue_table => 'wrong_queue');
-- a table that is no queue is left as it is
SELECT * FROM ekksync_attach('membership_comrade', queue_table => 'membership_title');
SELECT attname FROM pg_attribute WHERE attrelid = 'membership_title'::regclass AND attnum > 0 ORDER BY attnum;
CREATE TABLE strict_queue (id serial, member_id int, ssn text, action text NOT NULL, fields_changed jsonb,
	created_at timestamptz, synced_at timestamptz, sync_status text, tenant int NOT NULL);
SELECT * FROM ekksync_attach('membership_comrade', queue_table => 'strict_queue');
ALTER TABLE strict_queue ALTER COLUMN tenant SET DEFAULT 1, ALTER COLUMN synced_at SET NOT NULL;
SELECT * FROM ekksync_attach('membership_comrade', queue_table => 'strict_queue');
ALTER TABLE strict_queue ALTER COLUMN synced_at DROP NOT NULL;
BEGIN;
SELECT outcome FROM ekksync_attach('membership_comrade', queue_table => 'strict_queue') WHERE object LIKE 'queue table%';
UPDATE membership_comrade SET name = 'Tek við' WHERE id = 1;
SELECT ssn, error_message, retry_count, tenant FROM strict_queue;
-- the queue is not to be mapped
SELECT ekksync_map('note', 'profile.note', 'text', 'strict_queue', 'error_message', 'member_id');
ROLLBACK;
SELECT * FROM ekksync_attach('membership_comrade', filter => 'true) FROM no_key --');
SELECT * FROM ekksync_attach('membership_comrade', filter => 'true); DROP TABLE no_key; SELECT (true');
SELECT * FROM ekksync_attach('membership_comrade', filter => ' ');
SELECT * FROM ekksync_attach('membership_comrade', filter => 'ssn');
SELECT * FROM ekksync_attach('membership_comrade', filter => 'nothing = 1');
SELECT * FROM ekksync_attach('membership_comrade', filter => 'random() < 0.5');
SELECT * FROM ekksync_attach('membership_comrade', filter => 'EXISTS (SELECT FROM no_key)');
SELECT * FROM ekksync_attach('membership_comrade', filter => 'count(*) > 1');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM ekksync_attach('membership_comrade');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM ekksync_attach('membership_comrade');
ROLLBACK;
-- a superuser's table
RESET ROLE;
CREATE TABLE club_member (id int PRIMARY KEY, ssn text);
DO $$ BEGIN PERFORM ekksync_attach('club_member'); EXCEPTION WHEN insufficient_privilege THEN
	RAISE NOTICE '%', SQLERRM; END $$;
GRANT CREATE ON SCHEMA registry TO regress_ekksync_clerk;
SET ROLE regress_ekksync_app;
SELECT * FROM ekksync_attach('membership_comrade', run_as => 'regress_ekksync_clerk');
RESET ROLE;
SELECT * FROM ekksync_attach('membership_comrade', run_as => 'regress_ekksync_clerk');
-- a related table of another owner
ALTER TABLE membership_contactinfo OWNER TO regress_ekksync_clerk;
SET ROLE regress_ekksync_app;
SELECT * FROM ekksync_attach('membership_comrade');
RESET ROLE;
ALTER TABLE membership_contactinfo OWNER TO regress_ekksync_app;
-- a planted function
SET ROLE regress_ekksync_clerk;
CREATE FUNCTION membership_comrade_ekksync_unions(int) RETURNS text[] LANGUAGE sql AS 'SELECT NULL::text[]';
RESET ROLE;
SET ROLE regress_ekksync_app;
SELECT * FROM ekksync_attach('membership_comrade');
RESET ROLE;
DROP FUNCTION membership_comrade_ekksync_unions(int);

-- names that need quotes, a table with one word, some columns only, a filter
CREATE SCHEMA "Ann að" AUTHORIZATION regress_ekksync_app;
SET ROLE regress_ekksync_app;
SET search_path = "Ann að", public;
CREATE TABLE "Félagar" ("Númer" bigint PRIMARY KEY, "Kenni tala" text, name text, gender int);
INSERT INTO "Félagar" VALUES (1, '0101302989', 'Þóra', 2), (2, '9999999999', 'Próf', 1), (3, '010130-2989', 'Afrit', 0);
CREATE TABLE contactinfo ("Félagar_id" bigint PRIMARY KEY, email text);
SELECT * FROM ekksync_attach('"Félagar"', initial => 'newest', key_column => 'Kenni tala',
	filter => $$"Kenni tala" NOT LIKE '9999%' -- fake$$, queue_table => '"Bið röð"');
UPDATE "Félagar" SET name = 'Þóra''s' WHERE "Númer" = 1;
INSERT INTO contactinfo VALUES (1, 'a@example.is'), (2, 'b@example.is');
DELETE FROM "Félagar" WHERE "Númer" = 1;
SELECT member_id, ssn, action, fields_changed, error_message FROM "Bið röð" ORDER BY id;
RESET ROLE;
SELECT filter, initial FROM ekksync.state;
SET ROLE regress_ekksync_app;

-- a member table that is dropped
DROP TABLE "Félagar" CASCADE;
SELECT * FROM ekksync_attach('registry.membership_comrade');
SELECT * FROM ekksync_detach();
SET search_path = registry, public;

-- dropping the extension takes triggers and functions along, not the queue
SELECT count(*) > 0 AS attached FROM ekksync_attach('membership_comrade');
UPDATE membership_comrade SET name = 'Síðasta' WHERE id = 1;
RESET ROLE;
DROP EXTENSION ekksync;
SELECT ssn, fields_changed FROM membership_membersyncqueue;
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'ekksync%';
SELECT count(*) FROM pg_proc WHERE proname LIKE '%\_ekksync\_%';
UPDATE membership_comrade SET name = 'Frjáls' WHERE id = 1;
-- and it can come back, to the queue that stayed
CREATE EXTENSION ekksync;
SET ROLE regress_ekksync_app;
SELECT * FROM ekksync_attach('membership_comrade') WHERE object ~ 'queue|members';

RESET ROLE;
SET client_min_messages = warning;
DROP EXTENSION ekksync;
DROP SCHEMA registry, "Ann að" CASCADE;
DROP ROLE regress_ekksync_app, regress_ekksync_clerk;
