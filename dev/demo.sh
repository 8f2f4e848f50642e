#!/usr/bin/env bash
# demo.sh: what ekksync does, step by step, on a fresh playground of its own
# that goes when the demo ends.  Fails if anything shown is not as it says.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

members=${MEMBERS:-2200}
[[ $members =~ ^[0-9]{3,}$ ]] || fail "MEMBERS must be a number, for the demo at least 100"
state=$dev/demo

emulator_jar >/dev/null
"$top/dev/deps.sh" playground
build
state_claim "$state"
trap 'state_remove "$state"' EXIT
trap 'exit 130' INT TERM

# ------------------------------------------------------------------- helpers

sql()
{
	run_psql "$state" "$role" -d "$role" -At -c "$1"
}

# Say what happens, show the statement and what psql prints for it.
show()
{
	printf '\n-- %s\n%s=> %s\n' "$1" "$role" "$2"
	run_psql "$state" "$role" -d "$role" "${look[@]}" -c "$2" | trim
}

look=(-P format=wrapped -P columns=100 -P null=-)

# Drop the empty lines that psql puts after a table.
trim()
{
	sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
}

# Stop unless the query gives this.
expect()
{
	local got
	got=$(sql "$2")
	[ "$got" = "$3" ] || fail "the demo failed: $1" "expected: $3" "got:      $got"
}

title()
{
	printf '\n== %s\n' "$1"
}

# firestore METHOD PATH [JSON]: a call as a client of Firestore makes it.
firestore()
{
	curl -sS -f --noproxy '*' -X "$1" -H 'Content-Type: application/json' \
		"http://$emulator_host/v1/projects/$project/databases/(default)/documents$2" \
		${3:+-d "$3"}
}

# Fetch a document into $document and show its fields: show_document TEXT PATH WHERE
show_document()
{
	document=$(firestore GET "$2")
	printf '\n-- %s\n-- documents%s\n' "$1" "$2"
	run_psql "$state" postgres -d "$role" -P format=wrapped -P columns=100 -v document="$document" <<-EOF
		SELECT path, value
		FROM demo.paths(ekksync.plain(jsonb_build_object('mapValue', jsonb_build_object('fields', :'document'::jsonb -> 'fields')))) $3;
	EOF
}

# Columns of a run's figures.
figures="run, status, to_firestore, to_django, conflicts, failed, duration"

# A run that must succeed with these figures: changes to Firestore, to Django.
run()
{
	show "$1" "SELECT $figures FROM ekksync_run();"
	expect "$1" "SELECT status, to_firestore, to_django FROM ekksync_runs ORDER BY run DESC LIMIT 1" \
		"success|$2|$3"
}

# Keep a document to compare with, and show what changed in it since.
remember()
{
	sql "DELETE FROM demo.before; INSERT INTO demo.before SELECT ekksync_doc('$1')"
}

changed()
{
	show "$2" "SELECT path, before, after FROM demo.changed('$1');"
}

# ---------------------------------------------------------------------- demo

say "Starting PostgreSQL and the Firestore emulator ..."
playground_start "$state" "$members"
sql "
	CREATE SCHEMA demo;
	CREATE TABLE demo.before (doc jsonb);
	CREATE FUNCTION demo.paths(doc jsonb) RETURNS TABLE (path text, value jsonb)
		LANGUAGE sql AS \$\$
		WITH RECURSIVE t (path, value) AS (
			SELECT key, value FROM jsonb_each(doc)
			UNION ALL
			SELECT t.path || '.' || e.key, e.value
			FROM t, jsonb_each(CASE jsonb_typeof(t.value) WHEN 'object' THEN t.value ELSE '{}' END) AS e)
		SELECT t.path, t.value FROM t WHERE jsonb_typeof(t.value) <> 'object' ORDER BY 1 \$\$;
	CREATE FUNCTION demo.changed(key text)
		RETURNS TABLE (path text, before jsonb, after jsonb)
		LANGUAGE sql AS \$\$
		SELECT path, b.value, a.value
		FROM (SELECT p.* FROM demo.before, demo.paths(doc) AS p) AS b
		FULL JOIN demo.paths(ekksync_doc(key)) AS a USING (path)
		WHERE b.value IS DISTINCT FROM a.value ORDER BY 1 \$\$;"

title "Before the first run"
show "The preconditions of a run, each with its state." \
	'SELECT "check", ok, detail FROM ekksync_check();'
expect "every precondition is met" \
	"SELECT string_agg(\"check\", ',') FROM ekksync_check() WHERE NOT ok AND \"check\" <> 'schedule'" ""

title "The first full push"
run "All $members members go to Firestore." "$members" 0
count=$(firestore POST :runAggregationQuery '{"structuredAggregationQuery": {
	"structuredQuery": {"from": [{"collectionId": "members"}]},
	"aggregations": [{"alias": "n", "count": {}}]}}')
[[ $count =~ \"integerValue\":\ *\"$members\" ]] ||
	fail "the demo failed: Firestore does not count $members documents: $count"
printf '\n-- %s\n' "Firestore itself counts $members documents in members."

title "An edit as Django's ORM makes it"
key=$(sql "SELECT ssn FROM membership_comrade WHERE id = 7")
update=$(sql "SELECT format('UPDATE membership_comrade SET name = %L, ssn = %L, birthday = %L, date_joined = %L, reachable = %L, groupable = %L, housing_situation = %L, gender = %L WHERE id = 7;',
	'Björn Þór Öxdal', ssn, birthday, date_joined, reachable, groupable, housing_situation, gender)
	FROM membership_comrade WHERE id = 7")
remember "$key"
show "save() writes every column; only the name is new." "$update"
show "The queue row, written in the same transaction, names what changed and no more." \
	"SELECT id, ssn, action, fields_changed, sync_status FROM membership_membersyncqueue WHERE sync_status = 'pending';"
expect "only the name is queued" \
	"SELECT fields_changed FROM membership_membersyncqueue WHERE sync_status = 'pending'" \
	'{"name": "Björn Þór Öxdal"}'
show "A dry run says what a run would write." \
	"SELECT member, side, field, old_value, new_value FROM ekksync_run(dry_run => true) WHERE field IS NOT NULL;"
expect "the dry run wrote nothing" "SELECT count(*) FROM demo.changed('$key')" 0
run "Now in earnest." 1 0
changed "$key" "What differs in the document: the name, and the two times every write sets."
expect "only the name was written" \
	"SELECT string_agg(path, ' ') FROM demo.changed('$key') WHERE path NOT LIKE 'metadata.%'" \
	"profile.name"
expect "the document has the name" "SELECT ekksync_doc('$key') #>> '{profile,name}'" \
	"Björn Þór Öxdal"

title "An edit as the profile page makes it"
key=$(sql "SELECT ssn FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id
	WHERE membership_contactinfo.email IS NOT NULL ORDER BY id OFFSET 20 LIMIT 1")
contact="SELECT ssn, name, phone, email FROM membership_comrade
	JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'"
show "A member's row before it." "$contact;"
now=$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)
firestore PATCH "/members/$key?updateMask.fieldPaths=profile.email&updateMask.fieldPaths=updated_at&currentDocument.exists=true" \
	'{"fields": {"profile": {"mapValue": {"fields": {"email": {"stringValue": "nytt.netfang@example.is"}}}},
		"updated_at": {"timestampValue": "'"$now"'"}}}' >/dev/null
entry=$(firestore POST /sync_queue '{"fields": {
	"source": {"stringValue": "firestore"}, "target": {"stringValue": "django"},
	"collection": {"stringValue": "members"}, "action": {"stringValue": "update"},
	"docId": {"stringValue": "'"$key"'"}, "kennitala": {"stringValue": "'"$key"'"},
	"changes": {"mapValue": {"fields": {"profile.email": {"stringValue": "nytt.netfang@example.is"}}}},
	"created_at": {"timestampValue": "'"$now"'"}, "synced_at": {"nullValue": null},
	"sync_status": {"stringValue": "pending"}}}' | sed -n 's|.*"name": *".*/documents\(/[^"]*\)".*|\1|p')
printf '\n-- %s\n' "The page has set profile.email in the document and added documents$entry."
run "The next run." 0 1
show "The row after it." "$contact;"
expect "the row has the address" "SELECT email FROM ($contact) AS c" "nytt.netfang@example.is"
show_document "The queue document is closed." "$entry" \
	"WHERE path IN ('docId', 'changes.profile.email', 'sync_status', 'synced_at')"
grep -q '"stringValue": "synced"' <<<"$document" || fail "the demo failed: the queue document is not closed"

title "A new member"
key=0101302399
show "A member and the contact info, in one transaction." "INSERT INTO membership_comrade (name, ssn, birthday, date_joined, reachable, groupable, gender)
		VALUES ('Ægir Þór Öxdal', '$key', '1930-01-01', now(), true, true, 1);
	INSERT INTO membership_contactinfo (comrade_id, phone, email)
		SELECT id, '+3545550199', 'aegir@example.is' FROM membership_comrade WHERE ssn = '$key';"
run "The next run." 1 0
show "The document." "SELECT path, value FROM demo.paths(ekksync_doc('$key'));"
expect "the document is complete" "SELECT d #>> '{profile,name}', d #>> '{profile,birthday}', d #>> '{profile,gender}',
	d #>> '{profile,phone}', d #>> '{profile,email}', d #>> '{membership,status}' FROM ekksync_doc('$key') AS d" \
	"Ægir Þór Öxdal|1930-01-01|male|555-0199|aegir@example.is|active"

title "A deleted member"
key=$(sql "SELECT ssn FROM membership_comrade WHERE id = 11")
remember "$key"
show "Django deletes what refers to the member, then the member." "DELETE FROM membership_contactinfo WHERE comrade_id = 11;
	DELETE FROM membership_comrade_emails WHERE comrade_id = 11;
	DELETE FROM membership_unionmembership WHERE comrade_id = 11;
	DELETE FROM membership_comradetitle WHERE comrade_id = 11;
	DELETE FROM membership_newlocaladdress WHERE comrade_id = 11;
	DELETE FROM membership_comrade WHERE id = 11;"
run "The next run." 1 0
changed "$key" "The document stays, inactive."
expect "the document is inactive" "SELECT d #>> '{membership,status}', d #> '{metadata,deleted_at}' IS NOT NULL
	FROM ekksync_doc('$key') AS d" "inactive|t"

title "A run with nothing to do"
run "It writes its own record and no member." 0 0
expect "the run wrote its sync_logs document only, when it began and when it ended" \
	"SELECT docs_written <= 2 FROM ekksync_runs ORDER BY run DESC LIMIT 1" t

title "The record"
show "The runs." "SELECT run, status, dry_run, to_firestore AS pushed, to_django AS applied, conflicts,
	docs_read, docs_written, requests, round(extract(epoch FROM duration), 2) AS seconds
	FROM ekksync_runs ORDER BY run;"
expect "every run succeeded" "SELECT bool_and(status = 'success') FROM ekksync_runs" t
show "The queue." "SELECT * FROM ekksync_queue_status;"
show "In short." "SELECT pending, synced, failed, first_contact, last_run, health, reason FROM ekksync_status();"
expect "nothing is pending or failed" "SELECT pending, failed, first_contact FROM ekksync_status()" "0|0|0"
log=$(sql "SELECT log_document FROM ekksync_runs ORDER BY run DESC LIMIT 1")
show_document "The last run in Firestore, where the admin portal's history page finds it." \
	"/sync_logs/${log##*/}" ""
grep -q '"stringValue": "success"' <<<"$document" || fail "the demo failed: the sync_logs document does not say success"

printf '\n%s\n' "That was the demo; its playground goes now.  To keep one:"
say "  make up                    (MEMBERS=n for n members)"
say "  . .dev/env; psql           and then, for example: SELECT * FROM ekksync_run();"
say "  make down                  ends it"
