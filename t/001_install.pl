# What CREATE EXTENSION makes, who may use it, what DROP EXTENSION leaves.

use strict;
use warnings;
use Test::More;
use EkkSync;

my $db = EkkSync->new(members => 3, project => 0, attach => 0, extension => 0);

# ------------------------------------------------------------- the schema

my ($status, undef, $error) =
  $db->admin_err('CREATE SCHEMA ekksync; CREATE EXTENSION ekksync SCHEMA ekksync');
isnt($status, 0, 'installing into a schema called ekksync is refused');
like($error, qr/cannot be installed into schema "ekksync"/, '... with the reason');
like($error, qr/HINT:  Use CREATE EXTENSION ekksync SCHEMA public\./, '... and a hint');
$db->admin_sql('DROP SCHEMA ekksync');

$db->admin_sql('CREATE EXTENSION ekksync; CREATE ROLE nobody LOGIN');
is($db->admin_sql("SELECT extversion FROM pg_extension WHERE extname = 'ekksync'"),
	'1.0', 'CREATE EXTENSION');

# ------------------------------------------------- comments and privileges

# Objects of the extension of one catalog.
sub objects
{
	my ($catalog, $select, $where) = @_;
	return $db->admin_sql(<<"SQL");
SELECT $select
FROM $catalog AS o
JOIN pg_depend AS d ON d.classid = '$catalog'::regclass AND d.objid = o.oid
	AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'ekksync'
WHERE $where ORDER BY 1
SQL
}

cmp_ok(objects('pg_proc', 'count(*)', 'true'), '>', 15, 'functions are there');
is(objects('pg_proc', 'o.oid::regprocedure', "obj_description(o.oid, 'pg_proc') IS NULL"),
	'', 'every function has a comment');
is(objects('pg_class', 'o.oid::regclass',
		"o.relkind IN ('r', 'v') AND obj_description(o.oid, 'pg_class') IS NULL"),
	'', 'every table and view has a comment');

is($db->admin_sql("SELECT has_schema_privilege('nobody', 'ekksync', 'USAGE')"),
	'f', 'the schema is closed to PUBLIC');
is(objects('pg_class', 'o.oid::regclass', "o.relkind IN ('r', 'v', 'S') AND ("
		  . join(' OR ', map { "has_table_privilege('nobody', o.oid, '$_')" }
			  qw(SELECT INSERT UPDATE DELETE TRUNCATE)) . ')'),
	'', 'no table, view or sequence is open to PUBLIC');
is(objects('pg_proc', 'o.proname',
		"o.proname LIKE 'ekksync\\_%' AND has_function_privilege('nobody', o.oid, 'EXECUTE')"),
	"ekksync_attach\nekksync_detach",
	'of the functions only attach and detach, which check ownership, are open to PUBLIC');

is(objects('pg_proc', 'o.proname', 'o.prosecdef'), '', 'no function is SECURITY DEFINER');

# ------------------------------------------------------------ no project yet

$db->admin_sql('DROP EXTENSION ekksync');
$db->create_extension;
$db->attach;
(undef, undef, $error) = $db->sql_err('SELECT * FROM ekksync_run()');
like($error, qr/ERROR:  no Firestore project is set/, 'a run with no project says what is not set');
like($error, qr/HINT:  .*ekksync\.project/, '... and how to set it');

# --------------------------------------------------------------------- drop

$db->sql("UPDATE membership_comrade SET name = name || ' yngri' WHERE id = 2");
is($db->sql('SELECT count(*) FROM membership_membersyncqueue'), 1, 'the change is queued');
$db->admin_sql('DROP EXTENSION ekksync CASCADE');
is($db->sql('SELECT count(*) FROM membership_membersyncqueue'), 1,
	'DROP EXTENSION leaves the queue table and its rows');
is($db->admin_sql("SELECT to_regnamespace('ekksync') IS NULL"), 't', '... and nothing of ours');
$db->sql("UPDATE membership_comrade SET name = 'Þórunn Æsa Ösp' WHERE id = 1");
is($db->sql('SELECT name FROM membership_comrade WHERE id = 1'), "\x{de}\x{f3}runn \x{c6}sa \x{d6}sp",
	'... and the application goes on');

done_testing();
