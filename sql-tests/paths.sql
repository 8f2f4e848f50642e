--
-- Field paths: read as people write them, written as Firestore wants them.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS ekksync;
RESET client_min_messages;

CREATE FUNCTION pg_temp.field_path(path text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN ekksync.field_path(path);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;

SELECT path, pg_temp.field_path(path), pg_temp.field_path(pg_temp.field_path(path)) = pg_temp.field_path(path) AS stable
FROM unnest(ARRAY[
	'name',
	'profile.email',
	'_a1.B_2',
	'símanúmer',
	'profile.símanúmer.þ',
	'1st',
	'a-b',
	'sp ace.x',
	'`a.b`',
	'profile.`a.b`.c',
	'`name`',
	'`back\`tick`',
	'`back\\slash`',
	'back\slash',
	'`sp ace`',
	'`😀`.x',
	'`a"b''c`',
	'__x',
	'x__',
	'___']) AS path;

SELECT path, pg_temp.field_path(path)
FROM unnest(ARRAY[
	'',
	'.',
	'a.',
	'.a',
	'a..b',
	'``',
	'a.``',
	'`a',
	'a`',
	'a`b',
	'`a`b',
	'`a``b`',
	'`a\b`',
	'`a\',
	'`a\`',
	'__x__',
	'a.__id__',
	'`____`']) AS path;

-- limits: 1500 bytes a name, 20 names
SELECT n, left(pg_temp.field_path('a.' || repeat('ð', n / 2)), 40)
FROM (VALUES (1500), (1502)) AS n (n) ORDER BY n;
SELECT n, pg_temp.field_path(repeat('a.', n - 1) || 'a')
FROM (VALUES (20), (21)) AS n (n) ORDER BY n;

SELECT ekksync.field_path(NULL) IS NULL AS strict;
