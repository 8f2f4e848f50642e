# FaultProxy.pm: a proxy between a run and the emulator, or any two that speak
# HTTP, that fails at chosen requests, so that a test need not hit a moment by
# luck.  The proxy itself is dev/faultproxy.pl.
#
# It passes everything on but what a rule strikes.  A rule is a hash:
#	fault	what happens, see below
#	match	regular expression over a request's head and body (default: all)
#	verb	the verb after the last colon of the URL, or else the method
#	nth		which of those that match is struck (default 1)
#	times	how many are, from that one on (default 1; 0: all)
# Of several rules the first that strikes a request does; those after it do not
# count that request.
#
# Before the request is passed on:
#	delay	it waits, for "seconds" or until resume(); others go on
#	hang	every connection stays open, nothing passes, nothing is answered
#	drop	its connection is closed, the request lost
#	cut		the proxy is gone
#	answer	is answered by the proxy: "status"; "error", the status name of a
#			Google error with the message "text", or else "json" (a structure),
#			or else the plain "text"; "retry_after" in seconds
#	huge	is answered with "mib" MiB of blanks, or (without) blanks for ever
#	late	is held until release(), and its client waits in vain, or is dropped
#			at once with "drop" 1; a new start() does not forget it
#	duplicate	is passed on twice; the answer to the second is given, or with
#			"give" that to the 'first'
# With "applied" 1, answer and huge come after the request was passed on, in
# place of its answer.  Always in place of it, or made of it, come:
#	lose	none, and the connection is closed
#	lose_and_gone	none, and the proxy is gone
#	tear	its first "bytes" (default half of them), and the connection closed
#	broken	the first half of it, as if it were all
#	fewer	JSON without the first element of each list
#	shape	JSON of another shape
#	html	a page for people, with status 200
# What is gone refuses connections, as a server that is down.

package FaultProxy;

use strict;
use warnings;
use Carp qw(croak);
use EkkSync;
use IO::Handle;
use IO::Select;
use JSON::PP ();
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);
use Time::HiRes qw(time);

my $json = JSON::PP->new->utf8;
my %running;					# pids

# to => host:port of the server; record => 1 to keep requests for requests(),
# 2 to keep writes for journal().
sub new
{
	my ($class, %arg) = @_;
	my $self = bless { port => EkkSync::free_port(), heard => '', fired => 0 }, $class;
	socketpair my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC or croak("socketpair: $!");
	my $pid = fork // croak("fork: $!");
	unless ($pid)
	{
		open STDIN, '+<&', $theirs or POSIX::_exit(126);
		exec $^X, "$ENV{EKKSYNC_TOP}/dev/faultproxy.pl", $self->{port}, $arg{to}, $arg{record} // 0
		  or POSIX::_exit(127);
	}
	close $theirs;
	$ours->autoflush(1);
	$self->{control} = $ours;
	$self->{pid} = $pid;
	$running{$pid} = 1;
	return $self;
}

sub host { return "127.0.0.1:$_[0]{port}"; }

# Read what the proxy says until it has answered, or (undef) until a rule has
# struck; false after some seconds.
sub _listen
{
	my ($self, $seconds, $answer) = @_;
	my $end = time + $seconds;
	for (;;)
	{
		while ($self->{heard} =~ s/^(.*)\n//)
		{
			my $news = $json->decode($1);
			$self->{fired}++ if $news->{fired};
			%$answer = %$news if $answer && !$news->{fired};
		}
		return 1 if $answer ? %$answer : $self->{fired};
		my $left = $end - time;
		return 0 unless IO::Select->new($self->{control})->can_read($left > 0 ? $left : 0);
		sysread $self->{control}, $self->{heard}, 1 << 20, length $self->{heard}
		  or croak('the fault proxy has died');
	}
}

# Give an order; returns the proxy's answer to it.
sub _order
{
	my ($self, @order) = @_;
	my %answer;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{control} } $json->encode(\@order) . "\n" or croak("the fault proxy: $!");
	$self->_listen(60, \%answer) or croak("the fault proxy does not answer to $order[0]");
	croak("the fault proxy: $answer{error}") if defined $answer{error};
	return $answer{answer};
}

# Start, or start anew, with a rule (%rule) or several ({...}, {...}) or none.
# Connections of before are closed, counts and requests begin again.
sub start
{
	my ($self, @rules) = @_;
	@rules = {@rules} if @rules && !ref $rules[0];
	$self->thaw;
	$self->_order(start => [ map { { %$_, defined $_->{match} ? (match => "$_->{match}") : () } } @rules ]);
	$self->{fired} = 0;
	return;
}

# True once a rule has struck; false after some seconds.  Each call awaits one
# stroke more.
sub wait_fired
{
	my ($self, $seconds) = @_;
	return 0 unless $self->_listen($seconds // 60);
	$self->{fired}--;
	return 1;
}

# Let what is delayed without an end go on.
sub resume { return $_[0]->_order('resume'); }

# Pass on what was held the longest; returns the answer to it, {status, body}.
sub release { return $_[0]->_order('release'); }

# Let everything stand still, and go on: nothing is lost.
sub freeze { return kill STOP => $_[0]{pid}; }
sub thaw   { return kill CONT => $_[0]{pid}; }

# Since the start: requests by verb that came, those passed on and those struck
# ({verb => n} each), documents in what was answered to us (reads), queries that
# found none (empty), and writes in the requests that were passed on (writes).
sub counts { return $_[0]->_order('counts'); }

# The requests since the start, oldest first: verb, path, body (decoded), time
# of arrival and the fault that struck it ('').
sub requests { return @{ $_[0]->_order('requests') }; }

# The requests that write and were passed on since the last such call, in the
# order of their answers, whoever was given them: time of arrival (came), writes,
# and the server's status and answer (decoded).
sub journal { return @{ $_[0]->_order('journal') }; }

# Be gone: until the next start connections are refused.
sub stop
{
	my ($self) = @_;
	$self->thaw;
	$self->_order('stop');
	return;
}

sub DESTROY
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	delete $running{$pid};
	kill $_ => $pid for qw(TERM CONT);
	local $?;
	waitpid $pid, 0;
	return;
}

# Also when a test dies: then objects go after the processes' END blocks.
END
{
	local $?;
	kill $_ => keys %running for qw(TERM CONT);
}

1;
