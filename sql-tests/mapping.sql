--
-- Mapping: fields by hand, and what is refused.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set registry :abs_srcdir '/sql/registry.inc'
\set ECHO none
\i :registry
\set ECHO all
SELECT ekksync_map('remark', 'profile.remark', 'text', "column" => 'remark');
SELECT count(*) > 0 AS attached FROM ekksync_attach('membership_comrade');
RESET ROLE;
UPDATE ekksync.member SET due = false, base = '{"name": {}, "remark": {}}';
SET ROLE regress_ekksync_app;

-- a column of the member table: captured, every member due, its base gone
SELECT ekksync_map('remark', 'profile.remark', 'text', "column" => 'remark');
UPDATE membership_comrade SET remark = 'nú' WHERE id = 1;
:show
RESET ROLE;
SELECT key, due, base FROM ekksync.member ORDER BY key;
SELECT relation, "column", link, path, codec, direction, policy FROM ekksync.mapping WHERE field = 'remark';
SET ROLE regress_ekksync_app;
SELECT relation, "column", link, path, codec, options, direction, policy, compute, apply
	FROM ekksync_mapping WHERE field IN ('remark', 'unions', 'gender') ORDER BY field COLLATE "C";
-- changed
SELECT ekksync_map('remark', 'profile.`athuga semd`', 'text', "column" => 'remark', direction => 'push', policy => 'manual');
RESET ROLE;
SELECT relation, "column", link, path, codec, direction, policy FROM ekksync.mapping WHERE field = 'remark';
SET ROLE regress_ekksync_app;
-- moved to a related table, then to a new one, which gets triggers
SELECT ekksync_map('remark', 'profile.remark', 'text', 'membership_contactinfo', 'remark', 'comrade_id');
UPDATE membership_contactinfo SET remark = 'þar' WHERE comrade_id = 1;
CREATE TABLE membership_note (id serial PRIMARY KEY, member int, level int, note text);
SELECT ekksync_map('level', 'profile.level', 'enum', 'membership_note', 'level', 'member',
	options => '{"low": 1, "high": 2}');
SELECT ekksync_map('level', 'profile.level', 'enum', 'membership_note', 'level', 'member',
	direction => 'push', options => '{"low": 1, "high": 2}');
INSERT INTO membership_note (member, level, note) VALUES (2, 2, 'x'), (1, NULL, 'y');
:show
SELECT ekksync_unmap('level');
SELECT ekksync_unmap('level');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'membership_note'::regclass;
UPDATE membership_note SET level = 1;
:show
-- unmapped stays unmapped
SELECT ekksync_unmap('gender');
SELECT count(*) FROM ekksync_attach('membership_comrade') WHERE outcome <> 'kept';
UPDATE membership_comrade SET gender = 3;
:show

-- computed, both ways
CREATE FUNCTION notes(member int) RETURNS text[] LANGUAGE sql STABLE AS
	$$ SELECT array_agg(note ORDER BY id) FROM registry.membership_note n WHERE n.member = $1 $$;
CREATE FUNCTION set_notes(member int, notes text[]) RETURNS void LANGUAGE sql AS
	$$ DELETE FROM registry.membership_note n WHERE n.member = $1;
	INSERT INTO registry.membership_note (member, note) SELECT $1, unnest($2) $$;
SELECT ekksync_map('notes', 'profile.notes', 'text[]', compute => 'notes(int)', apply => 'set_notes(int, text[])',
	depends => '{"membership_note": {"link": "member"}}');
UPDATE membership_note SET note = 'ný' WHERE member = 2;
SELECT set_notes(3, '{a,b}');
:show
RESET ROLE;
SELECT direction, compute, apply FROM ekksync.mapping WHERE field = 'notes';
SELECT * FROM ekksync.dependency WHERE field = 'notes';
SET ROLE regress_ekksync_app;
-- a function that is gone suspends its field
ALTER FUNCTION notes(int) RENAME TO old_notes;
UPDATE membership_note SET note = 'enn' WHERE member = 2;
:show
ALTER FUNCTION old_notes(int) RENAME TO notes;
-- by a query
CREATE TABLE membership_region (id serial PRIMARY KEY, name text, low int, high int);
SELECT ekksync_map('region', 'profile.region', 'text', direction => 'push',
	compute => 'membership_comrade_ekksync_city(int)',
	depends => '{"registry.membership_region": {"members": "SELECT c.id FROM registry.membership_comrade c, registry.membership_region r WHERE r.id = $1 AND c.id BETWEEN r.low AND r.high -- all"}}');
INSERT INTO membership_region (name, low, high) VALUES ('x', 2, 3);
UPDATE membership_region SET name = 'x';
UPDATE membership_region SET name = 'y';
:show

-- refused
SELECT ekksync_map('x', 'profile.x', 'string', "column" => 'remark');
SELECT ekksync_map('x', 'profile.x', 'int', "column" => 'remark');
SELECT ekksync_map('x', 'profile.x', 'text', "column" => 'nothing');
SELECT ekksync_map('x', 'profile..x', 'text', "column" => 'remark');
SELECT ekksync_map('x', '', 'text', "column" => 'remark');
-- one column, two writers
SELECT ekksync_map('x', 'profile.x', 'text', "column" => 'name');
SELECT ekksync_map('x', 'profile.x', 'text', 'membership_contactinfo', 'email', 'comrade_id');
-- several rows of one member; unique in part is not unique
SELECT ekksync_map('x', 'profile.x', 'text', 'membership_note', 'note', 'member');
CREATE UNIQUE INDEX ON membership_note (member, level);
CREATE UNIQUE INDEX ON membership_note (member) WHERE level = 1;
SELECT ekksync_map('x', 'profile.x', 'text', 'membership_note', 'note', 'member');
BEGIN;
DELETE FROM membership_note;
CREATE UNIQUE INDEX ON membership_note (member);
SELECT ekksync_map('x', 'profile.x', 'text', 'membership_note', 'note', 'member');
SELECT ekksync_map('x2', 'profile.x2', 'text', 'membership_note', 'note', 'member', direction => 'push');
SELECT field, link, direction FROM ekksync_mapping WHERE relation = 'membership_note'::regclass ORDER BY field COLLATE "C";
ROLLBACK;
-- the queue
SELECT ekksync_map('x', 'profile.x', 'text', 'membership_membersyncqueue', 'error_message', 'member_id', direction => 'push');
SELECT ekksync_map('x', 'profile.name', 'text', "column" => 'remark');
SELECT ekksync_map('x', 'profile', 'jsonb', "column" => 'remark');
SELECT ekksync_map('x', 'profile.name.first', 'text', "column" => 'remark');
SELECT ekksync_map('x', 'membership.status', 'text', "column" => 'remark');
SELECT ekksync_map('x', 'updated_at', 'text', "column" => 'remark');
SELECT ekksync_map('status', 'profile.x', 'text', "column" => 'remark');
SELECT ekksync_map('', 'profile.x', 'text', "column" => 'remark');
SELECT ekksync_map(NULL, 'profile.x', 'text', "column" => 'remark');
SELECT ekksync_map('x', 'profile.x', 'text', "column" => 'remark', direction => 'pull');
SELECT ekksync_map('x', 'profile.x', 'text', "column" => 'remark', policy => 'best');
SELECT ekksync_map('x', 'profile.x', 'enum', "column" => 'gender');
SELECT ekksync_map('x', 'profile.x', 'text');
SELECT ekksync_map('x', 'profile.x', 'text', 'membership_contactinfo', 'remark');
SELECT ekksync_map('x', 'profile.x', 'text', 'membership_contactinfo', 'remark', 'phone');
SELECT ekksync_map('x', 'profile.x', 'text', 'membership_note', 'note', 'level');
SELECT ekksync_map('x', 'profile.x', 'text', "column" => 'remark', link => 'id');
SELECT ekksync_map('x', 'profile.x', 'text', "column" => 'ssn');
SELECT ekksync_map('x', 'profile.x', 'int', "column" => 'id');
SELECT ekksync_map('x', 'profile.x', 'text', 'pg_class', 'relname', 'oid');
SELECT ekksync_map('x', 'profile.x', 'text[]', compute => 'notes(int)');
SELECT ekksync_map('x', 'profile.x', 'text', compute => 'notes(int)', direction => 'push');
SELECT ekksync_map('x', 'profile.x', 'text', compute => 'lower(text)', direction => 'push');
SELECT ekksync_map('x', 'profile.x', 'text[]', compute => 'notes(int)', apply => 'notes(int)');
SELECT ekksync_map('x', 'profile.x', 'text[]', compute => 'notes(int)', direction => 'push', depends => '[1]');
SELECT ekksync_map('x', 'profile.x', 'text[]', compute => 'notes(int)', direction => 'push', depends => '{"nothing": {"link": "a"}}');
SELECT ekksync_map('x', 'profile.x', 'text[]', compute => 'notes(int)', direction => 'push', depends => '{"membership_note": {}}');
SELECT ekksync_map('x', 'profile.x', 'text[]', compute => 'notes(int)', direction => 'push', depends => '{"membership_note": {"link": "nothing"}}');
SELECT ekksync_map('x', 'profile.x', 'text[]', compute => 'notes(int)', direction => 'push', depends => '{"membership_title": {"members": "SELECT nothing"}}');
SELECT ekksync_map('x', 'profile.x', 'text[]', compute => 'notes(int)', direction => 'push', depends => '{"membership_title": {"members": "SELECT 1"}}');
-- nothing of that has left a trace
RESET ROLE;
SELECT field, path FROM ekksync.mapping WHERE field = 'x';
SELECT count(*) FROM ekksync.dependency WHERE field = 'x';
-- by whom
SET ROLE regress_ekksync_clerk;
SELECT ekksync_unmap('name');
RESET ROLE;
GRANT EXECUTE ON FUNCTION ekksync_unmap(text) TO regress_ekksync_clerk;
SET ROLE regress_ekksync_clerk;
SELECT ekksync_unmap('name');
RESET ROLE;

SET client_min_messages = warning;
DROP EXTENSION ekksync;
DROP SCHEMA registry CASCADE;
DROP ROLE regress_ekksync_app, regress_ekksync_clerk;
