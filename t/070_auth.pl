# Credentials for the real service: a service account's key file, or the
# metadata server, becomes an access token, which is kept; what is wrong is
# said without showing a secret.  Google's servers are played by a fake.
#
# No project is set where a token can be had, so that nothing is ever sent to
# the real service.

use strict;
use warnings;
use Test::More;
use File::Temp ();
use JSON::PP ();
use Time::HiRes qw(time);
use EkkSync;
use FakeTokenServer;

use constant EMAIL => 'ekksync@fake-project.iam.gserviceaccount.com';
use constant MINE => 'ekksync.credentials';
use constant THEIRS => 'GOOGLE_APPLICATION_CREDENTIALS';

# The keys' directory is ours alone, in the test's own temporary directory.
my $dir = File::Temp->newdir('fakekeysXXXXXX', TMPDIR => 1);
my $json = JSON::PP->new->canonical;

sub write_file
{
	my ($name, $text, $mode) = @_;
	open my $out, '>', "$dir/$name" or die "$name: $!";
	print $out $text;
	close $out or die "$name: $!";
	chmod $mode // 0600, "$dir/$name" or die "$name: $!";
	return "$dir/$name";
}

sub openssl
{
	my ($command) = @_;
	my $out = `cd '$dir' && openssl $command 2>/dev/null`;
	die "openssl $command: $?" if $?;
	return $out;
}

openssl('genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem');
openssl('pkey -in rsa.pem -pubout -out public.pem');
my $pem = openssl('pkey -in rsa.pem');
my $server = FakeTokenServer->new("$dir/server", "$dir/public.pem");

# Write a key file; options override members of it.
my %account = (
	type           => 'service_account',
	project_id     => 'fake-project',
	private_key_id => 'fake-key-1',
	private_key    => $pem,
	client_email   => EMAIL,
	token_uri      => $server->url);

sub key_file
{
	my ($name, %member) = @_;
	return write_file($name, $json->encode({ %account, %member }));
}

my $key = key_file('key.json');

my $db = do
{
	local $ENV{ +THEIRS } = key_file('env.json', client_email => 'env@fake-project.test');
	local $ENV{GCE_METADATA_HOST} = $server->host;
	EkkSync->new(project => 0, attach => 0, conf => "log_min_messages = 'debug2'\nlog_statement = 'all'");
};

# Sessions from now on have this setting.
sub use_file
{
	my ($path) = @_;
	$db->admin_sql('ALTER DATABASE socialism SET ekksync.credentials = ' . $db->quote($path));
	return;
}

# Nor does a restarted server find what this process was given.
delete @ENV{ +THEIRS, qw(FIRESTORE_EMULATOR_HOST GCE_METADATA_HOST) };

my @messages;

# The row "credentials" of ekksync_check.
sub credentials
{
	my $row = $db->row(q{SELECT * FROM ekksync_check() WHERE "check" = 'credentials'});
	push @messages, $row->{detail};
	return $row;
}

# The file $path is refused, with a reason.
sub refused
{
	my ($path, $reason, $name) = @_;
	use_file($path);
	$server->answer;
	my $row = credentials();
	ok(!$row->{ok}, "refused: $name");
	like($row->{detail}, $reason, '... with the reason');
	unlike($row->{detail}, qr/\Q$dir\E/, '... and without the path');
	ok(!$server->requests, '... and nothing is asked');
	return;
}

# ---------------------------------------------------------------- the emulator

use_file($key);
is(credentials()->{detail}, 'not needed with the emulator', 'the emulator wants none');
ok(!$server->requests, '... and none are asked for');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.emulator_host');

# ------------------------------------------------------------------ a key file

my $row = credentials();
ok($row->{ok}, 'a key file gives a token');
is($row->{detail}, 'service account ' . EMAIL . ', by the key file that ' . MINE . ' names',
	'... and the check says whose');

my @requests = $server->requests;
is(scalar @requests, 1, 'one request was sent');
my $request = $requests[0];
is("$request->{method} $request->{path}", 'POST /token', '... to token_uri');
is($request->{headers}{'content-type'}, 'application/x-www-form-urlencoded', '... as a form');
like($request->{body},
	qr/^grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=[\w.-]+$/,
	'... with a grant type and a statement');
ok($request->{signed}, 'the statement is signed with the key');
is_deeply($request->{header}, { alg => 'RS256', typ => 'JWT', kid => 'fake-key-1' },
	'its header names algorithm and key');
my %claims = %{ $request->{claims} };
my ($iat, $exp) = delete @claims{qw(iat exp)};
is_deeply(\%claims,
	{ iss => EMAIL, aud => $server->url, scope => 'https://www.googleapis.com/auth/datastore' },
	'it claims the account, the server and the scope of Firestore');
cmp_ok(abs($iat - time), '<', 60, '... from now');
is($exp - $iat, 3600, '... for an hour');

# ------------------------------------------------------------- kept and renewed

my $check = 'SELECT count(*) FROM ekksync_check() WHERE "check" = \'credentials\' AND ok;';
$server->answer(expires_in => 3600);
is($db->sql($check x 3), "1\n1\n1", 'three checks in one session');
is(scalar(my @once = $server->requests), 1, '... ask for a token once');
$server->answer(expires_in => 60);
is($db->sql($check x 2), "1\n1", 'a token in its last minute');
is(scalar(my @renewed = $server->requests), 2, '... is renewed');
$server->answer(expires_in => 120);
is($db->sql($check x 2), "1\n1", 'a token in its last minute but one');
is(scalar(my @kept = $server->requests), 1, '... is kept');
$server->answer;
my $other = key_file('other.json', client_email => 'other@fake-project.test');
is($db->admin_sql("$check SET ekksync.credentials = '$other'; $check"), "1\n1",
	'another key file in the same session');
is_deeply([ map { $_->{claims}{iss} } $server->requests ], [ EMAIL, 'other@fake-project.test' ],
	'... gets a token of its own');

# --------------------------------------------------- files that are of no use

chmod 0644, $key or die;
refused($key, qr/^the key file that ekksync\.credentials names is open to other users: .*0600/, 'mode 0644');
chmod 0640, $key or die;
refused($key, qr/open to other users/, 'mode 0640, not of root');
chmod 0400, $key or die;
$server->answer;
ok(credentials()->{ok}, 'mode 0400 is fine');
symlink $key, "$dir/link.json" or die;
use_file("$dir/link.json");
ok(credentials()->{ok}, 'a symbolic link is followed');

refused("$dir/missing.json", qr/cannot be opened: No such file/, 'a missing file');
refused($dir, qr/is not a regular file/, 'a directory');
system('mkfifo', '-m', '600', "$dir/fifo") == 0 or die;
refused("$dir/fifo", qr/is not a regular file/, 'a FIFO, which is not waited for');
refused('/etc/passwd', qr/is open to other users/, 'a file that all may read');
refused(write_file('empty', ''), qr/is not a JSON object/, 'an empty file');
refused(write_file('garbage', "{\"type\": \"service_account\", \xff\0"), qr/is not a JSON object/, 'garbage');
refused(write_file('array', '["service_account"]'), qr/is not a JSON object/, 'an array');
refused(write_file('bare', $pem), qr/is not a JSON object/, 'a bare key');
refused(write_file('large', ' ' x 65536 . '{}'), qr/is too large/, 'a large file');
refused(key_file('user', type => 'authorized_user'),
	qr/is of type "authorized_user", a person's login: .*service account/, 'a login of a person');
refused(key_file('type', type => 'external_account'), qr/is of type "external_account":/, 'another type');
refused(key_file('no_type', type => undef), qr/has no type/, 'no type');
refused(key_file('no_email', client_email => "a\r\nb"), qr/no usable "client_email"/, 'a bad address');
refused(key_file('no_uri', token_uri => ''), qr/no usable "token_uri"/, 'no token server');
refused(key_file('no_key', private_key => 1), qr/has no "private_key"/, 'no key');
refused(key_file('cut', private_key => substr $pem, 0, 900), qr/not an RSA key in PEM/, 'a cut key');
refused(key_file('ec', private_key => openssl('genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256')),
	qr/not an RSA key in PEM/, 'a key of another kind');
refused(key_file('locked', private_key => openssl('pkey -in rsa.pem -aes256 -passout pass:fake')),
	qr/not an RSA key in PEM/, 'a key with a passphrase, which is not asked for');
refused(key_file('plain', token_uri => 'http://token.example/token'),
	qr/^no answer from the token server .*plain HTTP is only allowed/, 'a token server without TLS');

# ----------------------------------------------------------- what servers answer

# With the good key file: the answer is refused, with a reason.
sub bad_answer
{
	my ($how, $reason, $name) = @_;
	$server->answer(%$how);
	my $row = credentials();
	ok(!$row->{ok}, "refused: $name");
	like($row->{detail}, $reason, '... with the reason');
	return scalar(my @asked = $server->requests);
}

use_file($key);
bad_answer({ status => 400, body => '{"error":"invalid_grant","error_description":"Invalid JWT: \"$STATEMENT\" is too old.\u0007 Þ"}' },
	qr/ answered 400 invalid_grant: Invalid JWT: "\[\.\.\.\]" is too old\.\? \?\?; check this server's clock/,
	'a statement refused');
openssl('genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out stranger.pem');
use_file(key_file('stranger', private_key => openssl('pkey -in stranger.pem')));
bad_answer({}, qr/400 invalid_grant: Invalid JWT Signature\..*clock/, "another account's key");
use_file($key);
is(bad_answer({ status => 403, body => '<html>' }, qr/ answered 403$/, 'an answer without JSON'),
	1, '... is not asked for again');
is(bad_answer({ status => 503, body => '{"error": {"code": 503}}' }, qr/ answered 503$/, 'an overloaded server'),
	3, '... is asked three times');
bad_answer({ status => 302, body => '' }, qr/redirects with status 302/, 'a redirect');
bad_answer({ body => '{}' }, qr/no token in the answer/, 'an answer without a token');
bad_answer({ body => '{"access_token": "a\r\nb: c"}' }, qr/no token in the answer/, 'a token with a line end');
bad_answer({ body => ' ' x 70000 . '{"access_token": "a"}' }, qr/no token in the answer/, 'a large answer');

$server->answer(hang => 1);
my $start = time;
my ($status, undef, $error) = $db->sql_err("SET statement_timeout = '1s'; SELECT * FROM ekksync_check()");
isnt($status, 0, 'waiting for a token server that hangs');
like($error, qr/canceling statement due to statement timeout/, '... is cancelled');
cmp_ok(time - $start, '<', 5, '... at once');
is(scalar(my @hung = $server->requests), 1, '... after one request');
$server->answer;
ok(credentials()->{ok}, 'a token when it works again');

# ------------------------------------------------- what the environment names

$db->admin_sql('ALTER DATABASE socialism RESET ekksync.credentials');
$row = credentials();
ok($row->{ok}, "without a setting the server's environment is honoured");
is($row->{detail}, 'service account env@fake-project.test, by the key file that ' . THEIRS . ' names',
	'... and named');
{
	local $ENV{GCE_METADATA_HOST} = $server->host;
	$db->node->restart;
}
$server->answer;
$row = credentials();
ok($row->{ok}, 'with nothing set the metadata server is asked');
is($row->{detail}, 'service account of this machine, by the metadata server', '... and named');
($request) = $server->requests;
is("$request->{method} $request->{path}",
	'GET /computeMetadata/v1/instance/service-accounts/default/token', '... for a token');
is($request->{headers}{'metadata-flavor'}, 'Google', '... with the header it wants');
ok(!exists $request->{headers}{authorization}, '... and no other');
bad_answer({ status => 404, body => 'no account' },
	qr/^the metadata server \(no key file is set\) answered 404$/, 'a machine without an account');
{
	local $ENV{GCE_METADATA_HOST} = '192.0.2.1';
	$db->node->restart;
}
like(credentials()->{detail}, qr/plain HTTP is only allowed/, 'a metadata server elsewhere is not asked');
$db->node->restart;

# -------------------------------------------------- calls without credentials

use_file("$dir/missing.json");
$db->use_project($db->project);
(undef, undef, $error) = $db->sql_err("SELECT ekksync_doc('1201743399')");
like($error, qr/no credentials .*: the key file that ekksync\.credentials names cannot be opened/,
	'ekksync_doc says what is wrong');
$db->attach;
$db->sql_err('SELECT * FROM ekksync_run()');
like($db->sql('SELECT error FROM ekksync_runs ORDER BY run DESC LIMIT 1'),
	qr/no credentials .*: the key file that ekksync\.credentials names cannot be opened/,
	'... and a run too');

# ---------------------------------------------------------------- who may set it

for my $sql (
	"SET ekksync.credentials = '$key'",
	"ALTER ROLE socialism SET ekksync.credentials = '$key'",
	'SHOW ekksync.credentials')
{
	(undef, undef, $error) = $db->sql_err($sql);
	like($error, qr/permission denied|must be superuser/, "refused to others: $sql" =~ s/ = .*//r);
}

# ------------------------------------------------------------------- no secrets

my $log = PostgreSQL::Test::Utils::slurp_file($db->node->logfile);
push @messages, $error, $log;
my @secrets = grep { length } $server->secrets;
cmp_ok(scalar @secrets, '>', 10, 'statements and tokens have come and gone');
push @secrets, grep { !/^-----/ } split /\n/, $pem;
my @shown = grep {
	my $start = substr $_, 0, 40;
	grep { index($_, $start) >= 0 } @messages
} @secrets;
is(scalar @shown, 0, '... and none is in a message or in the log');
like($log, qr/ekksync_check/, 'the log was searched');

$server->stop;
done_testing();
