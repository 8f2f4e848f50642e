# Chaos.pm: plays a history (t/ChaosPlan.pm) in a registry of its own, and keeps
# what can be seen of it from outside: the trace that t/Oracle.pm judges.
#
# Seen are: each change of a row, as a trigger beside the extension's finds it,
# with the clock just before and just after the extension's; each write to a
# document, the clients' own and, at the proxy, those of runs, with the server's
# updateTime; the entries, with their createTime; and at the end, what both sides
# hold and what the extension has recorded.
#
# Times in a trace are microseconds since 1970.

package Chaos;

use strict;
use warnings;
use utf8;
use Carp qw(croak);
use ChaosClients qw(%CONTACT %FIELD %PATH canon flat json micros);
use EkkSync;
use FaultProxy;
use parent -norequire, 'ChaosClients';
use Time::HiRes qw(sleep time);

my $json = json();

# What watches the rows.  The first trigger of a row notes the clock, the last
# one, after the extension's, writes down what changed; in the transaction that
# changed it, so that what is rolled back has not been.
my $WATCH = <<'SQL';
CREATE SCHEMA chaos;
GRANT USAGE ON SCHEMA chaos TO PUBLIC;
CREATE TABLE chaos.log (id bigserial PRIMARY KEY, who text, tx bigint, lo timestamptz, hi timestamptz,
	key text, kind text, v jsonb);
CREATE FUNCTION chaos.first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_catalog.set_config('chaos.lo', pg_catalog.clock_timestamp()::text, true);
	RETURN NULL;
END $$;
CREATE FUNCTION chaos.note(key text, kind text, v jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	INSERT INTO chaos.log (who, tx, lo, hi, key, kind, v) VALUES (
		coalesce(nullif(current_setting('chaos.who', true), ''), 'run'), txid_current(),
		current_setting('chaos.lo')::timestamptz, clock_timestamp(), key, kind, v)
$$;
CREATE FUNCTION chaos.diff(o jsonb, n jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT coalesce(pg_catalog.jsonb_object_agg(e.key, e.value), '{}') FROM pg_catalog.jsonb_each(n) e
	WHERE e.key <> 'comrade_id' AND e.value IS DISTINCT FROM o OPERATOR(pg_catalog.->) e.key
$$;
CREATE FUNCTION chaos.comrade() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	contact jsonb;
BEGIN
	IF TG_OP = 'UPDATE' AND NEW.ssn = OLD.ssn THEN
		IF NEW IS DISTINCT FROM OLD THEN
			PERFORM chaos.note(NEW.ssn, 'set', chaos.diff(to_jsonb(OLD), to_jsonb(NEW)));
		END IF;
		RETURN NULL;
	END IF;
	IF TG_OP <> 'INSERT' THEN
		PERFORM chaos.note(OLD.ssn, 'gone', '{}');
	END IF;
	IF TG_OP <> 'DELETE' THEN
		SELECT to_jsonb(c) - 'comrade_id' INTO contact FROM public.membership_contactinfo c WHERE comrade_id = NEW.id;
		PERFORM chaos.note(NEW.ssn, 'come', coalesce(contact, '{"email": null, "facebook": null, "phone": null}') || to_jsonb(NEW));
	END IF;
	RETURN NULL;
END $$;
CREATE FUNCTION chaos.contact() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	ssn text;
	nobody jsonb := '{"email": null, "facebook": null, "phone": null}';
BEGIN
	IF TG_OP = 'DELETE' THEN
		SELECT m.ssn INTO ssn FROM public.membership_comrade m WHERE m.id = OLD.comrade_id;
		PERFORM chaos.note(ssn, 'set', chaos.diff(to_jsonb(OLD), nobody));
	ELSE
		SELECT m.ssn INTO ssn FROM public.membership_comrade m WHERE m.id = NEW.comrade_id;
		PERFORM chaos.note(ssn, 'set', chaos.diff(CASE WHEN TG_OP = 'INSERT' THEN nobody ELSE to_jsonb(OLD) END, to_jsonb(NEW)));
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER aaa AFTER INSERT OR UPDATE OR DELETE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION chaos.first();
CREATE TRIGGER zzz AFTER INSERT OR UPDATE OR DELETE ON membership_comrade FOR EACH ROW EXECUTE FUNCTION chaos.comrade();
CREATE TRIGGER aaa AFTER INSERT OR UPDATE OR DELETE ON membership_contactinfo FOR EACH ROW EXECUTE FUNCTION chaos.first();
CREATE TRIGGER zzz AFTER INSERT OR UPDATE OR DELETE ON membership_contactinfo FOR EACH ROW EXECUTE FUNCTION chaos.contact();
SQL

# Settings of the server that play() needs.
sub conf
{
	return <<'CONF';
restart_after_crash = on
track_commit_timestamp = on
ekksync.scan = full
ekksync.max_retries = 0
ekksync.request_timeout = 10000
ekksync.max_delete_percent = 100
CONF
}

# To play a history in the database of $db, an EkkSync with an attached, empty
# registry that nothing was ever done to.
sub new
{
	my ($class, $db, $history, %opt) = @_;
	my $self = bless {
		db      => $db,
		history => $history,
		proxy   => $opt{proxy},
		note    => $opt{note} // sub { },
		D       => [],
		entries => {},
		kept    => {},
		pages   => {},
		forms   => {},
		fences  => {},
		samples => 0,
		queued  => {},
		errors  => [],
		count   => { ops => 0, faults => 0, runs => 0, kills => 0 },
		slowest => 0,
		serial  => 0
	}, $class;
	$self->{proxy} //= FaultProxy->new(to => $db->host, record => 2);
	$db->use_host($self->{proxy}->host);
	return $self;
}

# --------------------------------------------------------------- what the proxy saw

sub take_journal
{
	my ($self) = @_;
	my @requests = $self->{proxy}->journal;
	for my $request (@requests)
	{
		my $answer = $request->{answer};
		my $single = ref $answer eq 'HASH' ? $answer->{writeResults} : undef;
		for my $i (0 .. $#{ $request->{writes} })
		{
			my $write = $request->{writes}[$i];
			my $name = $write->{update} ? $write->{update}{name} : $write->{delete} // $write->{transform}{document};
			my ($collection, $id) = $name =~ m{/documents/(\w+)/(.*)\z} or next;
			my $came = int($request->{came} * 1e6);
			if ($collection eq 'sync_logs') { $self->{fences}{$id} //= $came; next; }
			next if $collection ne 'members';
			my $done = $single && ($answer->{status}[$i]{code} // 0) == 0;
			my $paths = $write->{update} && flat($write->{update}{fields}, '');
			my $mark = $paths && $paths->{'metadata.sync_write'}{stringValue};
			push @{ $self->{sent} }, { came => $came, key => $id, mark => $mark, done => $done ? 1 : 0 };
			next unless $done;
			my $u = micros($single->[$i]{updateTime} // $answer->{commitTime}) // $came;
			my %masked = map { (tr/`//dr => 1) } @{ ($write->{updateMask} // {})->{fieldPaths} // [] };
			$paths->{$_} //= { nullValue => undef } for $paths ? grep { $FIELD{$_} } keys %masked : ();
			$self->note_doc($id, $u, 'run', $paths, $mark, ($write->{currentDocument}{exists} // 1) ? 0 : 1);
			$self->{D}[-1]{came} = $came;
		}
	}
	return;
}

# ------------------------------------------------------------------------ playing

# Pass a write on that the proxy holds; false when there is none.
sub release
{
	my ($self) = @_;
	return 1 if eval { $self->{proxy}->release; 1 };
	die $@ unless $@ =~ /no request is held/;
	return 0;
}

# Until the server takes connections again.
sub await_server
{
	my ($self) = @_;
	# psql may be gone before it has got its statement
	$self->{db}->wait_for(sub { eval { ($self->{db}->admin_err('SELECT 1'))[0] == 0 } }) or croak('the server does not come back');
	return;
}

# What may only grow, and the stamps of the base, which may not go back: since
# the last sample.
sub sample
{
	my ($self) = @_;
	my $last = $self->{sample} // { conflict => 0, queue => 0, run => 0 };
	my $now = $json->decode($self->admin(<<"SQL"));
SELECT json_build_object(
	'run', (SELECT max(id) FROM ekksync.run),
	'conflict', (SELECT max(id) FROM ekksync.conflict),
	'conflicts', (SELECT count(*) FROM ekksync.conflict),
	'conflicts_before', (SELECT count(*) FROM ekksync.conflict WHERE id <= $last->{conflict}),
	'queue', (SELECT max(id) FROM membership_membersyncqueue),
	'queued', (SELECT count(*) FROM membership_membersyncqueue),
	'queued_before', (SELECT count(*) FROM membership_membersyncqueue WHERE id <= $last->{queue}),
	'tombstones', (SELECT json_agg(key) FROM ekksync.member WHERE tombstone IS NOT NULL),
	'base', (SELECT json_object_agg(key, (SELECT json_object_agg(b.key, b.value -> 't') FROM jsonb_each(base) b))
		FROM ekksync.member WHERE last_run >= $last->{run}))
SQL
	my $epoch = $self->{samples}++;
	for my $what (qw(conflict queue))
	{
		my $many = $what eq 'queue' ? 'queued' : 'conflicts';
		push @{ $self->{removed} }, "$what rows, before epoch $epoch" if defined $last->{$many} && $now->{"${many}_before"} != $last->{$many};
		$now->{$what} //= 0;
	}
	for my $key (sort keys %{ $now->{base} // {} })
	{
		my $known = $self->{base}{$key} //= {};
		for my $field (sort keys %{ $now->{base}{$key} // {} })
		{
			my $stamp = $now->{base}{$key}{$field} // next;
			push @{ $self->{went_back} }, [ $key, $field, "$known->{$field} to $stamp, before epoch $epoch" ] if $stamp < ($known->{$field} // $stamp);
			$known->{$field} = $stamp;
		}
	}
	$self->{tombstones}{$_} = 1 for @{ $now->{tombstones} // [] };
	delete $now->{base};
	$self->{sample} = $now;
	return;
}

# What ekksync_diff() finds that it should not: nothing that is unexplained, nor,
# when all is done, anything that the next run would do.
sub compare
{
	my ($self, $when, @why) = @_;
	$self->{proxy}->start;
	push @{ $self->{differ} }, map { { %$_, when => $when } } $self->{db}->rows('SELECT member, field, why, detail FROM ekksync_diff() '
		  . 'WHERE why IN (' . join(', ', map { "'$_'" } 'unexplained', @why) . ')');
	$self->{count}{comparisons}++;
	return;
}

# Somebody clears entries away that are done, as an admin does it: the emulator
# looks through all there are at each query.
sub clear_entries
{
	my ($self) = @_;
	my @done = grep { ($_->{fields}{sync_status}{stringValue} // '') =~ /^(?:synced|failed)$/ }
	  $self->{db}->raw_docs('sync_queue', select => ['sync_status']);
	my @gone;
	for my $doc (@done)
	{
		my ($id) = $doc->{name} =~ m{([^/]+)\z};
		$self->{queued}{$id} = $doc->{fields}{sync_status}{stringValue};
		push @gone, ["sync_queue/$id"];
	}
	$self->{db}->commit(splice @gone, 0, 400) while @gone;
	return;
}

sub struck
{
	my ($self) = @_;
	my $n = 0;
	$n += $_ for values %{ $self->{proxy}->counts->{struck} };
	return $n;
}

sub epoch
{
	my ($self, $number, $epoch) = @_;
	my $db = $self->{db};
	my $proxy = $self->{proxy};
	$self->{crashed} = 0;
	$self->waves($epoch->{before});

	my @rules = map { { %$_ } } @{ $epoch->{rules} // [] };
	push @rules, { fault => 'delay', verb => $epoch->{hold}, match => '/documents/members/' } if $epoch->{hold};
	$self->take_journal;
	$proxy->start(@rules);
	$db->stop_at($epoch->{stop}) if $epoch->{stop};
	$self->session($_)->send('SELECT run, status FROM ekksync_run()') for 'run0', $epoch->{double} ? 'run1' : ();
	$self->{count}{runs}++;

	my $pid = $epoch->{stop} ? $self->wait_stopped : 0;
	my $held = !$epoch->{stop} && $epoch->{hold} && $self->wait_struck;
	$self->waves($epoch->{at_stop});
	if ($pid && $epoch->{kill})
	{
		$self->{count}{kills}++;
		$self->strike($epoch->{kill}, $pid);
	}
	$db->go_on;
	$proxy->resume;
	$self->waves($epoch->{during});
	$proxy->resume;
	for my $name ('run0', $epoch->{double} ? 'run1' : ())
	{
		my $session = $self->{session}{$name} // next;
		eval { $self->wait_over($name); $session->answer; 1 } or do
		{
			$self->await_server if $self->{crashed};
			delete $self->{session}{$name} unless $@ =~ /ERROR/;
		};
	}
	$self->forget_sessions, $self->await_server if $self->{crashed};
	$self->clear_entries if $number % 40 == 39;
	$self->{count}{faults} += $self->struck + ($pid && $epoch->{kill} ? 1 : 0) - ($held ? 1 : 0);
	$self->take_journal;
	$self->sample;
	$self->compare("after epoch $number") if $number % 3 == 2;
	return;
}

# Is a run stopped, or has it ended on the way there?
sub wait_stopped
{
	my ($self) = @_;
	my $pid = 0;
	$self->{db}->wait_for(
		sub {
			$pid = $self->{db}->wait_stopped(0.02) and return 1;
			return $self->is_over('run0');
		}, 60);
	return $pid;
}

sub is_over
{
	my ($self, $name) = @_;
	my $session = $self->{session}{$name} // return 1;
	eval { $session->{psql}->pump_nb; 1 } or return 1;
	return !$session->is_busy || $session->{out} =~ /^END$/m;
}

# Await the end of a run; what is held goes on.
sub wait_over
{
	my ($self, $name) = @_;
	until ($self->is_over($name))
	{
		$self->{proxy}->resume;
		sleep 0.01;
	}
	return;
}

sub wait_struck
{
	my ($self) = @_;
	my $struck = 0;
	$self->{db}->wait_for(sub { ($struck = $self->{proxy}->wait_fired(0.02)) || $self->is_over('run0') }, 60);
	return $struck;
}

sub strike
{
	my ($self, $how, $pid) = @_;
	if ($how eq 'term') { kill TERM => $pid; return; }
	$self->{crashed} = 1;
	if ($how eq 'kill') { kill KILL => $pid; }
	else
	{
		my $node = $self->{db}->node;
		$node->stop('immediate');
		$node->start;
	}
	$self->{db}->go_on;
	$self->await_server;
	$self->forget_sessions;
	return;
}

# The members of the history, in step; and what watches them from then on.
sub prepare
{
	my ($self) = @_;
	my $db = $self->{db};
	$self->{proxy}->start;
	$self->take_journal;
	$db->admin_sql($WATCH);
	my $values = join ', ', map { "('$_', 'Upphaf $_', '2024-05-01')" } @{ $self->{history}{members} };
	my $session = $self->session('s0');
	$session->sql("INSERT INTO membership_comrade (ssn, name, date_joined) VALUES $values;"
		  . "INSERT INTO membership_contactinfo (comrade_id) SELECT id FROM membership_comrade");
	my $run = $db->run;
	croak("the first run: $run->{message}") unless $run->{status} eq 'success';
	$self->set(scan => $self->{history}{scan} // 'full');
	$self->set(max_retries => $self->{history}{retries} // 0);
	$self->take_journal;
	$self->sample;
	return;
}

# A setting of the next runs.
sub set
{
	my ($self, $name, $value) = @_;
	$self->admin("ALTER DATABASE $self->{db}{database} SET ekksync.$name = '$value'");
	return;
}

# When all is quiet: runs without faults, until nothing is left to be done.
sub settle
{
	my ($self) = @_;
	my $db = $self->{db};
	$self->{proxy}->start;
	1 while $self->release;
	$self->set(scan => 'full');
	for my $round (1 .. 4)
	{
		$self->take_journal;
		$self->{proxy}->start;
		my $run = $db->run;
		my $record = $db->row("SELECT * FROM ekksync_runs WHERE run = $run->{run}");
		$self->take_journal;
		push @{ $self->{last_runs} }, { record => $record, counts => $self->{proxy}->counts };
		$self->sample;
	}
	$self->compare('in the end', 'pending');
	return;
}

# Play it all; returns the trace.
sub play
{
	my ($self) = @_;
	$self->prepare;
	my $n = 0;
	for my $epoch (@{ $self->{history}{epochs} })
	{
		next if $epoch->{reserve} && $self->{count}{faults} >= $self->{history}{faults};
		$self->epoch($n++, $epoch // {});
		$self->{note}->($n, $self->{count});
	}
	$self->settle;
	return $self->trace;
}

# -------------------------------------------------------------------------- trace

my $TRACE = <<'SQL';
SELECT json_build_object(
	'log', (SELECT json_agg(to_jsonb(l) || jsonb_build_object('done', pg_xact_commit_timestamp((tx % 4294967296)::text::xid)) ORDER BY id)
		FROM chaos.log l),
	'rows', (SELECT json_object_agg(ssn, to_jsonb(m) || coalesce(to_jsonb(c), '{}')) FROM membership_comrade m
		LEFT JOIN membership_contactinfo c ON comrade_id = m.id),
	'queue', (SELECT json_agg(q ORDER BY id) FROM membership_membersyncqueue q),
	'inbox', (SELECT json_agg(i) FROM ekksync.inbox i),
	'conflicts', (SELECT json_agg(c ORDER BY id) FROM ekksync.conflict c),
	'runs', (SELECT json_agg(r ORDER BY id) FROM ekksync.run r),
	'members', (SELECT json_agg(json_build_object('key', key, 'due', due, 'notes', in_flight, 'tombstone', tombstone)) FROM ekksync.member))
SQL

sub trace
{
	my ($self) = @_;
	my $state = $json->decode($self->{db}->admin_sql($TRACE));
	my @P;
	for my $row (@{ $state->{log} // [] })
	{
		my %v = map { ($_ => canon($_, $row->{v}{$_})) } keys %{ $row->{v} };
		push @P, {
			by => $row->{who} eq 'run' ? 'run' : 'user',
			(map { ($_ => $row->{$_}) } qw(id tx key kind)),
			lo   => micros($row->{lo}),
			hi   => micros($row->{hi}),
			done => micros($row->{done}),
			v  => \%v
		};
	}
	my %rows;
	for my $key (keys %{ $state->{rows} // {} })
	{
		my $row = $state->{rows}{$key};
		$rows{$key} = { map { ($_ => canon($_, $row->{$_})) } grep { $PATH{$_} } keys %$row, keys %CONTACT };
	}
	my %docs;
	for my $doc ($self->{db}->raw_docs('members'))
	{
		my $paths = flat($doc->{fields} // {}, '');
		my ($key) = $doc->{name} =~ m{([^/]+)\z};
		$docs{$key} = {
			u     => micros($doc->{updateTime}),
			v     => { map { ($_ => canon($_, $paths->{ $PATH{$_} } ? EkkSync::from_value($paths->{ $PATH{$_} }) : undef)) } keys %PATH },
			other => { map { ($_ => EkkSync::from_value($paths->{$_})) } grep { /^notes\./ } keys %$paths }
		};
	}
	my $queued = $self->{db}->docs('sync_queue');
	return {
		P       => \@P,
		D       => [ sort { $a->{u} <=> $b->{u} } @{ $self->{D} } ],
		entries => $self->{entries},
		rows    => \%rows,
		docs    => \%docs,
		queued  => { %{ $self->{queued} }, map { ($_ => $queued->{$_}{sync_status}) } keys %$queued },
		tombstones => [ sort keys %{ $self->{tombstones} } ],
		(map { ($_ => $state->{$_} // []) } qw(queue inbox conflicts runs members)),
		(map { ($_ => $self->{$_} // []) } qw(fences sent removed went_back differ errors slowest last_runs count))
	};
}

1;
