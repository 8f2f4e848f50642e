# The fault proxy delivers each fault that tests ask it for, and counts right:
# what other tests conclude from it holds.  The client is a plain HTTP client,
# the server the real emulator.

use strict;
use warnings;
use utf8;
use Test::More;
use FaultProxy;
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP qw(decode_json encode_json);
use Time::HiRes qw(time);

my $to = $ENV{FIRESTORE_EMULATOR_HOST} // die 'FIRESTORE_EMULATOR_HOST is not set; run make check';
my $root = "projects/demo-proxy-$$/databases/(default)/documents";
my $proxy = FaultProxy->new(to => $to, record => 1);
my $serial = 0;

# ------------------------------------------------------------------- helpers

# A call through the proxy (or to => elsewhere): HTTP::Tiny's answer, with the
# body decoded as json, if it is JSON.  Its status is 599 without an answer.
sub call
{
	my ($verb, $body, %opt) = @_;
	my $http = HTTP::Tiny->new(timeout => $opt{timeout} // 20, http_proxy => undef, max_size => 40 << 20);
	my $answer = $http->post('http://' . ($opt{to} // $proxy->host) . "/v1/$root:$verb",
		{ headers => { 'content-type' => 'application/json' }, content => encode_json($body) });
	$answer->{json} = eval { decode_json($answer->{content}) } if length $answer->{content} < 1 << 20;
	return $answer;
}

# Write n new documents by one commit; returns the answer.
sub commit
{
	my ($n, %opt) = @_;
	return call('commit',
		{ writes => [ map { { update => { name => "$root/c/" . ++$serial, fields => {} } } } 1 .. $n ] }, %opt);
}

# A request of which nobody awaits the answer; its connection.
sub commit_alone
{
	my $body = encode_json({ writes => [ { update => { name => "$root/c/" . ++$serial, fields => {} } } ] });
	my $socket = IO::Socket::INET->new(PeerAddr => $proxy->host) or die "connect: $!";
	print $socket "POST /v1/$root:commit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	  . 'Content-Length: ' . length($body) . "\r\n\r\n$body";
	$socket->flush;
	return $socket;
}

# Is the last document that was to be written there?
sub arrived
{
	my $answer = call('batchGet', { documents => ["$root/c/$serial"] }, to => $to);
	return $answer->{json}[0]{found} ? 1 : 0;
}

sub lost
{
	my ($answer, $name) = @_;
	is($answer->{status}, 599, $name);
	return;
}

sub is_gone
{
	ok(!IO::Socket::INET->new(PeerAddr => $proxy->host), '... and connections are refused');
	return;
}

# ------------------------------------------------------- nothing is to happen

is_gone();
$proxy->start;
is(commit(3)->{status}, 200, 'a request is passed on');
is_deeply(
	[ map { exists $_->{found} ? 'found' : 'missing' } @{ call('batchGet', { documents => [ "$root/c/1", "$root/c/x" ] })->{json} } ],
	[qw(found missing)], '... and its answer is given');
is(scalar @{ call('runQuery', { structuredQuery => { from => [ { collectionId => 'c' } ] } })->{json} }, 3, '... of each kind');
is(call('nonsense', {})->{status}, 404, '... errors too');
is_deeply(
	$proxy->counts,
	{
		came   => { commit => 1, batchGet => 1, runQuery => 1, nonsense => 1 },
		passed => { commit => 1, batchGet => 1, runQuery => 1, nonsense => 1 },
		struck => {},
		reads  => 5,
		empty  => 0,
		writes => 3
	},
	'requests, documents read and writes are counted');
is_deeply([ map { $_->{verb} } $proxy->requests ], [qw(commit batchGet runQuery nonsense)], '... and the requests kept');
is_deeply(($proxy->requests)[1]{body}, { documents => [ "$root/c/1", "$root/c/x" ] }, '... with their bodies');
ok(!$proxy->wait_fired(0), '... and no rule has struck');
ok(!eval { $proxy->start(fault => 'sleet'); 1 }, 'a fault that does not exist is an error');
like($@, qr/no such fault: sleet/, '... that says so');

# The emulator refuses the larger one.
for my $case ([ 3, 200 ], [ 33, 413 ])
{
	my ($mib, $status) = @$case;
	my $large = HTTP::Tiny->new(timeout => 60, http_proxy => undef)->post('http://' . $proxy->host . "/v1/$root:commit",
		{ headers => { 'content-type' => 'application/json' }, content => ' ' x ($mib << 20) . '{}' });
	is($large->{status}, $status, "a body of $mib MiB passes");
	is(commit(1)->{status}, 200, '... and what comes after it');
}

# ------------------------------------------------------------- which requests

$proxy->start(
	{ fault => 'answer', status => 501, verb => 'commit', nth => 2, times => 2 },
	{ fault => 'answer', status => 502, match => qr/batchGet.*þ/s },
	{ fault => 'answer', status => 503, verb => 'runQuery', times => 0 });
is_deeply([ map { commit(1)->{status} } 1 .. 4 ], [ 200, 501, 501, 200 ], 'a rule strikes the nth request, and so many');
is_deeply([ map { call('batchGet', { documents => [ map { "$root/c/$_" } @$_ ] })->{status} } ['a'], ["\x{fe}"], ["\x{fe}"] ],
	[ 200, 502, 200 ], '... those that match, by bytes of UTF-8 as well');
is_deeply([ map { call('runQuery', {})->{status} } 1 .. 3 ], [ (503) x 3 ], '... or all of a kind');
is_deeply($proxy->counts->{struck}, { commit => 2, batchGet => 1, runQuery => 3 }, '... and what was struck is counted');
is($proxy->counts->{writes}, 2, '... and not as passed on');
is((grep { $proxy->wait_fired(0) } 1 .. 9), 6, '... and the test hears of each');

# ------------------------------------------------------- before it is passed on

$proxy->start(fault => 'drop');
lost(commit(1), 'drop: no answer comes');
ok($proxy->wait_fired && !arrived(), '... and nothing was done');
is(commit(1)->{status}, 200, '... and the next one passes');

$proxy->start(fault => 'cut', nth => 2);
commit(1);
lost(commit(1), 'cut: no answer comes');
ok($proxy->wait_fired && !arrived(), '... and nothing was done');
is_gone();

$proxy->start(fault => 'hang');
my $waiting = commit_alone();
ok($proxy->wait_fired, 'hang: the proxy stands still');
lost(commit(1, timeout => 1), '... for all requests');
ok(!arrived(), '... and nothing was done');
ok(!IO::Select->new($waiting)->can_read(0), '... and the connection stays open');

$proxy->start(fault => 'delay');
$waiting = commit_alone();
ok($proxy->wait_fired && !arrived(), 'delay: a request waits');
is(call('runQuery', {})->{status}, 400, '... and others pass');
$proxy->resume;
like(<$waiting>, qr/ 200 /, '... until it may go on');
ok(arrived(), '... and it is done');
{
	$proxy->start(fault => 'delay', seconds => 0.5);
	my $start = time;
	is(commit(1)->{status}, 200, 'delay: a request goes on by itself');
	cmp_ok(time - $start, '>=', 0.5, '... after its time');
}

for my $drop (0, 1)
{
	my $name = $drop ? 'late, dropped' : 'late';
	$proxy->start(fault => 'late', drop => $drop);
	lost(commit(1, timeout => $drop ? 20 : 1), "$name: no answer comes");
	ok($proxy->wait_fired && !arrived(), '... and nothing was done');
	$proxy->start;
	is(call('runQuery', {})->{status}, 400, '... and others pass');
	my $answer = $proxy->release;
	is($answer->{status}, 200, '... until it is released');
	is(scalar @{ $answer->{body}{writeResults} }, 1, '... and the test gets the answer');
	ok(arrived(), '... and it is done');
}
ok(!eval { $proxy->release; 1 }, 'nothing else is held');

for my $give ('first', 'second')
{
	$proxy->start(fault => 'duplicate', give => $give);
	$serial++;
	my $answer = call('commit',
		{ writes => [ { update => { name => "$root/c/$serial", fields => {} }, currentDocument => { exists => JSON::PP::false } } ] });
	is($answer->{status}, $give eq 'first' ? 200 : 409, "duplicate: the answer is that to the $give one");
	ok($proxy->wait_fired && arrived(), '... and it is done');
	is($proxy->counts->{passed}{commit}, 2, '... and was sent twice');
}

for my $applied (0, 1)
{
	my $when = $applied ? 'after it was done' : 'instead';
	$proxy->start(fault => 'answer', status => 429, error => 'RESOURCE_EXHAUSTED', text => 'slow', retry_after => 7,
		applied => $applied);
	my $answer = commit(1);
	is($answer->{status}, 429, "answer: an error comes $when");
	is($answer->{headers}{'retry-after'}, 7, '... with Retry-After');
	is_deeply($answer->{json}, { error => { code => 429, status => 'RESOURCE_EXHAUSTED', message => 'slow' } }, '... and a body like Google\'s');
	is(arrived(), $applied, '... ' . ($applied ? 'done' : 'not done'));
}
$proxy->start(fault => 'answer', status => 404, text => "Not Found\n");
is_deeply([ @{ commit(1) }{qw(status content)} ], [ 404, "Not Found\n" ], 'answer: plain text');

$proxy->start(fault => 'huge', mib => 33);
is(length commit(1)->{content}, 33 << 20, 'huge: so many MiB');
$proxy->start(fault => 'huge');
like(commit(1)->{content}, qr/Size of response body exceeds/, 'huge: more than any limit');

# --------------------------------------------------- in place of the answer

for my $case ([ 'lose', 0 ], [ 'lose_and_gone', 1 ])
{
	my ($fault, $gone) = @$case;
	$proxy->start(fault => $fault);
	lost(commit(1), "$fault: no answer comes");
	ok($proxy->wait_fired && arrived(), '... but it was done');
	$gone ? is_gone() : is(commit(1)->{status}, 200, '... and the next one passes');
}

for my $bytes (undef, 7, 0)
{
	$proxy->start(fault => 'tear', defined $bytes ? (bytes => $bytes) : ());
	my $answer = commit(2);
	lost($answer, 'tear: the answer ends too early');
	like($answer->{content}, qr/Unexpected end of stream/, '... with the connection');
	ok($proxy->wait_fired && arrived(), '... but it was done');
}

for my $case (
	[ broken => sub { $_[0]{content} =~ /^\{/ && !$_[0]{json} } ],
	[ fewer  => sub { @{ $_[0]{json}{writeResults} } == 1 } ],
	[ shape  => sub { join('', keys %{ $_[0]{json} }) eq 'answer' } ],
	[ html   => sub { $_[0]{content} =~ /<html>/ && $_[0]{headers}{'content-type'} eq 'text/html' } ])
{
	my ($fault, $test) = @$case;
	$proxy->start(fault => $fault);
	my $answer = commit(2);
	is($answer->{status}, 200, "$fault: an answer comes");
	ok($test->($answer), '... of the wrong kind') or diag($answer->{content});
	ok($proxy->wait_fired && arrived(), '... but it was done');
}
$proxy->start(fault => 'fewer');
is(scalar @{ call('batchGet', { documents => [ map { "$root/c/$_" } 1 .. 3 ] })->{json} }, 2, 'fewer: of an array as well');

# --------------------------------------------------------------- as a whole

$proxy->start;
$proxy->freeze;
$waiting = commit_alone();
ok(!IO::Select->new($waiting)->can_read(0.3), 'a frozen proxy gives no answer');
$proxy->thaw;
like(<$waiting>, qr/ 200 /, '... until it thaws');
$proxy->stop;
1 while sysread $waiting, my $rest, 65536;
pass('a stopped one closes its connections');
is_gone();
$proxy->start;
is(commit(1)->{status}, 200, '... starts again on its port');
{
	my $other = FaultProxy->new(to => $to);
	$other->start;
	my $port = $other->host;
	undef $other;
	ok(!IO::Socket::INET->new(PeerAddr => $port), 'nothing is left of one that the test has dropped');
}

done_testing();
