# Health means progress.  ekksync_status() is degraded, with a word and a
# sentence for each reason, when the last run failed, died or had no token, when
# something waits for longer than two periods of the schedule, a direction had no
# success for as long, the clocks are too far apart, triggers are missing or
# disabled, a mapped column is gone or changes have failed; and is ok again by
# itself.  Asked by a role that has pg_monitor and may see no member.  Days pass
# by a library that sets the server's clock ahead (t/wrong_clock.c).

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync;
use FaultProxy;
use PostgreSQL::Test::Utils ();

my $library = "$PostgreSQL::Test::Utils::tmp_check/wrong_clock_105.so";
system('gcc', qw(-O -shared -fPIC -Wall -Wextra -Werror -o), $library, "$ENV{EKKSYNC_TOP}/t/wrong_clock.c") == 0
  or BAIL_OUT('the library for a wrong clock cannot be built');

my $db = EkkSync->new(members => 30);
my $proxy = FaultProxy->new(to => $db->host);
$db->use_host($proxy->host);
$db->admin_sql('CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_retries = 0');
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

# Start the server anew with a clock that is so many hours ahead.
sub set_clock
{
	my ($hours) = @_;
	local %ENV = %ENV;
	@ENV{qw(LD_PRELOAD WRONG_CLOCK)} = ($library, int($hours * 3600)) if $hours;
	$db->node->restart;
	return;
}

# What is said at the end, whatever else is wrong.
my $silent = '; nothing is scheduled: this database is not in ekksync\.databases';

sub status { return scalar $db->_psql('watcher', $db->database, "SELECT $_[0] FROM ekksync_status()"); }

# What is said now: nothing, or these words, the first with such a sentence.
sub is_ok
{
	my ($name) = @_;
	is(status('health, reason, reasons'), 'ok|nothing is scheduled: this database is not in ekksync.databases|{}', $name);
	is($db->_psql('watcher', $db->database, q(SELECT string_agg(labels ->> 'reason', ' ') FROM ekksync_metrics WHERE name = 'ekksync_degraded_by' AND value <> 0)),
		'', '... in the metrics as well');
	return;
}

sub is_degraded
{
	my ($words, $sentence, $name) = @_;
	is(status(q(health, array_to_string(reasons, ' '))), "degraded|$words", $name);
	my $reason = status('reason');
	like($reason =~ s/$silent$//r, $sentence, '... with a sentence');
	like($reason, qr/$silent$/, '... and another one');
	is($db->_psql('watcher', $db->database, q(SELECT string_agg(labels ->> 'reason', ' ') FROM ekksync_metrics WHERE name = 'ekksync_degraded_by' AND value = 1)),
		$words, '... in the metrics as well');
	return;
}

# The same while a statement of the application's owner is in force.
sub is_degraded_by
{
	my ($statement, $words, $sentence, $name) = @_;
	my $said = $db->admin_sql("BEGIN; $statement; SELECT health, array_to_string(reasons, ' '), reason FROM ekksync_status(); ROLLBACK");
	like($said =~ s/$silent$//r, qr/^degraded\|\Q$words\E\|$sentence/, $name);
	return;
}

sub set_name { my ($key, $name) = @_; return $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'"); }
sub runs_well { my ($name, @arg) = @_; my $run = $db->run(@arg); is($run->{status}, 'success', $name) or diag($run->{message}); return; }

$proxy->start;
is_ok('after the attachment, before the first run, all is well');
runs_well('the first run');
is_ok('... and after it');

# ----------------------------------------------------------------- the last run

$proxy->stop;
$db->run;
is_degraded('run_failed', qr/^the last run failed: SQLSTATE 08006/, 'a run that failed');
like($db->sql('SELECT reason FROM ekksync_status()'), qr/^the last run failed: no answer from Firestore/, '... the owner is told more');
$proxy->start;
runs_well('the next run');
is_ok('... and all is well again');

$db->stop_at('fenced');
$db->sql('SELECT ekksync_run(wait => false)');
my $pid = $db->wait_stopped;
is_ok('while a run is at work');
$db->admin_sql("SELECT pg_terminate_backend($pid)");
$db->wait_for(sub { return $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") == 0 });
$db->go_on;
is_degraded('run_interrupted', qr/^the last run was interrupted: its worker ended$/, 'a run that died');
is(status('last_run_status'), 'interrupted', '... which is its status, whatever its record says');
runs_well('the next run');
is_ok('... and all is well again');

# No token: there is no key file.  (So nothing is sent to the real service.)
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.emulator_host');
$db->admin_sql(q(ALTER DATABASE socialism SET ekksync.credentials = '/nonexistent/key.json'));
$db->run;
is_degraded('no_token', qr/^the last run failed: SQLSTATE 28000/, 'a token cannot be had');
like($db->sql('SELECT reason FROM ekksync_status()'), qr/^the last run failed: no credentials for the Firestore service: the key file/, '... the owner is told why');
$db->use_host($proxy->host);
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.credentials');
is_degraded('no_token', qr/28000/, '... until a run has one');
runs_well('the next run');
is_ok('... and all is well again');
$proxy->start(fault => 'answer', status => 401, error => 'UNAUTHENTICATED', text => 'no', times => 0);
$db->run;
is_degraded('no_token', qr/28000/, 'a token that Firestore refuses is none');
$proxy->start;

{
	local %ENV = %ENV;
	delete $ENV{FIRESTORE_EMULATOR_HOST};
	$ENV{GCE_METADATA_HOST} = '127.0.0.1:1';
	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.emulator_host');
	$db->node->restart;
	$db->run;
	is_degraded('no_token', qr/28000/, 'a server that gives tokens, and does not answer, gives none');
	like($db->sql('SELECT reason FROM ekksync_status()'), qr/: no answer from the metadata server/, '... the owner is told why');
	$db->use_host($proxy->host);
}
$db->node->restart;

# A run for some members is the last run, but says nothing of the others.
$proxy->stop;
$db->run;
$proxy->start;
runs_well('a run for one member', only => [ $key[0] ]);
is(status('last_run_status'), 'success', '... is the last run');
is_degraded('run_failed', qr/^the last run failed: SQLSTATE 08006/, '... and does not hide that the one for all has failed');
runs_well('the next run for all');
is_ok('... and all is well again');

# ------------------------------------------------------------------ the tables

my $member = 'ALTER TABLE membership_comrade';
is_degraded_by("$member DISABLE TRIGGER ALL", 'trigger_missing', qr/a trigger on public\.membership_comrade is missing or disabled, so that changes are missed$/,
	'a trigger that is disabled');
is_degraded_by("$member DISABLE TRIGGER ekksync_capture_truncate", 'trigger_missing', qr/a trigger on public\.membership_comrade/, '... that of TRUNCATE, too');
is_degraded_by("$member ENABLE REPLICA TRIGGER ekksync_capture", 'trigger_missing', qr/a trigger on public\.membership_comrade/, '... one that fires for replication alone');
is_degraded_by('DROP TRIGGER ekksync_capture ON membership_contactinfo', 'trigger_missing', qr/a trigger on public\.membership_contactinfo/, '... one that is missing');
is_degraded_by('DROP TRIGGER ekksync_settled_by_hand ON membership_membersyncqueue', 'trigger_missing', qr/a trigger on public\.membership_membersyncqueue/, '... one of the queue');
is_degraded_by("$member DISABLE TRIGGER USER; ALTER TABLE membership_contactinfo DISABLE TRIGGER USER", 'trigger_missing',
	qr/a trigger on public\.membership_\w+ is missing or disabled, so that changes are missed; and on 1 more tables$/, '... on several tables');
is_degraded_by("$member RENAME gender TO gen", 'field_suspended', qr/field "gender" is suspended: column "gender" .*does not exist$/, 'a column that is renamed');
is_degraded_by("$member DROP gender, DROP birthday", 'field_suspended', qr/field "birthday" is suspended: .* does not exist; and 1 more$/, '... or dropped, and another');
is_degraded_by('DROP TABLE membership_contactinfo CASCADE', 'field_suspended', qr/field "\w+" is suspended: /, '... or all of a table');
is_degraded_by('ALTER TABLE membership_membersyncqueue DROP error_message', 'mapping_unusable', qr/the queue table lacks the column "error_message"/, 'a column of the queue');
is_degraded_by('DROP TABLE membership_membersyncqueue CASCADE', 'mapping_unusable', qr/the mapping cannot be used: the queue table does not exist/, '... or all of it');
is_degraded_by('DROP TABLE membership_comrade CASCADE', 'mapping_unusable', qr/the mapping cannot be used: /, '... or of the members');
is_ok('what is undone is well again');

$db->admin_sql("$member DISABLE TRIGGER USER");
is_degraded('trigger_missing', qr/membership_comrade/, 'triggers that stay disabled');
$db->attach;
is_ok('... are mended by attach');
$db->admin_sql("$member RENAME gender TO gen");
is_degraded('field_suspended', qr/gender/, 'a column that stays renamed');
runs_well('a run');
is_degraded('field_suspended', qr/gender/, '... does not change that');
$db->admin_sql("$member RENAME gen TO gender");
is_ok('... until it is back');

# --------------------------------------------------------------------- failures

my $entry = $db->queue_entry(docId => $key[1], changes => { 'profile.nonsense' => 1 });
runs_well('a run with an entry that fails');
is_degraded('changes_failed', qr/^failed changes, see ekksync_failed: 0 of Django, 1 of Firestore$/, 'changes that failed');
$db->patch_doc("sync_queue/$entry", { changes => { 'profile.facebook' => 'betra' }, sync_status => 'pending' });
runs_well('a run with the entry as it should be');
is_ok('... and all is well again');
set_name($key[2], 'Bilað');
$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'failed', error_message = 'x' WHERE ssn = '$key[2]' AND sync_status = 'pending'");
is_degraded('changes_failed', qr/1 of Django, 0 of Firestore$/, 'a row that failed');
$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'pending' WHERE sync_status = 'failed'");
is_ok('... and is to be tried again');
runs_well('a run');

# ------------------------------------------------------------------------- time

set_name($key[3], 'Bíður');
is_ok('a change that waits since today');
set_clock(47);
is_ok('... for almost two days');
set_clock(49);
is_degraded('pending_old no_success_to_firestore no_success_to_django',
	qr/^the oldest pending change has waited for 2 days; no run to Firestore has succeeded for 2 days; no run to Django has succeeded for 2 days$/,
	'... for longer: nothing has got across');
runs_well('a run for another member', only => [ $key[0] ]);
is_degraded('clock_skew pending_old no_success_to_firestore no_success_to_django', qr/^at the last run this server's clock was \d+\.\d s ahead of Firestore's/,
	'... changes nothing but that the clock is known to be wrong');
runs_well('a run to Firestore', direction => 'to_firestore');
is_degraded('clock_skew no_success_to_django', qr/; no run to Django has succeeded for 2 days$/, '... is a success in that direction alone');
runs_well('a run to Django', direction => 'to_django');
is_degraded('clock_skew', qr/clock/, '... and this one in the other');
set_clock(0);
is_degraded('clock_skew', qr/clock/, 'the clock is right again, but who knows');
runs_well('a run');
is_ok('... by which it is known');

# Two periods are those of the schedule, and at least until two runs were due.
sub schedule { return $db->admin_sql("ALTER DATABASE socialism SET ekksync.schedule = '$_[0]'"); }
set_name($key[5], 'Bíður');
schedule('*/20 * * * *');
is_ok('a change that waits since now, with a run every 20 minutes');
set_clock(0.65);
is_ok('... for 39 minutes');
set_clock(0.75);
is_degraded('pending_old no_success_to_firestore no_success_to_django', qr/^the oldest pending change has waited for 4\d minutes;/, '... for 45');
schedule('0 3 1 * *');
is_ok('... with a run every month');
set_clock(29 * 24);
is_ok('... for 29 days');
set_clock(63 * 24);
is_degraded('pending_old no_success_to_firestore no_success_to_django', qr/^the oldest pending change has waited for 63 days;/, '... for two months');
set_clock(0);
schedule('');
set_clock(47);
is_ok('... without a schedule, for almost two days');
set_clock(49);
is_degraded('pending_old no_success_to_firestore no_success_to_django', qr/2 days/, '... for longer');
set_clock(0);
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.schedule');
runs_well('a run');

# What was there before the attachment does not count as late.
$db->sql('SELECT ekksync_detach()');
is(status('health, reason, reasons'), 'detached|nothing is attached|{detached}', 'nothing is attached');
$db->sql("INSERT INTO membership_membersyncqueue (ssn, action, fields_changed, created_at) VALUES ('$key[4]', 'update', '{}', now() - interval '1 year')");
$db->attach;
is_ok('a row that is older than the attachment');
set_clock(49);
is_degraded('pending_old no_success_to_firestore no_success_to_django',
	qr/^the oldest pending change has waited for 2 days; no run has ever written to|^the oldest pending change has waited for 2 days; no run to Firestore/,
	'... is late when it has waited for as long since then');
set_clock(0);
is_ok('back in the present it is not');

# ----------------------------------------------------------------- other states

$db->sql(q(SELECT ekksync_pause('flutningar')));
is(status('health, reason, reasons'), 'paused|flutningar|{paused}', 'paused');
$db->sql('SELECT ekksync_resume()');
$db->admin_sql(q(ALTER DATABASE socialism SET ekksync.mode = 'observe'));
is(status('health, reasons'), 'observe|{observe}', 'observing');
set_name($key[0], 'Bíður lengi');
set_clock(49);
is(status('health'), 'degraded', '... and not even that, for two days');
runs_well('a run that observes');
is(status(q(health, array_to_string(reasons, ' '))), 'degraded|clock_skew', '... is a success; what it does not write may wait');
set_clock(0);
runs_well('another one, by the right time');
is(status('health, reasons'), 'observe|{observe}', '... and all is well again');

done_testing();
