# Django.pm: the tests' Django project (t/django) on the database of an EkkSync,
# as the registry's role, over the cluster's socket.  Another Django than
# Debian's is taken from PYTHONPATH.

package Django;

use strict;
use warnings;
use Carp qw(croak);
use EkkSync;
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();

use constant { PYTHON => '/usr/bin/python3', PATIENCE => 300 };

my $json = JSON::PP->new->canonical->allow_nonref;		# of characters, not bytes

# Is what the tests need there?  Where not, they fail, and say what to install.
sub missing
{
	my (@modules) = @_;
	my ($out, $err);
	for my $module ('django', 'rest_framework', 'psycopg2', @modules)
	{
		next if IPC::Run::run([ PYTHON, '-c', "import $module" ], '>', \$out, '2>', \$err);
		return "Python's $module is not installed; run dev/deps.sh as root";
	}
	return;
}

# The project.
#	db		an EkkSync
#	package	where the package ekksync is (default: django/ of this checkout)
#	env		more of the environment: settings of the project
sub new
{
	my ($class, $db, %arg) = @_;
	my $top = $ENV{EKKSYNC_TOP};
	my $package = $arg{package} // "$top/django";
	return bless {
		db  => $db,
		dir => "$top/t/django",
		env => {
			PGHOST                  => $db->node->host,
			PGPORT                  => $db->node->port,
			PGDATABASE              => $db->database,
			PGUSER                  => EkkSync::ROLE,
			PYTHONPATH              => join(':', $package, "$top/t/django", $ENV{PYTHONPATH} // ()),
			PYTHONDONTWRITEBYTECODE => 1,
			PYTHONIOENCODING        => 'utf-8',
			DJANGO_SETTINGS_MODULE  => 'project.settings',
			%{ $arg{env} // {} }
		}
	}, $class;
}

# manage.py with these arguments: (status, stdout, stderr).
sub manage
{
	my ($self, @args) = @_;
	local %ENV = (%ENV, %{ $self->{env} });
	my ($out, $err) = ('', '');
	IPC::Run::run([ PYTHON, "$self->{dir}/manage.py", @args ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(PATIENCE));
	utf8::decode($_) for $out, $err;
	return ($? >> 8, $out, $err);
}

# Runs Python in the project, in one process for all calls; returns what it
# leaves in "result", or in list context (value, error, sqlstate).
sub python
{
	my ($self, $code) = @_;
	unless ($self->{shell})
	{
		local %ENV = (%ENV, %{ $self->{env} });
		$self->{$_} = '' for qw(in out err);
		$self->{shell} = IPC::Run::start([ PYTHON, "$self->{dir}/shell.py" ],
			'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err}, $self->{timer} = IPC::Run::timer(PATIENCE));
	}
	my $line = $json->encode({ code => $code }) . "\n";
	utf8::encode($line);
	$self->{timer}->start(PATIENCE);
	$self->{in} .= $line;
	while (index($self->{out}, "\n") < 0)
	{
		croak("the shell is silent: $self->{err}") if $self->{timer}->is_expired;
		$self->{shell}->pumpable ? $self->{shell}->pump : croak("the shell has ended: $self->{err}");
	}
	my $answer = substr $self->{out}, 0, index($self->{out}, "\n") + 1, '';
	utf8::decode($answer);
	$answer = $json->decode($answer);
	return ($answer->{value}, $answer->{error}, $answer->{sqlstate}) if wantarray;
	croak("Python failed: $answer->{error}\n$code") if defined $answer->{error};
	return $answer->{value};
}

# Starts the web server; returns its address.
sub serve
{
	my ($self) = @_;
	my $port = EkkSync::free_port();
	local %ENV = (%ENV, %{ $self->{env} });
	$self->{log} = '';
	$self->{server} = IPC::Run::start(
		[ PYTHON, "$self->{dir}/manage.py", 'runserver', '--noreload', '--insecure', "127.0.0.1:$port" ],
		'<', \undef, '>&', "$ENV{TESTDIR}/tmp_check/log/" . $self->{db}{name} . '-django.log');
	$self->{url} = "http://127.0.0.1:$port";
	my $http = HTTP::Tiny->new(timeout => 5, http_proxy => undef);
	$self->{db}->wait_for(sub { $http->get("$self->{url}/admin/login/")->{status} == 200 }, PATIENCE)
	  or croak('the web server does not answer');
	return $self->{url};
}

# One request: (status, content, decoded content, headers).  Options: token,
# body (text, or what is to be JSON), type.
sub request
{
	my ($self, $method, $path, %opt) = @_;
	my $body = $opt{body};
	$body = JSON::PP->new->utf8->canonical->encode($body) if ref $body;
	my $answer = HTTP::Tiny->new(timeout => PATIENCE, http_proxy => undef)->request(
		$method, "$self->{url}$path",
		{
			headers => {
				defined $opt{token} ? (authorization => "Token $opt{token}") : (),
				defined $body ? ('content-type' => $opt{type} // 'application/json') : ()
			},
			defined $body ? (content => $body) : ()
		});
	my $text = $answer->{content};
	utf8::decode($text);
	my $value = eval { $json->decode($text) };
	return ($answer->{status}, $text, $value, $answer->{headers});
}

sub stop
{
	my ($self) = @_;
	for my $process (qw(shell server))
	{
		my $harness = delete $self->{$process} or next;
		$harness->kill_kill(grace => 5);
	}
	return;
}

sub DESTROY { local ($?, $@); $_[0]->stop; return; }

1;
