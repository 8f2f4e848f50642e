/*
 * members.sql: invented members for the tables of registry.sql, the same ones
 * every time.  The psql variable "members" says how many (up to a million).
 *
 * No person is meant: names, numbers and addresses are drawn from short lists
 * by arithmetic on the member's number.
 */
\set ON_ERROR_STOP on
SET client_min_messages = warning;

BEGIN;

/* An even-looking, repeatable number in [0, n) for member i. */
CREATE FUNCTION pg_temp.draw(i bigint, salt bigint, n bigint) RETURNS bigint
	LANGUAGE sql IMMUTABLE
	RETURN ((((i * 2654435761 + salt * 40503) % 4294967296) >> 5)
			* 69069 % 4294967296 >> 7) % n;

CREATE FUNCTION pg_temp.pick(i bigint, salt bigint, choices text[]) RETURNS text
	LANGUAGE sql IMMUTABLE
	RETURN choices[1 + pg_temp.draw(i, salt, array_length(choices, 1))];

/*
 * Check digit of a kennitala's first eight digits, modulo 11; 10 means that
 * these eight can't be used.
 */
CREATE FUNCTION pg_temp.check_digit(digits text) RETURNS integer
	LANGUAGE sql IMMUTABLE
	RETURN (11 - (substr(digits, 1, 1)::int * 3 + substr(digits, 2, 1)::int * 2
				  + substr(digits, 3, 1)::int * 7 + substr(digits, 4, 1)::int * 6
				  + substr(digits, 5, 1)::int * 5 + substr(digits, 6, 1)::int * 4
				  + substr(digits, 7, 1)::int * 3 + substr(digits, 8, 1)::int * 2
				 ) % 11) % 11;

CREATE FUNCTION pg_temp.ascii(name text) RETURNS text
	LANGUAGE sql IMMUTABLE
	RETURN lower(replace(replace(translate(name,
		'ÁÉÍÓÚÝÐÖÞÆáéíóúýðö ', 'aeiouydoþæaeiouydo.'), 'þ', 'th'), 'æ', 'ae'));

/*
 * Birthdays: member i has day (i * 7919) modulo the days from 1935 to 2007,
 * so that each day is used once a round; the round then moves the serial
 * number, two at a time because one of two neighbours always has a check
 * digit.  Hence no kennitala comes twice.
 */
CREATE TEMPORARY TABLE invented AS
WITH numbered AS (
	SELECT i, date '1935-01-01' + (i * 7919 % 26663)::int AS birthday,
		20 + 2 * ((i * 7919 % 26663 + i / 26663) % 40) AS serial,
		pg_temp.draw(i, 1, 100) < 49 AS is_woman
	FROM generate_series(1::bigint, :members) AS i
), spelled AS (
	SELECT n.*, s.eight
	FROM numbered AS n,
		LATERAL (SELECT to_char(birthday, 'DDMMYY') || (serial + step) AS eight
				 FROM generate_series(0, 1) AS step
				 WHERE pg_temp.check_digit(to_char(birthday, 'DDMMYY') || (serial + step)) < 10
				 ORDER BY step LIMIT 1) AS s
)
SELECT i::integer AS id,
	eight || pg_temp.check_digit(eight)
		|| CASE WHEN birthday < '2000-01-01' THEN '9' ELSE '0' END AS ssn,
	birthday, is_woman,
	CASE WHEN is_woman THEN pg_temp.pick(i, 2, '{Guðrún,Þórunn,Æsa,Sigríður,Álfheiður,Björk,Íris,Ragnheiður,Þóra,Hrafnhildur,Ásdís,Sólveig,Fríða,Védís,Ösp,Unnur,Æðey,Kristín,Lóa,Þórdís,Ýr,Bergþóra,Eygló,Svanhildur}')
		 ELSE pg_temp.pick(i, 2, '{Þórður,Jón,Ægir,Sigurður,Björn,Örn,Íkarus,Guðmundur,Þorsteinn,Ólafur,Helgi,Einar,Kári,Ásgeir,Hörður,Friðrik,Úlfur,Gísli,Þráinn,Össur,Sæmundur,Magnús,Vífill,Steingrímur}')
		END AS given,
	CASE WHEN pg_temp.draw(i, 3, 4) > 0 THEN ''
		 WHEN is_woman THEN pg_temp.pick(i, 4, '{Björg,Rós,Ósk,Sól,Þöll,Mjöll,Líf,Eir}') || ' '
		 ELSE pg_temp.pick(i, 4, '{Þór,Örn,Freyr,Már,Páll,Týr,Rúnar,Ægir}') || ' '
		END AS middle,
	pg_temp.pick(i, 5, '{Þórðar,Jóns,Ægis,Sigurðar,Björns,Arnar,Guðmundar,Þorsteins,Ólafs,Helga,Einars,Kára,Ásgeirs,Harðar,Friðriks,Úlfs,Gísla,Þráins,Össurar,Sæmundar,Magnúsar,Vífils,Steingríms,Guðrúnar,Sólveigar,Þóru}')
		|| CASE WHEN is_woman THEN 'dóttir' ELSE 'son' END AS patronymic
FROM spelled;

INSERT INTO membership_comrade
	(name, ssn, birthday, date_joined, reachable, groupable, housing_situation, gender)
SELECT given || ' ' || middle || patronymic, ssn, birthday,
	timestamptz '2017-05-01 12:00:00+00' + id * interval '71 seconds'
		+ pg_temp.draw(id, 6, 86400000) * interval '1 millisecond'
		+ pg_temp.draw(id, 7, 2900) * interval '1 day',
	pg_temp.draw(id, 8, 10) > 0, pg_temp.draw(id, 9, 12) > 0,
	CASE WHEN pg_temp.draw(id, 10, 4) > 0 THEN pg_temp.draw(id, 11, 7) END,
	CASE WHEN pg_temp.draw(id, 12, 25) = 0 THEN NULL
		 WHEN pg_temp.draw(id, 13, 40) = 0 THEN 3
		 WHEN pg_temp.draw(id, 14, 40) = 0 THEN 0
		 WHEN is_woman THEN 2 ELSE 1 END
FROM invented ORDER BY id;

INSERT INTO membership_contactinfo (comrade_id, phone, email, facebook)
SELECT id,
	CASE WHEN pg_temp.draw(id, 20, 10) = 0 THEN NULL
		 WHEN pg_temp.draw(id, 20, 10) = 1 THEN '+354 555 ' || line
		 WHEN pg_temp.draw(id, 20, 10) < 4 THEN '555' || line
		 ELSE '555-' || line END,
	CASE WHEN pg_temp.draw(id, 21, 12) > 0 THEN address END,
	CASE WHEN pg_temp.draw(id, 22, 3) = 0
		 THEN 'https://facebook.example/' || pg_temp.ascii(given) || id END
FROM (SELECT *, to_char(pg_temp.draw(id, 23, 10000), 'FM0000') AS line,
		pg_temp.ascii(given || ' ' || patronymic) || id || '@example.is' AS address
	  FROM invented) AS v
WHERE pg_temp.draw(id, 24, 20) > 0
ORDER BY id;

INSERT INTO communication_email (email, verified, "primary")
SELECT email, comrade_id % 3 > 0, true
FROM membership_contactinfo WHERE email IS NOT NULL ORDER BY comrade_id;
INSERT INTO membership_comrade_emails (comrade_id, email_id)
SELECT c.comrade_id, e.id
FROM membership_contactinfo AS c JOIN communication_email AS e ON e.email = c.email
ORDER BY e.id;

INSERT INTO membership_union (name, abbreviation) VALUES
	('Félag fjörusteina', 'FF'), ('Vitavarðafélagið Ljósgeisli', 'VL'),
	('Samband íslenskra skýjasmiða', 'SÍS'), ('Þjónafélagið Ölkelda', 'ÞÖ'),
	('Bókbindarafélag Öræfa', 'BÖ'), ('Félag æðarbænda á heiðum', 'FÆH'),
	('Sjómannafélagið Brimalda', 'SB'), ('Kennarafélag eyðieyja', 'KE'),
	('Félag hverfulla starfsmanna', 'FHS'), ('Rafvirkjafélagið Norðurljós', 'RN'),
	('Stéttarfélagið Súld', 'SS'), ('Félag óþekktra ljóðskálda', 'FÓL');
INSERT INTO membership_unionmembership (comrade_id, union_id)
SELECT id, 1 + pg_temp.draw(id, 30, 12) FROM invented WHERE pg_temp.draw(id, 31, 10) < 6
UNION ALL
SELECT id, 1 + (pg_temp.draw(id, 30, 12) + 5) % 12 FROM invented WHERE pg_temp.draw(id, 31, 10) = 0
ORDER BY 1, 2;

INSERT INTO membership_title (name) VALUES
	('Formaður'), ('Varaformaður'), ('Gjaldkeri'), ('Ritari'), ('Meðstjórnandi'),
	('Svæðisfulltrúi'), ('Sjálfboðaliði'), ('Hópstjóri æskulýðs');
INSERT INTO membership_comradetitle (comrade_id, title_id)
SELECT id, 1 + pg_temp.draw(id, 40, 8) FROM invented WHERE pg_temp.draw(id, 41, 15) = 0
ORDER BY 1;

INSERT INTO map_postalcode (code) VALUES
	('101'), ('105'), ('107'), ('200'), ('220'), ('300'), ('400'), ('600'), ('700'), ('900');
INSERT INTO map_municipality (name) VALUES
	('Reykjavík'), ('Kópavogur'), ('Hafnarfjörður'), ('Akranes'), ('Ísafjörður'),
	('Akureyri'), ('Egilsstaðir'), ('Vestmannaeyjar');
INSERT INTO map_street (name, postal_code_id, municipality_id)
SELECT s.name || t.ending, p.id, greatest(1, p.id - 2)
FROM (VALUES (1, 'Þúfu'), (2, 'Æðar'), (3, 'Ölvers'), (4, 'Lækjar'), (5, 'Íshóla'), (6, 'Viðey')) AS s (n, name),
	(VALUES (1, 'gata'), (2, 'stígur'), (3, 'vegur'), (4, 'braut')) AS t (n, ending),
	map_postalcode AS p
WHERE (s.n + t.n + p.id) % 3 = 0
ORDER BY p.id, s.n, t.n;
INSERT INTO map_address (number, letter, street_id)
SELECT n, letter, s.id
FROM map_street AS s, generate_series(1, 24) AS n, (VALUES (''), ('a'), ('b')) AS l (letter)
WHERE letter = '' OR n % 5 = 0
ORDER BY s.id, n, letter;
INSERT INTO membership_newlocaladdress (comrade_id, address_id)
SELECT id, 1 + pg_temp.draw(id, 50, (SELECT count(*) FROM map_address))
FROM invented WHERE pg_temp.draw(id, 51, 10) < 8
ORDER BY id;

DROP TABLE invented;
COMMIT;

ANALYZE membership_comrade, membership_contactinfo, membership_comrade_emails,
	communication_email, membership_union, membership_unionmembership,
	membership_title, membership_comradetitle, membership_newlocaladdress,
	map_address, map_street, map_postalcode, map_municipality;
