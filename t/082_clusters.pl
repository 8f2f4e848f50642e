# Copies of a whole cluster, and dumps.  A standby that lost nothing goes on
# after its promotion without a word, and the old primary pauses when it is
# started again; a standby that had not received the last run pauses; of a base
# backup, a cold copy or a dump and its original the one that comes second
# pauses.  A copy that was made while a run was under way pauses once that run
# has ended, at whatever step it was made.

use strict;
use warnings;
use utf8;
use Test::More;
use Copies qw(:DEFAULT $MADE $GONE_ON $ELSEWHERE);
use EkkSync;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils ();

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';

# A cluster made of a backup of another one's, not yet started.
sub cluster_of
{
	my ($db, $name, $backup, %arg) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init_from_backup($db->node, $backup, %arg);
	my $placed = placed($db, node => $node, name => $name);
	return $placed;
}

sub promote
{
	my ($db) = @_;
	$db->node->promote;
	$db->node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'the standby is not promoted';
	return;
}

# A dump of the registry, restored into a database of a cluster.
sub restore
{
	my ($db, $node, $name) = @_;
	my $restored = placed($db, node => $node, database => $name);
	$node->safe_psql('postgres', "CREATE DATABASE $name OWNER socialism");
	$restored->use_project($db->project);
	$restored->use_host($db->host);
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($name), $dump ],
		"pg_restore into $name");
	return $restored;
}

sub dump_of
{
	my ($db) = @_;
	$db->node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $db->node->connstr($db->database) ], 'pg_dump');
	return;
}

my $db = EkkSync->new(name => 'elder', members => 3, conf => "wal_level = replica\nmax_wal_senders = 10");
goes_on($db, 'a first run');

# ------------------------------------------------------------------- standbys

{
	my $elder = $db;
	$db->node->backup('standby');
	my $younger = cluster_of($db, 'younger', 'standby', has_streaming => 1);
	$younger->node->start;
	goes_on($db, 'with a standby');
	my (undef, undef, $err) = $younger->sql_err('SELECT ekksync_run()');
	like($err, qr/cannot run on a standby server/, 'a standby makes no run');
	$db->node->wait_for_catchup($younger->node);

	# The standby takes over: it knows all that the primary knew.
	$db->node->stop;
	promote($younger);
	goes_on($younger, 'promoted, nothing lost');
	$elder->node->start;
	pauses($elder, $MADE, 'the old primary, started again');
	goes_on($younger, 'the promoted one again');
	$elder->node->stop;
	$db = $younger;
}

{
	$db->node->backup('behind');
	my $behind = cluster_of($db, 'behind', 'behind', has_streaming => 1);
	$behind->node->start;
	$db->node->wait_for_catchup($behind->node);
	$behind->node->stop;
	goes_on($db, 'while the standby is down');
	$db->node->stop('immediate');
	$behind->node->start;
	promote($behind);
	pauses($behind, $MADE, 'promoted without the last run');
	$db->node->start;
	goes_on($db, 'the primary that came back');
	resumes($behind, 'promoted without the last run');
	pauses($db, $MADE, 'the primary that came back');
	$db->node->stop;
	$db = $behind;
}

# ------------------------------------------------------- copies of the cluster

{
	$db->node->backup('hot');
	my $beside = cluster_of($db, 'beside', 'hot');
	$beside->node->start;
	is($beside->admin_sql('SELECT system_identifier FROM pg_control_system()'),
		$db->admin_sql('SELECT system_identifier FROM pg_control_system()'), 'a base backup is the same system');
	comes_second($db, $beside, $MADE, 'a base backup beside its original');
	$beside->node->stop;

	$db->node->stop;
	$db->node->backup_fs_cold('cold');
	my $cold = cluster_of($db, 'cold', 'cold');
	$_->node->start for $db, $cold;
	comes_second($cold, $db, $MADE, 'the original beside its cold copy');
	$db->node->stop;
	$db = $cold;

	# made while a run is under way
	rename_member($db);
	$db->stop_at('sent');
	my $run = $db->run(wait => 0);
	ok($db->wait_stopped, 'a run is under way');
	$db->node->backup('amid');
	$db->go_on;
	ok($db->wait_for(sub { $db->sql("SELECT status FROM ekksync_runs WHERE run = $run->{run}") eq 'success' }), '... and ends well');
	my $amid = cluster_of($db, 'amid', 'amid');
	$amid->node->start;
	$amid->go_on;
	pauses($amid, $GONE_ON, 'a base backup made meanwhile');
	goes_on($db, 'its original');
	$amid->node->stop;
}

# ---------------------------------------------------------------------- dumps

{
	dump_of($db);
	my $restored = restore($db, $db->node, 'restored');
	comes_second($db, $restored, $MADE, 'a dump restored beside its original');

	my $other = EkkSync->new(name => 'elsewhere', extension => 0, attach => 0)->node;
	dump_of($db);
	$restored = restore($db, $other, 'restored');
	for my $table (qw(state mapping dependency member inbox conflict run change_log))
	{
		my $query = "SELECT string_agg(t::text, E'\\n' ORDER BY t::text) FROM ekksync.$table AS t";
		is($restored->admin_sql($query), $db->admin_sql($query), "... with all of ekksync.$table");
	}
	pauses($restored, $ELSEWHERE, 'a dump restored into another cluster');
	goes_on($db, 'its original');
	resumes($restored, 'the dump');
	pauses($db, $MADE, 'the original');
	resumes($db, 'the original');
	$other->stop;
}

# Made at a step of a run that then ends: the run's document tells.  When the
# run had nothing left to do but to say so, the dump knows all.
my %ended = map { $_ => 1 } qw(told in_end ended);
for my $step (qw(locked numbered fence_noted fence_sent fenced decided applied sent settled members told in_end ended))
{
	my $name = rename_member($db);
	$db->stop_at($step);
	my $harness = IPC::Run::start([ 'psql', qw(-X -q -U socialism -c), 'SELECT ekksync_run()', -d => $db->node->connstr($db->database) ],
		'<', \undef, '>&', \my $out, IPC::Run::timeout(180));
	ok($db->wait_stopped, "a run comes to $step");
	dump_of($db);
	$db->go_on;
	ok($harness->finish, '... and goes on') or diag($out);
	my $restored = restore($db, $db->node, "dump_$step");
	if ($ended{$step})
	{
		comes_second($restored, $db, $MADE, "dumped at $step");
		resumes($db, 'the original');
	}
	else
	{
		pauses($restored, [ $MADE, $GONE_ON ], "dumped at $step");
		goes_on($db, 'the original');
	}
	$db->node->safe_psql('postgres', "DROP DATABASE dump_$step");
}

done_testing();
