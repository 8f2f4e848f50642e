# The kill matrix, worker and waiting session ("Crash-proof"): at each step of
# a run, and while each of its requests hangs, the worker is cancelled or
# terminated, and the session that waits is cancelled, terminated or killed.
# See KillMatrix.pm.

use strict;
use warnings;
use IPC::Run ();
use KillMatrix qw(call_too end_waiters order_workers);
use Test::More;

my $matrix = KillMatrix->new;

$matrix->try('worker cancelled', order_workers('pg_cancel_backend'));
$matrix->try('worker terminated', order_workers('pg_terminate_backend'));

# The run goes on without those who wait for it.
$matrix->try(
	'Ctrl-C in the waiting session',
	end_waiters(
		'Ctrl-C',
		sub {
			my ($self, $pids, @cells) = @_;
			IPC::Run::signal($_->{session}{harness}, 'INT') for @cells;
		}),
	goes_on => 1);
$matrix->try(
	'waiting session terminated',
	end_waiters(
		'termination',
		sub {
			my ($self, $pids) = @_;
			$self->{db}->admin_sql("SELECT pg_terminate_backend(unnest('{" . join(',', @$pids) . "}'::int[]))");
		}),
	goes_on => 1);

$matrix->try(
	'kill -9 of the client',
	sub {
		my ($self, @cells) = @_;
		IPC::Run::signal($_->{session}{harness}, 'KILL') for @cells;
		return;
	},
	goes_on => 1);

# Two at a time.
$matrix->try('a second call', call_too(0));
$matrix->try('a dry run beside it', call_too(1));

done_testing();
