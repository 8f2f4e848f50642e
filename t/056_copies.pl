# The fence, and what the base is bound to.  A copy of the database (CREATE
# DATABASE ... TEMPLATE) and its original cannot both go on: the one that comes
# second to a run pauses with a reason and writes nothing, until
# ekksync_resume() says that it is the one.  Another project, database id or
# cluster (a dump restored elsewhere) than that of the last run pauses too.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use PostgreSQL::Test::Utils ();

my $db = EkkSync->new(name => 'original', members => 5);
my $node = $db->node;
my $project = $db->project;
my ($ssn) = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id LIMIT 1');
is($db->run->{status}, 'success', 'a first run');

# A database's settings do not come along with a copy.
sub configure
{
	my ($on, $name) = @_;
	$on->safe_psql('postgres', <<"SQL");
ALTER DATABASE $name SET ekksync.project = '$project';
ALTER DATABASE $name SET ekksync.emulator_host = '@{[ $db->host ]}';
SQL
	return;
}

sub run_on
{
	my ($on, $name) = @_;
	return $on->safe_psql($name, 'SELECT status, message FROM ekksync_run()');
}

sub status_on
{
	my ($on, $name) = @_;
	return $on->safe_psql($name, 'SELECT paused, health, reason FROM ekksync_status()');
}

my $names = 0;
sub rename_member
{
	my ($on, $name) = @_;
	$names++;
	$on->safe_psql($name, "UPDATE membership_comrade SET name = 'Brynja $names' WHERE ssn = '$ssn'");
	return;
}

# The member's name in Firestore, and how many run documents there are.
sub seen
{
	return $db->doc($ssn)->{profile}{name} . ', ' . $db->count_docs('sync_logs') . ' runs';
}

# A run that must pause: it says why, writes nothing, and further ones are
# refused.
sub pauses
{
	my ($what, $reason, $on, $name) = @_;
	my $before = seen();
	is(run_on($on, $name), "failed|ekksync is paused: $reason", "$what: the run pauses");
	is(seen(), $before, '... and writes nothing');
	is(status_on($on, $name), "t|paused|$reason", '... and the status says paused, and why');
	is($on->safe_psql($name, 'SELECT count(*) FROM ekksync_pending WHERE retry_count = 0'), 1,
		'... and the row stays pending, no try spent');
	my (undef, undef, $err) = $on->psql($name, 'SELECT * FROM ekksync_run()');
	like($err, qr/ERROR:  ekksync is paused/, '... and a further run is refused');
	like($err, qr/DETAIL:  Reason: \Q$reason\E/, '... with the reason');
	like($err, qr/HINT:  Call ekksync_resume\(\)/, '... and a hint');
	return;
}

sub resumes
{
	my ($what, $on, $name) = @_;
	$on->safe_psql($name, 'SELECT ekksync_resume()');
	is(run_on($on, $name), 'success|', "$what: ekksync_resume() lets it go on");
	is(status_on($on, $name), 'f|ok|', '... and the status is well again');
	is($on->safe_psql($name, 'SELECT count(*) FROM ekksync_pending'), 0, '... and nothing is pending');
	like(seen(), qr/^Brynja $names,/, '... and the change has arrived');
	return;
}

# ------------------------------------------------------ a copy of the database

my $made = 'another copy of this database has already made this run';
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE socialism OWNER socialism');
pass('a database can be copied between runs');
configure($node, 'copy');

rename_member($node, 'socialism');
is($db->run->{status}, 'success', 'the original goes on');
is(seen(), 'Brynja 1, 2 runs', '... and writes');

# The copy knows nothing of that, and would write over it.
rename_member($node, 'copy');
pauses('copy', $made, $node, 'copy');
resumes('copy', $node, 'copy');

# Now it is the original that comes second.
rename_member($node, 'socialism');
pauses('original', $made, $node, 'socialism');
$node->safe_psql('copy', 'SELECT ekksync_pause()');
resumes('original', $node, 'socialism');
is(status_on($node, 'copy'), 't|paused|', 'a pause by hand has no reason unless it is given one');

# -------------------------------------------------- another project, another id

my $moved = 'the Firestore project or database is not the one of the last run';
for my $setting ("ekksync.project = '$project-2'", "ekksync.database_id = 'other'")
{
	my $what = $setting =~ s/ .*//r;
	rename_member($node, 'socialism');
	$db->admin_sql("ALTER DATABASE socialism SET $setting");
	pauses("another $what", $moved, $node, 'socialism');
	$db->admin_sql("ALTER DATABASE socialism SET ekksync.project = '$project'");
	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.database_id');
	(undef, undef, my $err) = $db->sql_err('SELECT ekksync_run()');
	like($err, qr/ERROR:  ekksync is paused/, '... to set it back is not enough');
	resumes("$what set back", $node, 'socialism');
}

# --------------------------------------------------------- a restored backup

my $elsewhere = 'this is not the database cluster of the last run';
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
my $other = EkkSync->new(name => 'elsewhere', extension => 0, attach => 0)->{node};
$other->safe_psql('postgres', 'CREATE DATABASE restored OWNER socialism');
configure($other, 'restored');
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('socialism') ], 'pg_dump');
$other->command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('restored'), $dump ],
	'pg_restore into another cluster');

my $kept = "SELECT string_agg(t::text, E'\\n' ORDER BY t::text) FROM ekksync.%s AS t";
for my $table (qw(state mapping dependency member inbox conflict run change_log))
{
	my $query = sprintf $kept, $table;
	is($other->safe_psql('restored', $query), $node->safe_psql('socialism', $query),
		"... with all of ekksync.$table");
}
rename_member($other, 'restored');
is($other->safe_psql('restored', 'SELECT count(*) FROM ekksync_pending'), 1,
	'... where changes are captured at once');
pauses('restored', $elsewhere, $other, 'restored');
resumes('restored', $other, 'restored');

done_testing();
