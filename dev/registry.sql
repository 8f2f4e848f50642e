/*
 * registry.sql: the member registry's tables, as Django's migrations make
 * them.  Run as the role that is to own them.
 */
\set ON_ERROR_STOP on
SET client_min_messages = warning;

BEGIN;

/* ------------------------------------------------------------------- map */

CREATE TABLE "map_postalcode" (
	"id" serial NOT NULL PRIMARY KEY,
	"code" varchar(3) NOT NULL
);
CREATE TABLE "map_municipality" (
	"id" serial NOT NULL PRIMARY KEY,
	"name" varchar(100) NOT NULL
);
CREATE TABLE "map_street" (
	"id" serial NOT NULL PRIMARY KEY,
	"name" varchar(100) NOT NULL,
	"postal_code_id" integer NOT NULL,
	"municipality_id" integer NOT NULL
);
CREATE TABLE "map_address" (
	"id" serial NOT NULL PRIMARY KEY,
	"number" integer NULL,
	"letter" varchar(10) NOT NULL,
	"street_id" integer NOT NULL
);

/* --------------------------------------------------------- communication */

CREATE TABLE "communication_email" (
	"id" serial NOT NULL PRIMARY KEY,
	"email" varchar(254) NOT NULL,
	"verified" boolean NOT NULL,
	"primary" boolean NOT NULL
);

/* ------------------------------------------------------------ membership */

CREATE TABLE "membership_comrade" (
	"id" serial NOT NULL PRIMARY KEY,
	"name" varchar(250) NOT NULL,
	"ssn" varchar(10) NOT NULL,
	"birthday" date NULL,
	"date_joined" timestamp with time zone NOT NULL,
	"reachable" boolean NOT NULL DEFAULT true,
	"groupable" boolean NOT NULL DEFAULT true,
	"housing_situation" integer NULL,
	"gender" integer NULL
);
CREATE TABLE "membership_comrade_emails" (
	"id" serial NOT NULL PRIMARY KEY,
	"comrade_id" integer NOT NULL,
	"email_id" integer NOT NULL
);
CREATE TABLE "membership_contactinfo" (
	"comrade_id" integer NOT NULL PRIMARY KEY,
	"phone" varchar(32) NULL,
	"email" varchar(124) NULL,
	"facebook" varchar(255) NULL
);
CREATE TABLE "membership_union" (
	"id" serial NOT NULL PRIMARY KEY,
	"name" varchar(250) NOT NULL,
	"abbreviation" varchar(32) NOT NULL
);
CREATE TABLE "membership_unionmembership" (
	"id" serial NOT NULL PRIMARY KEY,
	"comrade_id" integer NOT NULL,
	"union_id" integer NOT NULL
);
CREATE TABLE "membership_title" (
	"id" serial NOT NULL PRIMARY KEY,
	"name" varchar(250) NOT NULL
);
CREATE TABLE "membership_comradetitle" (
	"id" serial NOT NULL PRIMARY KEY,
	"comrade_id" integer NOT NULL,
	"title_id" integer NOT NULL
);
CREATE TABLE "membership_newlocaladdress" (
	"comrade_id" integer NOT NULL PRIMARY KEY,
	"address_id" integer NOT NULL
);

/* --------------------------------------------- foreign keys and indexes */

ALTER TABLE "map_street" ADD CONSTRAINT "map_street_postal_code_id_d81e49cc_fk_map_postalcode_id"
	FOREIGN KEY ("postal_code_id") REFERENCES "map_postalcode" ("id") DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "map_street" ADD CONSTRAINT "map_street_municipality_id_4497cb2a_fk_map_municipality_id"
	FOREIGN KEY ("municipality_id") REFERENCES "map_municipality" ("id") DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX "map_street_postal_code_id_d81e49cc" ON "map_street" ("postal_code_id");
CREATE INDEX "map_street_municipality_id_4497cb2a" ON "map_street" ("municipality_id");

ALTER TABLE "map_address" ADD CONSTRAINT "map_address_street_id_e6f0dfe2_fk_map_street_id"
	FOREIGN KEY ("street_id") REFERENCES "map_street" ("id") DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX "map_address_street_id_e6f0dfe2" ON "map_address" ("street_id");

ALTER TABLE "membership_comrade_emails" ADD CONSTRAINT "membership_comrade_emails_comrade_id_email_id_1b369423_uniq"
	UNIQUE ("comrade_id", "email_id");
ALTER TABLE "membership_comrade_emails" ADD CONSTRAINT "membership_comrade_e_comrade_id_23a8864a_fk_membershi"
	FOREIGN KEY ("comrade_id") REFERENCES "membership_comrade" ("id") DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "membership_comrade_emails" ADD CONSTRAINT "membership_comrade_e_email_id_ad340218_fk_communica"
	FOREIGN KEY ("email_id") REFERENCES "communication_email" ("id") DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX "membership_comrade_emails_comrade_id_23a8864a" ON "membership_comrade_emails" ("comrade_id");
CREATE INDEX "membership_comrade_emails_email_id_ad340218" ON "membership_comrade_emails" ("email_id");

ALTER TABLE "membership_contactinfo" ADD CONSTRAINT "membership_contactin_comrade_id_b284382f_fk_membershi"
	FOREIGN KEY ("comrade_id") REFERENCES "membership_comrade" ("id") DEFERRABLE INITIALLY DEFERRED;

ALTER TABLE "membership_unionmembership" ADD CONSTRAINT "membership_unionmemb_comrade_id_529ca6ed_fk_membershi"
	FOREIGN KEY ("comrade_id") REFERENCES "membership_comrade" ("id") DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "membership_unionmembership" ADD CONSTRAINT "membership_unionmemb_union_id_f9463db0_fk_membershi"
	FOREIGN KEY ("union_id") REFERENCES "membership_union" ("id") DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX "membership_unionmembership_comrade_id_529ca6ed" ON "membership_unionmembership" ("comrade_id");
CREATE INDEX "membership_unionmembership_union_id_f9463db0" ON "membership_unionmembership" ("union_id");

ALTER TABLE "membership_comradetitle" ADD CONSTRAINT "membership_comradeti_comrade_id_403fa2dd_fk_membershi"
	FOREIGN KEY ("comrade_id") REFERENCES "membership_comrade" ("id") DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "membership_comradetitle" ADD CONSTRAINT "membership_comradeti_title_id_8b276faa_fk_membershi"
	FOREIGN KEY ("title_id") REFERENCES "membership_title" ("id") DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX "membership_comradetitle_comrade_id_403fa2dd" ON "membership_comradetitle" ("comrade_id");
CREATE INDEX "membership_comradetitle_title_id_8b276faa" ON "membership_comradetitle" ("title_id");

ALTER TABLE "membership_newlocaladdress" ADD CONSTRAINT "membership_newlocala_comrade_id_8212ff70_fk_membershi"
	FOREIGN KEY ("comrade_id") REFERENCES "membership_comrade" ("id") DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "membership_newlocaladdress" ADD CONSTRAINT "membership_newlocala_address_id_7e3d8080_fk_map_addre"
	FOREIGN KEY ("address_id") REFERENCES "map_address" ("id") DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX "membership_newlocaladdress_address_id_7e3d8080" ON "membership_newlocaladdress" ("address_id");

COMMIT;
