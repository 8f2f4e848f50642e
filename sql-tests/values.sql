--
-- Values: canonical forms, and what the codecs make of them in Firestore.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS ekksync;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- a query's result, or its error
CREATE FUNCTION pg_temp.try(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE query INTO result;
	RETURN coalesce(result, '(null)');
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;

CREATE FUNCTION pg_temp.decode(codec text, value jsonb, options jsonb DEFAULT NULL) RETURNS text
LANGUAGE sql AS $$
	SELECT pg_temp.try(format('SELECT ekksync.decode_value(%L, %L, %L)', codec, value, options));
$$;

CREATE FUNCTION pg_temp.encode(codec text, value jsonb, options jsonb DEFAULT NULL) RETURNS text
LANGUAGE sql AS $$
	SELECT pg_temp.try(format('SELECT ekksync.encode_value(%L, %L, %L)', codec, value, options));
$$;

CREATE FUNCTION pg_temp.canonical(codec text, value text, type text, options jsonb DEFAULT NULL) RETURNS text
LANGUAGE sql AS $$
	SELECT pg_temp.try(format('SELECT ekksync.canonical(%L, %L::%s, %L)', codec, value, type, options));
$$;

--
-- There and back: the Value, and whether it is read as what it was made of.
--
CREATE TEMP TABLE case_canon (id serial, codec text, canon jsonb, options jsonb);
INSERT INTO case_canon (codec, canon) VALUES
	('text', 'null'),
	('text', '"Þóra Ægisdóttir ÁÉÍÓÚÝÐÖ áéíóúýðö"'),
	('text', '"😀 👩‍👩‍👧 \u2028 \u2029"'),
	('text', '"\"quoted\" \\ back \/ slash"'),
	('text', '"tab\tnewline\nreturn\rfeed\fback\b bell\u0007 unit\u001f del\u007f"'),
	('text', '" "'),
	('text', '"null"'),
	('int', '0'),
	('int', '-1'),
	('int', '9223372036854775807'),
	('int', '-9223372036854775808'),
	('int', '9007199254740993'),
	('int', 'null'),
	('bool', 'true'),
	('bool', 'false'),
	('bool', 'null'),
	('date', '"0001-01-01"'),
	('date', '"2024-02-29"'),
	('date', '"9999-12-31"'),
	('date', 'null'),
	('timestamp', '"0001-01-01T00:00:00.000000Z"'),
	('timestamp', '"1969-12-31T23:59:59.999999Z"'),
	('timestamp', '"2026-11-22T13:39:02.250584Z"'),
	('timestamp', '"9999-12-31T23:59:59.999999Z"'),
	('timestamp', 'null'),
	('numeric', '"0"'),
	('numeric', '"-0.000001"'),
	('numeric', '"1.5"'),
	('numeric', '"1200"'),
	('numeric', '"123456789012345678901234567890.123456789012345678901234567891"'),
	('numeric', 'null'),
	('kennitala', '"1201743399"'),
	('kennitala', 'null'),
	('phone', '"555-1234"'),
	('phone', '"+45 12 34 56 78"'),
	('phone', 'null'),
	('text[]', '[]'),
	('text[]', '["b", "a", "b", "", "Þ, \"ð\""]'),
	('text[]', 'null'),
	('jsonb', 'null'),
	('jsonb', '"s"'),
	('jsonb', '""'),
	('jsonb', '1.5'),
	('jsonb', '{}'),
	('jsonb', '[]'),
	('jsonb', '{"": 1}'),
	('jsonb', '{"símanúmer": [1, -2.25, true, false, null, "ð", {"a.b": {"back`tick": []}}], "tóm": {}}'),
	('jsonb', '[9223372036854775807, -9223372036854775808, 1e300, 5e-324, 0.1]');
INSERT INTO case_canon (codec, canon, options)
SELECT 'enum', v, '{"unknown": 0, "male": 1, "female": 2, "other": 3}'
FROM unnest(ARRAY['0', '1', '2', '3', 'null']::jsonb[]) AS v;
INSERT INTO case_canon (codec, canon, options)
SELECT 'enum', v, '{"karl": "m", "kona": "k", "m": "annað"}'
FROM unnest(ARRAY['"m"', '"k"', '"annað"', 'null']::jsonb[]) AS v;

CREATE FUNCTION pg_temp.there_and_back(codec text, canon jsonb, options jsonb, OUT value text, OUT same boolean)
LANGUAGE plpgsql AS $$
BEGIN
	value := ekksync.encode_value(codec, canon, options);
	same := ekksync.decode_value(codec, value::jsonb, options)::text = canon::text;
EXCEPTION WHEN OTHERS THEN
	value := SQLSTATE || ': ' || SQLERRM;
END
$$;

SELECT codec, left(canon::text, 60) AS canon, left(value, 100) AS value, same
FROM case_canon, pg_temp.there_and_back(codec, canon, options)
ORDER BY id;

--
-- What columns hold.
--
\pset null '(null)'
SELECT codec, type, value, pg_temp.canonical(codec, value, type, options) AS canonical
FROM (VALUES
	(1, 'text', 'text', 'Þórður "Doddi" \', NULL::jsonb),
	(2, 'text', 'text', '', NULL),
	(3, 'text', 'text', NULL, NULL),
	(4, 'text', 'varchar(20)', E'tab\there', NULL),
	(5, 'text', 'char(5)', 'ab', NULL),
	(6, 'text', 'integer', '1', NULL),
	(7, 'text', 'name', 'n', NULL),
	(8, 'int', 'smallint', '-32768', NULL),
	(9, 'int', 'integer', '42', NULL),
	(10, 'int', 'bigint', '9223372036854775807', NULL),
	(11, 'int', 'numeric', '1', NULL),
	(12, 'int', 'integer', NULL, NULL),
	(13, 'bool', 'boolean', 't', NULL),
	(14, 'bool', 'boolean', 'f', NULL),
	(15, 'bool', 'integer', '1', NULL),
	(16, 'date', 'date', '0001-01-01', NULL),
	(17, 'date', 'date', '9999-12-31', NULL),
	(18, 'date', 'date', '10000-01-01', NULL),
	(19, 'date', 'date', '0001-12-31 BC', NULL),
	(20, 'date', 'date', 'infinity', NULL),
	(21, 'date', 'timestamptz', '2024-01-01', NULL),
	(22, 'timestamp', 'timestamptz', '2026-11-22 13:39:02.250584+02', NULL),
	(23, 'timestamp', 'timestamptz', '0001-01-01 00:00:00Z', NULL),
	(24, 'timestamp', 'timestamptz', '0001-12-31 23:59:59.999999Z BC', NULL),
	(25, 'timestamp', 'timestamptz', '10000-01-01 00:00:00Z', NULL),
	(26, 'timestamp', 'timestamptz', '-infinity', NULL),
	(27, 'timestamp', 'timestamp', '2024-01-01', NULL),
	(28, 'numeric', 'numeric', '1.50', NULL),
	(29, 'numeric', 'numeric', '-0.00', NULL),
	(30, 'numeric', 'numeric(10,4)', '1500', NULL),
	(31, 'numeric', 'numeric', '1e-20', NULL),
	(32, 'numeric', 'numeric', 'NaN', NULL),
	(33, 'numeric', 'double precision', '1', NULL),
	(34, 'enum', 'integer', '2', '{"male": 1, "female": 2}'),
	(35, 'enum', 'integer', '7', '{"male": 1, "female": 2}'),
	(36, 'enum', 'integer', NULL, '{"male": 1, "female": 2}'),
	(37, 'enum', 'text', '2', '{"male": 1, "female": 2}'),
	(38, 'enum', 'varchar', 'k', '{"karl": "m", "kona": "k"}'),
	(39, 'enum', 'varchar', 'karl', '{"karl": "m", "kona": "k"}'),
	(40, 'enum', 'varchar', '', '{"karl": "m", "kona": "k"}'),
	(41, 'enum', 'varchar', 'kt. 120174-3399 og 1201743399', '{"karl": "m", "kona": "k"}'),
	(42, 'kennitala', 'varchar(11)', '120174-3399', NULL),
	(43, 'kennitala', 'varchar(10)', '120174339', NULL),
	(44, 'kennitala', 'varchar(10)', '', NULL),
	(45, 'phone', 'varchar(32)', '5551234', NULL),
	(46, 'phone', 'varchar(32)', '', NULL),
	(47, 'jsonb', 'jsonb', '{"b": 1.50, "a": [100.00, -0.0, "1.50", 1e3]}', NULL),
	(48, 'jsonb', 'jsonb', 'null', NULL),
	(49, 'jsonb', 'json', '1', NULL),
	(50, 'text[]', 'text[]', '{b,a,"",Þ}', NULL),
	(51, 'text[]', 'varchar(3)[]', '[5:6]={b,a}', NULL),
	(52, 'text[]', 'text[]', '{}', NULL),
	(53, 'text[]', 'text[]', NULL, NULL),
	(54, 'text[]', 'text[]', '{a,NULL}', NULL),
	(55, 'text[]', 'text[]', '{{a},{b}}', NULL),
	(56, 'text[]', 'integer[]', '{1}', NULL)
) AS v (id, codec, type, value, options)
ORDER BY id;

-- domains count as what they are over
CREATE DOMAIN pg_temp.short_text AS varchar(10) CHECK (value <> 'x');
CREATE DOMAIN pg_temp.shorter_text AS pg_temp.short_text;
SELECT ekksync.canonical('text', 'ð'::pg_temp.shorter_text);

--
-- What documents hold: read by each codec, or refused with a reason.
--
CREATE TEMP TABLE case_value (id serial, value jsonb);
INSERT INTO case_value (value) VALUES
	('{"nullValue": null}'),
	('{"booleanValue": true}'),
	('{"integerValue": "1"}'),
	('{"doubleValue": 2.0}'),
	('{"doubleValue": 1.5}'),
	('{"stringValue": ""}'),
	('{"stringValue": "2"}'),
	('{"stringValue": "female"}'),
	('{"stringValue": "2024-02-29"}'),
	('{"timestampValue": "2024-02-29T12:00:00Z"}'),
	('{"bytesValue": "3q2+7w=="}'),
	('{"referenceValue": "projects/p/databases/(default)/documents/c/d"}'),
	('{"geoPointValue": {"latitude": 64.15, "longitude": -21.94}}'),
	('{"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": ""}]}}'),
	('{"mapValue": {"fields": {"a": {"integerValue": "1"}}}}');
CREATE TEMP TABLE case_read AS
SELECT id, pos, value, codec, pg_temp.decode(codec, value, options) AS canonical
FROM case_value, (VALUES
	(1, 'text', NULL::jsonb), (2, 'int', NULL), (3, 'bool', NULL), (4, 'date', NULL),
	(5, 'timestamp', NULL), (6, 'numeric', NULL), (7, 'enum', '{"male": 1, "female": 2}'),
	(8, 'kennitala', NULL), (9, 'phone', NULL), (10, 'jsonb', NULL), (11, 'text[]', NULL)
) AS c (pos, codec, options);
SELECT value, codec, canonical FROM case_read WHERE canonical NOT LIKE '42804:%' ORDER BY id, pos;
SELECT canonical AS refused FROM case_read WHERE canonical LIKE '42804:%' AND codec = 'text' ORDER BY id;
SELECT canonical AS refused FROM case_read WHERE canonical LIKE '42804:%' AND value ? 'mapValue' ORDER BY pos;
SELECT count(*) FROM case_read WHERE canonical LIKE '42804:%';

-- an absent field
SELECT ekksync.decode_value('int', NULL);

-- integers: text, or a number that is exact
SELECT value, pg_temp.decode('int', value) FROM unnest(ARRAY[
	'{"integerValue": 42}',
	'{"integerValue": 9007199254740992}',
	'{"integerValue": 1.5}',
	'{"integerValue": "9223372036854775808"}',
	'{"integerValue": "+1"}',
	'{"integerValue": " 1"}',
	'{"integerValue": ""}',
	'{"doubleValue": -9223372036854775808}',
	'{"doubleValue": 9223372036854775808}',
	'{"doubleValue": "NaN"}',
	'{"doubleValue": "-Infinity"}']::jsonb[]) AS value;

-- dates and times
SELECT value, pg_temp.decode('date', jsonb_build_object('stringValue', value)) FROM unnest(ARRAY[
	'2024-02-30', '2023-02-29', '1900-02-29', '2000-02-29', '0000-01-01', '2024-13-01', '2024-00-01',
	'2024-1-1', '20240101', '01.02.2024', '2024-01-01T00:00:00Z', ' 2024-01-01', '-0001-01-01',
	'infinity', 'today', 'Jón Jónsson', '120174-3399']) AS value;
SELECT value, pg_temp.decode('timestamp', jsonb_build_object('stringValue', value)) FROM unnest(ARRAY[
	'2026-11-22T13:39:02Z', '2026-11-22T13:39:02.2Z', '2026-11-22T13:39:02.123456789Z',
	'2026-11-22T13:39:02.25+05:30', '2026-11-22t00:39:02-01:00', '2026-11-22 13:39:02Z',
	'2026-11-22T13:39:02', '2026-11-22T13:39Z', '2026-11-22T24:00:00Z', '2026-11-22T23:59:60Z',
	'2026-11-22T13:39:02.Z', '2026-02-30T13:39:02Z', '2026-11-22T13:39:02+0100', '0001-01-01T00:00:00+00:01',
	'9999-12-31T23:59:59.999999-00:01', '10000-01-01T00:00:00Z', '2026-11-22']) AS value;

-- numbers
SELECT value, pg_temp.decode('numeric', jsonb_build_object('stringValue', value)) FROM unnest(ARRAY[
	'1.50', '-000.500', '+1', '.5', '5.', '1e3', '1.25E-3', '-0', '0e5', '12e-1',
	'', '.', '1,5', '1.2.3', '1e', '0x10', 'NaN', '1 ', '--1', '1e131072', '1e-16384', '1e99999999']) AS value;
SELECT value, pg_temp.decode('numeric', value) FROM unnest(ARRAY[
	'{"integerValue": "-9223372036854775808"}',
	'{"doubleValue": 0.1}',
	'{"doubleValue": 1e22}',
	'{"doubleValue": "1e-7"}',
	'{"doubleValue": "NaN"}',
	'{"doubleValue": "Infinity"}']::jsonb[]) AS value;
SELECT length(ekksync.canonical('numeric', '1e131071'::numeric)::text);

-- enums: label, code, code as text; a label goes before a code
SELECT value, pg_temp.decode('enum', value, '{"unknown": 0, "male": 1, "other": 3}') FROM unnest(ARRAY[
	'{"stringValue": "male"}',
	'{"stringValue": "Male"}',
	'{"stringValue": "3"}',
	'{"integerValue": "3"}',
	'{"doubleValue": 0}',
	'{"doubleValue": 0.5}',
	'{"integerValue": "2"}',
	'{"stringValue": "karlmaður sem á sér mjög langa lýsingu, of langa"}',
	'{"stringValue": "1201743399"}']::jsonb[]) AS value;
SELECT value, pg_temp.decode('enum', value, '{"karl": "m", "kona": "k", "m": "annað"}') FROM unnest(ARRAY[
	'{"stringValue": "m"}',
	'{"stringValue": "k"}',
	'{"stringValue": "annað"}',
	'{"stringValue": "\"k\""}',
	'{"integerValue": "1"}']::jsonb[]) AS value;

-- kennitala: the shape only
SELECT value, pg_temp.decode('kennitala', jsonb_build_object('stringValue', value)) FROM unnest(ARRAY[
	'1201743399', '120174-3399', '9999999999', '120174 3399', '12017433990', '120174-339', '-1201743399',
	'1201743-399', '12O1743399', '120174--339', '120174', '120174-']) AS value;

-- phones
SELECT value, pg_temp.decode('phone', jsonb_build_object('stringValue', value)) FROM unnest(ARRAY[
	'5551234', '555-1234', '555 1234', ' 55 51 234 ', '+3545551234', '+354 555 1234', '+354-555-1234',
	'003545551234', '00354 555-1234', '+354 55', '+45 12345678', '  5551234567 ', '354 555 1234', '555.1234',
	'sími 5551234', '5551234 (vinna)', '   ', '-']) AS value;

-- plain JSON of any Value, as the jsonb codec reads it and as it is shown
SELECT value, pg_temp.decode('jsonb', value) AS jsonb,
	pg_temp.try(format('SELECT ekksync.plain(%L)', value)) AS plain
FROM unnest(ARRAY[
	'{"nullValue": "NULL_VALUE"}',
	'{"doubleValue": 3.0}',
	'{"doubleValue": -0.0}',
	'{"doubleValue": "NaN"}',
	'{"doubleValue": "Infinity"}',
	'{"doubleValue": "1.25"}',
	'{"doubleValue": "x"}',
	'{"timestampValue": "2026-11-22T13:39:02.12Z"}',
	'{"timestampValue": "2026-11-22"}',
	'{"bytesValue": "3q2+7w=="}',
	'{"referenceValue": "projects/p/databases/(default)/documents/c/ð"}',
	'{"geoPointValue": {}}',
	'{"geoPointValue": {"longitude": -21.5}}',
	'{"geoPointValue": {"latitude": "64"}}',
	'{"arrayValue": {}}',
	'{"mapValue": {}}',
	'{"arrayValue": {"values": []}}',
	'{"mapValue": {"fields": {}}}',
	'{"mapValue": {"fields": {"a.b": {"arrayValue": {"values": [{"nullValue": null}, {"mapValue": {"fields": {"símanúmer": {"stringValue": "þ"}}}}]}}}}}',
	'{"arrayValue": {"values": [{"arrayValue": {"values": [{"integerValue": "1"}]}}]}}',
	'{}', '[]', '"x"', 'null', '1',
	'{"stringValue": "a", "integerValue": "1"}',
	'{"stringValue": 1}',
	'{"stringValue": null}',
	'{"nullValue": 0}',
	'{"booleanValue": "true"}',
	'{"integerValue": null}',
	'{"unknownValue": 1}',
	'{"STRINGVALUE": "a"}',
	'{"arrayValue": []}',
	'{"arrayValue": {"values": {}}}',
	'{"arrayValue": {"values": [{"stringValue": "a"}, {}]}}',
	'{"mapValue": {"fields": []}}',
	'{"mapValue": {"fields": {"a": 1}}}',
	'{"mapValue": {"a": {"nullValue": null}}}']::jsonb[]) AS value;

-- elements of an array of texts
SELECT value, pg_temp.decode('text[]', value) FROM unnest(ARRAY[
	'{"arrayValue": {}}',
	'{"arrayValue": {"values": [{"stringValue": "a"}, {"nullValue": null}]}}',
	'{"arrayValue": {"values": [{"integerValue": "1"}]}}',
	'{"arrayValue": {"values": [1]}}']::jsonb[]) AS value;

--
-- What cannot be written.
--
SELECT codec, left(value::text, 40) AS value, pg_temp.encode(codec, value, options) FROM (VALUES
	(1, 'text', '1'::jsonb, NULL::jsonb),
	(2, 'text', '""', NULL),
	(3, 'int', '"1"', NULL),
	(4, 'int', '1.5', NULL),
	(5, 'int', '9223372036854775808', NULL),
	(6, 'bool', '1', NULL),
	(7, 'date', '"2024-02-30"', NULL),
	(8, 'date', '"infinity"', NULL),
	(9, 'timestamp', '"2024-01-01T00:00:00Z"', NULL),
	(10, 'numeric', '"1.50"', NULL),
	(11, 'numeric', '1.5', NULL),
	(12, 'enum', '9', '{"male": 1}'),
	(13, 'enum', '"male"', '{"male": 1}'),
	(14, 'kennitala', '"120174-3399"', NULL),
	(15, 'phone', '"5551234"', NULL),
	(16, 'text[]', '["a", 1]', NULL),
	(17, 'text[]', '["a", null]', NULL),
	(18, 'text[]', '{"a": "b"}', NULL),
	(19, 'jsonb', '[[1]]', NULL),
	(20, 'jsonb', '{"a": [{"b": [[]]}]}', NULL),
	(21, 'jsonb', '{"__x__": 1}', NULL),
	(22, 'jsonb', '{"__x": {"_y__": "____"}}', NULL),
	(23, 'jsonb', '{"a": 123456789012345678901234567890.5}', NULL),
	(24, 'jsonb', '9223372036854775808', NULL),
	(25, 'jsonb', '9223372036854775809', NULL),
	(26, 'jsonb', '1e400', NULL),
	(27, 'jsonb', '1e-400', NULL)
) AS v (id, codec, value, options)
ORDER BY id;

-- sizes: 1048487 bytes of UTF-8, 20 levels, names of 1500 bytes
SELECT n, codec, left(pg_temp.encode(codec, to_jsonb(repeat('ð', n / 2) || repeat('x', n % 2))), 80)
FROM (VALUES (1048487), (1048488)) AS n (n), (VALUES ('text'), ('jsonb')) AS c (codec)
ORDER BY n, codec;
SELECT left(pg_temp.encode('text[]', jsonb_build_array('a', repeat('x', 1048488))), 80);
SELECT left(pg_temp.encode('text', to_jsonb(repeat(E'\n', 1048487))), 40);
SELECT n, left(pg_temp.encode('jsonb', (repeat('{"a": ', n) || '1' || repeat('}', n))::jsonb), 60)
FROM (VALUES (20), (21)) AS n (n) ORDER BY n;
SELECT n, left(pg_temp.encode('jsonb', jsonb_build_object(repeat('ð', n / 2), 1)), 60)
FROM (VALUES (1500), (1502)) AS n (n) ORDER BY n;
SELECT n, left(pg_temp.decode('jsonb', (repeat('{"mapValue": {"fields": {"a": ', n) || '{"nullValue": null}' || repeat('}}}', n))::jsonb), 60)
FROM (VALUES (32), (33)) AS n (n) ORDER BY n;

-- jsonb itself refuses these, so that no canonical form can hold them
SELECT pg_temp.try($$SELECT '"\u0000"'::jsonb$$), pg_temp.try($$SELECT '"\ud83d"'::jsonb$$);

--
-- Codecs and their options.
--
SELECT codec, options, pg_temp.decode(codec, '{"nullValue": null}', options) FROM (VALUES
	(1, 'nosuch', NULL::jsonb),
	(2, NULL, NULL),
	(3, 'TEXT', NULL),
	(4, 'text', '{"a": 1}'),
	(5, 'enum', NULL),
	(6, 'enum', '{}'),
	(7, 'enum', '[]'),
	(8, 'enum', '1'),
	(9, 'enum', '{"a": 1, "b": 1.0}'),
	(10, 'enum', '{"a": 1, "b": "1"}'),
	(11, 'enum', '{"a": 1.5}'),
	(12, 'enum', '{"a": ""}'),
	(13, 'enum', '{"": 1}'),
	(14, 'enum', '{"a": null}'),
	(15, 'enum', '{"a": true}'),
	(16, 'enum', '{"a": {"b": 1}}'),
	(17, 'enum', '{"a": 9223372036854775808}'),
	(18, 'enum', '{"a": -1.0}')
) AS v (id, codec, options)
ORDER BY id;
