--
-- The schedule: what expressions mean, changes of the clock, what is refused,
-- and the settings.  More of it is in t/100_schedule.pl.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS ekksync;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- when an expression is due, by the clock there, from noon of a day on
CREATE FUNCTION pg_temp.due(schedule text, n int DEFAULT 4, zone text DEFAULT 'UTC', day date DEFAULT '2026-11-23')
RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(to_char(local_time, 'Dy YYYY-MM-DD HH24:MI'), ', ')
	FROM ekksync_next_runs(n, schedule, zone, (day + time '12:00') AT TIME ZONE zone)
$$;
-- the same, by the clock there and in UTC, from the first moment of the day on
CREATE FUNCTION pg_temp.around(schedule text, n int, zone text, day date)
RETURNS SETOF text LANGUAGE sql AS $$
	SELECT to_char(local_time, 'YYYY-MM-DD HH24:MI:SS') || ' = ' || to_char(at AT TIME ZONE 'UTC', 'DD HH24:MI:SS')
	FROM ekksync_next_runs(n, schedule, zone, day::timestamp AT TIME ZONE zone - interval '1 us')
$$;
-- what is wrong with the arguments of a call
CREATE FUNCTION pg_temp.wrong(arguments text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE 'SELECT count(*) FROM ekksync_next_runs(' || arguments || ')';
	RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE || ': ' || SQLERRM, nullif(detail, ''), left(nullif(hint, ''), 30));
END
$$;

-- the forms of a field
SELECT e, pg_temp.due(e) FROM unnest(ARRAY[
	'30 3 * * *',
	'  30	3  * * * ',
	'*/25 * * * *',
	'5,50-52 8 * * *',
	'10-20/5 8 * * *',
	'0 8-18/4 * * *',
	'0 0 31 * *',
	'0 0 1 feb,AUG *',
	'0 0 29 2 *',
	'007 08 * * *',
	'0 12 * * 0',
	'0 12 * * 7',
	'0 12 * * sun',
	'0 12 * * mon-fri',
	'0 12 * * fri-sun',
	'0 12 * * 5-7',
	'0 12 * * sun-tue',
	'0 12 * * 0-0',
	'0 12 * * */3',
	'0 12 * * 1-7/3',
	'0 12 * */5 1',
	'0 0 * * *,1',
	'*/60 */24 */31 */12 */7'
]) AS e;

-- days of the month and of the week: either, unless one begins with a star
SELECT e, pg_temp.due(e, 5) FROM unnest(ARRAY[
	'0 0 13 * 5',
	'0 0 */2 * 1',
	'0 0 13 * */2',
	'0 0 13 * 0-7',
	'0 0 29 2 */7'
]) AS e;

-- names
SELECT e, pg_temp.due(e, 3) FROM unnest(ARRAY[
	'@hourly', '@daily', '@midnight', '@weekly', '@monthly', '@yearly', '@annually', ' @Daily '
]) AS e;

-- never, and seldom; the year 2100 has no 29 February
SELECT e, pg_temp.due(e) FROM unnest(ARRAY['', '  ', '30 2 30 2 *', '0 0 31 4,6,9,11 *']) AS e;
SELECT pg_temp.due('0 0 29 2 *', 3, 'UTC', '2095-01-01'), pg_temp.due('0 0 29 2 */7', 2, 'UTC', '2080-01-01');
SELECT count(*), max(at) FROM ekksync_next_runs(10, '@monthly', 'UTC', '9999-05-01');
SELECT * FROM ekksync_next_runs(1, '* * * * *', 'UTC', '0001-01-01 00:00:00+00');

-- strictly after
SELECT at FROM ekksync_next_runs(1, '* * * * *', 'UTC', '2026-11-23 12:00:00');
SELECT at FROM ekksync_next_runs(1, '* * * * *', 'UTC', '2026-11-23 11:59:59.999999');
SELECT at FROM ekksync_next_runs(1, '* * * * *', 'UTC', '1960-02-29 11:59:59.999999');
SELECT at FROM ekksync_next_runs(1, '* * * * *', 'UTC', '1960-02-29 12:00:00.000001');

-- a time that is skipped: at the end of the gap, once
SELECT pg_temp.around('30 1 * * *', 2, 'Europe/London', '2025-03-30');
SELECT pg_temp.around('0,20,40 1,2 * * *', 4, 'Europe/London', '2025-03-30');
SELECT pg_temp.around('0 2 * * *', 2, 'America/New_York', '2025-03-09');
SELECT pg_temp.around('15 2 * * *', 2, 'Australia/Lord_Howe', '2025-10-05');
SELECT pg_temp.around('@daily', 2, 'Africa/Cairo', '2025-04-24');
SELECT pg_temp.around('0 0 * * fri', 2, 'Africa/Cairo', '2025-04-24');
-- ... and a day that is skipped
SELECT pg_temp.around('30 3 * * *', 3, 'Pacific/Apia', '2011-12-29');
SELECT pg_temp.around('30 3 30 12 *', 1, 'Pacific/Apia', '2011-12-29');

-- a time that comes twice: the first
SELECT pg_temp.around('30 1 * * *', 2, 'Europe/London', '2025-10-26');
SELECT pg_temp.around('*/30 1 * * *', 3, 'Europe/London', '2025-10-26');
SELECT pg_temp.around('0 */2 * * *', 3, 'Europe/Berlin', '2025-10-26');
SELECT pg_temp.around('30 2 * * *', 2, 'Africa/Casablanca', '2025-02-23');
SELECT pg_temp.around('45 1 * * *', 2, 'Australia/Lord_Howe', '2025-04-06');
SELECT at FROM ekksync_next_runs(1, '30 1 * * *', 'Europe/London', '2025-10-26 00:31');
SELECT at FROM ekksync_next_runs(1, '30 1 * * *', 'Europe/London', '2025-10-26 01:29');

-- for every hour: as the clock goes
SELECT pg_temp.around('@hourly', 4, 'Europe/London', '2025-10-26');
SELECT pg_temp.around('@hourly', 4, 'Europe/London', '2025-03-30');
SELECT pg_temp.around('7 0-23 * * *', 3, 'Europe/London', '2025-03-30');
SELECT pg_temp.around('*/20 */1 * * *', 8, 'Australia/Lord_Howe', '2025-10-05');
SELECT at FROM ekksync_next_runs(2, '15,45 * * * *', 'Australia/Lord_Howe', '2025-04-05 14:50');

-- offsets that are no whole minutes; zones by a rule
SELECT pg_temp.around('10 0 * * *', 2, 'Africa/Monrovia', '1972-01-07');
SELECT pg_temp.around('50 0 * * *', 2, 'Africa/Monrovia', '1972-01-07');
SELECT pg_temp.around('30 1 * * *', 2, 'GMT0BST,M3.5.0/1,M10.5.0', '2600-03-30');
SELECT pg_temp.around('30 1 * * *', 2, 'GMT0BST,M3.5.0/1,M10.5.0', '2600-10-26');
SELECT pg_temp.around('0 12 * * *', 2, 'FAR-167', '2026-03-29');
SELECT pg_temp.around('30 1 * * *', 2, 'europe/london', '2025-03-30');

-- the settings and the present are the defaults
SHOW ekksync.schedule;
SHOW ekksync.timezone;
SHOW ekksync.catch_up;
SELECT count(*), min(at) > now() AS to_come, max(at) < now() + interval '5 days' AS soon,
	bool_and(at::time = '03:30' AND at AT TIME ZONE 'Atlantic/Reykjavik' = local_time) AS right
FROM ekksync_next_runs();
SET ekksync.schedule = '@weekly';
SET ekksync.timezone = 'asia/tokyo';
SELECT count(*), bool_and(extract(isodow FROM local_time) = 7 AND at::time = '15:00') AS right FROM ekksync_next_runs(2);
SET ekksync.schedule = '';
SELECT count(*) FROM ekksync_next_runs();
SELECT count(*) FROM ekksync_next_runs(NULL, '@daily', NULL, NULL);
SELECT count(*) FROM ekksync_next_runs(0);

-- what is refused
SELECT e, replace(pg_temp.wrong('5, ' || quote_literal(e)), format('"%s"', e), '"…"') AS wrong FROM unnest(ARRAY[
	'30 3 * *', '30 3 * * * *', 'daily', '03:30', '@reboot', '@daily *', '@',
	'60 3 * * *', '30 24 * * *', '0 0 0 * *', '0 0 32 * *', '0 0 * 13 *', '0 0 * 0 *', '0 0 * * 8',
	'99999999999999999999 * * * *', '4294967296 * * * *', '1-99999999999 * * * *', '*/99999999999 * * * *',
	'22-2 * * * *', '0 0 * * tue-mon', '*/0 * * * *', '*/61 * * * *', '* */25 * * *', '*/ * * * *', '*/x * * * *',
	'5/15 * * * *', '0 0 * * mon/2', '1,,2 * * * *', ',1 * * * *', '1, * * * *', '1-2-3 * * * *', '*-5 * * * *', '-5 * * * *',
	'5- * * * *', '*/2/3 * * * *', '1-5/-2 * * * *', '** * * * *', '+5 * * * *', '1.5 * * * *', '? * * * *', '0 0 L * *', '0 0 * * 5#2',
	'mon * * * *', '0 0 * mars *', '0 0 * * monday', '0 0 * * mon.', '0 0 * * þri', '% * * * *', '%s%n * * * *'
]) AS e;
SELECT a, pg_temp.wrong(a) FROM unnest(ARRAY[
	'-1',
	$$5, '@daily', 'Mars/Olympus'$$, $$5, '@daily', ''$$, $$5, '@daily', '../UTC'$$, $$5, '@daily', 'Europe'$$,
	$$5, '@daily', 'BST'$$, $$5, '@daily', 'right/UTC'$$,
	$$5, '@daily', 'UTC', 'infinity'$$, $$5, '@daily', 'UTC', '-infinity'$$, $$5, '@daily', 'UTC', '10000-01-01'$$,
	$$5, '@daily', 'UTC', '0001-12-31 23:59 BC'$$, $$5, '@daily', 'UTC', 'soon'$$, $$'many'$$
]) AS a;

-- ... also as settings, which stay as they were
SET ekksync.schedule = '30 3 * *';
SET ekksync.schedule = '30 25 * * *';
SET ekksync.timezone = 'Reykjavik';
SET ekksync.timezone = '';
SET ekksync.catch_up = 'perhaps';
SHOW ekksync.schedule;
SHOW ekksync.timezone;
ALTER DATABASE contrib_regression SET ekksync.schedule = '61 * * * *';
CREATE ROLE regress_ekksync_clock;
SET ROLE regress_ekksync_clock;
SET ekksync.schedule = '@hourly';
SET ekksync.timezone = 'UTC';
SET ekksync.catch_up = off;
SELECT * FROM ekksync_next_runs();
RESET ROLE;
DROP ROLE regress_ekksync_clock;
