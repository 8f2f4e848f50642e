# The documents say what is so: every SQL statement of the README runs, its
# line for cron fails when a run fails, its settings have the defaults that it
# gives, the reference's example of depends is taken, and the reference and the
# file table name everything there is.

use strict;
use warnings;
use Test::More;
use Docs qw(statements run_statement);
use EkkSync;
use IPC::Run ();
use PostgreSQL::Test::Utils qw(slurp_file);

my $top = $ENV{EKKSYNC_TOP};
my $readme = slurp_file("$top/README.md");
my $reference = slurp_file("$top/docs/reference.md");
my $internals = slurp_file("$top/docs/internals.md");

my $db = EkkSync->new(members => 40, extension => 0, attach => 0);

# What the examples take for granted: two columns and two members.
$db->sql('ALTER TABLE membership_comrade ADD COLUMN nickname varchar(50)');
$db->sql('ALTER TABLE membership_contactinfo ADD COLUMN phone2 varchar(32)');
$db->sql("UPDATE membership_comrade SET ssn = '1201743399' WHERE id = 1");
$db->sql("UPDATE membership_comrade SET ssn = '2112982049' WHERE id = 2");

# ------------------------------------------------------------ SQL statements

my @statements = statements($readme);
cmp_ok(scalar @statements, '>=', 25, 'the README shows statements');
for my $statement (@statements)
{
	run_statement($db, $statement, admin => scalar($statement =~ /^(?:CREATE EXTENSION|ALTER DATABASE)\b/));
}
is($db->admin_sql("SELECT string_agg(status, ' ') FROM ekksync.run WHERE status <> 'success'"),
	'', 'all runs of the README succeeded');
cmp_ok($db->admin_sql('SELECT count(*) FROM ekksync.run'), '>=', 5, '... and they were runs');
ok($db->doc('1201743399'), '... and wrote documents');

# ------------------------------------------------------------- the cron line

my ($cron) = $readme =~ /^ *(psql .*ekksync_run.*)$/m;
ok($cron, 'the README has a line for cron');
unlike($cron, qr/%/, '... without the sign that cron takes for the end of a line');

sub cron
{
	local %ENV = (
		%ENV,
		PGHOST => $db->node->host,
		PGPORT => $db->node->port,
		PGUSER => 'socialism');
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'sh', '-c', $cron ], '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8, $out . $err);
}

$db->attach;
is_deeply([cron()], [ 0, '' ], 'the line says nothing and succeeds when the run does');
$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_retries = 0');
my $host = $db->host;
$db->use_host('127.0.0.1:' . EkkSync::free_port());
my ($status, $said) = cron();
isnt($status, 0, '... and fails when Firestore cannot be reached');
is($db->sql('SELECT status FROM ekksync_runs ORDER BY run DESC LIMIT 1'), 'failed', '... which is a failed run');
my $error = $db->sql('SELECT error FROM ekksync_runs ORDER BY run DESC LIMIT 1');
like($said, qr/\Q$error\E/, '... and says why');
$db->use_host($host);
$db->sql("SELECT ekksync_pause('test')");
($status, $said) = cron();
isnt($status, 0, '... and fails when runs are paused');
like($said, qr/test/, '... with the reason');

# --------------------------------------------------------------- the settings

# In the database postgres nobody has set anything.
my %default = map { split /\|/, $_, 2 } split /\n/,
  $db->node->safe_psql('postgres', <<'SQL');
SELECT name, current_setting(name) FROM pg_settings
WHERE name LIKE 'ekksync.%' AND setting = boot_val
SQL
my %row = $readme =~ /^\| `(ekksync\.\w+)` \| (.*?) \|/mg;
cmp_ok(scalar keys %default, '>=', 11, 'there are settings');
is_deeply(
	[ sort keys %row ],
	[ split /\n/, $db->node->safe_psql('postgres',
			q(SELECT name FROM pg_settings WHERE name LIKE 'ekksync.%' ORDER BY name COLLATE "C")) ],
	'the settings table has every setting and no other');
for my $name (sort keys %row)
{
	is($row{$name} =~ s/^`(.*)`$/$1/r =~ s/^empty$//r, $default{$name}, "default of $name");
}

# -------------------------------------------------------------- the reference

my ($depends) = $reference =~ /^```json\n(.*?)^```$/ms;
$db->sql(<<"SQL");
CREATE FUNCTION titles(integer) RETURNS text[] STABLE LANGUAGE sql AS 'SELECT ''{}''::text[]';
SELECT ekksync_map('titles2', 'profile.titles', 'text[]', direction => 'push',
	compute => 'titles(integer)', depends => \$depends\$$depends\$depends\$);
SQL
is($db->admin_sql("SELECT count(*) FROM ekksync.dependency WHERE field = 'titles2'"), 2,
	'the example of depends is taken');

# Functions and views: how the reference must name each, and its arguments or
# columns.
my $objects = $db->admin_sql(<<'SQL');
SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || proname,
	array_to_string(proargnames, ' ')
FROM pg_proc AS o JOIN pg_namespace AS n ON n.oid = pronamespace
JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = o.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'ekksync'
UNION ALL
SELECT o.oid::regclass::text,
	(SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid = o.oid AND attnum > 0)
FROM pg_class AS o
JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = o.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'ekksync'
WHERE relkind = 'v'
SQL
my @objects = map { [ split /\|/, $_ ] } split /\n/, $objects;
cmp_ok(scalar @objects, '>=', 24, 'there are functions and views');

# what stands as code or in a heading
my $code = join "\n", $reference =~ /(`[^`\n]+`|^### .*)/mg;
for my $object (sort { $a->[0] cmp $b->[0] } @objects)
{
	my ($name, $parts) = @$object;
	my @missing = grep { $code !~ /(?<![\w.])\Q$_\E(?!\w)/ } $name, split / /, $parts // '';
	is("@missing", '', "the reference names $name and its parts");
}
my %mentioned = map { $_ => 1 } $code =~ /(?<![\w.])(ekksync_\w+)/g;
my %exists = map { $_ => 1 } (map { $_->[0] } @objects), split /\n/, $db->sql('SELECT DISTINCT name FROM ekksync_metrics');
is(join(' ', grep { !$exists{$_} } sort keys %mentioned),
	'', '... and no function, view or metric that does not exist');

# ------------------------------------------------------------- the file table

my %files = map { s{.*/}{}r => 1 } glob "$top/src/*.c";
my %named = map { $_ => 1 } $internals =~ /`(\w+\.c)`/g;
cmp_ok(scalar keys %files, '>=', 50, 'there are source files');
is_deeply([ sort keys %named ], [ sort keys %files ],
	'docs/internals.md names every source file and no other');

# ----------------------------------------------------------------- operations

# As the superuser, each block in a session of its own, in the order of the
# page: from a server without the extension to one that it has been removed
# from.  There, another library is preloaded, too.
{
	my $page = slurp_file("$top/docs/operations.md");
	my $server = EkkSync->new(name => 'operations', members => 10, preload => 0, extension => 0, attach => 0, project => 0);
	my $restored = bless { %$server, database => 'restored' }, ref $server;
	my ($others) = $page =~ /name them\s+too: `('pg_stat_statements', 'ekksync')`/;
	$others =~ s/pg_stat_statements/plpgsql/;
	my $dir = "$ENV{TESTDIR}/operations_002";
	system('rm', '-rf', $dir);
	mkdir $dir or BAIL_OUT("$dir: $!");
	my $heading = '';
	my $blocks = 0;
	while ($page =~ /^## ([^\n]*)|^```(sql|sh)\n(.*?)^```$/msg)
	{
		$heading = $1 if defined $1;
		next unless defined $2;
		my ($kind, $block) = ($2, $3);
		my $name = "operations, $heading: " . ($block =~ /^(.*)/)[0];
		my ($status, $error);
		$blocks++;
		$block =~ s/'my-project'/"'" . $server->project . "'"/eg;
		$block =~ s/(shared_preload_libraries =) 'ekksync'/$1 $others/;
		if ($kind eq 'sql')
		{
			($status, undef, $error) = $server->admin_err($block);
			$server->wait_for(sub { $server->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0 })
			  or BAIL_OUT('a run does not end');
		}
		else
		{
			local %ENV = (%ENV, PGHOST => $server->node->host, PGPORT => $server->node->port);
			IPC::Run::run([ 'sh', '-ec', $block ], init => sub { chdir $dir or die }, '<', \undef, '2>', \$error);
			$status = $? >> 8;
		}
		is("$status $error" =~ s/^(\d+) (?:(?:psql:\S+ )?(?:NOTICE|WARNING|DETAIL|HINT): .*\n?)*$/$1/r, '0', $name);
		if ($block =~ /SET shared_preload_libraries/)
		{
			$server->node->restart;
		}
		elsif ($block =~ /CREATE EXTENSION/)
		{
			$server->sql("UPDATE membership_comrade SET name = 'Sól' WHERE id = 1");
			is($server->run->{status}, 'success', '... and a run can be made');
			ok($server->wait_for(sub { defined $server->row('SELECT next_run FROM ekksync_status()')->{next_run} }), '... and will be');
		}
		elsif ($kind eq 'sh')
		{
			$restored->use_host($server->host);
			$restored->use_project($server->project);
			is($server->run->{status}, 'success', '... and a run is made in the original');
			my $count = 'SELECT count(*) FROM ekksync.member';
			is($restored->admin_sql($count), $server->admin_sql($count), '... the copy has what the original has');
			is($restored->run->{status}, 'failed', '... and is not synced');
			like($restored->sql('SELECT health FROM ekksync_status()'), qr/^paused$/, '... but paused');
		}
	}
	cmp_ok($blocks, '>=', 20, 'docs/operations.md shows statements');
	$server->node->restart;
	is($server->admin_sql('SHOW shared_preload_libraries'), '', 'removed: the library is not loaded');
	is($server->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ekksync%'"), 0, '... nor is there a launcher');
	is($server->admin_sql(<<'SQL'), 'ekksync.emulator_host', '... and of the settings is left what the page has not set');
SELECT string_agg(split_part(s, '=', 1), ' ') FROM pg_db_role_setting JOIN pg_database AS d ON d.oid = setdatabase, unnest(setconfig) AS s
WHERE datname = 'socialism' AND s LIKE 'ekksync.%'
SQL
	is($server->sql('SELECT count(*) FROM membership_membersyncqueue'), 1, '... and the queue');
}

# ------------------------------------------------------- rules and their tests

my @rules = $internals =~ /^\| .* \| `(\w+)` \| `(.*)` \|$/mg;
cmp_ok(scalar @rules, '>=', 2 * 35, 'docs/internals.md has a test for each rule');
while (my ($file, $name) = splice @rules, 0, 2)
{
	my ($path) = grep { -e } map { "$top/t/$file.$_" } qw(pl c);
	ok($path && index(slurp_file($path), $name) >= 0, "... $file: $name");
}

done_testing();
