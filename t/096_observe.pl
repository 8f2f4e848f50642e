# ekksync.mode = observe: a week beside the old functions, in short.  Runs read,
# merge and report, and write nothing: not to members, related tables or the
# queue, and nothing at all to Firestore.  When the mode goes to sync, the first
# run does what the last one said.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);

my $db = EkkSync->new(members => 12, attach => 0);
my $gone = '0101805479';
$db->sql("INSERT INTO membership_comrade (name, ssn, date_joined, reachable, groupable) VALUES ('Bráðum farin', '$gone', now(), true, true)");
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

# All documents, with their times, and all rows of the application.
sub everything
{
	my %seen;
	for my $collection (qw(members sync_queue sync_logs))
	{
		$seen{"$collection/$_->{name}"} = $_ for $db->raw_docs($collection);
	}
	for my $table (split /\n/, $db->sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"))
	{
		$seen{$table} = $db->sql("SELECT ctid, xmin, t::text FROM $table t ORDER BY ctid");
	}
	return \%seen;
}

# A run that must change nothing; its figures and plan.
sub observes
{
	my ($name, %arg) = @_;
	my $before = everything();
	my ($figures, @plan) = $db->run_rows(%arg);
	is($figures->{status}, 'success', "$name: the run succeeds") or diag($figures->{message});
	is_deeply(everything(), $before, "$name: nothing is written on either side");
	return ($figures, @plan);
}

sub figures { my ($run) = @_; return "@$run{qw(to_firestore to_django conflicts failed)}"; }
sub planned { return [ sort map { join ' ', @$_{qw(side field note)} } grep { $_->{member} eq $_[0] } @_[ 1 .. $#_ ] ]; }
sub set_name { my ($key, $name) = @_; $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'"); }

# ------------------------------------------------------------------ the week

# Documents that the old functions made: one differs, one is missing, one is
# unknown here; and an entry that they have not done yet.
$db->set_doc($_, { profile => { kennitala => $_, name => $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$_'") },
		membership => { status => 'active' } }) for @key[ 0 .. 10 ], $gone;
$db->patch_doc($key[0], { 'profile.name' => 'Gamla nafnið' });
$db->set_doc('0101302989', { profile => { name => 'Ókunn' } });
$db->admin_sql(q(ALTER DATABASE socialism SET ekksync.mode = 'observe'));
$db->attach;
like($db->sql('SELECT health, reason FROM ekksync_status()'), qr/^observe\|ekksync\.mode is observe: runs report, and write nothing; nothing is scheduled: /,
	'the status says that runs observe');

my ($figures, @plan) = observes('first day');
is(figures($figures), '13 0 1 0', '... and counts what it would do');
is_deeply(planned($key[0], grep { ($_->{field} // '') eq 'name' } @plan), ['firestore name conflict: first contact'],
	'... the plan has the conflict that it would record');
is($db->sql("SELECT mode, dry_run, status, docs_written FROM ekksync_runs WHERE run = $figures->{run}"),
	'observe|t|success|0', 'the record says that it observed');
is($db->sql('SELECT count(*) FROM ekksync_conflicts'), 0, 'no conflict is recorded');
is($db->admin_sql("SELECT count(*) FROM ekksync.member WHERE base <> '{}' OR in_flight <> '[]' OR NOT first_contact"),
	0, 'nor a base, or a note');
is($db->sql("SELECT count(*) FROM ekksync_plan WHERE run = $figures->{run}"), scalar @plan, 'the view ekksync_plan keeps the plan');
is($db->sql("SELECT side, old_value, new_value FROM ekksync_plan WHERE member = '$key[0]' AND field = 'name'"),
	'firestore|"Gamla nafnið"|' . $db->sql("SELECT to_json(name) FROM membership_comrade WHERE ssn = '$key[0]'"),
	'... with both values');
is($db->sql('SELECT last_run FROM ekksync_status()'), $figures->{run}, 'the status takes it for the last run');

# People go on on both sides.
set_name($key[1], 'Nýtt nafn');
$db->profile_edit($key[2], name => 'Úr vafra');
set_name($key[3], 'Röð');
$db->profile_edit($key[3], name => 'Skjal');
$db->sql("DELETE FROM membership_comrade WHERE ssn = '$gone'");
$db->queue_entry(docId => $key[5], changes => { 'profile.nonsense' => 1 });
$db->queue_entry(docId => '0101302989', changes => { 'profile.name' => 'Enn' });
($figures, @plan) = observes('second day');
is($figures->{failed}, 2, '... what would fail is counted');
like(join("\n", map { $_->{note} } @plan), qr/entry fails: profile.nonsense: unknown path/, '... and named');
is_deeply([ observes("an order for one", only => [ $key[1] ]) > 1 ], [1], 'one for some members is the same');

# All the options are only about what is looked at.
observes('with force', force => 1);
observes('to Firestore', direction => 'to_firestore');
observes('a dry run', dry_run => 1);
$db->admin_sql("ALTER DATABASE socialism SET ekksync.scan = 'full'");
observes('a full scan');
$db->admin_sql('ALTER DATABASE socialism RESET ekksync.scan');

# A pause does not keep it from looking, as it does not a dry run.
$db->sql(q(SELECT ekksync_pause('bíðið')));
observes('while paused');
is($db->sql('SELECT health FROM ekksync_status()'), 'paused', '... and stays paused');
$db->sql('SELECT ekksync_resume()');

# Nobody can let it write for a session.
my ($status, undef, $error) = $db->sql_err(q(SET ekksync.mode = 'sync'));
like($error, qr/permission denied to set parameter "ekksync.mode"/, 'the owner of the table cannot set the mode');
$db->admin_sql(q(SET ekksync.mode = 'sync'; SELECT ekksync_run()));
is($db->sql('SELECT mode FROM ekksync_runs ORDER BY run DESC LIMIT 1'), 'observe', 'and what a session sets goes for no run');

# ---------------------------------------------------------------- then for good

my ($observed, @last) = observes('the last day');
$db->admin_sql(q(ALTER DATABASE socialism SET ekksync.mode = 'sync'));
is($db->sql('SELECT health FROM ekksync_status()'), 'ok', 'with the mode sync the status says so');
my $run = $db->run;
is("$run->{status} " . figures($run), 'success ' . figures($observed), 'the first run does as much as the last one said');
is($db->admin_sql("SELECT string_agg(line, chr(10) ORDER BY line COLLATE \"C\") FROM (SELECT key || ' ' || side || ' ' || "
		  . "jsonb_object_keys(changes) AS line FROM ekksync.change_log WHERE run = $run->{run}) l"),
	join("\n", sort map { "$_->{member} $_->{side} $_->{field}" } grep { $_->{side} ne 'none' } @last),
	'... to these members and fields');
is($db->doc($key[0])->{profile}{name}, $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key[0]'"), 'Django won the first contact');
is($db->sql("SELECT name FROM membership_comrade WHERE ssn = '$key[2]'"),
	$db->doc($key[2])->{profile}{name}, 'both sides have the same');
is($db->doc($gone)->{membership}{status}, 'inactive', 'the member that went is inactive');
is(scalar keys %{ $db->docs('sync_logs') }, 1, 'the first run is the first one in sync_logs');
is(figures($db->run), '0 0 0 0', 'quiet afterwards');

done_testing();
