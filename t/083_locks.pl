# A run beside a busy application ("Never blocks the application", "Never
# overwrites what it has not seen", "Nothing lost"): it holds no snapshot and no
# lock while a request is under way, an apply keeps a writer waiting for less
# than 50 ms, a deadlock is the run's loss, what the application's own triggers
# do is captured, and queue rows changed by hand, long transactions and old
# snapshots beside a run neither disturb it nor are disturbed.

use strict;
use warnings;
use utf8;
use Test::More;
use EkkSync qw(timestamp);
use FaultProxy;
use Session;

use constant { MEMBERS => 2_000, MAX_WAIT_MS => 50 };

my @TABLES = qw(membership_comrade membership_contactinfo membership_membersyncqueue);

my $db = EkkSync->new(members => MEMBERS, conf => <<'CONF');
autovacuum = off
ekksync.max_delete_percent = 100
CONF
my $proxy = FaultProxy->new(to => $db->host, record => 1);
$proxy->start;
$db->use_host($proxy->host);
$db->sql(q(INSERT INTO membership_contactinfo (comrade_id) SELECT id FROM membership_comrade ON CONFLICT DO NOTHING));

# ------------------------------------------------------------------- helpers

# Kennitala of an invented member, from the last on.
my $next_id = MEMBERS;
sub next_key { return $db->sql('SELECT ssn FROM membership_comrade WHERE id = ' . $next_id--); }

sub name_sql
{
	my ($key, $name) = @_;
	return "UPDATE membership_comrade SET name = '$name' WHERE ssn = '$key'";
}

# A field as PostgreSQL and as Firestore have it.
sub sides
{
	my ($key, $field) = @_;
	return [
		$db->sql("SELECT $field FROM membership_comrade JOIN membership_contactinfo ON comrade_id = id WHERE ssn = '$key'"),
		$db->doc($key)->{profile}{$field} ];
}

sub both_are
{
	my ($key, $field, $value, $name) = @_;
	return is_deeply(sides($key, $field), [ $value, $value ], $name);
}

sub forget_queue { return $db->sql("DELETE FROM membership_membersyncqueue WHERE sync_status = 'synced'"); }

# Begin a run that nobody waits for.
my $caller;
sub start_run
{
	$caller //= Session->new($db);
	$caller->answer if $caller->is_busy;
	$caller->send('SELECT FROM ekksync_run(wait => false)');
	return;
}

# Await its end; returns its record.
sub finish_run
{
	$caller->answer;
	my $record;
	$db->wait_for(sub {
		$record = $db->row('SELECT * FROM ekksync_runs ORDER BY run DESC LIMIT 1');
		return $record->{status} ne 'running';
	}, 300) or die 'the run does not end';
	return $record;
}

sub figures
{
	my ($run) = @_;
	my $failed = $run->{to_firestore_failed} + $run->{to_django_failed};
	return "$run->{status} @$run{qw(to_firestore to_django conflicts)} $failed" . ($run->{error} ? ": $run->{error}" : '');
}

# One run over what is there.
sub run_is
{
	my ($figures, $name) = @_;
	start_run();
	return is(figures(finish_run()), $figures, "$name: the run's figures");
}

sub quiet { my ($name) = @_; return run_is('success 0 0 0 0', "quiet after $name"); }

# A run that stops at a step.
sub run_to
{
	my ($step) = @_;
	$db->stop_at($step);
	start_run();
	$db->wait_stopped or die "the run does not come to $step";
	return;
}

# What the worker keeps others from: its snapshot, its locks, the rows that
# another session cannot lock, the tables it cannot alter.
sub hindrances
{
	my @found = split /\n/, $db->admin_sql(<<'SQL');
SELECT 'workers: ' || count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run' HAVING count(*) <> 1
UNION ALL
SELECT 'snapshot' FROM pg_stat_activity WHERE backend_type = 'ekksync run'
AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR xact_start IS NOT NULL)
UNION ALL
SELECT 'lock ' || locktype || coalesce(' ' || relation::regclass, '') FROM pg_locks
WHERE pid = (SELECT pid FROM pg_stat_activity WHERE backend_type = 'ekksync run') AND locktype <> 'advisory'
SQL
	for my $table (@TABLES)
	{
		my $rows = "SELECT FROM $table FOR UPDATE NOWAIT";
		my $alter = "BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE NOWAIT; ALTER TABLE $table ADD COLUMN probe int; ROLLBACK";
		for my $sql ($rows, $alter)
		{
			my ($status, undef, $error) = $db->sql_err($sql);
			push @found, "$sql: $error" if $status;
		}
	}
	return \@found;
}

# Row versions of the member table that VACUUM must leave.
sub not_removable
{
	my (undef, undef, $said) = $db->admin_err('VACUUM (VERBOSE) membership_comrade');
	my ($n) = $said =~ /(\d+) (?:are dead but not yet removable|dead row versions cannot be removed yet)/
	  or die "VACUUM said: $said";
	return $n;
}

# Something for a run to do in both directions: a key to be pushed, one pulled.
my $change = 0;
sub change_both
{
	my ($pushed, $pulled) = @_;
	$change++;
	$db->sql(name_sql($pushed, "Okkar $change"));
	$db->profile_edit($pulled, 'name', "Þeirra $change");
	return;
}

# ------------------------------------------------- nothing is held, anywhere

my ($pushed, $pulled) = (next_key(), next_key());
run_is('success ' . MEMBERS . ' 0 0 0', 'first push');
forget_queue();

change_both($pushed, $pulled);
$db->steps;
$proxy->start;
run_is('success 1 1 0 0', 'both directions');
my @requests = map { $_->{verb} } $proxy->requests;
my %reached = map { $_ => 1 } $db->steps;
my @steps = grep { $reached{$_} } $db->step_names;

change_both($pushed, $pulled);
for my $step (@steps)
{
	$db->stop_at($step);
	start_run() if $step eq $steps[0];
	$db->wait_stopped or die "the run does not come to $step";
	my $found = hindrances();
	if ($step !~ /^in_/)
	{
		is_deeply($found, [], "at the step $step nothing is held");
		next;
	}
	ok((grep { $_ eq 'snapshot' } @$found), "... as it is at the step $step, inside a transaction");
	ok((grep { /FROM membership_comrade FOR UPDATE NOWAIT/ } @$found), '... with its row') if $step eq 'in_rows';
	next unless $step eq 'in_rows';
	$db->sql(name_sql(next_key(), 'Dauð útgáfa'));
	cmp_ok(not_removable(), '>', 0, '... where VACUUM must leave dead rows');
}
$db->go_on;
is(figures(finish_run()), 'success 1 1 0 0', 'the run that was stopped everywhere');
run_is('success 1 0 0 0', 'what was changed beside it');

change_both($pushed, $pulled);
$proxy->start(fault => 'delay', times => 0);
start_run();
for my $verb (@requests)
{
	$proxy->wait_fired or die "there is no request $verb";
	is_deeply(hindrances(), [], "while the request $verb hangs nothing is held");
	$db->sql("UPDATE membership_comrade SET groupable = NOT groupable WHERE id < 50; "
		  . 'UPDATE membership_comrade SET groupable = NOT groupable WHERE id < 50; '
		  . "DELETE FROM membership_membersyncqueue WHERE member_id < 50");
	is(not_removable(), 0, '... and VACUUM leaves no dead row');
	$proxy->resume;
}
is(figures(finish_run()), 'success 1 1 0 0', 'the run that hung everywhere');
$proxy->start;
quiet('all that');

# -------------------------------------------------- edits that come in between

# All that follows the decision is decided anew.  More of these are in
# 066_races.pl.
{
	my $key = next_key();
	my $entry = $db->profile_edit($key, 'name', 'Fyrir þann sem fór');
	run_to('decided');
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key');"
		  . "DELETE FROM membership_newlocaladdress WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key');"
		  . "DELETE FROM membership_unionmembership WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key');"
		  . "DELETE FROM membership_comradetitle WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key');"
		  . "DELETE FROM membership_comrade_emails WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key');"
		  . "DELETE FROM membership_comrade WHERE ssn = '$key'");
	$db->go_on;
	is(figures(finish_run()), 'success 1 0 1 1', 'a member who is deleted before the apply');
	is($db->sql("SELECT count(*) FROM membership_comrade WHERE ssn = '$key'"), 0, '... stays deleted');
	is($db->doc($key)->{membership}{status}, 'inactive', '... also in Firestore');
	is($db->entry($entry)->{error_message}, 'member not found', '... and the entry says so');
	quiet('the delete');
}

{
	my ($key, $new) = (next_key(), '0102034569');
	my $id = $db->sql("SELECT id FROM membership_comrade WHERE ssn = '$key'");
	my $entry = $db->profile_edit($key, 'name', 'Undir gamalli kennitölu');
	my $name = $db->sql("SELECT name FROM membership_comrade WHERE id = $id");
	run_to('decided');
	$db->sql("UPDATE membership_comrade SET ssn = '$new' WHERE id = $id");
	$db->go_on;
	is(finish_run()->{status}, 'success', 'a kennitala that is changed before the apply');
	$db->run;
	is($db->sql("SELECT ssn || ' ' || name FROM membership_comrade WHERE id = $id"), "$new $name", '... is not written over');
	is($db->doc($new)->{profile}{name}, $name, '... has its document');
	is($db->doc($key)->{membership}{status}, 'inactive', '... and the old one is inactive');
	is($db->entry($entry)->{error_message}, 'member not found', '... and the entry says so');
	quiet('the new kennitala');
}

{
	my $key = next_key();
	forget_queue();
	$db->sql(name_sql($key, 'Fyrr hér'));
	$db->profile_edit($key, 'name', 'Síðar þar');
	my $state = sub {
		return $db->sql("SELECT name || ', ' || sync_status FROM membership_comrade c JOIN membership_membersyncqueue q ON q.ssn = c.ssn WHERE c.ssn = '$key'");
	};
	run_to('in_record');
	is($state->(), 'Fyrr hér, pending', 'before the commit of an apply nobody sees anything of it');
	$db->stop_at('applied');
	$db->wait_stopped or die 'the run does not come to applied';
	is($state->(), 'Síðar þar, synced', '... after it the value is there, and the row that it beat is closed');
	$db->go_on;
	is(figures(finish_run()), 'success 0 1 1 0', '... in a run');
	quiet('superseding');
}

# --------------------------------------------------- the application's triggers

{
	my ($other_column, $related, $undo, $suppress, $same, $other_member, $victim) = map { next_key() } 1 .. 7;
	$db->sql(<<"SQL");
CREATE FUNCTION before_member() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	CASE NEW.ssn
		WHEN '$other_column' THEN NEW.reachable = NOT OLD.reachable;
		WHEN '$undo' THEN NEW.name = OLD.name;
		WHEN '$suppress' THEN RETURN NULL;
		ELSE NULL;
	END CASE;
	RETURN NEW;
END \$\$;
CREATE FUNCTION after_member() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	IF NEW.ssn = '$related' THEN
		UPDATE public.membership_contactinfo SET facebook = 'um ' || NEW.name WHERE comrade_id = NEW.id;
	ELSIF NEW.ssn = '$same' AND NEW.name = 'Anna Þeirra' THEN
		UPDATE public.membership_comrade SET name = 'Önnur Þeirra' WHERE id = NEW.id;
	ELSIF NEW.ssn = '$other_member' THEN
		UPDATE public.membership_comrade SET name = 'Með ' || NEW.name WHERE ssn = '$victim';
	END IF;
	RETURN NULL;
END \$\$;
CREATE TRIGGER before_member BEFORE UPDATE OF name ON membership_comrade FOR EACH ROW EXECUTE FUNCTION before_member();
CREATE TRIGGER after_member AFTER UPDATE OF name ON membership_comrade FOR EACH ROW EXECUTE FUNCTION after_member();
SQL
	forget_queue();
	my %name = map { $_ => $db->sql("SELECT name FROM membership_comrade WHERE ssn = '$_'") } $undo, $suppress;
	my $reachable = $db->sql("SELECT reachable FROM membership_comrade WHERE ssn = '$other_column'");
	$db->profile_edit($_, 'name', 'Anna Þeirra') for $other_column, $related, $undo, $suppress, $same, $other_member;
	start_run();
	my $run = finish_run();
	is("@$run{qw(status to_django conflicts)}", 'success 6 0', 'values that triggers of the application answer')
	  or diag(explain($run));
	is($db->sql("SELECT string_agg(ssn || ' ' || array_to_string(ARRAY(SELECT jsonb_object_keys(fields_changed)), '+'), ', ' ORDER BY ssn) "
		  . 'FROM membership_membersyncqueue'),
		join(', ', sort "$other_column reachable", "$related facebook", "$same name", "$victim name"),
		'... what the triggers change is queued, and nothing else');
	$db->run;
	both_are($_, 'name', 'Anna Þeirra', '... the values are applied') for $other_column, $related, $other_member;
	isnt($db->sql("SELECT reachable FROM membership_comrade WHERE ssn = '$other_column'"), $reachable, '... another column changes');
	is($db->doc($other_column)->{membership}{reachable} ? 't' : 'f', $reachable eq 't' ? 'f' : 't', '... and arrives');
	both_are($same, 'name', 'Önnur Þeirra', '... a value that replaces the applied one, too');
	both_are($related, 'facebook', 'um Anna Þeirra', '... the related row, too');
	both_are($victim, 'name', 'Með Anna Þeirra', '... another member, too');
	both_are($undo, 'name', $name{$undo}, '... a value that a trigger puts back goes back to Firestore');
	both_are($suppress, 'name', $name{$suppress}, '... as does one that it keeps out');
	quiet('the triggers');
	$db->sql('DROP FUNCTION before_member CASCADE; DROP FUNCTION after_member CASCADE');
}

# ------------------------------------------------------ a queue changed by hand

for my $step (qw(read decided in_lock applied sent in_settle))
{
	my @keys = map { next_key() } 1 .. 6;
	my ($synced, $reopened, $deleted, $failed, $odd, $theirs) = @keys;
	my $row = "UPDATE membership_membersyncqueue SET sync_status =";
	$db->run;
	forget_queue();
	$db->sql(name_sql($_, "Handvirkt $step")) for @keys[ 0 .. 4 ];
	$db->profile_edit($theirs, 'name', "Þeirra $step");
	run_to($step);
	# inside a transaction of the run some rows are its own, for a moment
	my $hand = Session->new($db);
	$hand->send(<<"SQL");
$row 'synced' WHERE ssn = '$synced';
$row 'synced' WHERE ssn = '$reopened';
$row 'pending' WHERE ssn = '$reopened';
DELETE FROM membership_membersyncqueue WHERE ssn = '$deleted';
$row 'failed' WHERE ssn = '$failed';
INSERT INTO membership_membersyncqueue (ssn, action, fields_changed) VALUES
	('$odd', 'update', '[]'), ('$odd', 'annað', '{"ekkert": {"a": [1]}}'), ('$odd', 'update', '"x"'),
	('$odd', 'create', '{"name": 7}'), ('$theirs', 'update', '{"name": "ekki þetta"}'),
	('5555555555', 'delete', '{}')
SQL
	$hand->answer unless $step eq 'in_settle';
	$db->go_on;
	my $run = finish_run();
	$hand->answer if $step eq 'in_settle';
	$hand->end;
	is($run->{status}, 'success', "a queue changed by hand at the step $step") or diag($run->{error});
	is($db->sql("SELECT sync_status FROM membership_membersyncqueue WHERE ssn = '$failed' ORDER BY id LIMIT 1"),
		'failed', '... what was set by hand stays so');
	is($db->run->{status}, 'success', '... and the next run');
	both_are($_, 'name', "Handvirkt $step", '... the value is on both sides') for @keys[ 0 .. 4 ];
	both_are($theirs, 'name', "Þeirra $step", '... also the one from there');
	is($db->sql('SELECT count(*) FROM ekksync_pending'), 0, '... and nothing is pending');
	$db->sql("$row 'pending' WHERE sync_status = 'failed'");
	$db->run;
	is($db->sql("SELECT string_agg(concat_ws(', ', ssn, action, sync_status, error_message), '; ') "
		  . "FROM membership_membersyncqueue WHERE sync_status <> 'synced'"), '', '... or failed, once tried again');
	quiet("hands at the step $step");
}

# --------------------------------------- long transactions and old snapshots

{
	my ($long, $other, $b, $c) = map { next_key() } 1 .. 4;
	forget_queue();
	my $writer = Session->new($db);
	my $reader = Session->new($db);
	$writer->sql('BEGIN; ' . name_sql($long, 'Lengi óstaðfest'));
	my $old = $reader->sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT name FROM membership_comrade WHERE ssn = '$b'");
	for my $n (1 .. 3)
	{
		$db->sql(name_sql($other, "Hin $n"));
		$db->profile_edit($b, 'name', "Þeirra $n");
		run_is('success 1 1 0 0', "run $n beside a long transaction");
	}
	is($reader->sql("SELECT name FROM membership_comrade WHERE ssn = '$b'"), $old, 'an old snapshot stays as it was');
	$reader->sql(name_sql($c, 'Úr gömlu sniði'));
	$reader->sql('COMMIT');
	$writer->sql('COMMIT');
	cmp_ok($db->sql("SELECT min(id) FROM membership_membersyncqueue WHERE ssn = '$long'"), '<',
		$db->sql("SELECT max(id) FROM membership_membersyncqueue WHERE ssn = '$other'"),
		'an edit that is committed late has an older number than what is synced');
	run_is('success 2 0 0 0', 'after the long transactions');
	both_are($long, 'name', 'Lengi óstaðfest', '... the late edit arrives');
	both_are($c, 'name', 'Úr gömlu sniði', '... and that of the session with the old snapshot');

	$reader->sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT name FROM membership_comrade WHERE ssn = '$b'");
	$db->sql(name_sql($b, 'Yngra en sniðið'));
	is($reader->sql('SELECT status || to_firestore FROM ekksync_run()'), 'success1', 'a run called with an old snapshot sees what is younger');
	$reader->sql('COMMIT');
	both_are($b, 'name', 'Yngra en sniðið', '... and syncs it');
	quiet('long transactions');
	$_->end for $writer, $reader;
}

# -------------------------------------------------------------------- deadlocks

{
	my $key = next_key();
	$db->sql(<<"SQL");
CREATE TABLE tally (n int);
INSERT INTO tally VALUES (0);
CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	IF NEW.ssn = '$key' THEN UPDATE public.tally SET n = n + 1; END IF;
	RETURN NULL;
END \$\$;
CREATE TRIGGER count_change AFTER UPDATE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION count_change();
SQL
	my $deadlocks = sub { return $db->admin_sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'socialism'"); };
	my $before = $deadlocks->();
	my $n = 0;
	for my $timeout ('', '100ms')
	{
		my $name = 'deadlock_timeout ' . ($timeout || 'by default');
		$db->admin_sql('ALTER DATABASE socialism ' . ($timeout ? "SET deadlock_timeout = '$timeout'" : 'RESET deadlock_timeout'));
		for my $first ('application', 'run')
		{
			my $session = Session->new($db);
			$db->profile_edit($key, 'name', 'Sátt ' . ++$n);
			$session->sql('BEGIN; UPDATE tally SET n = n + 1');
			run_to('in_lock');
			my $update = "UPDATE membership_comrade SET gender = 3 - gender WHERE ssn = '$key'";
			if ($first eq 'application')
			{
				$session->send($update);
				ok($db->wait_for(sub { $db->admin_sql('SELECT cardinality(pg_blocking_pids(' . $session->pid . '))') > 0 }),
					"$name: the application waits for the run's row");
				$db->go_on;
			}
			else
			{
				$session->send(<<"SQL");
DO \$\$
BEGIN
	LOOP
		EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)));
		IF clock_timestamp() > statement_timestamp() + interval '60 s' THEN
			RAISE 'the run does not come to wait';
		END IF;
	END LOOP;
	$update;
END \$\$
SQL
				$db->go_on;
			}
			ok(eval { $session->answer; 1 }, "$name, the $first waits first: the application's statement succeeds") or diag($@);
			$session->sql('COMMIT');
			$session->end;
			is(finish_run()->{status}, 'success', '... the run goes on');
			$db->run;
			both_are($key, 'name', "Sátt $n", '... and applies its value when it can');
		}
	}
	$db->admin_sql('ALTER DATABASE socialism RESET deadlock_timeout');
	ok($db->wait_for(sub { $deadlocks->() > $before }, 10), 'there were deadlocks, and the run has lost them');
	unlike(PostgreSQL::Test::Utils::slurp_file($db->node->logfile), qr/^.*ERROR: +(?:40P01: )?deadlock detected/m,
		'no statement of the application was in a deadlock that it lost');
	$db->sql('DROP FUNCTION count_change CASCADE');
	$db->run;
	quiet('deadlocks');
}

# ------------------------------------------------------- a writer beside a run

# Some sessions change members at random (a column that is not mapped), thousands
# a second, while a run applies values to all of them; others their
# queue rows, as a DELETE of the member does.  The server itself says how long
# each lock was waited for, if that was more than a millisecond.  A slow disk or
# a busy machine can make one wait long, though not in three runs.
{
	$db->admin_sql(<<'SQL');
CREATE PROCEDURE write_beside(kind text, OUT writes int) LANGUAGE plpgsql AS $$
DECLARE
	k int;
BEGIN
	writes = 0;
	LOOP
		EXIT WHEN EXISTS (SELECT FROM public.stop_writing);
		k = 1 + floor(random() * 2000);
		IF kind = 'member' THEN
			UPDATE public.membership_comrade SET seen = seen + 1 WHERE id = k;
		ELSE
			UPDATE public.membership_membersyncqueue SET retry_count = retry_count WHERE member_id = k;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.0005);
		writes = writes + 1;
	END LOOP;
END $$;
CREATE TABLE stop_writing (now int);
ALTER TABLE membership_comrade ADD seen int DEFAULT 0;
SQL
	my @rows = split /\n/, $db->sql("SELECT ssn || ' ' || id FROM membership_comrade WHERE ssn ~ '^[0-9]{10}\$' ORDER BY id");
	my $superuser = $db->admin_sql('SELECT current_user');
	my @longest;				# in each run that was waited for
	for my $try (1 .. 3)
	{
		my (@docs, @entries);
		for (@rows)
		{
			my ($key, $id) = split / /;
			my $value = "samtimis$id\@$try.example.is";
			push @docs, [ "members/$key", { 'profile.email' => $value }, 1 ];
			push @entries, [ "sync_queue/beside-$try-$id", $db->entry_fields(docId => $key, changes => { 'profile.email' => $value }) ];
		}
		for my $writes (\@docs, \@entries)
		{
			my @all = @$writes;
			while (my @page = splice @all, 0, 500) { $db->commit(@page); }
		}
		$db->sql('UPDATE membership_comrade SET reachable = NOT reachable');
		my $log = -s $db->node->logfile;
		my @writers;
		for my $kind (qw(member member member member queue queue))
		{
			my $writer = Session->new($db, $superuser);
			$writer->sql("SET log_lock_waits = on; SET deadlock_timeout = '1ms'");
			$writer->send("CALL write_beside('$kind', NULL)");
			push @writers, $writer;
		}
		start_run();
		my $run = finish_run();
		$db->admin_sql('INSERT INTO stop_writing VALUES (1)');
		my @writes = map { $_->answer } @writers;
		$_->end for @writers;
		$db->admin_sql('TRUNCATE stop_writing');
		my $said = substr(PostgreSQL::Test::Utils::slurp_file($db->node->logfile), $log);
		my $pids = join '|', map { $_->pid } @writers;
		my @waits = sort { $a <=> $b } $said =~ /process (?:$pids) acquired \w+ on \w+ .*? after ([\d.]+) ms/g;
		note("$run->{duration}, $run->{to_django} applied, $run->{to_firestore} pushed; @writes writes beside it; "
			  . @waits . " waits, the longest: @waits[ ($#waits > 9 ? -10 : -@waits) .. -1 ] ms");
		is($run->{status}, 'success', 'a run while all members are written to') or diag($run->{error});
		$db->run;
		is($db->sql("SELECT count(*) FROM membership_contactinfo WHERE email <> 'samtimis' || comrade_id || '\@$try.example.is'"),
			0, '... applies every value, with the next one');
		push @longest, $waits[-1] if @waits;
		last if @waits && $waits[-1] < MAX_WAIT_MS;
	}
	ok(scalar @longest, 'writers have waited for its locks');
	cmp_ok($longest[-1], '<', MAX_WAIT_MS, '... none of them for long');
}

# A lock that shows only when rows are locked already: another session inserts
# the related row that the run wants to insert.  The run gives way at once, as
# long as others may wait before they look for a deadlock.
{
	my $key = next_key();
	$db->sql("DELETE FROM membership_contactinfo WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key')");
	$db->run;
	$db->admin_sql("ALTER DATABASE socialism SET deadlock_timeout = '60s'");
	$db->profile_edit($key, 'facebook', 'innsett');
	my $session = Session->new($db);
	$session->sql('BEGIN; INSERT INTO membership_contactinfo (comrade_id, facebook)'
		  . " SELECT id, 'heima' FROM membership_comrade WHERE ssn = '$key'");
	my $run = $db->run(wait => 0)->{run};
	my $record = sub { return $db->row("SELECT * FROM ekksync_runs WHERE run = $run"); };
	ok($db->wait_for(sub { $record->()->{status} ne 'running' }, 20),
		'a run ends beside an insert of the row that it wants to insert');
	like($record->()->{error}, qr/^members left for the next run, .*: 1$/, '... and leaves the member to the next one');
	$session->sql('ROLLBACK');
	$session->end;
	$db->admin_sql('ALTER DATABASE socialism RESET deadlock_timeout');
	$db->wait_for(sub { $record->()->{status} ne 'running' }, 300) or die 'the run does not end';
	is($db->run->{to_django}, 1, '... which applies the edit');
	both_are($key, 'facebook', 'innsett', '... so that both sides have it');
}

$caller->end;
$proxy->stop;
done_testing();
