# The Django part of docs/guide.md as it stands there: the settings and addresses
# that it shows are a project that works, its commands run, and the pages of the
# admin and the endpoints are where it says.

use strict;
use warnings;
use Test::More;
use Docs qw(document);
use EkkSync;
use Django;
use PostgreSQL::Test::Utils ();

my $missing = Django::missing();
ok(!$missing, 'what this test needs is installed') or diag($missing), done_testing(), exit;

my $top = $ENV{EKKSYNC_TOP};
my $guide = document('docs/guide.md');
my @python = $guide =~ /^```python\n(.*?)^```$/msg;
my ($databases) = grep { /^DATABASES/ } @python;
my ($settings) = grep { /^INSTALLED_APPS/m } @python;
my ($urls) = grep { /^urlpatterns/m } @python;
ok($databases && $settings && $urls, 'the guide has settings and addresses');

# ------------------------------------------------------------------ the project

my $db = EkkSync->new(members => 20);
is($db->run->{status}, 'success', 'a first run');
my ($socket, $port) = ($db->node->host, $db->node->port);
my $dir = PostgreSQL::Test::Utils::tempdir();

sub make
{
	my ($name, $text) = @_;
	open my $to, '>', "$dir/$name.py" or die "$name: $!";
	print $to $text;
	close $to or die "$name: $!";
	return;
}

my $project = <<"PY";
from project.settings import *
INSTALLED_APPS = [app for app in INSTALLED_APPS if app.startswith('django.')]
ROOT_URLCONF = 'plain_urls'
$databases
DATABASES['default'].update(HOST='$socket', PORT='$port')
PY
make(plain_settings => $project);
make(guide_settings => "${project}INSTALLED_APPS += ['membership']\n$settings\nROOT_URLCONF = 'guide_urls'\n");
my $plain_urls = <<'PY';
from django.contrib import admin
from django.urls import include, path
urlpatterns = [path('admin/', admin.site.urls)]
PY
make(plain_urls => $plain_urls);
make(guide_urls => "$plain_urls$urls");

my ($plain, $django) = map {
	Django->new($db, env => { PYTHONPATH => "$top/django:$top/t/django:$dir", DJANGO_SETTINGS_MODULE => "${_}_settings" })
} qw(plain guide);

# ----------------------------------------------------------------- the commands

# What manage.py is called with, in the section with this heading.
sub commands
{
	my ($heading) = @_;
	my ($section) = grep { /^## \d+\. \Q$heading\E$/m } split /^(?=## )/m, $guide;
	return map { [ split ' ', $_ ] } map { /^python3 manage\.py (.*)$/mg } $section =~ /^```sh\n(.*?)^```$/msg;
}

sub tables { return split /\n/, $db->sql(q(SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r')); }

my ($status, $out, $err);
for my $command (commands('The database, and Django\'s tables'))
{
	($status, $out, $err) = $plain->manage(@$command);
	is("$status $err", '0 ', "manage.py @$command, before the app") or diag($out);
}
my %before = map { $_ => 1 } tables();
ok($before{auth_user}, 'Django has its tables');
($status, $out, $err) = $plain->manage(qw(createsuperuser --noinput --username formadur --email formadur@felagi.example));
is("$status $err", '0 ', '... and a user');

my $said = '';
my @commands = commands('Django');
cmp_ok(scalar @commands, '>=', 4, 'the guide has commands');
for my $command (@commands)
{
	my @args = map { $_ eq 'USER' ? 'formadur' : $_ } @$command;
	# the registry's tables are there
	($status, $out, $err) = $django->manage(@args, $args[0] eq 'migrate' ? '--fake-initial' : ());
	is("$status $err", '0 ', "manage.py @args") or diag($out);
	$said .= $out;
}
like($said, qr/^health +ok$/m, '... and health is ok');
my ($token) = $said =~ /Generated token (\w+) for user formadur/;
ok($token, '... and there is a token');
is_deeply([ grep { !$before{$_} } tables() ],
	['authtoken_token'], 'the app itself makes no table');

# ------------------------------------------------------------------- the pages

$django->serve;
($status, undef, my $answer) = $django->request(GET => '/felagar/api/sync/status/', token => $token);
is("$status $answer->{pending}", '200 0', 'the endpoints are there');
is(($django->request(GET => '/felagar/api/sync/status/'))[0], 401, '... for those who have a token');
my @pages = $guide =~ /^\| `(\/admin\/[\w\/]+)` \|/mg;
cmp_ok(scalar @pages, '>=', 4, 'the guide names pages of the admin');
for my $page (@pages)
{
	is($django->python("from django.test import Client; from django.contrib.auth.models import User; c = Client(HTTP_HOST='127.0.0.1'); c.force_login(User.objects.get()); result = c.get('$page').status_code"),
		200, "... $page");
}
$django->stop;

done_testing();
