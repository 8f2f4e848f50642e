# Who may what: the owner of the tables, as Django connects, and a role that is
# a member of it, may do all that Django needs; a role with rights on the tables
# alone may edit members and settle queue rows, and is captured; monitoring sees
# how it goes; and nobody of them may do anything else.

use strict;
use warnings;
use Test::More;
use Django;
use EkkSync;

my $missing = Django::missing();
ok(!$missing, 'what this test needs is installed') or diag($missing), done_testing(), exit;

my $db = EkkSync->new(members => 20, attach => 0, extension => 0);
$db->admin_sql('CREATE EXTENSION ekksync');
$db->attach;
my $django = Django->new($db);
my ($status, undef, $err) = $django->manage('migrate', '--fake-initial', '-v0');
is("$status $err", '0 ', 'migrate, as the owner of the tables');
is($db->run->{status}, 'success', 'the first run');
$db->admin_sql(<<'SQL');
CREATE ROLE member LOGIN IN ROLE socialism;
CREATE ROLE editor LOGIN;
CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
CREATE ROLE nobody LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO editor;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO editor;
SELECT format('REVOKE ALL ON %s FROM editor', objid::regclass)
FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = refobjid AND extname = 'ekksync'
JOIN pg_class AS c ON c.oid = objid
WHERE d.classid = 'pg_class'::regclass AND deptype = 'e' AND relnamespace = 'public'::regnamespace
\gexec
SQL
my @roles = qw(socialism member editor watcher nobody);
my $list = join ', ', map { "('$_')" } @roles;

# ------------------------------------------------------------------- the matrix

# All functions, views, tables and sequences of the extension: who may use them,
# as {role => "name name ..."}.
sub may
{
	my ($query) = @_;
	my %may = map { $_ => '' } @roles;
	my $found = $db->admin_sql("WITH roles (role) AS (VALUES $list) $query");
	$may{$1} = $2 while $found =~ /^(\w+)\|(.*)$/mg;
	return \%may;
}

my $members = "(SELECT classid, objid FROM pg_depend JOIN pg_extension AS e ON e.oid = refobjid AND extname = 'ekksync' WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e') AS m";
my $functions = $db->admin_sql("SELECT string_agg(proname, ' ' ORDER BY proname COLLATE \"C\") FROM $members JOIN pg_proc AS p ON p.oid = objid AND classid = 'pg_proc'::regclass WHERE pronamespace = 'public'::regnamespace");
my $views = $db->admin_sql("SELECT string_agg(relname, ' ' ORDER BY relname COLLATE \"C\") FROM $members JOIN pg_class AS c ON c.oid = objid AND classid = 'pg_class'::regclass WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'");
like($functions, qr/ekksync_apply .*ekksync_status/, 'there are functions');
like($views, qr/ekksync_conflicts .*ekksync_runs/, '... and views');

is_deeply(
	may("SELECT role, string_agg(proname, ' ' ORDER BY proname COLLATE \"C\") FROM roles, $members JOIN pg_proc AS p ON p.oid = objid AND classid = 'pg_proc'::regclass WHERE pronamespace = 'public'::regnamespace AND has_function_privilege(role, p.oid, 'EXECUTE') GROUP BY role"),
	{
		socialism => $functions,
		member    => $functions,
		watcher   => 'ekksync_attach ekksync_detach ekksync_status',
		map { $_ => 'ekksync_attach ekksync_detach' } qw(editor nobody)
	},
	'who may call which function');
is_deeply(
	may("SELECT role, string_agg(relname, ' ' ORDER BY relname COLLATE \"C\") FROM roles, $members JOIN pg_class AS c ON c.oid = objid AND classid = 'pg_class'::regclass WHERE relnamespace = 'public'::regnamespace AND has_table_privilege(role, c.oid, 'SELECT') GROUP BY role"),
	{
		socialism => $views,
		member    => $views,
		watcher   => 'ekksync_metrics ekksync_phases ekksync_progress',
		map { $_ => '' } qw(editor nobody)
	},
	'who may see which view');
is_deeply(
	may("SELECT role, string_agg(relname || ' ' || what, ', ') FROM roles, $members JOIN pg_class AS c ON c.oid = objid AND classid = 'pg_class'::regclass, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS what WHERE relkind IN ('r', 'v') AND (what <> 'SELECT' OR relnamespace = 'ekksync'::regnamespace) AND has_table_privilege(role, c.oid, what) GROUP BY role"),
	{ map { $_ => '' } @roles }, 'nobody may write to views, nor read or write the extension\'s own tables');
is_deeply(
	may("SELECT role, string_agg(what, ', ') FROM roles, unnest('{USAGE,CREATE}'::text[]) AS what WHERE has_schema_privilege(role, 'ekksync', what) GROUP BY role"),
	{ map { $_ => '' } @roles }, '... nor use their schema');
is_deeply(
	may("SELECT role, string_agg(relname, ', ') FROM roles, pg_class AS c WHERE relkind = 'S' AND relnamespace = 'ekksync'::regnamespace AND (has_sequence_privilege(role, c.oid, 'USAGE') OR has_sequence_privilege(role, c.oid, 'UPDATE')) GROUP BY role"),
	{ map { $_ => '' } @roles }, '... nor their sequences');
is($db->admin_sql("SELECT count(*) FROM $members JOIN pg_proc AS p ON p.oid = objid AND classid = 'pg_proc'::regclass WHERE prosecdef"), 0,
	'no function changes its user by itself');

# ---------------------------------------------------------- all that Django needs

# Each function of ekksync.sql, which is all that the package asks of PostgreSQL
# beside its models: its name, and its SQLSTATE or "ok", as this role.
my $calls = <<'P';
import types
from ekksync import sql
from ekksync.models import Conflict, Run
key = Comrade.objects.order_by('id').first().ssn
calls = {
    'status': lambda: sql.status(), 'changes': lambda: sql.changes(), 'member': lambda: sql.member(key),
    'apply': lambda: sql.apply({'changes': [{'kennitala': key, 'action': 'update', 'changes': {'profile.name': 'Ny'}}]}),
    'mark_synced': lambda: sql.mark_synced([0]), 'retry': lambda: sql.retry([0]), 'enum_options': lambda: sql.enum_options(),
    'resolve': lambda: sql.resolve(1, 'django'), 'cleanup': lambda: sql.cleanup(), 'check': lambda: sql.check(),
    'diff': lambda: sql.diff(), 'history': lambda: sql.history(key), 'start_run': lambda: sql.start_run(),
    'progress': lambda: sql.progress(), 'run': lambda: sql.run(1), 'plan': lambda: sql.plan(1), 'phases': lambda: sql.phases(1),
    'models': lambda: [list(model.objects.all()) for model in (Conflict, Run)] and None,
}
helpers = {'database', 'rows', 'row', 'value', 'decoded', 'plain_key', 'nullcontext'}
own = {name for name, one in vars(sql).items() if isinstance(one, types.FunctionType)} - helpers
assert own == set(calls) - {'models'}, own ^ set(calls)
def outcome(call):
    try:
        call()
        return 'ok'
    except Exception as error:
        return getattr(error, 'sqlstate', None) or getattr(error.__cause__, 'pgcode', None) or getattr(error.__cause__, 'sqlstate', None) or str(error)
result = {name: outcome(call) for name, call in calls.items() if name != 'start_run'}
result['start_run'] = outcome(calls['start_run'])
P
my %all = map { $_ => 'ok' } qw(status changes apply mark_synced member enum_options retry cleanup check diff history start_run progress run plan phases models);
for my $role (qw(socialism member))
{
	my $as = Django->new($db, env => { PGUSER => $role });
	is_deeply(scalar $as->python($calls), { %all, resolve => '22023' }, "$role may do all that Django asks for, and is told that there is no such conflict");
	$db->wait_for(sub { $db->sql('SELECT count(*) FROM ekksync_progress') == 0 });
	$as->stop;
}
{
	my $as = Django->new($db, env => { PGUSER => 'editor' });
	is_deeply(scalar $as->python($calls), { map { $_ => '42501' } keys %all, 'resolve' }, 'an editor may call nothing of it');
	$as->python("m = Comrade.objects.order_by('id')[3]; m.name = 'Ritstjori'; m.save(); m = Comrade.objects.create(name='Nyr', ssn='0404302989', date_joined='2026-01-01T00:00Z'); m.delete(); Comrade.objects.order_by('id')[4].contact.delete()");
	is($db->sql("SELECT string_agg(DISTINCT action, ' ' ORDER BY action) FROM membership_membersyncqueue WHERE sync_status = 'pending'"),
		'create delete update', '... but edit members, and is captured');
	is_deeply(scalar $as->python(<<'P'), [ map { [ 403, "Django's database role may not do this: permission denied for function ekksync_$_" ] } qw(changes apply mark_synced status member) ],
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.authtoken.models import Token
token = Token.objects.get_or_create(user=User.objects.create_user('vef', is_staff=True))[0].key
client = Client(raise_request_exception=False, SERVER_NAME='127.0.0.1', HTTP_AUTHORIZATION='Token ' + token)
api = '/felagar/api/sync/'
def post(path, body):
    return client.post(api + path, body, content_type='application/json')
answers = [client.get(api + 'changes/'), post('apply/', {'changes': []}), post('mark-synced/', {'sync_ids': [1]}),
           client.get(api + 'status/'), client.get(api + 'member/0101302989/')]
result = [[one.status_code, one.json().get('error')] for one in answers]
P
		'... and the endpoints answer 403, and why');
	$as->python("MemberSyncQueue.objects.filter(sync_status='pending').first().mark_synced()");
	is($db->admin_sql('SELECT count(*) FROM ekksync.touched'), 1, '... and settle rows, which is noted');
	$as->stop;
	is($db->run->{status}, 'success', '... and the run takes it over');
	is($db->sql('SELECT count(*) FROM ekksync_diff()'), 0, '... to the last value');
}

# -------------------------------------------------------------- and nothing else

# As a role: the statement's SQLSTATE, or "ok".
sub outcome
{
	my ($role, $sql) = @_;
	my ($status, undef, $error) = $db->_psql($role, $db->database, "\\set VERBOSITY verbose\nBEGIN;\n$sql;\nROLLBACK;");
	return $status == 0 ? 'ok' : $error =~ /ERROR:  (\w{5}):/ ? $1 : $error;
}

sub outcome_alone
{
	my ($role, $sql) = @_;
	my ($status, undef, $error) = $db->_psql($role, $db->database, "\\set VERBOSITY verbose\n$sql;");
	return $status == 0 ? 'ok' : $error =~ /ERROR:  (\w{5}):/ ? $1 : $error;
}

my $tables = $db->admin_sql("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'ekksync'::regnamespace AND relkind = 'r'");
my @forbidden = (
	(map { ("SELECT * FROM ekksync.$_", "INSERT INTO ekksync.$_ DEFAULT VALUES", "DELETE FROM ekksync.$_", "TRUNCATE ekksync.$_", "ALTER TABLE ekksync.$_ ADD x integer") } split / /, $tables),
	'CREATE TABLE ekksync.mine (x integer)',
	'DROP SCHEMA ekksync CASCADE',
	'DROP EXTENSION ekksync CASCADE',
	'ALTER EXTENSION ekksync UPDATE',
	'ALTER EXTENSION ekksync DROP FUNCTION ekksync_status()',
	"CREATE OR REPLACE FUNCTION ekksync_resume() RETURNS void LANGUAGE sql AS 'SELECT'",
	'ALTER FUNCTION ekksync_run(text, boolean, boolean, text[], boolean) SECURITY DEFINER',
	'GRANT EXECUTE ON FUNCTION ekksync.queue_rows(text) TO nobody',
	'CREATE OR REPLACE VIEW ekksync_runs AS SELECT 1 AS run',
	'SELECT ekksync.queue_rows(NULL)',
	'SELECT ekksync.metrics()',
	"SELECT ekksync.plain('{}')",
	'CREATE TABLE own (x integer); CREATE TRIGGER t AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION ekksync.capture()',
	(map { ("SET $_", "ALTER DATABASE socialism SET $_", "ALTER ROLE CURRENT_USER SET $_") } "ekksync.project = 'other'", "ekksync.credentials = '/etc/passwd'", "ekksync.emulator_host = '127.0.0.1:1'", "ekksync.max_delete_percent = 100"),
	'SET SESSION AUTHORIZATION postgres',
	"SELECT pg_read_file('/etc/passwd')",
	"UPDATE ekksync_runs SET status = 'success'",
	'DELETE FROM ekksync_conflicts');
for my $role (@roles)
{
	# Each is undone, also where it succeeds.
	my $statements = join ', ', map { $db->quote($_) } @forbidden;
	my (undef, undef, $notices) = $db->_psql($role, $db->database, <<"SQL");
DO \$\$
DECLARE
	statement text;
BEGIN
	FOREACH statement IN ARRAY ARRAY[$statements] LOOP
		BEGIN
			EXECUTE statement;
			RAISE SQLSTATE 'OK000';
		EXCEPTION WHEN OTHERS THEN
			RAISE NOTICE '% %', SQLSTATE, statement;
		END;
	END LOOP;
END
\$\$;
SQL
	my @outcomes = $notices =~ /NOTICE:  (\w{5} .*)/g;
	is(scalar @outcomes, scalar @forbidden, "$role: " . scalar(@forbidden) . ' things are tried') or diag($notices);
	is(join("\n", grep { !/^(?:42501|42601|55000|2BP01|3F000)/ } @outcomes), '', "... and all are refused");
	is(outcome_alone($role, "ALTER SYSTEM SET ekksync.databases = \'\'"), '42501', '... and so is ALTER SYSTEM');
}
for my $sql ("SELECT ekksync_attach('membership_comrade')", 'SELECT ekksync_detach()')
{
	is(outcome($_, $sql), '42501', "$_ may not: $sql") for qw(editor watcher nobody);
}
is(outcome('watcher', 'SELECT health FROM ekksync_status()'), 'ok', 'monitoring may ask how it goes');
is(outcome('watcher', 'SELECT * FROM membership_membersyncqueue'), '42501', '... and see no member');

done_testing();
