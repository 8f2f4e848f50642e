# A run against every answer that a network or Firestore can give, to each of
# its requests ("Nothing lost", "Crash-proof", "One bad row stops nobody"):
# it ends, either well after trying again or as failed with a SQLSTATE and a
# text that says why; no row pays for it; nothing takes effect twice; and the
# next run finds both sides in step or brings them there.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;

my $db = EkkSync->new(members => 12);
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);
$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_retries = 1');

my @keys = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C" LIMIT 4');
my @ours = @keys[ 0, 1 ];		# edited here
my @theirs = @keys[ 2, 3 ];		# edited there
my $serial = 0;
my @entries;
is($db->run->{status}, 'success', 'first push');

# ------------------------------------------------------------------- helpers

# Edit four members, before a fault.
sub edit
{
	$serial++;
	$db->sql("DELETE FROM membership_membersyncqueue; UPDATE membership_comrade SET name = 'Hér $serial' WHERE ssn IN ('$ours[0]', '$ours[1]')");
	@entries = map { $db->profile_edit($_, 'name', "Þar $serial") } @theirs;
	return;
}

sub queue
{
	return $db->sql("SELECT string_agg(DISTINCT sync_status || ' ' || retry_count || error_message, ', ') FROM membership_membersyncqueue");
}

# Both sides have every edit, each took effect once, and nothing is left over.
sub is_in_step
{
	my ($name) = @_;
	my $in = join ', ', map { "'$_'" } @keys;
	my ($local, $queue, $conflicts, $twice) = split /\|/, $db->admin_sql(<<"SQL");
SELECT (SELECT string_agg(name, ', ' ORDER BY ssn COLLATE "C") FROM membership_comrade WHERE ssn IN ($in)),
	(SELECT string_agg(DISTINCT sync_status || ' ' || retry_count || error_message, ', ') FROM membership_membersyncqueue),
	(SELECT count(*) FROM ekksync_conflicts),
	(SELECT count(*) FROM (SELECT FROM ekksync.change_log WHERE changes #>> '{name,1}' LIKE '% $serial'
		GROUP BY key HAVING count(*) > 1) AS double)
SQL
	my $names = join ', ', ("Hér $serial") x 2, ("Þar $serial") x 2;
	is_deeply(
		[ $local, join(', ', map { $db->doc($_)->{profile}{name} } @keys), $queue, $conflicts, $twice, map { $db->entry($_)->{sync_status} } @entries ],
		[ $names, $names, 'synced 0', 0, 0, 'synced', 'synced' ],
		"$name: both sides have all edits, once, without a conflict; rows and entries are closed");
	return;
}

sub record
{
	my ($run) = @_;
	return $db->row("SELECT * FROM ekksync_runs WHERE run = $run->{run}");
}

# The next run mends it.
sub is_mended
{
	my ($name) = @_;
	$proxy->start;
	is($db->run->{status}, 'success', '... and the next run succeeds');
	is_in_step($name);
	return;
}

# --------------------------------------------------- each answer to each request

my $members = qr{:commit.*/documents/members/}s;
my %refused = (fault => 'answer', status => 400, error => 'FAILED_PRECONDITION', match => $members);

# The requests of a run, in their order, and what comes before them.
my @requests = (
	{ name => 'the fence',        write => 1, match => qr{:commit.*/documents/sync_logs/}s },
	{ name => 'entries',          match => qr{:runQuery.*"sync_queue"}s },
	{ name => 'the scan',         match => qr{:runQuery.*"members"}s },
	{ name => 'documents',        match => qr{:batchGet.*/documents/members/}s },
	{ name => 'members',          write => 1, match => $members },
	{ name => 'members singly',   write => 1, match => qr{:batchWrite.*/documents/members/}s, before => \%refused },
	{ name => 'closing entries',  write => 1, match => qr{:commit.*/documents/sync_queue/}s },
	{ name => 'the run\'s end',   write => 1, match => qr{:commit.*/documents/sync_logs/.*completed_at}s });

# Answers, and how a run ends that gets one: undef: well; or SQLSTATE and text.
my $unclear = [ '08006', qr/^Firestore answered a (?:read|query|write) with something else$|left out a document/ ];
my %google = (fault => 'answer', text => 'eins og prófið vill');
my @answers = (
	[ '401', { %google, status => 401, error => 'UNAUTHENTICATED' }, [ '28000', qr/^Firestore answered 401 UNAUTHENTICATED: eins og/ ] ],
	[ '403', { %google, status => 403, error => 'PERMISSION_DENIED' }, [ '28000', qr/^Firestore answered 403 PERMISSION_DENIED: eins og/ ] ],
	[ '404 in plain text', { fault => 'answer', status => 404, text => "Not Found\n" }, [ '38000', qr/^Firestore answered 404/ ] ],
	[ 'ABORTED', { %google, status => 409, error => 'ABORTED' } ],
	[ 'ALREADY_EXISTS', { %google, status => 409, error => 'ALREADY_EXISTS', applied => 1 },
		sub { $_[0]{write} && $_[0]{name} ne 'members singly' ? undef : [ '38000', qr/^Firestore answered 409 ALREADY_EXISTS/ ] } ],
	[ '429', { %google, status => 429, error => 'RESOURCE_EXHAUSTED' } ],
	[ '500', { %google, status => 500, error => 'INTERNAL' } ],
	[ '500, though applied', { %google, status => 500, error => 'INTERNAL', applied => 1 } ],
	[ '503 in plain text', { fault => 'answer', status => 503, text => 'Service Unavailable' } ],
	[ 'a dropped connection', { fault => 'drop' } ],
	[ 'a lost answer', { fault => 'lose' } ],
	[ 'a torn answer', { fault => 'tear' } ],
	[ 'no bytes of it', { fault => 'tear', bytes => 0 } ],
	[ 'broken JSON', { fault => 'broken' } ],
	[ 'a page in HTML', { fault => 'html' } ],
	[ 'JSON of another shape', { fault => 'shape' }, $unclear ],
	[ 'a list too short', { fault => 'fewer' },
		sub { $_[0]{name} =~ /entries|scan/ && !$_[0]{write} ? undef : $unclear } ],
	[ 'an empty list', { fault => 'answer', status => 200, json => [] }, $unclear ],
	[ 'an answer too large', { fault => 'huge', mib => 33, applied => 1 } ],
	[ 'the request twice', { fault => 'duplicate' } ],
	[ 'the end of the server', { fault => 'cut' }, [ '08006', qr/^no answer from Firestore: .*connect/ ] ]);

for my $request (@requests)
{
	for my $answer (@answers)
	{
		my ($what, $rule, $end) = @$answer;
		my $name = "$request->{name}: $what";
		edit();
		$end = $end->($request) if ref $end eq 'CODE';
		# The record in Firestore is all that is missing then, until the next run.
		my $last = $request->{name} eq 'the run\'s end';
		undef $end if $last;
		$proxy->start($request->{before} // (), { %$rule, match => $request->{match} });
		my $record = record($db->run);
		my $fired = grep { $proxy->wait_fired(0) } 1 .. 3;
		is($fired, $request->{before} ? 2 : 1, "$name came");
		is($record->{status}, $end ? 'failed' : 'success', "$name: the run's end") or diag($record->{error});
		if ($end)
		{
			is($record->{sqlstate}, $end->[0], '... with a SQLSTATE');
			like($record->{error}, $end->[1], '... and a text');
			like(queue(), qr/^(?:pending|synced) 0$/, '... and no row pays for it');
		}
		# Each request at most twice, and members again after a precondition.
		my $came = $proxy->counts->{came};
		cmp_ok($came->{commit} + ($came->{batchWrite} // 0), '<=', 12, '... and few requests');
		$end || $last || $rule->{fault} eq 'fewer' ? is_mended($name) : is_in_step($name);
	}
	$proxy->start;
	my $record = record($db->run);
	is("@$record{qw(status to_firestore to_django conflicts)}", 'success 0 0 0', "$request->{name}: and then it is quiet");
}

# ------------------------------------------------------------- it does not end

my @endless = (
	[ '503', { fault => 'answer', status => 503 }, qr/^Firestore answered 503/ ],
	[ 'an answer too large', { fault => 'huge', mib => 33, applied => 1 }, qr/^no answer from Firestore: .*too large/ ],
	[ 'an answer without end', { fault => 'huge', applied => 1 }, qr/^no answer from Firestore: .*too large/ ]);

for my $request (@requests)
{
	# What is read and is too large is read in smaller parts, many times.
	for my $answer ($request->{write} ? @endless : $endless[0])
	{
		my ($what, $rule, $text) = @$answer;
		my $name = "$request->{name}: $what for ever";
		edit();
		$proxy->start(
			$request->{before} ? { %{ $request->{before} }, times => 0 } : (),
			{ %$rule, times => 0, match => $request->{match} });
		my $record = record($db->run);
		if ($request->{name} ne 'the run\'s end')
		{
			is("$record->{status} $record->{sqlstate}", 'failed 08006', "$name fails the run");
			like($record->{error}, $text, '... which says so');
		}
		is(scalar(grep { $_->{fault} && ($_->{verb} eq 'batchWrite' || !$request->{before}) } $proxy->requests), 2,
			"$name: two tries");
		like(queue(), qr/^(?:pending|synced) 0$/, '... and no row pays for it');
		is_mended($name);
	}
}

# ------------------------------------------------------------------ Retry-After

for my $status (429, 503)
{
	for my $request (@requests[ 1, 4 ])
	{
		edit();
		$proxy->start(fault => 'answer', status => $status, retry_after => 2, match => $request->{match});
		is($db->run->{status}, 'success', "$request->{name}: $status with Retry-After");
		my @requests = $proxy->requests;
		my ($struck) = grep { $requests[$_]{fault} } 0 .. $#requests;
		is_deeply($requests[ $struck + 1 ]{body}, $requests[$struck]{body}, '... the request comes again');
		cmp_ok($requests[ $struck + 1 ]{time} - $requests[$struck]{time}, '>=', 2, '... when it may');
		is_in_step("$request->{name}: $status");
	}
}

# ---------------------------------------------------------- precondition loops

sub is_left
{
	my ($name, $record, $count) = @_;
	is($record->{status}, 'success', "$name: the run ends") or diag($record->{error});
	like($record->{error}, qr/^members left for the next run, locked, changing too fast or put off by Firestore: $count$/, '... and says who is left');
	like(queue(), qr/^pending 0(?:, synced 0)?$/, '... and rows stay pending');
	return;
}

{
	edit();
	my %failed = (code => 9, message => 'aftur og aftur');
	$proxy->start(
		{ %refused, times => 0 },
		{
			fault  => 'answer',
			status => 200,
			json   => { writeResults => [ {}, {} ], status => [ \%failed, \%failed ] },
			match  => qr{:batchWrite.*/documents/members/}s,
			times  => 0
		});
	is_left('preconditions fail for ever', record($db->run), 2);
	my $count = $proxy->counts->{struck};
	is("$count->{commit} $count->{batchWrite}", '6 6', '... after six rounds');
	is_mended('preconditions fail for ever');
}

{
	edit();
	my %busy = (code => 10, message => 'upptekið');
	$proxy->start(
		\%refused,
		{
			fault  => 'answer',
			status => 200,
			json   => { writeResults => [ {}, {} ], status => [ \%busy, \%busy ] },
			verb   => 'batchWrite',
			times  => 0
		});
	is_left('writes are put off for ever', record($db->run), 2);
	my $count = $proxy->counts->{struck};
	is("$count->{commit} $count->{batchWrite}", '1 2', '... after two tries');
	is_mended('writes are put off for ever');
}

{
	edit();
	$proxy->start(fault => 'delay', match => $members, times => 0);
	my $run = $db->run(wait => 0);
	my $rounds = 0;
	my $record;
	while (!$record || $record->{status} eq 'running')
	{
		if ($proxy->wait_fired(0.2))
		{
			$rounds++;
			$db->patch_doc($ours[0], { 'others.number' => $rounds });
			$proxy->resume;
		}
		$record = record($run);
	}
	is_left('a document that changes at every read', $record, 1);
	is($rounds, 6, '... after six rounds');
	is($db->doc($ours[1])->{profile}{name}, "Hér $serial", '... and the other one went with the first');
	is_mended('a document that changes at every read');
	is($db->doc($ours[0])->{others}{number}, 6, '... and what others wrote is kept');
}

$proxy->stop;
done_testing();
