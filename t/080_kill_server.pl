# The kill matrix, server ("Crash-proof"): at each step of a run, and while each
# of its requests hangs, the worker is killed, or the server is, or told to
# stop.  See KillMatrix.pm.

use strict;
use warnings;
use KillMatrix qw(signal_server);
use Test::More;

my $matrix = KillMatrix->new;

$matrix->try('kill -9 of the worker', signal_server('kill -9 of workers', KILL => 'workers'));
$matrix->try('kill -9 of the server', signal_server('kill -9 of the server', KILL => 'server'));
$matrix->try('fast stop', signal_server('fast stop', INT => 'server'));
$matrix->try('immediate stop', signal_server('immediate stop', QUIT => 'server'));

done_testing();
