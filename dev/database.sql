/*
 * database.sql: the registry's role and database, and where they sync to.
 * psql variables: role (both names), project, emulator (host:port).
 */
\set ON_ERROR_STOP on
CREATE ROLE :"role" LOGIN;
CREATE DATABASE :"role" OWNER :"role";
ALTER DATABASE :"role" SET ekksync.project = :'project';
ALTER DATABASE :"role" SET ekksync.emulator_host = :'emulator';
