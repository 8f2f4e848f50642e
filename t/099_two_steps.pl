# Two things, one after the other: a policy and a client that only enqueues, an
# undo and a first contact, a changed mapping and an edit that waits.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp true false);

my $db = EkkSync->new(members => 60, conf => 'ekksync.max_delete_percent = 100');

my $last_id = 0;

sub next_key
{
	$last_id++;
	return $db->sql("SELECT ssn FROM membership_comrade WHERE id = $last_id");
}

sub set_name
{
	my ($key, $name) = @_;
	return $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'");
}

sub name_of
{
	my ($key) = @_;
	return $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key'");
}

sub doc_name
{
	my ($key) = @_;
	return $db->doc($key)->{profile}{name};
}

sub sides
{
	my ($key) = @_;
	return [ name_of($key), doc_name($key) ];
}

sub conflicts
{
	my ($key) = @_;
	return map { join ' ', map { $_ // '-' } @$_{qw(field django_value firestore_value winner rule resolved_by)} }
	  $db->rows("SELECT * FROM ekksync_conflicts WHERE member = '$key' ORDER BY id");
}

# An edit that says nothing of itself in sync_queue.
sub console
{
	my ($key, %set) = @_;
	my %fields = map { ("profile.$_" => $set{$_}) } keys %set;
	return $db->patch_doc($key, { %fields, updated_at => timestamp() }, exists => 1);
}

sub map_name
{
	my ($policy) = @_;
	return $db->sql("SELECT ekksync_map('name', 'profile.name', 'text', \"column\" => 'name', policy => '$policy')");
}

sub db_set
{
	my ($name, $value) = @_;
	return $db->admin_sql("ALTER DATABASE socialism SET $name = '$value'");
}

sub diffs
{
	my ($key) = @_;
	return map { join ' ', map { $_ // '-' } @$_{qw(field django_value firestore_value why detail)} }
	  grep { $_->{member} eq $key } $db->rows('SELECT * FROM ekksync_diff()');
}

# What undoing a run makes of the member's fields.
sub outcomes
{
	my ($run, $key) = @_;
	return join "\n", map { "$_->{side} $_->{field}: $_->{outcome}" }
	  grep { $_->{member} eq $key } $db->rows("SELECT * FROM ekksync_undo($run->{run})");
}

sub run_says
{
	my ($name, %arg) = @_;
	my $run = $db->run(%arg);
	note("$name: $run->{status} @$run{qw(to_firestore to_django conflicts failed)} " . ($run->{message} // ''));
	return $run;
}

run_says('first');

# a value that was only enqueued, and that people are to decide, is held in the document
{
	map_name('manual');
	run_says('mapped');
	for my $what ('wait', 'to_django', 'resolve')
	{
		my $key = next_key();
		my $base = name_of($key);
		set_name($key, 'Úr Django');
		$db->profile_edit($key, 'name', 'Úr röð', document => 0);
		if ($what eq 'to_django')
		{
			run_says($what, direction => 'to_django');
			is_deeply(sides($key), [ 'Úr Django', $base ], 'to_django: nothing goes to Firestore');
		}
		run_says("$what");
		is_deeply(sides($key), [ 'Úr Django', 'Úr röð' ], "$what: held");
		if ($what eq 'wait')
		{
			run_says('run');
			console($key, facebook => 'x');
			run_says('run');
			is_deeply(sides($key), [ 'Úr Django', 'Úr röð' ], 'still held, until a person decides');
			$db->sql("UPDATE membership_contactinfo SET facebook = 'annað' WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key')");
			run_says('run');
			is_deeply(sides($key), [ 'Úr Django', 'Úr röð' ], 'still held after an edit of another field');
		}
		elsif ($what eq 'resolve')
		{
			my ($id) = $db->sql("SELECT max(id) FROM ekksync_conflicts WHERE member = '$key'");
			note $db->sql("SELECT ekksync_resolve($id, 'firestore')");
			run_says('run');
			is_deeply(sides($key), [ 'Úr röð', 'Úr röð' ], "Firestore's value was chosen");
		}
	}
	map_name('lww');
	run_says('mapped');
}

# undo of a run that filled in what documents lacked: rows are not blanked
{
	my $key = '0101805479';
	$db->sql("INSERT INTO membership_comrade (name, ssn, birthday, date_joined, reachable, groupable) VALUES ('Ný', '$key', '1980-01-01', now(), true, true)");
	$db->set_doc($key, { profile => { kennitala => $key, name => 'Ný' }, membership => { status => 'active' } });
	my $run = run_says('run');
	is($db->doc($key)->{profile}{birthday}, '1980-01-01', 'the document is filled');
	like(outcomes($run, $key), qr/^firestore birthday: filled in where nothing was$/m, '... and undo says that it stays so');
	is($db->sql("SELECT birthday FROM membership_comrade WHERE ssn = '$key'"), '1980-01-01', 'the row is not blanked by the undo of a fill');
}

# undo of a run that inserted a row: it is not emptied
{
	db_set('ekksync.on_remote_create', 'insert');
	my $key = '0202805419';
	$db->set_doc($key, { profile => { kennitala => $key, name => 'Úr Firestore', birthday => '1980-02-02', email => 'a@example.is' }, membership => { status => 'active', date_joined => timestamp(), reachable => true, groupable => true }, updated_at => timestamp() });
	my $run = run_says('run');
	is(name_of($key), 'Úr Firestore', 'inserted');
	like(outcomes($run, $key), qr/^django name: filled in where nothing was$/m, '... and undo says that it stays so');
	is(name_of($key), 'Úr Firestore', 'the member that was inserted keeps its name, or goes');
	run_says('c2');
	is(doc_name($key), 'Úr Firestore', 'the document keeps its name');
	db_set('ekksync.on_remote_create', 'reject');
}

# what ekksync.on_remote_delete lets stand is explained by ekksync_diff()
{
	db_set('ekksync.on_remote_delete', 'ignore');
	db_set('ekksync.scan', 'full');
	my $key = next_key();
	my $key2 = next_key();
	$db->patch_doc($key, { 'membership.status' => 'inactive', updated_at => timestamp() });
	$db->delete_doc($key2);
	run_says('run');
	run_says('run');
	is($db->doc($key)->{membership}{status}, 'inactive', 'accepted');
	is($db->doc($key2), undef, 'accepted');
	unlike(join("\n", diffs($key)), qr/unexplained/, 'inactive is explained') or diag(diffs($key));
	unlike(join("\n", diffs($key2)), qr/unexplained/, 'away is explained') or diag(diffs($key2));
	db_set('ekksync.scan', 'changed');
	db_set('ekksync.on_remote_delete', 'restore');
	run_says('run');
}

# a late copy of an undated edit does not make it later than it was
{
	my $key = next_key();
	console($key, name => 'Fyrst, í stjórnborði');
	set_name($key, 'Síðar, í Django');
	$db->queue_entry(docId => $key, changes => { 'profile.name' => 'Fyrst, í stjórnborði' });
	run_says('run');
	is_deeply(sides($key), [ ('Síðar, í Django') x 2 ], 'the later one stands');
}

# a change of the policy alone forgets nothing
{
	my $key = next_key();
	$db->profile_edit($key, 'name', 'Nýtt á síðunni');
	map_name('django_wins');
	run_says('run');
	is_deeply(sides($key), [ ('Nýtt á síðunni') x 2 ], 'only one side has changed: it is taken');
	map_name('lww');
	run_says('run');
}

# what was only enqueued and is refused fails, and can be tried again
{
	my $key = next_key();
	$db->sql("ALTER TABLE membership_comrade ADD CONSTRAINT no_bad CHECK (name NOT LIKE 'Bannað%')");
	my $id = $db->profile_edit($key, 'name', 'Bannað', document => 0);
	run_says('run');
	$db->sql("ALTER TABLE membership_comrade DROP CONSTRAINT no_bad");
	is($db->entry($id)->{sync_status}, 'failed', 'the entry fails');
	is_deeply([ conflicts($key) ], [], 'nothing is held, as the document does not hold it');
	$db->patch_doc("sync_queue/$id", { sync_status => 'pending' });
	run_says('run');
	is_deeply(sides($key), [ ('Bannað') x 2 ], 'another try takes it');
}

# an edit of the page while a run is at work: its entry came after the others
{
	my ($key, $console) = (next_key(), next_key());
	set_name($_, 'Fyrst í Django') for $key, $console;
	$db->stop_at('read');
	my $id = $db->run(wait => 0)->{run};
	$db->wait_stopped or die 'no run has begun';
	my $entry = $db->profile_edit($key, 'name', 'Síðar á síðunni');
	console($console, name => 'Í stjórnborði');
	$db->go_on;
	my $run;
	$db->wait_for(sub {
		$run = $db->row("SELECT * FROM ekksync_runs WHERE run = $id");
		return $run->{status} ne 'running';
	});
	is($run->{status}, 'success', 'a run during which others edit');
	is_deeply(sides($key), [ ('Síðar á síðunni') x 2 ], '... asks them when they did: the later edit stands');
	like(join("\n", conflicts($key)), qr/^name "?Fyrst í Django"? "?Síðar á síðunni"? firestore later write/, '... and the earlier one is kept');
	is($db->entry($entry)->{sync_status}, 'synced', '... and the entry is closed');
	is_deeply(sides($console), [ ('Fyrst í Django') x 2 ], '... and where nobody says it, the order is unknown');
	like(join("\n", conflicts($console)), qr/ django order unknown/, '... and a conflict');
	is($db->run->{to_django}, 0, '... and then it is quiet');
}

# what was only enqueued when both sides met for the first time
{
	my $key = '0303805439';
	$db->set_doc($key, { profile => { kennitala => $key, name => 'Sama' }, membership => { status => 'active' } });
	$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable) VALUES ('Sama', '$key', now(), true, true)");
	$db->profile_edit($key, 'name', 'Úr röð', document => 0);
	run_says('first contact');
	is_deeply(sides($key), [ ('Sama') x 2 ], 'at first contact the attachment decides about what was only enqueued');
	like(join("\n", conflicts($key)), qr/Úr röð.* django first contact/, '... and it is kept');
	is($db->run->{to_django}, 0, '... and then it is quiet');
}

done_testing();
