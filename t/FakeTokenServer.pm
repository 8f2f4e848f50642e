# FakeTokenServer.pm: a fake of Google's token server and metadata server on
# 127.0.0.1, for what the emulator does not have: access tokens.  It checks a
# statement's signature with the public key, as the real one does, and can be
# told to refuse, to answer nonsense, or to hang.

package FakeTokenServer;

use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP ();
use MIME::Base64 qw(decode_base64url);
use POSIX ();

my $json = JSON::PP->new->canonical;
my %servers;					# pids

# Start one with its files in directory $dir, which it makes; $key is the file
# of the public key.
sub new
{
	my ($class, $dir, $key) = @_;
	mkdir $dir or die "mkdir $dir: $!";
	my $self = bless { dir => $dir, key => $key }, $class;
	my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 16)
	  or die "listen: $!";
	$self->{host} = '127.0.0.1:' . $listen->sockport;
	$self->answer;
	$self->{pid} = fork // die "fork: $!";
	unless ($self->{pid})
	{
		$SIG{TERM} = 'DEFAULT';
		eval { $self->_serve($listen); };
		POSIX::_exit(1);
	}
	$servers{ $self->{pid} } = 1;
	return $self;
}

sub host { return $_[0]{host}; }
sub url  { return "http://$_[0]{host}/token"; }

# How to answer from now on: expires_in (seconds, default 3600), token (its
# text), status and body (as they stand; $STATEMENT in it is the statement
# received), hang (1: never answer).  Forgets the requests so far.
sub answer
{
	my ($self, %how) = @_;
	_write("$self->{dir}/requests", '');
	_write("$self->{dir}/how.new", $json->encode(\%how));
	rename "$self->{dir}/how.new", "$self->{dir}/how" or die "rename: $!";
	return;
}

# The requests since then, each a hash: method, path, headers (names in lower
# case), body, and of a statement header, claims and whether it is signed well.
sub requests
{
	my ($self) = @_;
	return map { $json->decode($_) } split /\n/, _read("$self->{dir}/requests");
}

# Every secret that has come or gone: statements and tokens.
sub secrets
{
	my ($self) = @_;
	return split /\n/, _read("$self->{dir}/secrets");
}

sub _read
{
	my ($file) = @_;
	open my $in, '<', $file or die "$file: $!";
	local $/ = undef;
	return <$in> // '';
}

sub _write
{
	my ($file, $text, $mode) = @_;
	open my $out, $mode // '>', $file or die "$file: $!";
	print $out $text;
	close $out or die "$file: $!";
	return;
}

sub _serve
{
	my ($self, $listen) = @_;
	my @held;
	my $serial = 0;
	while (my $client = $listen->accept)
	{
		my $request = _receive($client) or next;
		my $how = $json->decode(_read("$self->{dir}/how"));
		my $statement = '';
		if ($request->{body} =~ /assertion=([^&]*)/)
		{
			$statement = $1;
			$self->_check($request, $statement);
		}
		my $token = $how->{token} // 'ya29.fake-' . ++$serial . '-' . 'x' x 120;
		_write("$self->{dir}/secrets", "$statement\n$token\n", '>>');
		_write("$self->{dir}/requests", $json->encode($request) . "\n", '>>');
		if ($how->{hang})
		{
			push @held, $client;
			next;
		}
		my ($status, $body) = ($how->{status} // 200, $how->{body});
		if (!defined $body && $statement ne '' && !$request->{signed})
		{
			$status = 400;
			$body = '{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}';
		}
		$body //= $json->encode({
			access_token => $token,
			expires_in   => $how->{expires_in} // 3600,
			token_type   => 'Bearer'
		});
		$body =~ s/\$STATEMENT/$statement/g;
		print $client "HTTP/1.1 $status Fake\r\nContent-Type: application/json\r\n"
		  . 'Content-Length: ' . length($body) . "\r\nConnection: close\r\n\r\n$body";
		close $client;
	}
	return;
}

sub _receive
{
	my ($client) = @_;
	my ($method, $path) = (<$client> // '') =~ m{^(\S+) (\S+) HTTP/1} or return;
	my %headers;
	while (defined(my $line = <$client>))
	{
		$line =~ s/\r?\n$//;
		last if $line eq '';
		my ($name, $value) = split /:\s*/, $line, 2;
		$headers{ lc $name } = $value;
	}
	my $body = '';
	read $client, $body, $headers{'content-length'} if $headers{'content-length'};
	return { method => $method, path => $path, headers => \%headers, body => $body };
}

# Take a statement apart, and verify its signature by openssl.
sub _check
{
	my ($self, $request, $statement) = @_;
	my ($text, $header, $claims, $signature) =
	  $statement =~ /^(([\w-]+)\.([\w-]+))\.([\w-]+)$/ or return;
	$request->{header} = $json->decode(decode_base64url($header));
	$request->{claims} = $json->decode(decode_base64url($claims));
	_write("$self->{dir}/text", $text);
	_write("$self->{dir}/signature", decode_base64url($signature));
	system("openssl dgst -sha256 -verify '$self->{key}' -signature '$self->{dir}/signature'"
		  . " '$self->{dir}/text' >/dev/null 2>&1");
	$request->{signed} = $? == 0 ? 1 : 0;
	return;
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	delete $servers{$pid};
	kill TERM => $pid;
	local $?;
	waitpid $pid, 0;
	return;
}

END
{
	local $?;
	kill TERM => keys %servers;
}

1;
