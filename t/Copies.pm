# Copies.pm: copies of a registry that sync to the same Firestore project, and
# what is expected of them: one goes on, the other one pauses.

package Copies;

use strict;
use warnings;
use utf8;
use Exporter qw(import);
use Test::More;
use EkkSync;

our @EXPORT = qw(copy_of placed rename_member seen pauses goes_on comes_second resumes);
our @EXPORT_OK = qw($MADE $GONE_ON $EMPTIED $MOVED $ELSEWHERE);

our $MADE = 'another copy of this database has already made this run';
our $GONE_ON = 'another copy of this database has gone on since the last run';
our $EMPTIED = 'the last run\'s document has gone from sync_logs: the project was emptied,'
  . ' or another copy of this database has gone on';
our $MOVED = 'the Firestore project or database is not the one of the last run';
our $ELSEWHERE = 'this is not the database cluster of the last run';

# A copy of the database in its cluster.
sub copy_of
{
	my ($db, $name) = @_;
	my ($copy) = $db->copies($name);
	$copy->use_project($db->project);
	return $copy;
}

# The registry as it stands in another node or database.
sub placed
{
	my ($db, %at) = @_;
	my $placed = bless { %$db, %at }, ref $db;
	delete $placed->{oid};
	return $placed;
}

my $names = 0;
sub rename_member
{
	my ($db) = @_;
	$names++;
	$db->sql("UPDATE membership_comrade SET name = 'Brynja $names' WHERE id = (SELECT min(id) FROM membership_comrade)");
	return "Brynja $names";
}

# All that a run may write in Firestore.
sub seen
{
	my ($db) = @_;
	return { map { ($_ => $db->docs($_)) } qw(members sync_queue sync_logs) };
}

sub status
{
	my ($db) = @_;
	my $status = $db->row('SELECT paused, health, reason FROM ekksync_status()');
	return [ $status->{paused} ? 'paused' : 'not paused', @$status{qw(health reason)} ];
}

# A run with something to write that must pause: it says why, a reason or one
# of several, writes nothing, and further ones are refused.
sub pauses
{
	my ($db, $reason, $what, %arg) = @_;
	rename_member($db);
	my $before = seen($db);
	my $run = $db->run(%arg);
	my ($why) = ($run->{message} // '') =~ /^ekksync is paused: (.*)/;
	ok(defined $why && grep({ $_ eq $why } ref $reason ? @$reason : $reason), "$what: the run pauses")
	  or diag($run->{status}, ' ', $run->{message} // '');
	is_deeply(seen($db), $before, '... and writes nothing');
	is_deeply(status($db), [ 'paused', 'paused', $why ], '... and the status says paused, and why');
	is($db->sql('SELECT bool_and(retry_count = 0) FROM ekksync_pending'), 't',
		'... and what is pending stays so, no try spent');
	for my $args ('', 'force => true')
	{
		my (undef, undef, $err) = $db->sql_err("SELECT * FROM ekksync_run($args)");
		like($err, qr/ERROR:  ekksync is paused\n.*DETAIL:  Reason: \Q$why\E\n.*HINT:  Call ekksync_resume\(\)/s,
			'... and a further run is refused, with the reason' . ($args && ', whatever force says'));
	}
	return;
}

# A run with something to write that must go on without a word.
sub goes_on
{
	my ($db, $what) = @_;
	my $name = rename_member($db);
	my $run = $db->run;
	is_deeply([ @$run{qw(status message)} ], [ 'success', undef ], "$what: the run goes on without a word");
	my ($ssn) = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id LIMIT 1');
	is($db->doc($ssn)->{profile}{name}, $name, '... and does its work');
	my $status = status($db);
	is_deeply([ @$status[ 0, 1 ] ], [ 'not paused', 'ok' ], '... and all is well');
	like($status->[2] // '', qr/^(?:nothing is scheduled.*)?$/, '... whether or not there is a schedule');
	my $logs = $db->docs('sync_logs');
	is(join(' ', grep { $logs->{$_}{status} eq 'running' } sort keys %$logs), '', '... and no document says that a run goes on');
	my %complete;
	$complete{ $logs->{$_}{run} }++ for grep { exists $logs->{$_}{completed_at} } keys %$logs;
	my ($last) = map { $_->{log_document} } $db->rows("SELECT log_document FROM ekksync_runs WHERE run = $run->{run}");
	is_deeply([ @{ $logs->{$last} }{qw(run status)} ], [ $run->{run}, 'success' ], '... and its own says success');
	return;
}

# Whoever comes second pauses, and the first one goes on.
sub comes_second
{
	my ($first, $second, $reason, $what) = @_;
	goes_on($first, "$what: the first");
	pauses($second, $reason, "$what: the second");
	goes_on($first, "$what: the first again");
	return;
}

sub resumes
{
	my ($db, $what) = @_;
	$db->sql('SELECT ekksync_resume()');
	goes_on($db, "$what: after ekksync_resume()");
	return;
}

1;
