/*
 * extension.sql: what a database's administrator does once: create the
 * extension, and let the registry's role (psql variable role) use all of it.
 */
\set ON_ERROR_STOP on
CREATE EXTENSION ekksync;
SELECT format('GRANT %s ON %s TO %I',
		CASE classid WHEN 'pg_proc'::regclass THEN 'EXECUTE' ELSE 'SELECT' END,
		CASE classid WHEN 'pg_proc'::regclass THEN 'FUNCTION ' || objid::regprocedure
			ELSE 'TABLE ' || objid::regclass END,
		:'role')
FROM pg_depend
WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ekksync')
	AND (classid = 'pg_proc'::regclass AND objid IN
			(SELECT oid FROM pg_proc WHERE proname LIKE 'ekksync\_%')
		OR classid = 'pg_class'::regclass AND objid IN
			(SELECT oid FROM pg_class WHERE relkind = 'v'))
\gexec
