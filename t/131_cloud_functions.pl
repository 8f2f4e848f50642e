# docs/cloud-functions.md, step by step as it stands there, on a registry that
# signals, a queue and a function keep in step, badly: looking on changes
# nothing and shows what the old one has missed; after the change everything is
# in step, and every loser is kept; and back again, the old one goes on.
#
# What stands for the old system here does what docs/cloud-functions.md and the
# tables say of it: its signals note all fields of a member that is saved, its
# function reads the queue and the entries, and closes them.

use strict;
use warnings;
use utf8;
use Test::More;
use Docs qw(document blocks run_statement);
use EkkSync qw(timestamp);

my $db = EkkSync->new(members => 30);

# ------------------------------------------------------------- the old system

# Its documents, and none of our own.
$db->run;
$db->sql('SELECT * FROM ekksync_detach()');
$db->admin_sql('DROP EXTENSION ekksync CASCADE');
$db->delete_doc("sync_logs/$_") for keys %{ $db->docs('sync_logs') };

# Its queue, as Django's migration makes it.
$db->sql(<<'SQL');
DROP TABLE membership_membersyncqueue;
CREATE TABLE membership_membersyncqueue (
	id bigserial NOT NULL PRIMARY KEY,
	member_id integer NULL REFERENCES membership_comrade DEFERRABLE INITIALLY DEFERRED,
	ssn varchar(10) NOT NULL,
	action varchar(20) NOT NULL,
	fields_changed jsonb NOT NULL,
	created_at timestamptz NOT NULL,
	synced_at timestamptz NULL,
	sync_status varchar(20) NOT NULL,
	error_message text NOT NULL,
	retry_count integer NOT NULL
);
CREATE INDEX ON membership_membersyncqueue (sync_status, created_at);
CREATE INDEX ON membership_membersyncqueue (ssn, created_at);
SQL
my $columns = q(SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull, ', ' ORDER BY attnum) FROM pg_attribute
	WHERE attrelid = 'membership_membersyncqueue'::regclass AND attnum > 0);
my $old_columns = $db->sql($columns);

my %path = (name => 'profile.name', email => 'profile.email', facebook => 'profile.facebook');
my %key = map { split /\|/ } split /\n/, $db->sql('SELECT id, ssn FROM membership_comrade');
my $signals = 1;

# A member is saved in Django's admin.
sub save
{
	my ($id, $name, $email) = @_;
	$db->sql("UPDATE membership_comrade SET name = '$name' WHERE id = $id; UPDATE membership_contactinfo SET email = '$email' WHERE comrade_id = $id");
	$db->sql(<<"SQL") if $signals;
INSERT INTO membership_membersyncqueue (member_id, ssn, action, fields_changed, created_at, sync_status, error_message, retry_count)
SELECT id, ssn, 'update', jsonb_build_object('name', name, 'email', email, 'facebook', facebook), now(), 'pending', '', 0
FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id WHERE id = $id
SQL
	return;
}

sub row
{
	my ($id) = @_;
	return $db->sql("SELECT name || ' ' || coalesce(email, '-') FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE id = $id");
}

sub both
{
	my ($id) = @_;
	my $profile = $db->doc($key{$id})->{profile};
	return row($id) . " / $profile->{name} " . ($profile->{email} // '-');
}

# The function: rows of the queue, then entries of the last month.
sub old_function
{
	for my $row ($db->rows("SELECT id, ssn, fields_changed FROM membership_membersyncqueue WHERE sync_status = 'pending' ORDER BY created_at, id"))
	{
		my $fields = $row->{fields_changed};
		$db->patch_doc($row->{ssn}, { map { $path{$_} => $fields->{$_} } grep { $path{$_} } keys %$fields }, exists => 1);
		$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced', synced_at = now() WHERE id = $row->{id}");
	}
	my $entries = $db->docs('sync_queue', where => [ 'sync_status', 'pending' ]);
	my $new = EkkSync::timestamp(time - 30 * 24 * 3600)->{timestampValue};
	for my $id (grep { $entries->{$_}{created_at} gt $new } keys %$entries)
	{
		my ($key, $changes) = @{ $entries->{$id} }{qw(docId changes)};
		$db->sql("UPDATE membership_comrade SET name = " . $db->quote($changes->{'profile.name'}) . " WHERE ssn = '$key'") if $changes->{'profile.name'};
		$db->patch_doc("sync_queue/$id", { sync_status => 'synced', synced_at => timestamp() });
	}
	my %done = (success => 0, failed => 0);
	$db->add_doc('sync_logs', { type => 'bidirectional_sync', status => 'success', completed_at => timestamp(), created_at => timestamp(),
			stats => { firestore_to_django => \%done, django_to_firestore => \%done } });
	return;
}

# What it left undone: a row that failed, an entry that is too old for it.
save(1, 'Strandað', 'strandad@felagi.example');
$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'failed', error_message = 'timeout', created_at = now() - interval '90 days'");
$db->profile_edit($key{2}, 'name', 'Gleymt', created_at => timestamp(time - 90 * 24 * 3600));

save(3, 'Þrjú', 'thrju@felagi.example');
$db->profile_edit($key{4}, 'name', 'Fjögur');
old_function();
is(both(3), 'Þrjú thrju@felagi.example / Þrjú thrju@felagi.example', 'the old function brings a row to the document');
like(both(4), qr/^Fjögur .* Fjögur /, '... and an entry to the row');

# -------------------------------------------------------------------- the page

my @blocks = blocks(document('docs/cloud-functions.md'));
cmp_ok(scalar @blocks, '>=', 8, 'the page has blocks of SQL');
my @said;

# Run the next block; it must be under this heading.  Returns what its
# statements said, each on its own.
sub follow
{
	my ($heading) = @_;
	my $block = shift @blocks;
	like($block->{heading}, qr/\Q$heading/, "next: $heading");
	return map { scalar run_statement($db, $_, admin => $block->{role} eq 'postgres', name => "$heading: ") } @{ $block->{statements} };
}

# All that is not ours: rows, queue, documents.
sub world
{
	my $documents = join ', ', sort map { "$_->{name} $_->{updateTime}" } map { $db->raw_docs($_) } qw(members sync_queue sync_logs);
	return join "\n", $db->sql('SELECT * FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id ORDER BY id'),
	  $db->sql('SELECT * FROM membership_membersyncqueue ORDER BY id'), $documents;
}

my $before = world();
follow('Look on') for 1 .. 2;
is($db->sql("SELECT tgname FROM pg_trigger WHERE tgrelid = 'membership_membersyncqueue'::regclass AND NOT tgisinternal"), '', 'the old queue has no trigger');
is($db->sql('SELECT mode FROM ekksync_runs'), '', 'no run so far');

# Nights.
for my $night (1 .. 2)
{
	save(4 + $night, "Nótt $night", "nott$night\@felagi.example");
	$db->profile_edit($key{ 6 + $night }, 'name', "Vefur $night");
	old_function();
	$db->queue_entry(docId => $key{20}, changes => { 'profile.nickname' => 'Lalli' });
	$before = world();
	my $run = $db->run;
	is("$run->{status} $run->{to_firestore} $run->{to_django}", 'success 2 0', "night $night: the run succeeds");
	is(world(), $before, '... and writes nothing');
}
is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE sync_status = 'pending'"), 0, 'the old queue has only what the signals wrote, and it is done');
cmp_ok($db->sql("SELECT count(*) FROM membership_observequeue"), '>', 0, 'the triggers write to their own');
my ($runs, $plan) = follow('Look on');
like($runs, qr/^2\|\|success\|2\|0\|/, 'the runs are on record');
is_deeply([ sort map { join ' ', (split /\|/)[ 0, 1, 2 ] } split /\n/, $plan ],
	[ sort "$key{1} firestore name", "$key{1} firestore email", "$key{2} firestore name", "$key{20} none " ],
	'the plan is what the old function has missed, and what is not mapped')
  or diag($plan);
like($plan, qr{entry fails: profile.nickname: unknown path}, '... and says so');

# ----------------------------------------------------------------- the change

old_function();
$signals = 0;
save(9, 'Milli laga', 'milli@felagi.example');			# nobody notes it
follow('Change over');
is($db->sql($columns), $old_columns, 'the old queue is adopted as it is');
my (undef, $look) = follow('Change over');
like($look, qr/^${\ $key{9}}\|firestore\|name\|/m, 'what nobody noted is found');
follow('Change over');
my @change = follow('Change over');
like($change[0], qr/^\d+\|success\|3\|0\|5\|0\|$/, 'the first run succeeds');
is(join('', @change[ 1, 2 ]), '', '... all is in step, and nothing failed');
like($change[3], qr/^$_\|name\|.*\|django\|first contact$/m, '... what lost is kept') for @key{ 1, 2, 9 };
like($change[4], qr/\|ok\|/, '... health is ok') or diag($change[4]);
is(both(1), 'Strandað strandad@felagi.example / Strandað strandad@felagi.example', 'what had failed is brought over');
is(both(9), 'Milli laga milli@felagi.example / Milli laga milli@felagi.example', '... and what was in no queue');
is($db->sql("SELECT string_agg(DISTINCT sync_status, ' ') FROM membership_membersyncqueue"), 'synced', 'the old queue is done');
is(join(' ', keys %{ $db->docs('sync_queue', where => [ 'sync_status', 'pending' ]) }), '', '... as are the entries');

# ... and the loser that was right
$db->sql("SELECT ekksync_resolve(id, 'firestore') FROM ekksync_conflicts WHERE member = '$key{2}'");
save(10, 'Án merkja', 'an@felagi.example');
$db->profile_edit($key{11}, 'name', 'Af síðunni');
my $run = $db->run;
is("$run->{status} $run->{to_firestore} $run->{to_django}", 'success 2 1', 'from here on it works without the signals');
like(both($_), qr/^(.*) .* \/ \1 /, '... both sides have the same') for 2, 10, 11;
like(both(2), qr/^Gleymt /, '... the loser, too, that was right');

# ---------------------------------------------------------------------- back

save(12, 'Síðasta', 'sidasta@felagi.example');
my ($last, $left) = follow('How to go back');
like($last, qr/^\d+\|success\|/, 'a last run');
is($left, '0|0', '... leaves nothing');
$signals = 1;
save(13, 'Tvöfalt', 'tvofalt@felagi.example');
follow('How to go back');
is(scalar @blocks, 0, 'that was all of the page');
is($db->sql($columns), $old_columns, 'the queue is as it was');
is($db->sql("SELECT tgname FROM pg_trigger WHERE tgrelid IN ('membership_membersyncqueue'::regclass, 'membership_comrade'::regclass) AND NOT tgisinternal"),
	'', '... without triggers');
save(14, 'Aftur', 'aftur@felagi.example');
$db->profile_edit($key{15}, 'name', 'Vefurinn aftur');
old_function();
is(both($_), join(' / ', (row($_)) x 2), "the old function goes on: member $_") for 12 .. 15;
like(both(15), qr/^Vefurinn aftur /, '... in both directions');

done_testing();
