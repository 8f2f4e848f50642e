# Browser.pm: a real browser without a window, Debian's Chromium, driven as a
# person would do it, by the WebDriver protocol of chromedriver.

package Browser;

use strict;
use warnings;
use Carp qw(croak);
use EkkSync ();
use File::Temp ();
use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use POSIX ();
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(sleep time);

use constant {
	PATIENCE => 60,										# seconds until it has started, or something is there
	ELEMENT  => 'element-6066-11e4-a52e-4f735466cecf',	# W3C WebDriver, 12. Elements
};

my $json = JSON::PP->new->utf8->allow_nonref;

sub new
{
	my ($class) = @_;
	my ($driver) = grep { -x } map { "$_/chromedriver" } split(/:/, $ENV{PATH}), '/usr/bin';
	$driver // croak('there is no chromedriver: run make deps (apt-get install chromium chromium-driver)');
	my $self = bless {
		port => EkkSync::free_port(),
		dir  => File::Temp->newdir,
		http => HTTP::Tiny->new(timeout => PATIENCE, http_proxy => undef),
	}, $class;
	$self->{pid} = fork // croak("fork: $!");
	unless ($self->{pid})
	{
		# What it starts ends with it.
		POSIX::setpgid(0, 0);
		open STDOUT, '>', "$self->{dir}/log";
		open STDERR, '>&', \*STDOUT;
		delete @ENV{ grep { /_proxy$/i } keys %ENV };
		$ENV{HOME} = "$self->{dir}";
		exec $driver, "--port=$self->{port}" or POSIX::_exit(1);
	}
	my $end = time + PATIENCE;
	until (($self->{http}->get("http://127.0.0.1:$self->{port}/status")->{content} // '') =~ /"ready":\s*true/)
	{
		croak('chromedriver does not start') if time > $end;
		sleep 0.05;
	}
	my $session = $self->_call(
		POST => '/session',
		{
			capabilities => {
				alwaysMatch => {
					browserName          => 'chrome',
					'goog:chromeOptions' => {
						args => [
							qw(--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run
							  --no-proxy-server --disable-background-networking --disable-component-update
							  --disable-sync --disable-extensions --lang=is),
							'--window-size=1200,900',
							'--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',	# nothing from outside
							"--user-data-dir=$self->{dir}/profile"
						]
					},
					'goog:loggingPrefs' => { browser => 'ALL' }
				}
			}
		});
	$self->{session} = "/session/$session->{sessionId}";
	return $self;
}

sub _call
{
	my ($self, $method, $path, $body) = @_;
	my $answer = $self->{http}->request($method, "http://127.0.0.1:$self->{port}" . ($self->{session} // '') . $path,
		{
			headers => { 'content-type' => 'application/json' },
			$method eq 'POST' ? (content => $json->encode($body // {})) : ()
		});
	my $value = eval { $json->decode($answer->{content})->{value} };
	croak("browser: $path: " . (ref $value eq 'HASH' ? $value->{message} : $answer->{content}))
	  unless $answer->{success};
	return $value;
}

sub go
{
	my ($self, $url) = @_;
	$self->_call(POST => '/url', { url => $url });
	return;
}

# The first element of a CSS selector; awaits that it is there.
sub find
{
	my ($self, $css) = @_;
	my $end = time + PATIENCE;
	for (;;)
	{
		my $found = $self->_call(POST => '/elements', { using => 'css selector', value => $css });
		return $found->[0]{ +ELEMENT } if @$found;
		croak("browser: there is no $css on the page; its log: " . $self->log) if time > $end;
		sleep 0.05;
	}
}

sub click { my ($self, $css) = @_; $self->_call(POST => '/element/' . $self->find($css) . '/click'); return; }
sub text  { my ($self, $css) = @_; return $self->_call(GET => '/element/' . $self->find($css) . '/text'); }
sub value { my ($self, $css) = @_; return $self->_call(GET => '/element/' . $self->find($css) . '/property/value'); }

# Type text into an empty field, or instead of what is there.
sub type
{
	my ($self, $css, $text) = @_;
	my $id = $self->find($css);
	$self->_call(POST => "/element/$id/clear");
	$self->_call(POST => "/element/$id/value", { text => $text });
	return;
}

# What a script returns.
sub script
{
	my ($self, $script, @args) = @_;
	return $self->_call(POST => '/execute/sync', { script => $script, args => \@args });
}

# Cut the browser off from the network, or no longer.
sub offline
{
	my ($self, $off) = @_;
	$self->_call(POST => '/chromium/network_conditions',
		{ network_conditions => { offline => $off ? JSON::PP::true : JSON::PP::false, latency => 0, throughput => -1 } });
	return;
}

# What the browser has to complain about since the last such call.
sub log
{
	my ($self) = @_;
	return join "\n", map { $_->{message} } @{ $self->_call(POST => '/se/log', { type => 'browser' }) };
}

# A picture of the page, among the logs of the test (.dev/check/log/tap).
sub screenshot
{
	my ($self, $name) = @_;
	my $file = "$PostgreSQL::Test::Utils::log_path/$name.png";
	open my $to, '>:raw', $file or croak("$file: $!");
	print $to decode_base64($self->_call(GET => '/screenshot'));
	close $to or croak("$file: $!");
	return $file;
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	eval { $self->_call(DELETE => ''); } if $self->{session};
	kill TERM => -$pid;
	my $end = time + 5;
	until (waitpid($pid, POSIX::WNOHANG()) != 0)
	{
		kill KILL => -$pid if time > $end;
		sleep 0.02;
	}
	return;
}

sub DESTROY { my ($self) = @_; local ($?, $@); eval { $self->stop; }; return; }

1;
