# CutRelay.pm: a relay between a run and the emulator that fails at a chosen
# request, so that a test need not hit a moment by luck.
#
# It passes requests on until the nth one that matches has come, and then
#	cut		is gone, before that request is passed on
#	lose	is gone, after the emulator has answered, without the answer
#	drop	drops that connection as "lose" does, and goes on
#	hang	keeps every connection open, passes nothing on, answers nothing
#	halt	does so until resume(); then it passes that request on, and goes on
# What is gone refuses connections, as an emulator that is down.

package CutRelay;

use strict;
use warnings;
use Carp qw(croak);
use EkkSync;
use IO::Select;
use IO::Socket::INET;
use POSIX ();

my %running;					# pids

# to => host:port of the emulator
sub new
{
	my ($class, %arg) = @_;
	return bless { to => $arg{to}, port => EkkSync::free_port() }, $class;
}

sub host { return "127.0.0.1:$_[0]{port}"; }

# Start, or start anew with another rule:
#	mode	see above (undef: pass everything on)
#	match	regular expression over a request's head and body
#	nth		which match fails (default 1)
sub start
{
	my ($self, %rule) = @_;
	$self->stop;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => $self->{port},
		ReuseAddr => 1,
		Listen    => 16) or croak("cannot listen on port $self->{port}: $!");
	pipe my $fired, my $fire or croak("pipe: $!");
	pipe my $resumed, my $resume or croak("pipe: $!");
	my $pid = fork // croak("fork: $!");
	unless ($pid)
	{
		close $fired;
		close $resume;
		eval { _serve($listener, $self->{to}, $fire, $resumed, %rule); };
		POSIX::_exit(1);
	}
	close $listener;
	close $fire;
	close $resumed;
	$self->{fired} = $fired;
	$self->{resume} = $resume;
	$self->{pid} = $pid;
	$running{$pid} = 1;
	return;
}

# True once the rule has struck; false after some seconds.
sub wait_fired
{
	my ($self, $seconds) = @_;
	my @ready = IO::Select->new($self->{fired})->can_read($seconds // 60);
	return @ready && sysread($self->{fired}, my $byte, 1);
}

# End a halt.
sub resume { return syswrite $_[0]{resume}, 'x'; }

# Let everything stand still, and go on: nothing is lost.
sub freeze { return kill STOP => $_[0]{pid}; }
sub thaw   { return kill CONT => $_[0]{pid}; }

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	delete $running{$pid};
	kill TERM => $pid;
	kill CONT => $pid;
	local $?;
	waitpid $pid, 0;
	return;
}

# ------------------------------------------------------------- in the child

# The first request in a buffer, taken out of it; undef if it is not complete.
sub _take_request
{
	my ($buffer) = @_;
	my $head = index $$buffer, "\r\n\r\n";
	return if $head < 0;
	my ($body) = substr($$buffer, 0, $head) =~ /^content-length: *(\d+)/im;
	my $length = $head + 4 + ($body // 0);
	return if length $$buffer < $length;
	return substr $$buffer, 0, $length, '';
}

sub _write_all
{
	my ($socket, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while (length $bytes)
	{
		my $n = syswrite $socket, $bytes;
		return unless defined $n;
		substr $bytes, 0, $n, '';
	}
	return;
}

sub _serve
{
	my ($listener, $to, $fire, $resumed, %rule) = @_;
	my $left = $rule{mode} ? $rule{nth} // 1 : 0;
	my $select = IO::Select->new($listener);
	my %peer;					# fileno => the connection's other socket
	my %client;					# fileno => {buffer, lose}, of clients only
	my $hanging = 0;
	my $close = sub {
		my @pair = ($_[0], $peer{ fileno $_[0] });
		for my $socket (@pair)
		{
			$select->remove($socket);
			delete $client{ fileno $socket };
			delete $peer{ fileno $socket };
			close $socket;
		}
	};
	my $strike = sub { syswrite $fire, 'x'; };

	for (;;)
	{
		for my $socket ($select->can_read)
		{
			if ($socket == $listener)
			{
				my $client = $listener->accept or next;
				my $server = IO::Socket::INET->new(PeerAddr => $to) or die;
				$peer{ fileno $client } = $server;
				$peer{ fileno $server } = $client;
				$client{ fileno $client } = { buffer => '' };
				$select->add($client, $server);
				next;
			}
			my $fd = fileno($socket) // next;	# closed meanwhile
			my $peer = $peer{$fd};
			my $n = sysread $socket, my $bytes, 65536;
			if (!$n)
			{
				$close->($socket);
				next;
			}
			next if $hanging;
			my $state = $client{$fd};
			if (!$state)
			{
				my $lose = $client{ fileno $peer }{lose};
				if (!$lose)
				{
					_write_all($peer, $bytes);
					next;
				}
				$close->($socket);
				$strike->();
				return if $rule{mode} eq 'lose';
				next;
			}
			$state->{buffer} .= $bytes;
			while (defined(my $request = _take_request(\$state->{buffer})))
			{
				if ($left && $request =~ $rule{match} && --$left == 0)
				{
					if ($rule{mode} eq 'hang')
					{
						$hanging = 1;
						$strike->();
						last;
					}
					if ($rule{mode} eq 'cut')
					{
						$strike->();
						return;
					}
					if ($rule{mode} eq 'halt')
					{
						$strike->();
						sysread $resumed, my $byte, 1;
					}
					else
					{
						$state->{lose} = 1;
					}
				}
				_write_all($peer, $request);
			}
		}
	}
}

sub DESTROY
{
	my ($self) = @_;
	$self->stop;
	return;
}

# Also when a test dies: then objects go after the processes' END blocks.
END
{
	local $?;
	kill $_ => keys %running for qw(TERM CONT);
}

1;
