# ekksync_repair(): differences of every kind are planted, found and mended,
# by the side that is chosen; what rows and entries tell is decided as by any
# run; every loser is kept.  And after runs of each kind nothing is unexplained.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use Session;

my $db = EkkSync->new(members => 60, conf => 'restart_after_crash = on');
my $proxy = FaultProxy->new(to => $db->host);
$proxy->start;
$db->use_host($proxy->host);
my @key = map { $_->{ssn} } $db->rows('SELECT ssn FROM membership_comrade ORDER BY id');

# ------------------------------------------------------------------- helpers

sub setting
{
	my (%set) = @_;
	$db->admin_sql('ALTER DATABASE socialism ' . (defined $set{$_} ? "SET ekksync.$_ = '$set{$_}'" : "RESET ekksync.$_"))
	  for keys %set;
	return;
}

# Figures of a repair, and what it said before; its plan is in @plan.
my @plan;
sub repair
{
	my ($args) = @_;
	my ($status, $out, $said) = $db->sql_err("WITH q AS (SELECT * FROM ekksync_repair($args)) SELECT row_to_json(q) FROM q");
	die $said if $status != 0;
	my ($figures, @rest) = map { JSON::PP->new->decode($_) } split /\n/, $out;
	@plan = @rest;
	$figures->{said} = $said;
	return $figures;
}

sub is_run
{
	my ($run, $figures, $name) = @_;
	return is(join(' ', map { $_ // 'null' } @$run{qw(status to_firestore to_django conflicts failed)}), $figures, "$name: the run's figures")
	  || diag($run->{message} // $db->admin_sql("SELECT string_agg(side || ' ' || key || changes, E'\n') FROM ekksync.change_log WHERE run = $run->{run}"));
}

sub unseen { my ($sql) = @_; $db->admin_sql("SET session_replication_role = replica; $sql"); }
sub set_name { my ($key, $name) = @_; $db->sql("UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'"); }

# A run has seen the document as it is now.
sub known
{
	my ($key) = @_;
	$db->admin_sql("UPDATE ekksync.member SET doc_update_time = '" . $db->doc_update_time($key) . "' WHERE key = '$key'");
	return;
}

# What differs: {member => {field ('' for all) => why}}.
sub found
{
	my %found;
	$found{ $_->{member} }{ $_->{field} // '' } = $_->{why} for $db->rows('SELECT * FROM ekksync_diff()');
	return \%found;
}

sub field
{
	my ($key, $field) = @_;
	my ($row) = $db->rows("SELECT * FROM membership_comrade LEFT JOIN membership_contactinfo c ON comrade_id = id WHERE ssn = '$key'");
	return [ $row->{$field}, ($db->doc($key) // {})->{profile}{$field} ];
}

# The conflicts of a run: "member field django firestore winner rule".
sub conflicts
{
	my ($run) = @_;
	return [ map { join ' ', map { $_ // 'null' } @$_{qw(member field django_value firestore_value winner rule)} }
		  $db->rows("SELECT * FROM ekksync_conflicts WHERE run = $run ORDER BY member COLLATE \"C\", field") ];
}

sub everything
{
	return join "\n", map { $db->admin_sql("SELECT count(*), md5(string_agg(ctid::text || xmin, ',' ORDER BY ctid)) FROM $_") }
	  qw(membership_comrade membership_contactinfo membership_membersyncqueue ekksync.member ekksync.change_log ekksync.conflict ekksync.backlog);
}

$db->sql("SELECT ekksync_map('facebook', 'profile.facebook', 'text', 'membership_contactinfo', 'facebook', 'comrade_id', policy => 'manual')");
is($db->run->{status}, 'success', 'a first run');
is_deeply(found(), {}, 'in step');
my $run = repair("'django'");
is_run($run, 'success 0 0 0 0', 'a repair of nothing');
like($run->{said}, qr/NOTICE:  ekksync_repair\(\): 60 members, at most 120 documents read and 60 written, at a price of at most 0\.0002, and what entries of sync_queue take\n.*DETAIL:  All documents are read to be compared/s,
	'it says the price first');
cmp_ok($run->{docs_read}, '<=', 60 + 10, '... and reads them once');

# ------------------------------------------------------------- one of each

# All differences that there are, of members of their own.
my $serial = 0;
sub plant
{
	my %m;
	my @names = qw(row entry console unseen behind both first held failed oneway gone left doubled twin lost list);
	@m{@names} = splice @key, 0, scalar @names;
	my $n = ++$serial;
	$db->sql("UPDATE membership_contactinfo SET facebook = 'fyrst$n' WHERE comrade_id IN (SELECT id FROM membership_comrade WHERE ssn IN ('$m{held}'))");
	is($db->run->{status}, 'success', "$n. sowing");
	# pending: told by a row, by an entry
	set_name($m{row}, "Röð $n");
	$db->profile_edit($m{entry}, name => "Færsla $n");
	# ... or not told by anything: the document has changed since a run saw it
	$db->patch_doc($m{console}, { 'profile.name' => "Stjórnborð $n" });
	$db->patch_doc($m{oneway}, { 'metadata.django_id' => -5 });
	# conflict
	$db->sql("UPDATE membership_contactinfo SET facebook = 'röð$n' WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$m{held}')");
	$db->profile_edit($m{held}, facebook => "skjal$n");
	$db->run(only => [ $m{held} ]);
	# failed
	$db->profile_edit($m{failed}, birthday => 'ekki dagur');
	$db->run(only => [ $m{failed} ]);
	$db->admin_sql("DELETE FROM ekksync.conflict WHERE key = '$m{failed}'");
	# unexplained
	unseen("UPDATE membership_comrade SET name = 'Hljótt $n' WHERE ssn IN ('$m{unseen}', '$m{both}', '$m{lost}')");
	$db->patch_doc($m{$_}, { 'profile.name' => "Hljótt skjal $n" }), known($m{$_}) for qw(behind both);
	$db->patch_doc($m{list}, { 'membership.titles' => ['Enginn'] });
	known($m{list});
	unseen("UPDATE membership_comrade SET name = 'Aldrei $n' WHERE ssn = '$m{first}'");
	$db->admin_sql("UPDATE ekksync.member SET base = base - 'name' WHERE key = '$m{first}'");
	# as a whole: the document has gone, the row has gone, one that nobody knows
	$db->delete_doc($m{gone});
	unseen("DELETE FROM membership_contactinfo WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$m{left}'); DELETE FROM membership_comrade WHERE ssn = '$m{left}'");
	$db->delete_doc($m{lost});
	$m{stranger} = sprintf '010130298%d', $n;
	$db->set_doc($m{stranger}, { profile => { name => 'Ókunn' }, membership => { status => 'active', date_joined => timestamp() } });
	# held: a kennitala that two rows have
	unseen("UPDATE membership_comrade SET ssn = '$m{doubled}' WHERE ssn = '$m{twin}'");
	return %m;
}

my %m = plant();
is_deeply(
	found(),
	{
		$m{row}      => { name     => 'pending' },
		$m{entry}    => { name     => 'pending' },
		$m{console}  => { name     => 'pending' },
		$m{oneway}   => { id       => 'pending' },
		$m{held}     => { facebook => 'conflict' },
		$m{failed}   => { birthday => 'failed' },
		$m{unseen}   => { name     => 'unexplained' },
		$m{behind}   => { name     => 'unexplained' },
		$m{both}     => { name     => 'unexplained' },
		$m{first}    => { name     => 'unexplained' },
		$m{list}     => { titles   => 'unexplained' },
		$m{gone}     => { ''       => 'pending' },
		$m{lost}     => { ''       => 'pending' },
		$m{left}     => { ''       => 'unexplained' },
		$m{twin}     => { ''       => 'unexplained' },
		$m{doubled}  => { ''       => 'held' },
		$m{stranger} => { ''       => 'unknown member' },
	},
	'all kinds are planted, and found')
  or diag(explain(found()));

# ------------------------------------------------------------- take Django's

my $birthday = $db->sql("SELECT birthday FROM membership_comrade WHERE ssn = '$m{failed}'");
my $before = everything();
my $docs = $db->docs('members');
my $dry = repair("'django', dry_run => true");
is($dry->{status}, 'success', 'a dry run');
is(everything(), $before, '... changes nothing here') or diag($db->admin_sql('SELECT string_agg(b::text, E\'\n\') FROM ekksync.backlog b'));
is_deeply($db->docs('members'), $docs, '... nor there');
my %plan;
push @{ $plan{ $_->{member} } }, join ' ', map { $_ // 'null' } @$_{qw(side field new_value note)} for @plan;
is_deeply([ map { $plan{ $m{$_} } } qw(row entry console unseen behind held) ],
	[ ['firestore name Röð 1 changed in Django'], ['django name Færsla 1 changed in Firestore'],
		[ "firestore name $docs->{ $m{unseen} }{profile}{name}" && 'firestore name ' . field($m{console}, 'name')->[0] . ' conflict: repair' ],
		['firestore name Hljótt 1 changed in Django'],
		[ 'firestore name ' . field($m{behind}, 'name')->[0] . ' conflict: repair' ],
		['firestore facebook röð1 conflict: repair'] ],
	'... and says what would be done, and why') or diag(explain(\%plan));
is($dry->{docs_written}, $dry->{to_firestore}, '... and what it costs');
my %was = map { ($_ => field($m{$_}, 'name')->[0]) } qw(console behind);

my $repair = repair("'django', force => true");
is_deeply([ @$repair{qw(status to_firestore to_django conflicts failed)} ], [ 'success', @$dry{qw(to_firestore to_django conflicts failed)} ],
	'the repair does what the dry run said') or diag($repair->{message});
is_deeply(found(), { $m{doubled} => { '' => 'held' }, $m{stranger} => { '' => 'unknown member' } }, 'what is left is what nobody can mend')
  or diag(explain(found()));
is_deeply(field($m{row}, 'name'), [ 'Röð 1', 'Röð 1' ], 'a row of the queue: as by any run');
is_deeply(field($m{entry}, 'name'), [ 'Færsla 1', 'Færsla 1' ], '... and an entry');
is_deeply(field($m{$_}, 'name'), [ $was{$_}, $was{$_} ], "$_: Django's") for qw(console behind);
is_deeply(field($m{$_}, 'name'), [ 'Hljótt 1', 'Hljótt 1' ], "$_: Django's") for qw(unseen both lost);
is_deeply(field($m{first}, 'name'), [ 'Aldrei 1', 'Aldrei 1' ], "never agreed: Django's");
is_deeply(field($m{held}, 'facebook'), [ 'röð1', 'röð1' ], "held: Django's");
is_deeply(field($m{failed}, 'birthday'), [ $birthday, $birthday ], "a value that does not fit: Django's");
is($db->doc($m{oneway})->{metadata}{django_id}, $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$m{oneway}'"), 'one way: written back');
is($db->doc($m{gone})->{membership}{status}, 'active', 'a document that had gone is there again');
is($db->doc($m{left})->{membership}{status}, 'inactive', 'that of a row that has gone is inactive');
is($db->doc($m{twin})->{membership}{status}, 'inactive', '... and that of a kennitala that nobody has');
is($db->doc($m{stranger})->{profile}{name}, 'Ókunn', 'a stranger is left alone');
my %kept = map { ($_ => 1) } @{ conflicts($repair->{run}) };
is_deeply([ grep { !$kept{$_} } "$m{console} name \"$was{console}\" \"Stjórnborð 1\" django repair" =~ s/"//gr, "$m{both} name Hljótt 1 Hljótt skjal 1 django repair",
		"$m{behind} name $was{behind} Hljótt skjal 1 django repair", "$m{held} facebook röð1 skjal1 django repair",
		"$m{failed} birthday $birthday ekki dagur django repair" ], [], 'every loser is kept') or diag(explain(\%kept));
ok(!(grep { /^$m{unseen} / } keys %kept), '... and what had been known on both sides is none');
is($db->sql("SELECT count(*) FROM ekksync_conflicts WHERE member = '$m{held}' AND resolved_at IS NULL AND winner = 'none'"), 0, 'nothing is held any more');
is($db->sql("SELECT mode FROM ekksync_runs WHERE run = $repair->{run}"), 'repair', 'its record says what it was');
is_run(repair("'django'"), 'success 0 0 0 0', 'a second one') or diag(explain(conflicts($db->sql('SELECT max(run) FROM ekksync_runs'))));
is_run($db->run, 'success 0 0 0 0', 'quiet after it');
is($db->admin_sql('SELECT count(*) FROM ekksync.backlog'), 0, 'no list is left');
is($db->sql("SELECT string_agg(what || ' ' || coalesce(detail, ''), '; ' ORDER BY at, what) FROM ekksync_history('$m{behind}', 'name') WHERE run = $repair->{run}") =~ /Firestore's value lost conflict \d+: repair/ ? 1 : 0, 1,
	'the history tells it') or diag($db->sql("SELECT string_agg(what || ' ' || coalesce(detail, ''), '; ' ORDER BY at, what) FROM ekksync_history('$m{behind}', 'name')"));

# ---------------------------------------------------------- take Firestore's

sub undouble
{
	$db->sql("UPDATE membership_comrade SET ssn = '$m{twin}' WHERE id = (SELECT max(id) FROM membership_comrade WHERE ssn = '$m{doubled}')");
	$db->run;
	$db->sql("UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE sync_status = 'failed'");
	$db->run;
	return;
}
undouble();
is_deeply([ keys %{ found() } ], [ $m{stranger} ], 'the kennitala that was doubled is not any more') or diag(explain(found()));
setting(on_remote_create => 'insert');
%m = plant();
my %mine = map { ($_ => field($m{$_}, 'name')->[0]) } qw(console behind gone lost);
my %there = map { ($_ => field($m{$_}, 'name')->[1]) } qw(unseen first);
$repair = repair("'firestore', force => true");
is($repair->{status}, 'success', "Firestore's are taken") or diag($repair->{message});
is_deeply(found(), { $m{doubled} => { '' => 'held' }, $m{failed} => { birthday => 'conflict' } }, 'what is left is what nobody can mend')
  or diag(explain(found()));
is_deeply(field($m{row}, 'name'), [ 'Röð 2', 'Röð 2' ], 'a row of the queue: as by any run');
is_deeply(field($m{entry}, 'name'), [ 'Færsla 2', 'Færsla 2' ], '... and an entry');
is_deeply(field($m{console}, 'name'), [ ('Stjórnborð 2') x 2 ], "console: Firestore's");
is_deeply(field($m{$_}, 'name'), [ ('Hljótt skjal 2') x 2 ], "$_: Firestore's") for qw(behind both);
is_deeply(field($m{$_}, 'name'), [ ($there{$_}) x 2 ], "$_: Firestore's") for qw(unseen first);
is_deeply(field($m{held}, 'facebook'), [ ('skjal2') x 2 ], "held: Firestore's");
is_deeply(field($m{$_}, 'name'), [ ($mine{$_}) x 2 ], "$_: who is a member says Django") for qw(gone lost);
is($db->doc($m{left})->{membership}{status}, 'inactive', '... and who is none');
is($db->sql("SELECT name FROM membership_comrade WHERE ssn = '$m{stranger}'"), 'Ókunn', '... and a stranger is one, where the setting says so');
is($db->doc($m{oneway})->{metadata}{django_id}, $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$m{oneway}'"), 'one way: written back');
isnt(($db->doc($m{list})->{membership}{titles} // [])->[0] // '', 'Enginn', '... a list, too');
%kept = map { ($_ => 1) } @{ conflicts($repair->{run}) };
is_deeply([ grep { !$kept{$_} } "$m{unseen} name Hljótt 2 $there{unseen} firestore repair", "$m{both} name Hljótt 2 Hljótt skjal 2 firestore repair",
		"$m{first} name Aldrei 2 $there{first} firestore first contact", "$m{held} facebook röð2 skjal2 firestore repair" ], [], 'every loser is kept')
  or diag(explain(\%kept));
ok(!(grep { /^(?:$m{behind}|$m{console}) / } keys %kept), '... and what had been known on both sides is none');
is_run(repair("'firestore'"), 'success 0 0 0 0', 'a second one') or diag(explain(conflicts($db->sql('SELECT max(run) FROM ekksync_runs'))));
undouble();
is(repair("'django'")->{status}, 'success', 'the other side takes the rest');
is_deeply(found(), {}, 'all is in step');
is_run(my $undo = $db->run, 'success 0 0 0 0', 'quiet after it');
my %undone = map { ("$_->{member} $_->{field}" => $_->{outcome}) } $db->rows("SELECT * FROM ekksync_undo($repair->{run}) WHERE field IS NOT NULL");
is($undone{"$m{both} name"}, 'undone', 'a repair can be undone');
$db->run;
is_deeply(field($m{both}, 'name'), [ ('Hljótt 2') x 2 ], '... on both sides');
setting(on_remote_create => undef);

# ------------------------------------------------------------------- wrong calls

sub refused
{
	my ($sql, $state, $says, $name) = @_;
	my ($status, undef, $error) = $db->sql_err("\\set VERBOSITY verbose\n$sql");
	like($error, qr/ERROR:  $state: .*$says/s, "$name is refused");
	return;
}
refused("SELECT * FROM ekksync_repair('both')", '22023', 'invalid value for "take": "both".*HINT:  Use django or firestore', 'another side');
refused('SELECT * FROM ekksync_repair(NULL)', '22004', 'take must not be null.*HINT', 'no side');
refused("SELECT * FROM ekksync_repair('DJANGO')", '22023', 'invalid value', 'a side in capitals');
$db->admin_sql('CREATE ROLE watcher LOGIN');
my $watcher = Session->new($db, 'watcher');
eval { $watcher->sql("SELECT * FROM ekksync_repair('django')") };
like($@, qr/42501: permission denied for function ekksync_repair/, 'a role without the right is refused');
$watcher->end;

# The guard: a script has emptied names there.
$db->commit(map { [ "members/$_", { 'profile.email' => undef }, 1 ] } @key[ 0 .. 19 ]);
known($_) for @key[ 0 .. 19 ];
my $guarded = repair("'firestore'");
is($guarded->{status}, 'failed', 'the guard stops what would blank many');
like($guarded->{message}, qr/^the run would blank values of \d+ of \d+ members$/, '... and says so');
is(repair("'django'")->{status}, 'success', "Django's side is another matter");
is_deeply(found(), {}, '... and mends it');

# A row that is locked all the while is left for another repair: what it takes,
# no plain run would.
{
	my $locked = $key[24];
	$db->patch_doc($locked, { 'profile.name' => 'Læst þar' });
	known($locked);
	my $other = Session->new($db);
	$other->sql("BEGIN; SELECT FROM membership_comrade WHERE ssn = '$locked' FOR UPDATE");
	like(repair("'firestore'")->{message}, qr/^members left for the next ekksync_repair\(\), .*: 1$/, 'a repair that cannot write a row says so');
	$other->sql('COMMIT');
	$other->end;
	is_deeply(found(), { $locked => { name => 'unexplained' } }, '... and it differs as before');
	is_run(repair("'firestore'"), 'success 0 1 0 0', 'another one');
	is_deeply(field($locked, 'name'), [ ('Læst þar') x 2 ], '... mends it');
}

# Who was deleted, and entered again without what he had: the row that says so
# does not name it.
my $again = $key[25];
my $member = $db->row("SELECT ssn, name, date_joined FROM membership_comrade WHERE ssn = '$again'");
$db->sql("UPDATE membership_contactinfo SET email = 'atti\@example.is' WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$again')");
$db->run;
$db->delete_member($again);
$db->run;
$db->sql("INSERT INTO membership_comrade (ssn, name, date_joined, reachable, groupable) VALUES ('$again', 'Aftur', '$member->{date_joined}', true, true)");
my %why = map { ($_ => 1) } values %{ found()->{$again} };
is_deeply([ sort keys %why ], ['pending'], 'who is entered again is pending in all fields');
ok(found()->{$again}{email}, '... also in what he had and has no more');
is(repair("'firestore'")->{status}, 'success', '... which a repair');
is_deeply(field($again, 'email'), [ undef, undef ], '... does not bring back');
is_deeply(found(), {}, '... and all is in step');

# ------------------------------------------------- after runs of each kind

my $round = 0;
sub edits
{
	my $n = ++$round;
	my @m = @key[ map { $_ + 2 * ($n % 4) } 0 .. 10 ];
	set_name($m[0], "Hér $n");
	$db->profile_edit($m[1], name => "Þar $n");
	set_name($m[2], "Hér $n");
	$db->profile_edit($m[2], name => "Þar $n");
	$db->profile_edit($m[3], facebook => "þar$n");
	$db->patch_doc($m[4], { 'profile.name' => "Stjórnborð $n" });
	$db->patch_doc($m[5], { 'profile.birthday' => "dagur $n" });
	$db->queue_entry(docId => $m[6], changes => { 'profile.email' => "nr$n\@example.is" });
	$db->patch_doc($m[7], { 'metadata.django_id' => -$n });
	$db->delete_doc($m[8]) if $n % 2;
	$db->patch_doc($m[10], { 'membership.status' => 'inactive' }) if $n % 2;
	$db->sql("UPDATE membership_contactinfo SET facebook = 'hér$n' WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$m[3]')");
	$db->profile_edit($m[9], name => "Áður $n", document => 0);
	return;
}

# Nothing is unexplained; what is left is told by $by, if that is of interest.
my @differ;
sub explained
{
	my ($name) = @_;
	@differ = $db->rows('SELECT * FROM ekksync_diff()');
	my @bad = grep { $_->{why} eq 'unexplained' } @differ;
	return is(scalar @bad, 0, "nothing is unexplained after $name") || diag(explain(\@bad));
}

my $last = sub { return $db->sql('SELECT max(run) FROM ekksync_runs WHERE NOT dry_run'); };
my $ended = sub {
	my ($step, $sql) = @_;
	$db->stop_at($step);
	my $caller = Session->new($db);
	$caller->send($sql);
	my $pid = $db->wait_stopped or die "no run comes to $step";
	kill TERM => $pid;
	eval { $caller->answer };
	$db->go_on;
	$db->wait_for(sub { $db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0 });
};
my @kinds = (
	[ 'a plain run'                => sub { $db->run } ],
	[ 'a run to Firestore'         => sub { $db->run(direction => 'to_firestore') } ],
	[ 'a run to Django'            => sub { $db->run(direction => 'to_django') } ],
	[ 'a run for some'             => sub { $db->run(only => [ @key[ 0 .. 5 ] ]) } ],
	[ 'a dry run'                  => sub { $db->run(dry_run => 1) } ],
	[ 'a run with force'           => sub { $db->run(force => 1) } ],
	[ 'a full scan'                => sub { setting(scan => 'full'); $db->run(force => 1); setting(scan => undef) } ],
	[ 'no scan'                    => sub { setting(scan => 'off'); $db->run; setting(scan => undef) } ],
	[ 'a run that observes'        => sub { setting(mode => 'observe'); $db->run; setting(mode => undef) } ],
	[ 'a run without Firestore'    => sub { $proxy->stop; setting(max_retries => 0); eval { $db->run }; setting(max_retries => undef); $proxy->start } ],
	[ 'a run that reads no answer' => sub { $proxy->start({ fault => 'lose', verb => 'commit', match => '/documents/members/', applied => 1 }); $db->run; $proxy->start } ],
	[ 'a run that is cut off'      => sub { $proxy->start({ fault => 'drop', verb => 'commit', match => '/documents/members/', times => 0 }); setting(max_retries => 0); $db->run; setting(max_retries => undef); $proxy->start } ],
	(map { my $step = $_; [ "a run that ends at $step" => sub { $ended->($step, 'SELECT FROM ekksync_run()') } ] } qw(applied sent members)),
	[ 'a run at its limit'         => sub { setting(max_reads_per_day => 100); $db->run; setting(max_reads_per_day => undef) } ],
	[ 'deletions that were let stand' => sub { setting(on_remote_delete => 'ignore', scan => 'full'); $db->run; setting(on_remote_delete => undef, scan => undef) } ],
	[ 'the next full scan'         => sub { setting(scan => 'full'); $db->run(force => 1); setting(scan => undef) } ],
	[ 'a backfill'                 => sub { $db->sql('SELECT FROM ekksync_backfill()') } ],
	[ 'a backfill to Django'       => sub { $db->sql("SELECT FROM ekksync_backfill('to_django')") } ],
	[ 'a backfill that is ended'   => sub { $ended->('applied', 'SELECT FROM ekksync_backfill()') } ],
	[ 'a repair'                   => sub { repair("'firestore', force => true") } ],
	[ 'a repair that is ended'     => sub { $ended->('applied', "SELECT FROM ekksync_repair('django', force => true)") } ],
	[ 'a cleanup'                  => sub { $db->sql('SELECT FROM ekksync_cleanup()') } ],
	[ 'an undo'                    => sub { $db->run; $db->sql('SELECT FROM ekksync_undo(' . $last->() . ')') } ],
	[ 'a decision'                 => sub { $db->run; $db->sql(q{SELECT ekksync_resolve(id, 'django') FROM ekksync_conflicts WHERE resolved_at IS NULL AND winner = 'none'}) } ],
	[ 'a queue settled by hand'    => sub { $db->sql(q{UPDATE membership_membersyncqueue SET sync_status = 'synced' WHERE sync_status <> 'synced'}) } ],
	[ 'a mapping'                  => sub { $db->sql("SELECT ekksync_map('facebook', 'profile.facebook', 'text', 'membership_contactinfo', 'facebook', 'comrade_id')") } ]);
for my $kind (@kinds)
{
	edits();
	$kind->[1]->();
	explained($kind->[0]);
	my %stayed = map { ($_->{field} // '' => 1) } grep { ($_->{detail} // '') =~ /it was deleted in Firestore, and stayed so: the next full scan ends that/ } @differ;
	is_deeply([ sort keys %stayed ], $kind->[0] =~ /let stand/ ? [ '', 'status' ] : [], '... and deletions that stood are said to end') if $kind->[0] =~ /let stand|next full scan/;
}
$db->sql("SELECT ekksync_map('facebook', 'profile.facebook', 'text', 'membership_contactinfo', 'facebook', 'comrade_id')");
is(repair("'django', force => true")->{status}, 'success', 'in the end a repair');
is_deeply(found(), {}, '... leaves nothing that differs') or diag(explain(found()));

done_testing();
