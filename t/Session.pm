# Session.pm: a session of the application that stays, in psql, so that a test
# can hold a transaction open or let a statement wait.

package Session;

use strict;
use warnings;
use Carp qw(croak);
use IPC::Run ();

# On the database of an EkkSync; as the registry's role, or another one; for so
# many seconds at most.
sub new
{
	my ($class, $db, $role, $seconds) = @_;
	my $self = bless { in => '', out => '', err => '' }, $class;
	$self->{psql} = IPC::Run::start(
		[
			qw(psql -X -A -t -q -v ON_ERROR_STOP=0 -v VERBOSITY=verbose),
			-U => $role // 'socialism',
			-d => $db->node->connstr($db->database)
		],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err}, IPC::Run::timeout($seconds // 900));
	$self->{pid} = $self->sql('SELECT pg_backend_pid()');
	return $self;
}

sub pid { return $_[0]{pid}; }

# Let it begin to do something.
sub send
{
	my ($self, $sql) = @_;
	utf8::encode($sql) if utf8::is_utf8($sql);
	$self->{out} = $self->{err} = '';
	$self->{busy} = 1;
	$self->{in} .= "$sql;\n\\echo END\n";
	$self->{psql}->pump_nb;
	return;
}

# Await that it is done; returns what it printed, dies on an error.
sub answer
{
	my ($self) = @_;
	until ($self->{out} =~ /^END$/m)
	{
		croak("psql has gone: $self->{err}") unless $self->{psql}->pumpable;
		$self->{psql}->pump;
	}
	$self->{busy} = 0;
	croak($self->{err}) if $self->{err} =~ /ERROR|FATAL/;
	return $self->{out} =~ s/\n?END\n\z//r;
}

# Do something.
sub sql
{
	my ($self, $sql) = @_;
	$self->send($sql);
	return $self->answer;
}

# Has it something to do, or an answer that nobody has asked for?
sub is_busy { return $_[0]{busy}; }

sub end
{
	my ($self) = @_;
	$self->{in} .= "\\q\n";
	$self->{psql}->finish;
	return;
}

1;
