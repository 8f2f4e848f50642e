# Portal.pm: the member portal's pages in Node, with the real Firebase SDK:
# t/page/client.mjs, which also serves them to a browser.  dev/page.sh installs
# the SDK.

package Portal;

use strict;
use warnings;
use Carp qw(croak);
use IPC::Run ();
use JSON::PP ();

use constant PATIENCE => 60;	# seconds for one call

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

# On the documents of an EkkSync; by another host:port, if that is given.
sub new
{
	my ($class, $db, $host) = @_;
	my $top = $ENV{EKKSYNC_TOP};
	my $sdk = "$top/.dev/page";
	-d "$sdk/node_modules/firebase" or croak('the Firebase SDK is not installed: run dev/page.sh');
	my $self = bless { in => '', out => '', err => '' }, $class;
	local %ENV = %ENV;
	delete @ENV{ grep { /_proxy$/i } keys %ENV };
	$self->{node} = IPC::Run::start(
		[ 'env', '-C', $sdk, 'node', "$top/t/page/client.mjs", $host // $db->host, $db->project ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err}, $self->{timer} = IPC::Run::timer(PATIENCE));
	$self->{port} = $self->_line;
	return $self;
}

# The address of a page that it serves, with parameters.
sub url
{
	my ($self, $page, %given) = @_;
	return "http://127.0.0.1:$self->{port}/$page?" . join '&', map { "$_=$given{$_}" } sort keys %given;
}

# What t/page/client.mjs calls methods, with their arguments; returns the
# result, or dies with the error's code and message.
sub call
{
	my ($self, @call) = @_;
	$self->begin(@call);
	return $self->end;
}

# The same in two steps, for what goes on meanwhile.
sub begin
{
	my ($self, @call) = @_;
	$self->{in} .= $json->encode(\@call) . "\n";
	$self->{node}->pump_nb;
	return;
}

sub end
{
	my ($self) = @_;
	my $answer = $json->decode($self->_line);
	croak(join ': ', map { $_ // '-' } @{ $answer->{error} }) if $answer->{error};
	return $answer->{ok};
}

sub _line
{
	my ($self) = @_;
	$self->{timer}->start(PATIENCE);
	until ($self->{out} =~ /\n/)
	{
		croak("the portal does not answer: $self->{err}")
		  if $self->{timer}->is_expired || !$self->{node}->pumpable;
		$self->{node}->pump;
	}
	$self->{timer}->reset;
	(my $line, $self->{out}) = split /\n/, $self->{out}, 2;
	return $line;
}

sub stop
{
	my ($self) = @_;
	my $node = delete $self->{node} or return;
	$node->kill_kill(grace => 2);
	return;
}

sub DESTROY { my ($self) = @_; local ($?, $@); eval { $self->stop; }; return; }

1;
