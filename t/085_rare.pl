# What happens rarely, and loses something only when two rare things meet
# ("Nothing lost", "Crash-proof"): a kennitala is changed in a batch that takes
# two requests, and one of them is lost; the document of a write that never
# came is meanwhile written by another program, or restored from a backup; a
# value was left out because the document would be too large, and the answer is
# lost; the server dies in a database that commits without waiting for the disk.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;

# More members than one request has writes; and nobody but who commits brings
# the log to disk.
my $db = EkkSync->new(members => 510, conf => "restart_after_crash = on\nwal_writer_delay = 10s");
my $proxy = FaultProxy->new(to => $db->host);
$proxy->start;
$db->use_host($proxy->host);
set_to(scan => 'full', max_retries => 0, max_delete_percent => 100);

my $members = qr{/documents/members/};

# ------------------------------------------------------------------- helpers

sub set_to
{
	my (%set) = @_;
	$db->admin_sql(join '', map { "ALTER DATABASE socialism SET ekksync.$_ = '$set{$_}';" } sort keys %set);
	return;
}

sub set_name
{
	my ($key, $name) = @_;
	$db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'");
	return;
}

sub run_ok
{
	my ($name) = @_;
	my $run = $db->run;
	is($run->{status}, 'success', "$name: the run succeeds") or diag($run->{message});
	return;
}

# A run of which a request, or its answer, is lost by these rules.
sub lose
{
	my ($name, %rule) = @_;
	$proxy->start(%rule);
	is($db->run->{status}, 'failed', "$name: the run fails");
	ok($proxy->wait_fired, '... for the loss');
	$proxy->start;
	return;
}

# A field as PostgreSQL and as Firestore have it.
sub sides
{
	my ($key, $field) = @_;
	return [
		$db->sql("SELECT $field FROM membership_comrade LEFT JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'"),
		$db->doc($key)->{profile}{$field} ];
}

sub conflicts
{
	my ($key) = @_;
	return $db->sql("SELECT count(*) FROM ekksync_conflicts WHERE member = '$key'");
}

run_ok('first push');
my @keys = split /\n/, $db->sql('SELECT ssn FROM membership_comrade ORDER BY ssn COLLATE "C"');
$db->sql('INSERT INTO membership_contactinfo (comrade_id) SELECT id FROM membership_comrade '
	  . 'WHERE id NOT IN (SELECT comrade_id FROM membership_contactinfo)');
run_ok('contact info for all');

# ------------------------------------- a changed kennitala in more than one request

{
	my $name = 'a changed kennitala';
	my ($old, $new) = ($keys[3], '3112999989');
	$db->patch_doc($old, { 'annad.athugasemd' => 'mikilvægt' });
	set_to(on_local_delete => 'delete');
	$db->sql("UPDATE membership_comrade SET ssn = '$new' WHERE ssn = '$old'");
	$db->sql("UPDATE membership_comrade SET name = name || ' yngri' WHERE ssn <> '$new'");
	lose($name, fault => 'drop', verb => 'commit', match => qr{/members/$new}, times => 0);
	is($db->doc($new), undef, '... the new document has not come');
	is(($db->doc($old) // {})->{annad}{athugasemd}, 'mikilvægt', '... so the old one is there still');
	run_ok("after $name");
	is($db->doc($new)->{annad}{athugasemd}, 'mikilvægt', 'what others keep in the document goes along with a changed kennitala');
	is($db->doc($old), undef, '... and then the old document goes');
	set_to(on_local_delete => 'deactivate');
}

# ------------------------------------------------------- a write that never came

{
	my $name = 'another program writes last_sync';
	my $key = $keys[10];
	my ($was) = @{ sides($key, 'name') };
	set_name($key, 'Nýtt Nafn Hér');
	lose($name, fault => 'drop', verb => 'commit', match => $members);
	is_deeply(sides($key, 'name'), [ 'Nýtt Nafn Hér', $was ], '... its write has not come');
	$db->patch_doc($key, { 'profile.facebook' => 'facebook.example/gamla', 'metadata.last_sync' => timestamp() });
	run_ok("after $name");
	is_deeply(sides($key, 'name'), [ ('Nýtt Nafn Hér') x 2 ], "$name: the edit here reaches Firestore");
	is_deeply(sides($key, 'facebook'), [ ('facebook.example/gamla') x 2 ], '... and what the program wrote reaches Django');
	is(conflicts($key), 0, '... and nobody was beaten');
}

{
	my $name = 'a document restored from a backup';
	my $key = $keys[11];
	my $backup = $db->raw_doc($key)->{fields};
	set_name($key, 'Nýtt Nafn Hér');
	$db->delete_doc($key);
	$db->stop_at('applied');
	$db->run(wait => 0);
	my $pid = $db->wait_stopped;
	ok($pid, "$name: a run is about to make it again");
	kill KILL => $pid;
	$db->go_on;
	$db->wait_for(sub { ($db->sql_err('SELECT 1'))[0] == 0 && !-e "/proc/$pid" }) or die "$name: the server does not come back";
	is($db->doc($key), undef, '... and dies before');
	$db->set_doc($key, $backup);
	run_ok("after $name");
	is_deeply(sides($key, 'name'), [ ('Nýtt Nafn Hér') x 2 ], "$name does not beat the edit here");
}

# ------------------------------------------------------ a value left out for size

{
	my $name = 'a document that would be too large';
	my $key = $keys[12];
	my ($facebook, $email) = ('f' x 700_000, 'e' x 600_000);
	my $set = sub {
		$db->sql("UPDATE membership_contactinfo SET facebook = $_[0], email = $_[1] WHERE comrade_id = "
			  . "(SELECT id FROM membership_comrade WHERE ssn = '$key')");
	};
	$db->sql('ALTER TABLE membership_contactinfo ALTER facebook TYPE text, ALTER email TYPE text');
	$set->("'gamalt'", "'gamalt\@example.is'");
	run_ok("before $name");
	$set->("repeat('f', 700000)", "repeat('e', 600000)");
	# The first request has both values, the second one of them.
	lose($name, fault => 'lose', verb => 'commit', match => $members, nth => 2);
	my $doc = $db->doc($key)->{profile};
	ok($doc->{email} eq $email && $doc->{facebook} eq 'gamalt', '... the longest value was left out, the other one is there');
	run_ok("after $name");
	my ($local, $remote) = @{ sides($key, 'facebook') };
	ok($local eq $facebook, 'a value that was left out is not taken back here');
	is($remote, 'gamalt', '... nor is it in the document');
	($local, $remote) = @{ sides($key, 'email') };
	ok($local eq $email && $remote eq $email, '... the other one is on both sides');
	like($db->sql("SELECT error_message FROM ekksync_failed WHERE member = '$key'"), qr/size/, '... and the failed row says why');
	is(conflicts($key), 0, '... and nobody was beaten');
}

# ----------------------------------------------- commits that do not wait for the disk

{
	my $name = 'a crash with synchronous_commit off';
	my $key = $keys[13];
	$db->admin_sql('ALTER DATABASE socialism SET synchronous_commit = off');
	set_name($key, 'Eftir Hrun');
	$db->admin_sql('CHECKPOINT');
	$db->stop_at('fence_sent');
	$db->run(wait => 0);
	ok($db->wait_stopped, "$name: Firestore has the run's document");
	$db->node->stop('immediate');
	$db->go_on;
	$db->node->start;
	run_ok($name);
	is_deeply(sides($key, 'name'), [ ('Eftir Hrun') x 2 ], '... and completes the work');
}

$proxy->stop;
done_testing();
