# Budgets: how fast a run writes, how much runs may read and write in a day of
# Firestore's quota, what they have cost.  At a limit a run stops and says so;
# nothing is half done, what is left stays pending, and goes on the next day.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use Session;
use Time::HiRes qw(time);

my $MEMBERS = 230;
my $db = EkkSync->new(members => $MEMBERS, conf => "log_statement = 'none'");
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);

# ------------------------------------------------------------------- helpers

sub setting
{
	my (%set) = @_;
	$db->admin_sql("ALTER DATABASE socialism " . (defined $set{$_} ? "SET ekksync.$_ = '$set{$_}'" : "RESET ekksync.$_"))
	  for keys %set;
	return;
}

sub last_run { return $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1'); }

# Midnight in Los Angeles has passed.
sub next_day
{
	$db->admin_sql('DELETE FROM ekksync.cost WHERE day < (SELECT max(day) FROM ekksync.cost)');
	$db->admin_sql('UPDATE ekksync.cost SET day = day - 1');
	return;
}

sub today { return $db->row(q{SELECT * FROM ekksync_costs ORDER BY day DESC LIMIT 1}); }

# Members whose document has the row's name.
sub in_step
{
	my $docs = $db->docs('members');
	return scalar grep { ($docs->{ $_->{ssn} }{profile}{name} // '') eq $_->{name} }
	  $db->rows('SELECT ssn, name FROM membership_comrade');
}

sub pending { return $db->sql(q{SELECT count(*) FROM membership_membersyncqueue WHERE sync_status = 'pending'}); }

# ------------------------------------------------------------------ settings

for my $bad ([ max_reads_per_day => 99 ], [ max_writes_per_day => 1 ], [ max_writes_per_second => -2 ], [ price_reads => -1 ],
	[ change_log_days => 6 ], [ conflict_days => 1 ])
{
	my ($status, undef, $error) = $db->admin_err("ALTER DATABASE socialism SET ekksync.$bad->[0] = $bad->[1]");
	isnt($status, 0, "$bad->[0] = $bad->[1] is refused");
}

# ------------------------------------------------------- writes of a day

setting(max_writes_per_day => 120, price_reads => 1000, price_writes => 2000, price_deletes => 500);
my $first = $db->run;
is($first->{status}, 'stopped', 'a run stops at its writes of a day');
like($first->{message}, qr/^ekksync\.max_writes_per_day is reached: what is left stays pending until the day ends/, '... and says why');
is($db->count_docs('members'), $first->{to_firestore}, '... its figure is what is there');
cmp_ok($first->{to_firestore}, '>=', 100, '... and that is most of what was allowed');
my $counts = $proxy->counts;
cmp_ok($counts->{writes}, '<=', 120, '... which was not exceeded');
my $cost = today();
my $read = 0;
$read += $_->{verb} eq 'batchGet' ? @{ $_->{body}{documents} } : $_->{verb} eq 'runQuery' ? 1 : 0 for $proxy->requests;
is_deeply([ @$cost{qw(reads writes deletes)} ], [ $read, $counts->{writes}, 0 ], 'the ledger has what was asked for and passed')
  or diag(explain($counts));
is($cost->{requests}, last_run()->{requests}, '... and the requests of the run');
cmp_ok($cost->{bytes_sent}, '>', 1000, '... and the bytes');
is($cost->{price} + 0, ($cost->{reads} * 1000 + $cost->{writes} * 2000) / 100000, '... at the prices of the settings');
is($db->admin_sql(q{SELECT count(*) FROM ekksync.member WHERE NOT first_contact}), $first->{to_firestore}, 'who was written is known to be');
is($db->admin_sql(q{SELECT count(*) FROM ekksync.member WHERE due}), $MEMBERS - $first->{to_firestore}, '... all others wait');
is($db->admin_sql(q{SELECT count(*) FROM ekksync.member WHERE in_flight <> '[]'}), 0, '... and nothing is in flight');
is_deeply([ map { $_->{status} } values %{ $db->docs('sync_logs') } ], ['failed'], 'its document says that it did not end');
like((values %{ $db->docs('sync_logs') })[0]{stats}{error}, qr/max_writes_per_day/, '... and why');
my $status = $db->row('SELECT * FROM ekksync_status()');
is("$status->{health}: $status->{reason}" =~ s/:.*max_writes.*/: x/r, 'degraded: x', 'the status says so as well');

$proxy->start;
$db->sql(q{UPDATE membership_comrade SET name = 'Á öðrum degi' WHERE id <= 5});
my $second = $db->run;
is("$second->{status} $second->{to_firestore}", 'stopped 0', 'another run on the same day stops at once');
is_deeply($proxy->counts->{passed}, {}, '... and asks for nothing') or diag(explain($proxy->counts));
is(pending(), 5, '... and leaves pending what is');
is($db->count_docs('members'), $first->{to_firestore}, '... and writes nothing');

# a day after another, until all is done
my @days;
for (1 .. 4)
{
	next_day();
	$proxy->start;
	my $run = $db->run;
	push @days, $run->{to_firestore};
	cmp_ok($proxy->counts->{writes}, '<=', 120, 'the next day: no more than a day has');
	last if $run->{status} eq 'success';
}
is(last_run()->{status}, 'success', 'the days after it goes on, to the end');
is(in_step(), $MEMBERS, '... and both sides are in step');
is(pending(), 0, '... with nothing pending');
$proxy->start;
next_day();
is(join(' ', @{ $db->run }{qw(status to_firestore to_django)}), 'success 0 0', '... and quiet');
is($db->sql('SELECT count(*) FROM ekksync_conflicts'), 0, '... and without a conflict');

# deletes count, and the run's own documents do not fail
setting(max_writes_per_day => 100, on_local_delete => 'delete', max_delete_percent => 100);
$db->sql('DELETE FROM ' . $_) for map { "membership_$_ WHERE comrade_id > 100" } qw(contactinfo comrade_emails unionmembership comradetitle newlocaladdress);
$db->sql('DELETE FROM membership_comrade WHERE id > 100');
next_day();
my $deleted = $db->run;
is($deleted->{status}, 'stopped', 'deletes count as writes');
$cost = today();
is($cost->{deletes}, $deleted->{to_firestore}, '... and are in the ledger by themselves');
cmp_ok($cost->{deletes} + $cost->{writes}, '<=', 100, '... within the limit');
is($db->count_docs('members'), $MEMBERS - $deleted->{to_firestore}, '... and in Firestore');
next_day();
$db->run;
next_day();
is($db->run->{status}, 'success', '... and the days after they are done');
is($db->count_docs('members'), 100, '... all of them');
setting(max_writes_per_day => undef, on_local_delete => undef, max_delete_percent => undef);

# ------------------------------------------------------------ reads of a day

next_day();
setting(max_reads_per_day => 100);
$db->sql(q{UPDATE membership_comrade SET name = 'Lesið ' || id});
$proxy->start;
my $run = $db->run;
is($run->{status}, 'stopped', 'a run stops at its reads of a day');
like($run->{message}, qr/max_reads_per_day/, '... and says so');
cmp_ok($proxy->counts->{reads}, '<=', 100, '... which were not exceeded');
cmp_ok($run->{to_firestore}, '>=', 70, '... having written whom it could read');
is(pending(), 100 - $run->{to_firestore}, '... and left the others pending');
next_day();
is($db->run->{status}, 'success', 'the next day');
is(in_step(), 100, '... they are in step');

# a dry run costs as well, and a full scan goes on over days
next_day();
setting(max_reads_per_day => 120, scan => 'full');
$db->patch_doc($db->sql('SELECT max(ssn) FROM membership_comrade'), { 'profile.facebook' => 'https://facebook.example/enginn' });
my @scanned;
my $found = 0;
for (1 .. 4)
{
	next_day();
	my $part = $db->run;
	is($part->{status}, 'success', 'a day with a part of a full scan');
	push @scanned, last_run()->{docs_scanned};
	$found += $part->{to_django};
	last unless ($part->{message} // '') =~ /full scan goes on/;
}
cmp_ok(scalar @scanned, '>=', 2, "a full scan of 100 documents takes several days: @scanned");
cmp_ok((sort { $a <=> $b } @scanned)[-1], '<=', 60, '... half of what a day may read, each');
is($found, 1, '... and what it found has come over');
is($db->admin_sql('SELECT scan_after IS NULL AND last_full_scan IS NOT NULL FROM ekksync.state'), 't', '... and it was one full scan');
setting(scan => undef, max_reads_per_day => undef);

# ---------------------------------------------------------- writes of a second

# By the proxy's record: when did writes of members come?
sub write_times
{
	return map { { at => $_->{time}, n => scalar @{ $_->{body}{writes} } } }
	  grep { $_->{verb} eq 'commit' && $_->{body}{writes}[0]{update}{name} =~ m{/members/} } $proxy->requests;
}

next_day();
setting(max_writes_per_second => 40);
$db->sql(q{UPDATE membership_comrade SET name = 'Hægt ' || id});
$proxy->start;
is($db->run->{status}, 'success', 'a run at 40 writes a second');
my @writes = write_times();
is(join(' ', map { $_->{n} } @writes), '40 40 20', 'its writes come in parts');
cmp_ok($writes[1]{at} - $writes[0]{at}, '>=', 0.9, '... a second apart');
cmp_ok($writes[2]{at} - $writes[1]{at}, '>=', 0.9, '... each');

# while it waits: no transaction, no snapshot, and it obeys
setting(max_writes_per_second => 1);
$db->sql(q{UPDATE membership_comrade SET name = 'Hægar ' || id});
$proxy->start;
$db->sql('SELECT * FROM ekksync_run(wait => false)');
ok($db->wait_for(sub { write_times() >= 2 }), 'a run at one write a second');
my @states = split /\n/, $db->admin_sql(<<'SQL');
SELECT xact_start IS NULL AND backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE backend_type = 'ekksync run'
SQL
is("@states", 't', '... waits without a transaction or a snapshot');
my $begin = time;
$db->admin_sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ekksync run'});
ok($db->wait_for(sub { $db->admin_sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'}) == 0 }), '... and ends when it is told to');
cmp_ok(time - $begin, '<', 20, '... not when it is done');
setting(max_writes_per_second => undef);
is($db->run->{status}, 'success', 'the next run goes on');
is(in_step(), 100, '... and both sides are in step');

# the ramp: 500 a second at first, whatever the cap above it
$db->sql(<<'SQL');
INSERT INTO membership_comrade (id, name, ssn, date_joined)
SELECT 10000 + i, 'Nýr ' || i, to_char(i, 'FM0000000000'), now() FROM generate_series(1, 1100) AS i
SQL
setting(max_writes_per_second => 2000);
$proxy->start;
is($db->run->{status}, 'success', 'a run of 1,100 writes at 2,000 a second');
@writes = write_times();
cmp_ok($writes[-1]{at} - $writes[0]{at}, '>=', 1.8, '... begins with 500 a second');
is((grep { $_->{n} > 500 } @writes), 0, '... and sends no more together');

# --------------------------------------- more than a day's reads, of each kind

setting(max_writes_per_second => undef);
next_day();
is($db->run->{status}, 'success', 'all 1,200 members are in step');
my $all = 1200;
my @keys = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id LIMIT 300');

# Runs on one day after another until one succeeds; what each came to.
sub days
{
	my ($limit, $most) = @_;
	my @runs;
	while (@runs < $most)
	{
		next_day();
		$proxy->start;
		push @runs, $db->run;
		cmp_ok($proxy->counts->{reads}, '<=', $limit, '... no more than a day has');
		last if $runs[-1]{status} eq 'success' && !$runs[-1]{message};
	}
	return @runs;
}

sub phases { return $db->sql('SELECT string_agg(phase, $$ $$ ORDER BY n) FROM (SELECT run, phase, row_number() OVER () AS n FROM ekksync_phases) p WHERE run = (SELECT max(run) FROM ekksync_runs)'); }

# Changed documents: a scan takes half of the day, and goes on.
setting(max_reads_per_day => 250);
$db->admin_sql(q{UPDATE ekksync.state SET last_scan = now() + interval '1 day'});
$db->commit(map { [ "members/$_", { 'profile.facebook' => "fb $_", updated_at => timestamp() }, 1 ] } @keys);
@days = days(250, 5);
is(join(' ', map { $_->{status} } @days), 'success success success', 'a scan of more changed documents than a day may read takes several days');
is(join(' ', map { ($_->{message} // '') =~ /^the scan goes on in the next run/ ? 1 : 0 } @days), '1 1 0', '... and says so');
is($db->sql(q{SELECT count(*) FROM membership_contactinfo WHERE facebook = 'fb ' || (SELECT ssn FROM membership_comrade c WHERE c.id = comrade_id)}),
	300, '... and all that it found has come over');
is($db->admin_sql('SELECT changed_after IS NULL AND last_scan < now() FROM ekksync.state'), 't', '... and it was one scan');

# Entries: those that were read stay, until all are, and all members are done.
setting(scan => 'off');
$db->commit(map { [ "members/$_", { 'profile.facebook' => "fc $_", updated_at => timestamp() }, 1 ] } @keys);
$db->commit(map { [ "sync_queue/m$_", $db->entry_fields(docId => $_, changes => { 'profile.facebook' => "fc $_" }, created_at => timestamp()) ] } @keys);
$db->sql(q{UPDATE membership_comrade SET name = 'Bíður líka' WHERE id = 900 + 10000});
next_day();
$proxy->start;
$run = $db->run;
is("@$run{qw(status to_firestore to_django)}", 'stopped 0 0', 'a run that cannot read all pending entries works on nobody');
is(phases(), 'start stage clean stopped', '... but cleans up');
my $staged = $db->admin_sql(q{SELECT count(*) FROM ekksync.inbox WHERE status = 'staged'});
cmp_ok($staged, '>=', 220, '... and keeps what it has read');
my $read_so_far = last_run()->{docs_read};
# one that comes on the next day, in front of the others
$db->commit([ "sync_queue/a", $db->entry_fields(docId => $keys[0], changes => { 'profile.facebook' => 'fd' }, created_at => timestamp()) ],
	[ "members/$keys[0]", { 'profile.facebook' => 'fd', updated_at => timestamp() }, 1 ]);
next_day();
is($db->run(dry_run => 1)->{status}, 'stopped', 'a dry run reads the rest');
is($db->admin_sql(q{SELECT count(*) FROM ekksync.inbox WHERE status = 'staged'}), 300, '... which stays as well');
@days = days(250, 5);
is(join(' ', map { $_->{status} } @days), 'stopped success', 'on the days after it all members are worked on');
is($db->sql(q{SELECT count(*) FROM membership_contactinfo WHERE facebook ~ '^f[cd]'}), 300, '... and all has come over');
is(pending(), 0, '... and the other way');
is(scalar(grep { ($_->{sync_status} // '') eq 'synced' } values %{ $db->docs('sync_queue') }), 300, '... and the entries are closed');
cmp_ok($read_so_far + $db->sql('SELECT sum(docs_read) FROM (SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 2) r'), '<=', 240 + 301 + 20, '... none of which was read twice');
is($db->entry('a')->{sync_status}, 'pending', 'what came in front of them meanwhile');
@days = days(250, 2);
is($db->entry('a')->{sync_status}, 'synced', '... is read by the run after that');
is($db->sql("SELECT facebook FROM membership_contactinfo JOIN membership_comrade c ON c.id = comrade_id WHERE ssn = '$keys[0]'"), 'fd', '... and has come over');

# The guard counts those who can be looked at and worked on that day.
for my $case ([ 700, '500 500 200', 'start stage scan members close clean stopped' ], [ 1150, qr/^5\d\d 5\d\d \d+$/, 'start stage scan survey members close clean stopped' ])
{
	my ($limit, $figures, $phases) = @$case;
	setting(max_reads_per_day => $limit);
	$db->sql(q{UPDATE membership_comrade SET name = ''});
	next_day();
	$run = $db->run;
	is("$run->{status} $run->{to_firestore}", 'failed 0', "$limit reads a day, $all pending: the guard stops a run before it writes");
	like($run->{message}, qr/^the run would blank values of [5]\d\d of $all members/, '... of those it has counted');
	$db->sql("UPDATE membership_comrade SET name = '$limit ' || id");
	next_day();
	$proxy->start;
	$run = $db->run;
	is($run->{status}, 'stopped', '... what is no damage gets on');
	cmp_ok($proxy->counts->{reads}, '<=', $limit, '... no more than a day has');
	is(phases(), $phases, '... in these phases');
	@days = ($run, days($limit, 4));
	like(join(' ', map { $_->{to_firestore} } @days), ref $figures ? $figures : qr/^$figures$/, '... each day its part');
	is("$days[-1]{status} " . pending(), 'success 0', '... until all are done');
}

# Of a changed key two documents are read: a batch may be more than a day has.
setting(max_reads_per_day => 100);
$db->sql(q{UPDATE membership_comrade SET ssn = '9' || substr(ssn, 2) WHERE id BETWEEN 10101 AND 10160});
@days = days(100, 6);
is($days[-1]{status}, 'success', 'changed keys of more members than a day can read');
is($db->sql('SELECT count(*) FROM ekksync_conflicts') . ' ' . in_step(), "0 $all", '... and both sides are in step');
setting(scan => undef, max_reads_per_day => undef);

done_testing();
