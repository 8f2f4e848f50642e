--
-- Capture: what the triggers write to the queue.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set registry :abs_srcdir '/sql/registry.inc'
\set ECHO none
\i :registry
\set ECHO all
SELECT count(*) > 40 AS attached FROM ekksync_attach('membership_comrade');

-- a save as Django's ORM makes it: all columns, one really changed
UPDATE membership_comrade SET name = name, ssn = ssn, birthday = birthday, date_joined = date_joined,
	reachable = false, groupable = groupable, housing_situation = housing_situation, gender = gender
	WHERE id = 1;
:show
-- nothing changed, nothing mapped changed
UPDATE membership_comrade SET name = name, birthday = birthday, gender = gender;
UPDATE membership_comrade SET remark = 'not mapped';
:show
-- values in their canonical form, null too
UPDATE membership_comrade SET name = 'Nýtt "nafn"', birthday = NULL, gender = 0, housing_situation = 6,
	date_joined = '2020-02-03 04:05:06.789012+02' WHERE id = 1;
:show
-- a value without canonical form does not fail the application
UPDATE membership_comrade SET gender = 9, birthday = 'infinity' WHERE id = 1;
UPDATE membership_comrade SET gender = 1, birthday = '1930-01-01' WHERE id = 1;
:show

-- many rows in one statement
UPDATE membership_comrade SET groupable = false;
:show
-- insert, COPY, ON CONFLICT
INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (10, 'Jón', '0404604429', '2024-01-01');
COPY membership_comrade (id, name, ssn, date_joined, gender) FROM stdin;
11	Ása	0505705539	2024-01-02	2
12	Bára	0606806649	2024-01-03	2
\.
:show
INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (10, 'Jón Jónsson', '0404604429', '2024-01-01')
	ON CONFLICT (id) DO UPDATE SET name = excluded.name;
INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (10, 'Annar', '0404604429', '2024-01-01')
	ON CONFLICT DO NOTHING;
:show

-- what is rolled back leaves nothing
BEGIN;
UPDATE membership_comrade SET name = 'a' WHERE id = 10;
SAVEPOINT s;
UPDATE membership_comrade SET name = 'b' WHERE id = 10;
ROLLBACK TO s;
UPDATE membership_comrade SET gender = 3 WHERE id = 10;
COMMIT;
:show
BEGIN;
UPDATE membership_comrade SET name = 'c' WHERE id = 10;
ROLLBACK;
:show

-- stamps: of the clock, rising within a transaction, above what was there
BEGIN;
UPDATE membership_comrade SET gender = 1 WHERE id = 10;
UPDATE membership_comrade SET gender = 2 WHERE id = 10;
UPDATE membership_comrade SET gender = 3 WHERE id = 10;
SELECT count(DISTINCT created_at), min(created_at) > now() AS after_start FROM membership_membersyncqueue;
COMMIT;
UPDATE membership_membersyncqueue SET created_at = '2999-01-01' WHERE id = (SELECT max(id) FROM membership_membersyncqueue);
UPDATE membership_comrade SET gender = 2 WHERE id = 10;
SELECT max(created_at) FROM membership_membersyncqueue;
DELETE FROM membership_membersyncqueue;

-- a changed key: the old member goes, a new one comes
UPDATE membership_comrade SET ssn = '0707907759' WHERE id = 12;
:show
-- a member is deleted: none of its rows refers to it any more
UPDATE membership_comrade SET name = 'Fer' WHERE id = 12;
DELETE FROM membership_comrade WHERE id = 12;
:show
-- unusable keys
INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (13, 'x', '', '2024-01-01'), (14, 'y', '12345', '2024-01-01');
:show
DELETE FROM membership_comrade WHERE id IN (13, 14);
:show

-- related tables
UPDATE membership_contactinfo SET phone = phone, email = 'ny@example.is', remark = 'z' WHERE comrade_id = 1;
UPDATE membership_contactinfo SET remark = 'only this' WHERE comrade_id = 1;
INSERT INTO membership_contactinfo (comrade_id, phone) VALUES (3, '+354 555 9999');
:show
UPDATE membership_contactinfo SET comrade_id = 10 WHERE comrade_id = 3;
:show
DELETE FROM membership_contactinfo WHERE comrade_id = 10;
:show
-- nobody's row
BEGIN;
INSERT INTO membership_contactinfo (comrade_id, phone) VALUES (999, '1');
:show
ROLLBACK;

-- computed fields are noted as changed
INSERT INTO membership_unionmembership (comrade_id, union_id) VALUES (3, 1);
UPDATE membership_unionmembership SET union_id = 2 WHERE comrade_id = 3;
UPDATE membership_unionmembership SET union_id = 2 WHERE comrade_id = 3;
DELETE FROM membership_unionmembership WHERE comrade_id = 3;
:show
UPDATE membership_union SET name = 'VR, nýtt' WHERE id = 2;
INSERT INTO membership_union (name, abbreviation) VALUES ('Sameyki', 'S');
:show
UPDATE membership_title SET name = 'formaður félags' WHERE id = 1;
UPDATE map_municipality SET name = 'Reykjavíkurborg' WHERE id = 1;
UPDATE map_address SET letter = 'c' WHERE id = 2;
INSERT INTO membership_newlocaladdress (comrade_id, address_id) VALUES (3, 1);
:show
SELECT id, membership_comrade_ekksync_unions(id) AS unions, membership_comrade_ekksync_titles(id) AS titles,
	membership_comrade_ekksync_street_address(id) AS street, membership_comrade_ekksync_postal_code(id) AS code,
	membership_comrade_ekksync_city(id) AS city
FROM membership_comrade ORDER BY id;

-- a role that has no right on the queue, nor on our schema; a hostile path
RESET ROLE;
SET ROLE regress_ekksync_clerk;
SELECT * FROM membership_membersyncqueue;
SELECT * FROM ekksync.state;
CREATE FUNCTION pg_temp.max(timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''hijacked''; END';
SET search_path = pg_temp, registry, public;
UPDATE registry.membership_comrade SET name = 'Ritari' WHERE id = 1;
DELETE FROM registry.membership_comrade WHERE id = 11;
SET search_path = registry, public;
SELECT current_user;
DROP FUNCTION pg_temp.max(timestamptz);
RESET ROLE;
SET ROLE regress_ekksync_app;
:show

-- a mapped column is renamed: the application goes on, the row says it
ALTER TABLE membership_comrade RENAME COLUMN birthday TO born;
UPDATE membership_comrade SET name = 'Eftir' WHERE id = 1;
UPDATE membership_comrade SET born = '1930-01-02' WHERE id = 1;
UPDATE membership_comrade SET born = born WHERE id = 1;
INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (20, 'Ný', '0808108869', '2024-01-01');
:show
ALTER TABLE membership_comrade RENAME COLUMN born TO birthday;
UPDATE membership_comrade SET birthday = '1930-01-01' WHERE id = 1;
:show
-- a link column is
ALTER TABLE membership_contactinfo RENAME COLUMN comrade_id TO member_id;
UPDATE membership_contactinfo SET email = 'x@example.is' WHERE member_id = 2;
UPDATE membership_contactinfo SET email = 'x@example.is' WHERE member_id = 2;
:show
ALTER TABLE membership_contactinfo RENAME COLUMN member_id TO comrade_id;
-- the key column is
ALTER TABLE membership_comrade RENAME COLUMN ssn TO kennitala;
UPDATE membership_comrade SET name = 'Án lykils' WHERE id = 1;
DELETE FROM membership_comrade WHERE id = 20;
UPDATE membership_contactinfo SET email = 'y@example.is' WHERE comrade_id = 2;
:show
ALTER TABLE membership_comrade RENAME COLUMN kennitala TO ssn;
-- a renamed schema is no trouble
RESET ROLE;
ALTER SCHEMA registry RENAME TO skra;
UPDATE skra.membership_comrade SET name = 'Skrá' WHERE id = 1;
UPDATE skra.membership_contactinfo SET email = 'z@example.is' WHERE comrade_id = 2;
ALTER SCHEMA skra RENAME TO registry;
SET ROLE regress_ekksync_app;
:show

-- TRUNCATE of a related table, then of the member table: one delete a live key
TRUNCATE membership_unionmembership;
:show
UPDATE membership_comrade SET name = 'í biðröð' WHERE id = 1;
INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES (30, 'Ný', '0909209979', '2024-01-01');
DELETE FROM membership_comrade WHERE id = 10;
TRUNCATE membership_comrade CASCADE;
SELECT ssn, action, member_id FROM membership_membersyncqueue ORDER BY ssn COLLATE "C", id;
DELETE FROM membership_membersyncqueue;
TRUNCATE membership_comrade CASCADE;
SELECT ssn, action FROM membership_membersyncqueue ORDER BY ssn COLLATE "C", id;

SELECT count(*) > 0 AS detached FROM ekksync_detach();
INSERT INTO membership_comrade (name, ssn, date_joined) VALUES ('Eftir', '0101302989', '2024-01-01');
DROP TABLE membership_membersyncqueue;

-- the queue that Django's migration made, with its deferred foreign key
CREATE TABLE membership_membersyncqueue (
	id serial PRIMARY KEY,
	member_id int REFERENCES membership_comrade DEFERRABLE INITIALLY DEFERRED,
	ssn varchar(10) NOT NULL, action varchar(20) NOT NULL, fields_changed jsonb NOT NULL,
	created_at timestamptz NOT NULL, synced_at timestamptz, sync_status varchar(20) NOT NULL,
	error_message text NOT NULL, retry_count int NOT NULL);
SELECT object, outcome, detail FROM ekksync_attach('membership_comrade') WHERE object ~ 'queue table|column|index';
UPDATE membership_comrade SET name = 'Bíður';
BEGIN;
UPDATE membership_comrade SET name = 'Fer';
DELETE FROM membership_comrade;
COMMIT;
:show
SELECT count(*) > 0 AS detached FROM ekksync_detach();

-- a filter: into scope is a create, out of scope a delete
INSERT INTO membership_comrade (id, name, ssn, date_joined) VALUES
	(40, 'Inni', '0101302989', '2024-01-01'), (41, 'Úti', '9999999999', '2024-01-01');
INSERT INTO membership_contactinfo (comrade_id, email) VALUES (40, 'inni@example.is'), (41, 'uti@example.is');
CREATE FUNCTION counts(text) RETURNS bool LANGUAGE sql STABLE AS $$ SELECT $1 NOT LIKE '9999%' $$;
SELECT object, outcome, detail FROM ekksync_attach('membership_comrade', filter => 'counts(ssn)') WHERE object = 'members';
UPDATE membership_comrade SET name = name || '!';
UPDATE membership_contactinfo SET email = 'x' || email;
:show
UPDATE membership_comrade SET ssn = '0202402129' WHERE id = 41;
UPDATE membership_comrade SET ssn = '9999999998' WHERE id = 40;
:show
TRUNCATE membership_unionmembership;
DELETE FROM membership_contactinfo WHERE comrade_id = 40;
DELETE FROM membership_comrade WHERE id = 40;
:show
-- a filter that fails leaves the member in scope and says why
CREATE OR REPLACE FUNCTION counts(text) RETURNS bool LANGUAGE sql STABLE AS $$ SELECT 1 / length($1) * 0 = 1 / 0 $$;
UPDATE membership_comrade SET name = 'Villa' WHERE id = 41;
UPDATE membership_contactinfo SET email = 'villa@example.is' WHERE comrade_id = 41;
:show

RESET ROLE;
DROP EXTENSION ekksync;
SET client_min_messages = warning;
DROP SCHEMA registry CASCADE;
DROP ROLE regress_ekksync_app, regress_ekksync_clerk;
