# "Both sides filled and drifted before the first run: each `initial` policy,
# losers kept, dry run shows it first."  Missing values are filled from the
# other side whatever the policy; what is not mapped is kept; documents that
# Django does not know are left alone; members that Firestore does not know
# are created.  And the mass guard: a run that would delete too many members
# stops before it writes, says so, and `force` lets it through.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use JSON::PP ();

my $stranger = '0101302989';
my $json = JSON::PP->new->canonical->allow_nonref;

# Fields of a member's document that nobody here maps, at every depth.
my %foreign = (
	'profile.foreign_phone' => '+45 12 34 56 78',
	'profile.deep.er.est'   => [ 1, { a => 'þrír' } ],
	'address.country'       => 'Ísland',
	'metadata.source'       => 'portal',
	'notes'                 => { 'með bili' => 1.5 }
);

# A registry of six members, not attached; 1 to 4 have documents that differ.
#	1	name, e-mail and birthday differ
#	2	Django has no facebook and no birthday, Firestore no phone and gender
#	3	the same on both sides, written in other ways
#	4	differs, and is edited after attach
#	5 6	no document
sub registry
{
	my ($name) = @_;
	my $db = EkkSync->new(name => $name, members => 6, attach => 0);
	$db->sql(<<'SQL');
INSERT INTO membership_contactinfo (comrade_id)
	SELECT id FROM membership_comrade ON CONFLICT DO NOTHING;
UPDATE membership_comrade SET name = 'Ösp ' || id, birthday = '1980-02-29', gender = 2,
	housing_situation = 1;
UPDATE membership_contactinfo SET email = comrade_id || '@django.is', phone = '5551234',
	facebook = 'fb' || comrade_id;
UPDATE membership_contactinfo SET facebook = NULL WHERE comrade_id = 2;
UPDATE membership_comrade SET birthday = NULL WHERE id = 2;
SQL
	my @keys = (undef, map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id'));
	for my $i (1 .. 4)
	{
		$db->set_doc($keys[$i], {});
		$db->patch_doc($keys[$i],
			{
				%foreign,
				'profile.name'             => "Ösp $i",
				'profile.email'            => "$i\@django.is",
				'profile.birthday'         => '1980-02-29',
				'profile.facebook'         => "fb$i",
				'profile.phone'            => '555-1234',
				'profile.gender'           => 'female',
				'profile.housingSituation' => 'owner'
			});
	}
	$db->patch_doc($keys[$_],
		{ 'profile.name' => "Æsa $_", 'profile.email' => "$_\@firestore.is",
			'profile.birthday' => '1990-12-31' }) for 1, 4;
	$db->patch_doc($keys[2], {}, delete => [ 'profile.phone', 'profile.gender' ]);
	# as other agents write them: +354, enumerations as numbers
	$db->patch_doc($keys[3], { 'profile.phone' => '+354 5551234', 'profile.gender' => 2 });
	$db->set_doc($stranger, { profile => { name => 'Óþekktur' } });
	return ($db, @keys);
}

# What the documents and the rows hold, and when the documents were written.
sub snapshot
{
	my ($db) = @_;
	my $docs = $db->docs('members');
	return {
		docs  => $docs,
		times => { map { $_ => $db->doc_update_time($_) } keys %$docs },
		logs  => $db->count_docs('sync_logs'),
		rows  => [ $db->rows('SELECT c.*, to_json(i) AS info FROM membership_comrade AS c'
				  . ' JOIN membership_contactinfo AS i ON i.comrade_id = c.id ORDER BY id') ],
		queue => [ $db->rows('SELECT * FROM membership_membersyncqueue ORDER BY id') ],
		kept  => $db->admin_sql(<<'SQL')
SELECT row_to_json(m) FROM ekksync.member AS m
UNION ALL SELECT row_to_json(c) FROM ekksync.conflict AS c
UNION ALL SELECT row_to_json(c) FROM ekksync.change_log AS c
UNION ALL SELECT row_to_json(s) FROM ekksync.state AS s
SQL
	};
}

sub row
{
	my ($db, $key) = @_;
	return $db->row("SELECT name, birthday, gender, email, phone, facebook FROM membership_comrade"
		  . " JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'");
}

# Planned or made changes as sorted texts "member side field old new".
sub as_text
{
	return [
		sort map {
			join ' ', $_->{member}, $_->{side}, $_->{field},
			  $json->encode($_->{old_value}), $json->encode($_->{new_value})
		} @_
	];
}

# A dry run, that must change nothing, and then the run, that must do what the
# dry run said.  Returns the run's figures.
sub meet
{
	my ($db, $policy) = @_;
	my $before = snapshot($db);
	my ($figures, @plan) = $db->run_rows(dry_run => 1);
	is($figures->{status}, 'success', "$policy: the dry run succeeds") or diag($figures->{message});
	is_deeply(snapshot($db), $before, '... and changes nothing on either side');
	is(scalar(grep { $_->{side} eq 'none' } @plan), 0, '... and foresees no failure');

	my $run = $db->run;
	is($run->{status}, 'success', "$policy: the run succeeds") or diag($run->{message});
	my @made = map { JSON::PP->new->decode($_) } split /\n/, $db->admin_sql(<<"SQL");
SELECT json_build_object('member', key, 'side', side, 'field', e.key_, 'old_value', e.value -> 0,
	'new_value', e.value -> 1)
FROM ekksync.change_log AS c, jsonb_each(c.changes) AS e (key_, value)
WHERE run = $run->{run}
SQL
	cmp_ok(scalar @made, '>', 20, '... and writes values');
	is_deeply(as_text(@made), as_text(@plan), '... just those that the dry run showed');
	is($figures->{$_}, $run->{$_}, "... and foretold \"$_\"")
	  for qw(to_firestore to_django conflicts failed);
	return $run;
}

# What holds whatever the policy.
sub check_common
{
	my ($db, @keys) = @_;
	is(row($db, $keys[2])->{facebook}, 'fb2', 'a value that only Firestore had is filled in');
	is(row($db, $keys[2])->{birthday}, '1980-02-29', '... in the member table too');
	my $doc = $db->doc($keys[2]);
	is($doc->{profile}{phone}, '555-1234', 'a value that only Django had is filled in');
	is($doc->{profile}{gender}, 'female', '... of any type');
	is(row($db, $keys[2])->{phone}, '5551234', '... and stays as it is in Django');
	$doc = $db->doc($keys[3]);
	is($doc->{profile}{phone}, '+354 5551234', 'a value that is the same in other words is let be');
	is($doc->{profile}{gender}, 2, '... also a number for a word');
	for my $i (1 .. 4)
	{
		$doc = $db->doc($keys[$i]);
		is_deeply(
			[
				$doc->{profile}{foreign_phone}, $doc->{profile}{deep}, $doc->{address}{country},
				$doc->{metadata}{source},       $doc->{notes}
			],
			[
				'+45 12 34 56 78', { er => { est => [ 1, { a => 'þrír' } ] } },
				'Ísland', 'portal', { 'með bili' => 1.5 }
			],
			"document $i keeps what is not mapped");
		is($doc->{membership}{status}, 'active', '... and is active');
		is($doc->{metadata}{django_id}, $i, '... and has its Django id');
		is($doc->{profile}{kennitala}, $keys[$i], '... and its kennitala');
	}
	for my $i (5, 6)
	{
		$doc = $db->doc($keys[$i]);
		is($doc->{profile}{name}, "Ösp $i", "member $i is created in Firestore");
		is($doc->{profile}{email}, "$i\@django.is", '... with all fields');
		is($doc->{membership}{status}, 'active', '... and active');
	}
	is_deeply($db->doc($stranger), { profile => { name => 'Óþekktur' } },
		'a document that Django does not know is left alone');
	is($db->sql("SELECT count(*) FROM membership_comrade"), 6, '... and makes no member');
	is($db->sql('SELECT first_contact FROM ekksync_status()'), 0, 'everybody has been met');
	is($db->sql("SELECT count(*) FROM membership_membersyncqueue WHERE sync_status = 'pending'"),
		0, 'nothing is left pending');

	# met once is met for good
	$db->admin_sql('ALTER DATABASE socialism SET ekksync.scan = full');
	my $before = snapshot($db);
	my $run = $db->run;
	is($run->{to_firestore} + $run->{to_django} + $run->{conflicts} + $run->{failed}, 0,
		'a second run, with a full scan, does nothing');
	my $after = snapshot($db);
	is_deeply([ @$after{qw(docs times rows queue)} ], [ @$before{qw(docs times rows queue)} ],
		'... indeed');
	return;
}

# Losers as "member field django firestore winner".
sub losers
{
	my ($db) = @_;
	is($db->sql("SELECT count(*) FROM ekksync_conflicts WHERE rule <> 'first contact' OR potential"),
		0, 'all conflicts are of the first contact');
	return [
		map { join ' ', @$_{qw(member field django_value firestore_value winner)} }
		  $db->rows('SELECT * FROM ekksync_conflicts ORDER BY member COLLATE "C", field')
	];
}

# The losers expected of members 1 and 4.
sub all_lost
{
	my ($winner, @keys) = @_;
	return [
		map {
			my ($i, $key) = ($_, $keys[$_]);
			(
				"$key birthday 1980-02-29 1990-12-31 $winner",
				"$key email $i\@django.is $i\@firestore.is $winner",
				"$key name Ösp $i Æsa $i $winner"
			)
		} sort { $keys[$a] cmp $keys[$b] } 1, 4
	];
}

# ------------------------------------------------------------------- django

{
	my ($db, @keys) = registry('django');
	$db->attach;				# the default
	is($db->sql('SELECT first_contact FROM ekksync_status()'), 6, 'attach notes all as never synced');
	my $run = meet($db, 'django');
	is($run->{conflicts}, 6, 'django: six values lose');
	for my $i (1, 4)
	{
		my $doc = $db->doc($keys[$i]);
		is_deeply([ @{ $doc->{profile} }{qw(name email birthday)} ],
			[ "Ösp $i", "$i\@django.is", '1980-02-29' ], "django: document $i takes Django's values");
		is_deeply([ @{ row($db, $keys[$i]) }{qw(name email birthday)} ],
			[ "Ösp $i", "$i\@django.is", '1980-02-29' ], '... which stay in their row');
	}
	is_deeply(losers($db), all_lost('django', @keys), 'django: the losers are kept');
	check_common($db, @keys);
}

# ---------------------------------------------------------------- firestore

{
	my ($db, @keys) = registry('firestore');
	$db->attach("initial => 'firestore'");
	my $run = meet($db, 'firestore');
	is($run->{conflicts}, 6, 'firestore: six values lose');
	for my $i (1, 4)
	{
		is_deeply([ @{ row($db, $keys[$i]) }{qw(name email birthday)} ],
			[ "Æsa $i", "$i\@firestore.is", '1990-12-31' ], "firestore: row $i takes Firestore's values");
		my $doc = $db->doc($keys[$i]);
		is_deeply([ @{ $doc->{profile} }{qw(name email birthday)} ],
			[ "Æsa $i", "$i\@firestore.is", '1990-12-31' ], '... which stay in their document');
	}
	is_deeply(losers($db), all_lost('firestore', @keys), 'firestore: the losers are kept');
	check_common($db, @keys);
}

# ------------------------------------------------------------------- newest

{
	my ($db, @keys) = registry('newest');

	# The queue that Django's migration made, with what Django noted in it:
	# member 1's e-mail was changed long ago, its birthday after the document.
	$db->sql(<<"SQL");
CREATE TABLE membership_membersyncqueue (
	id bigserial PRIMARY KEY, member_id integer NULL REFERENCES membership_comrade
		DEFERRABLE INITIALLY DEFERRED,
	ssn varchar(10) NOT NULL, action varchar(20) NOT NULL, fields_changed jsonb NOT NULL,
	created_at timestamptz NOT NULL, synced_at timestamptz NULL,
	sync_status varchar(20) NOT NULL, error_message text NOT NULL, retry_count integer NOT NULL);
INSERT INTO membership_membersyncqueue
	(member_id, ssn, action, fields_changed, created_at, synced_at, sync_status, error_message, retry_count)
VALUES
	(1, '$keys[1]', 'update', '{"email": "1\@django.is"}', '2020-01-01', '2020-01-02', 'synced', '', 0),
	(1, '$keys[1]', 'update', '{"birthday": "1980-02-29"}', now(), now(), 'synced', '', 0);
SQL
	$db->attach("initial => 'newest'");

	# Member 4: the document's name is edited after attach, then our e-mail;
	# and first our birthday, then the document's, said by an entry.
	$db->sql("UPDATE membership_comrade SET birthday = '1981-01-01' WHERE id = 4");
	$db->profile_edit($keys[4], 'birthday', '1991-01-01');
	$db->profile_edit($keys[4], 'name', 'Æsa yngri');
	$db->sql("UPDATE membership_contactinfo SET email = 'yngri\@django.is' WHERE comrade_id = 4");

	my $run = meet($db, 'newest');
	is_deeply([ @{ row($db, $keys[1]) }{qw(name email birthday)} ],
		[ 'Ösp 1', "1\@firestore.is", '1980-02-29' ],
		'newest: by the times of an adopted queue, else that of attach, field by field');
	is_deeply([ @{ row($db, $keys[4]) }{qw(name email birthday)} ],
		[ 'Æsa yngri', "yngri\@django.is", '1991-01-01' ],
		'newest: by the times of the edits after attach, field by field');
	for my $i (1, 4)
	{
		my $doc = $db->doc($keys[$i]);
		is_deeply([ @{ $doc->{profile} }{qw(name email birthday)} ],
			[ @{ row($db, $keys[$i]) }{qw(name email birthday)} ], "... and document $i agrees");
	}
	is_deeply(
		losers($db),
		[
			map { (@$_) } sort { $a->[0] cmp $b->[0] } [
				"$keys[1] birthday 1980-02-29 1990-12-31 django",
				"$keys[1] email 1\@django.is 1\@firestore.is firestore",
				"$keys[1] name Ösp 1 Æsa 1 django"
			],
			[
				"$keys[4] birthday 1981-01-01 1991-01-01 firestore",
				"$keys[4] email yngri\@django.is 4\@firestore.is django",
				"$keys[4] name Ösp 4 Æsa yngri firestore"
			]
		],
		'newest: the losers are kept');
	is(scalar(keys %{ $db->docs('sync_queue', where => [ 'sync_status', 'synced' ]) }), 2,
		'newest: the entries are closed');
	check_common($db, @keys);

	# A value cleared after attach is newer than the document's, not missing.
	($db, @keys) = registry('cleared');
	$db->attach("initial => 'newest'");
	$db->sql('UPDATE membership_contactinfo SET facebook = NULL WHERE comrade_id = 3');
	$db->run;
	is(row($db, $keys[3])->{facebook}, undef, 'newest: a value cleared after attach stays cleared');
	is($db->doc($keys[3])->{profile}{facebook}, undef, '... on both sides');
	ok(exists $db->doc($keys[3])->{profile}{facebook}, '... as null');
	is($db->row("SELECT firestore_value FROM ekksync_conflicts WHERE member = '$keys[3]'")
		  ->{firestore_value}, 'fb3', '... and the loser is kept');
}

# --------------------------------------------------------------- mass guard

{
	my $db = EkkSync->new(name => 'guard', members => 20);
	my @keys = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');
	$db->run;

	# Delete members by their ids, as Django does.
	my @tables = map { "membership_$_" }
	  qw(contactinfo comrade_emails unionmembership comradetitle newlocaladdress);
	my $remove = sub {
		my $ids = join ', ', @_;
		$db->sql(join ";\n", 'BEGIN',
			(map { "DELETE FROM $_ WHERE comrade_id IN ($ids)" } @tables),
			"DELETE FROM membership_comrade WHERE id IN ($ids)", 'COMMIT');
	};
	my $statuses = sub {
		my $docs = $db->docs('members');
		return join ' ', map { $docs->{$_}{membership}{status} } @keys[ map { $_ - 1 } @_ ];
	};

	$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_delete_percent = 0');
	$remove->(1);
	my $run = $db->run;
	is($run->{status}, 'success', 'guard: a single delete passes, whatever the limit');
	is($statuses->(1), 'inactive', '... and arrives');
	$db->admin_sql('ALTER DATABASE socialism RESET ekksync.max_delete_percent');

	# 19 members; one of them edited, three deleted: 15.8 %.
	$remove->(2 .. 4);
	$db->sql("UPDATE membership_comrade SET name = 'Ægir' WHERE id = 10");
	my $entry = $db->profile_edit($keys[10], 'name', 'Þrúður');
	my $snapshot = sub {
		return {
			docs    => $db->docs('members'),
			entries => $db->docs('sync_queue'),
			members => [ $db->rows('SELECT * FROM membership_comrade ORDER BY id') ],
			queue   => [ $db->rows('SELECT * FROM membership_membersyncqueue ORDER BY id') ]
		};
	};
	my $before = $snapshot->();
	$run = $db->run;
	is($run->{status}, 'failed', 'guard: a run that would delete 3 of 19 members fails');
	is($run->{message}, 'the run would delete 3 of 19 members', '... and says why');
	my $record = $db->row("SELECT * FROM ekksync_runs WHERE run = $run->{run}");
	is($record->{sqlstate}, '53400', '... with its SQLSTATE');
	like($db->sql('SELECT reason FROM ekksync_status()'), qr/the run would delete 3 of 19 members/,
		'... and so does the status');
	is_deeply($snapshot->(), $before, '... and no member, entry or queue row is touched');
	is($db->doc($record->{log_document} =~ s{^}{sync_logs/}r)->{status}, 'failed',
		'... and the run document says failed');

	my ($figures, @plan) = $db->run_rows(dry_run => 1);
	is(scalar(grep { ($_->{note} // '') eq 'member deleted' } @plan), 3,
		'guard: a dry run shows what would be deleted');
	is($statuses->(2 .. 4), 'active active active', '... and deletes nobody');

	$run = $db->run(direction => 'to_django');
	is($run->{status}, 'success', 'guard: a run that writes nothing to Firestore passes');
	is($db->sql('SELECT name FROM membership_comrade WHERE id = 11'), 'Þrúður', '... and works');

	$run = $db->run(force => 1);
	is($run->{status}, 'success', 'guard: force lets it through') or diag($run->{message});
	is($statuses->(2 .. 4), 'inactive inactive inactive', '... and the deletes arrive');
	is($db->doc($keys[9])->{profile}{name}, 'Ægir', '... with everything else');
	$remove->(5 .. 7);
	is($db->run->{status}, 'failed', 'guard: force was for one run');

	$db->admin_sql('ALTER DATABASE socialism SET ekksync.max_delete_percent = 19');
	$run = $db->run;			# 3 of 16 members are 18.75 %
	is($run->{status}, 'success', 'guard: below the limit it passes') or diag($run->{message});
	is($statuses->(5 .. 7), 'inactive inactive inactive', '... and the deletes arrive');

	$db->sql('TRUNCATE membership_comrade CASCADE');
	$run = $db->run;
	is($run->{status}, 'failed', 'guard: an emptied table stops the run');
	is($statuses->(8 .. 20), join(' ', ('active') x 13), '... and everybody stays active');
}

done_testing();
