# The fence, and what the base is bound to.  A copy of the database (CREATE
# DATABASE ... TEMPLATE) and its original cannot both go on: the one that comes
# second to a run pauses with a reason and writes nothing, until
# ekksync_resume() says that it is the one.  So it is at whatever point of the
# fence a run died before the copy was made; without a copy the next run just
# goes on.  Another project or database id, and a project that was emptied,
# pause too.

use strict;
use warnings;
use utf8;
use Test::More;
use Copies qw(:DEFAULT $MADE $GONE_ON $EMPTIED $MOVED);
use EkkSync;
use IPC::Run ();

my $db = EkkSync->new(name => 'original', members => 5);
my $project = $db->project;
my @ssn = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');
is($db->run->{status}, 'success', 'a first run');

sub key_count
{
	my ($collection) = @_;
	return scalar keys %{ $db->docs($collection) };
}

sub empty
{
	my ($collection) = @_;
	$db->delete_doc("$collection/$_") for keys %{ $db->docs($collection) };
	return;
}

# ------------------------------------------------------ a copy of the database

my $copy = copy_of($db, 'copy');
pass('a database can be copied between runs');

# Runs that leave no document do not count.
$db->run(dry_run => 1) for 1 .. 2;
goes_on($db, 'the original');
$copy->run(dry_run => 1);

# The copy knows nothing of that, and would write over it.
pauses($copy, $MADE, 'the copy');
my $before = seen($copy);
my ($figures, @plan) = $copy->run_rows(dry_run => 1);
is_deeply(seen($copy), $before, '... but a dry run passes, and writes nothing');
is_deeply([ map { "$_->{side} $_->{field}: $_->{old_value} to $_->{new_value}" } grep { ($_->{field} // '') eq 'name' } @plan ],
	['firestore name: Brynja 1 to Brynja 2'], '... and shows what a run would overwrite');
is($copy->sql('SELECT paused FROM ekksync_status()'), 't', '... and the pause stays');
goes_on($db, 'the original again');

# Each copy that was told to go on stops the other.
resumes($copy, 'the copy');
pauses($db, $MADE, 'the original');
$copy->sql('SELECT ekksync_pause()');
resumes($db, 'the original');
is($copy->sql('SELECT paused, health, reason FROM ekksync_status()'), 't|paused|',
	'a pause by hand has no reason unless it is given one');
$copy->sql('SELECT ekksync_resume()');
pauses($copy, $MADE, 'a pause by hand, lifted, accepts nothing');

# What was accepted goes for one of the copies that know of it.
$copy->sql('SELECT ekksync_resume()');
$copy->sql('SELECT ekksync_resume()');
my $second = copy_of($copy, 'second');
comes_second($copy, $second, $MADE, 'copied after ekksync_resume(), called twice');
pauses($db, $MADE, 'the original');
$db->sql('SELECT ekksync_resume()');
my $third = copy_of($db, 'third');
comes_second($third, $db, $MADE, 'the original comes second to such a copy');
resumes($db, 'the original');

# -------------------------------------------------- another project, another id

for my $setting ("ekksync.project = '$project-2'", "ekksync.database_id = 'other'")
{
	my $what = $setting =~ s/ .*//r;
	$db->admin_sql("ALTER DATABASE socialism SET $setting");
	pauses($db, $MOVED, "another $what");
	$db->admin_sql("ALTER DATABASE socialism SET ekksync.project = '$project'");
	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.database_id');
	my (undef, undef, $err) = $db->sql_err('SELECT ekksync_run()');
	like($err, qr/ERROR:  ekksync is paused/, '... to set it back is not enough');
	resumes($db, "$what set back");
}

# ------------------------------------------------------------ emptied projects

# Documents of runs may be pruned, but for the newest.
my ($last) = map { $_->{log_document} } $db->rows('SELECT log_document FROM ekksync_runs ORDER BY run DESC LIMIT 1');
$db->delete_doc("sync_logs/$_") for grep { $_ ne $last } keys %{ $db->docs('sync_logs') };
goes_on($db, 'only the last run is left in sync_logs');

empty('sync_logs');
pauses($db, $EMPTIED, 'sync_logs was emptied', force => 1);
resumes($db, 'sync_logs was emptied');

my $guard = 'the run would create again the documents of 5 of 5 members';
my $touch = 'UPDATE ekksync.member SET due = true';
for my $case ([ 'the collection members', sub { empty('members') }, 0 ], [ 'the project', sub { $db->wipe }, 1 ])
{
	my ($what, $wipe, $fence) = @$case;
	$wipe->();
	if ($fence)
	{
		pauses($db, $EMPTIED, "$what was emptied", force => 1);
		$db->sql('SELECT ekksync_resume()');
	}
	$db->admin_sql($touch);
	is($db->run->{message}, $guard, "$what was emptied: the guard against mass damage stops the run");
	is(key_count('members'), 0, '... which writes nothing');
	is($db->sql('SELECT paused FROM ekksync_status()'), 'f', '... and is no pause');
	is($db->run->{message}, $guard, '... nor is the next run let through');
	is($db->run(force => 1)->{message}, undef, '... but one with force');
	is(key_count('members'), 5, '... which creates them all');
	empty('members');
	$db->admin_sql($touch);
	is($db->run->{message}, $guard, '... once');
	$db->run(force => 1);
	goes_on($db, "$what has been filled again");
}

# ------------------------------------------------------- a pause during a run

{
	my $name = rename_member($db);
	$db->stop_at('decided');
	my $run = $db->run(wait => 0);
	ok($db->wait_stopped, 'a run is under way');
	$db->sql("SELECT ekksync_pause('kaffi')");
	$db->go_on;
	ok($db->wait_for(sub { $db->sql("SELECT status FROM ekksync_runs WHERE run = $run->{run}") ne 'running' }),
		'... and ends, though somebody pauses runs');
	is($db->sql("SELECT status FROM ekksync_runs WHERE run = $run->{run}"), 'success', '... well');
	is($db->doc($ssn[0])->{profile}{name}, $name, '... and has done its work');
	my (undef, undef, $err) = $db->sql_err('SELECT ekksync_run()');
	like($err, qr/ERROR:  ekksync is paused\nDETAIL:  Reason: kaffi/, '... and the next one is refused');
	resumes($db, 'paused during a run');
}
$db->node->stop('immediate');

# ------------------------------------------------------- crashes of the fence

# The worker of each registry is killed at these steps, one run after the other.
my @fence = qw(fence_noted fence_sent fenced);
my @cases = (
	(map { { kills => [$_] } } qw(locked numbered), @fence, qw(members told in_end ended)),
	(map { { kills => $_ } } [qw(fence_noted fence_noted)], [qw(fence_sent fence_noted)], [qw(fence_sent fence_sent)],
		[qw(fenced fence_sent)], [qw(members fence_sent)], [qw(members fenced)]),
	(map { { kills => $_, accepted => 1 } } [qw(fence_noted fence_noted)], [qw(fence_sent fence_sent)], [qw(fenced fence_noted)]),
	{ kills => ['fence_sent'], pruned => 1 });

my $crash = EkkSync->new(name => 'crash', members => 2, conf => "restart_after_crash = on\nmax_worker_processes = 64");
my @dbs = $crash->copies(map { "crash$_" } 1 .. @cases);
$cases[$_]{db} = $dbs[$_] for keys @cases;

# Start a run that will not end.
sub start
{
	my ($on) = @_;
	my $self = { out => '' };
	$self->{harness} = IPC::Run::start(
		[ 'psql', qw(-X -q -U socialism -c), 'SELECT ekksync_run()', -d => $on->node->connstr($on->database) ],
		'<', \undef, '>&', \$self->{out}, IPC::Run::timeout(180));
	return $self;
}

for my $case (@cases)
{
	my $on = $case->{db};
	$case->{name} = join ' and ', @{ $case->{kills} };
	$case->{name} .= ', pruned' if $case->{pruned};
	$on->run->{status} eq 'success' or die "$case->{name}: no first run";
	next unless $case->{accepted};
	$case->{name} .= ', after ekksync_resume()';
	$on->admin_sql('UPDATE ekksync.state SET system_identifier = 1');
	$on->run;
	$on->sql('SELECT ekksync_resume()');
}

for my $round (0 .. 1)
{
	my @kill = grep { $_->{kills}[$round] } @cases;
	for my $case (@kill)
	{
		rename_member($case->{db});
		$case->{db}->stop_at($case->{kills}[$round]);
		$case->{run} = start($case->{db});
	}
	my @pids;
	for my $case (@kill)
	{
		my $pid = $case->{db}->wait_stopped or die "$case->{name}: the run does not come to its step: $case->{run}{out}";
		push @pids, $pid;
	}
	kill(STOP => @pids);		# or the server ends the others when it misses one
	is(kill(KILL => @pids), scalar @kill, 'workers are killed: ' . join ' ', map { $_->{kills}[$round] } @kill);
	eval { $_->{run}{harness}->finish } for @kill;
	ok($crash->wait_for(sub { eval { ($crash->admin_err('SELECT 1'))[0] == 0 } }), '... and the server comes back');
	$_->{db}->go_on for @kill;
}

for my $case (@cases)
{
	my $on = $case->{db};
	if ($case->{pruned})
	{
		my @logs = sort { $a->{created_at} cmp $b->{created_at} } values %{ $on->docs('sync_logs') };
		is(scalar @logs, 2, "$case->{name}: there is a document of the killed run");
		my ($uuid) = map { $_->{attachment} } @logs;
		$on->delete_doc("sync_logs/ekksync-$uuid-1");
	}
	my $twin = copy_of($on, $on->database . 'twin');
	my @reasons = ($MADE, $GONE_ON, $EMPTIED);

	# The twin does not wait for the other's run to end.
	rename_member($on);
	$on->stop_at('decided');
	my $run = $on->run(wait => 0);
	ok($on->wait_stopped, "killed at $case->{name}: the next run gets past the fence");
	pauses($twin, \@reasons, '... whose copy comes second');
	$on->go_on;
	ok($on->wait_for(sub { $on->sql("SELECT status FROM ekksync_runs WHERE run = $run->{run}") eq 'success' }),
		'... while the first one ends well');
	goes_on($on, "killed at $case->{name}");
	next unless $case->{accepted};
	resumes($twin, "$case->{name}: the copy");
	pauses($on, \@reasons, "$case->{name}: then the other one");
}

done_testing();
