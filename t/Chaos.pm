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
use ChaosPlan qw(members_of);
use EkkSync qw(timestamp to_value);
use FaultProxy;
use JSON::PP ();
use POSIX ();
use Session;
use Time::HiRes qw(sleep time);
use Time::Local qw(timegm);

my $json = JSON::PP->new->canonical->allow_nonref;
eval { require Cpanel::JSON::XS; $json = Cpanel::JSON::XS->new->canonical->allow_nonref; };

# Field => path, and where it is in PostgreSQL.
my %PATH = (
	name              => 'profile.name',
	birthday          => 'profile.birthday',
	gender            => 'profile.gender',
	housing_situation => 'profile.housingSituation',
	reachable         => 'membership.reachable',
	groupable         => 'membership.groupable',
	date_joined       => 'membership.date_joined',
	email             => 'profile.email',
	facebook          => 'profile.facebook',
	phone             => 'profile.phone',
	ssn               => 'profile.kennitala',
	id                => 'metadata.django_id',
	status            => 'membership.status');
my %FIELD = reverse %PATH;
my %CONTACT = map { ($_ => 1) } qw(email facebook phone);
my %BOOLEAN = map { ($_ => 1) } qw(reachable groupable);
my @COLUMNS = qw(name birthday gender housing_situation reachable groupable);
my @LABELS = (
	[ gender            => qw(unknown male female other) ],
	[ housing_situation => qw(unknown owner rental cooperative family other homeless) ]);
my %CODE = map {
	my ($field, @labels) = @$_;
	($field => { map { ($labels[$_] => $_) } 0 .. $#labels })
} @LABELS;

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

# ------------------------------------------------------------------------- times

sub micros
{
	my ($time) = @_;
	return undef unless defined $time;
	my ($y, $m, $d, $H, $M, $S, $fraction) =
	  $time =~ /^(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|\+00(?::00)?)?$/
	  or croak("not a time: $time");
	return timegm($S, $M, $H, $d, $m - 1, $y) * 1_000_000 + substr(($fraction // '') . '000000', 0, 6);
}

sub now { return int(time * 1e6); }

sub time_value
{
	my ($us) = @_;
	return { timestampValue => POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime int($us / 1_000_000))
		  . sprintf('.%06dZ', $us % 1_000_000) };
}

# ------------------------------------------------------------------------ values

# A value of a field, of whatever side, in the one form in which the oracle
# compares them: 'null', or text.
sub canon
{
	my ($field, $value) = @_;
	return 'null' unless defined $value;
	return $value ? 'true' : 'false' if JSON::PP::is_bool($value) || $BOOLEAN{$field};
	return 'null' if $value eq '';
	return $CODE{$field}{$value} // $value if $CODE{$field};
	return micros($value) if $field eq 'date_joined';
	if ($field eq 'phone')
	{
		$value =~ s/^(?:\+|00)354\s*//;
		(my $digits = $value) =~ s/[-\s]//g;
		return $digits =~ /^(\d{3})(\d{4})$/ ? "$1-$2" : $value;
	}
	return "$value";
}

# A field's value as clients of Firestore write it.
sub remote_value
{
	my ($field, $value) = @_;
	return { nullValue => undef } unless defined $value;
	return { booleanValue => $value ? JSON::PP::true : JSON::PP::false } if $BOOLEAN{$field};
	return { integerValue => "$value" } if $CODE{$field};
	return { stringValue => "$value" };
}

sub literal
{
	my ($value) = @_;
	return 'NULL' unless defined $value;
	$value =~ s/'/''/g;
	return "'$value'";
}

sub assign { my ($field, $value) = @_; return "$field = " . ($BOOLEAN{$field} ? ($value ? 'true' : 'false') : literal($value)); }

# ---------------------------------------------------------------- PostgreSQL's side

sub update_sql
{
	my ($key, $values) = @_;
	my @own = grep { !$CONTACT{$_} } sort keys %$values;
	my @contact = grep { $CONTACT{$_} } sort keys %$values;
	return join '',
	  (@own ? 'UPDATE membership_comrade SET ' . join(', ', map { assign($_, $values->{$_}) } @own) . " WHERE ssn = '$key';\n" : ()),
	  (
		@contact
		? 'UPDATE membership_contactinfo SET ' . join(', ', map { assign($_, $values->{$_}) } @contact)
		  . " WHERE comrade_id = (SELECT id FROM membership_comrade WHERE ssn = '$key');\n"
		: ());
}

sub in_transaction { return "BEGIN;\n$_[0]COMMIT;\n"; }

my %local = (
	set  => sub { my ($self, $op) = @_; return in_transaction(update_sql($op->{key}, $op->{v})); },
	save => sub {
		my ($self, $op) = @_;
		my ($field) = keys %{ $op->{v} };
		return in_transaction(update_sql($op->{key}, $op->{v})) if $CONTACT{$field};
		return 'UPDATE membership_comrade SET '
		  . join(', ', map { exists $op->{v}{$_} ? assign($_, $op->{v}{$_}) : "$_ = $_" } @COLUMNS)
		  . ", ssn = ssn, date_joined = date_joined WHERE ssn = '$op->{key}';\n";
	},
	stale => sub {
		my ($self, $op) = @_;
		my $form = $self->{forms}{ $op->{key} } // return '';
		return update_sql($op->{key}, { (map { ($_ => $form->{$_}) } @COLUMNS), %{ $op->{v} } });
	},
	bulk => sub {
		my ($self, $op) = @_;
		my $field = $op->{field};
		my $type = { name => 'varchar', birthday => 'date', reachable => 'boolean' }->{$field};
		return "UPDATE membership_comrade SET $field = CASE ssn "
		  . join(' ', map { "WHEN '$_' THEN " . literal($BOOLEAN{$field} ? ($op->{v}{$_} ? 't' : 'f') : $op->{v}{$_}) . "::$type" } sort keys %{ $op->{v} })
		  . ' END WHERE id IN (SELECT id FROM membership_comrade WHERE ssn IN ('
		  . join(', ', map { "'$_'" } sort keys %{ $op->{v} }) . ") ORDER BY id FOR UPDATE);\n";
	},
	tx => sub {
		my ($self, $op) = @_;
		return "BEGIN;\n"
		  . join('', map { "SAVEPOINT s;\n" . update_sql($op->{key}, $_->{v}) . ($_->{fate} eq 'undo' ? "ROLLBACK TO s;\n" : '') } @{ $op->{parts} })
		  . "$op->{end};\n";
	},
	begin  => sub { return "BEGIN;\nSELECT 1;\n"; },
	in     => sub { my ($self, $op) = @_; return update_sql($op->{key}, $op->{v}); },
	end    => sub { return "COMMIT;\n"; },
	insert => sub {
		my ($self, $op) = @_;
		my %v = %{ $op->{v} };
		return in_transaction("INSERT INTO membership_comrade (ssn, name, birthday, date_joined) SELECT '$op->{key}', "
			  . literal($v{name}) . ', ' . literal($v{birthday})
			  . "::date, '2024-05-01' WHERE NOT EXISTS (SELECT FROM membership_comrade WHERE ssn = '$op->{key}');\n"
			  . "INSERT INTO membership_contactinfo (comrade_id, email, phone) SELECT id, "
			  . literal($v{email}) . ', ' . literal($v{phone})
			  . " FROM membership_comrade WHERE ssn = '$op->{key}' ON CONFLICT DO NOTHING;\n");
	},
	delete => sub {
		my ($self, $op) = @_;
		return in_transaction("DELETE FROM membership_contactinfo USING membership_comrade WHERE id = comrade_id AND ssn = '$op->{key}';\n"
			  . "DELETE FROM membership_comrade WHERE ssn = '$op->{key}';\n");
	},
	rekey => sub {
		my ($self, $op) = @_;
		return "UPDATE membership_comrade SET ssn = '$op->{to}' WHERE ssn = '$op->{key}';\n";
	});

# A session of the application; the ones of open transactions have their own.
sub session
{
	my ($self, $name) = @_;
	return $self->{session}{$name} //= do
	{
		my $session = Session->new($self->{db}, $name eq 'admin' ? 'postgres' : undef, 36_000);
		$session->sql($name =~ /^run/ ? 'SET lock_timeout = 0' : "SET chaos.who = '$name'; SET lock_timeout = '20s'");
		$session;
	};
}

# Ask the server as its superuser.
sub admin
{
	my ($self, $sql) = @_;
	return $self->session('admin')->sql($sql =~ s/\s*\z//r);
}

sub forget_sessions
{
	my ($self) = @_;
	eval { $_->end; } for values %{ delete $self->{session} // {} };
	return;
}

# Let sessions do SQL, {session => text}, all at once; what is refused is kept.
sub in_sessions
{
	my ($self, $sql) = @_;
	my $start = time;
	for my $name (sort keys %$sql)
	{
		next if eval { $self->session($name)->send($sql->{$name}); 1 };
		$self->lost($name, $@);
	}
	for my $name (sort keys %$sql)
	{
		my $session = $self->{session}{$name};
		next unless $session && $session->is_busy;
		$self->lost($name, $@) unless eval { $session->answer; 1 };
	}
	my $took = time - $start;
	$self->{slowest} = $took if $took > $self->{slowest};
	return;
}

# A session has had an error.  When the server crashed, that is no wonder.
sub lost
{
	my ($self, $name, $error) = @_;
	if ($error =~ /psql has gone|server closed|terminat|connection|starting up|recovery mode|shutting down|process ended prematurely|ack Broken pipe/i)
	{
		my $session = delete $self->{session}{$name};
		eval { $session->{psql}->kill_kill; } if $session;
		push @{ $self->{errors} }, "$name: $error" unless $self->{crashed};
		return;
	}
	push @{ $self->{errors} }, "$name: $error";
	return;
}

# ----------------------------------------------------------------- Firestore's side

sub name_of { my ($self, $path) = @_; return $self->{db}->_root . "/$path"; }

sub nested
{
	my ($flat) = @_;
	my %fields;
	for my $path (sort keys %$flat)
	{
		my @keys = split /\./, $path;
		my $last = pop @keys;
		my $at = \%fields;
		$at = ($at->{$_} //= { mapValue => { fields => {} } })->{mapValue}{fields} for @keys;
		$at->{$last} = $flat->{$path};
	}
	return \%fields;
}

# The writes of clients: [op, {path => Value}], or [op] for a deletion; each
# document once in a request, and each for itself.
sub write_docs
{
	my ($self, @writes) = @_;
	while (@writes)
	{
		my (%seen, @now, @later);
		push @{ $seen{ $_->[0]{key} }++ ? \@later : \@now }, $_ for @writes;
		@writes = @later;
		my @requests = map {
			my ($op, $paths) = @$_;
			my $name = $self->name_of("members/$op->{key}");
			$paths
			  ? {
				update          => { name       => $name, fields => nested($paths) },
				updateMask      => { fieldPaths => [ sort keys %$paths ] },
				currentDocument => { exists     => JSON::PP::true }
			  }
			  : { delete => $name, currentDocument => { exists => JSON::PP::true } };
		} @now;
		my $before = now();
		my $answer = $self->{db}->batch_write(\@requests);
		for my $i (0 .. $#now)
		{
			my ($op, $paths) = @{ $now[$i] };
			if (($answer->{status}[$i]{code} // 0) != 0)
			{
				$op->{refused} = 1;
				next;
			}
			my $u = micros($answer->{writeResults}[$i]{updateTime}) // $before;
			$op->{u} = $u;
			$self->note_doc($op->{key}, $u, 'user', $paths, $op->{k});
		}
	}
	return;
}

# A document was written: by whom, when, what; undef: deleted.
sub note_doc
{
	my ($self, $key, $u, $by, $paths, $what, $create) = @_;
	my %event = (key => $key, u => $u, by => $by, what => $what, v => {});
	$event{kind} = !$paths ? 'delete' : $create ? 'create' : 'set';
	for my $path (keys %{ $paths // {} })
	{
		my $field = $FIELD{$path};
		if    ($field) { $event{v}{$field} = canon($field, EkkSync::from_value($paths->{$path})); }
		elsif ($path =~ /^notes\./) { $event{other}{$path} = EkkSync::from_value($paths->{$path}); }
	}
	push @{ $self->{D} }, \%event;
	push @{ $self->{writes}{$key} }, { u => $u, paths => $paths, create => $create } if $paths;
	return;
}

# Add entries: [op, kind, {path => Value}, created_at]; "as" other than paths.
sub write_entries
{
	my ($self, @entries) = @_;
	return unless @entries;
	my @writes;
	my @ids;
	for (@entries)
	{
		my ($op, $kind, $paths, $created_at, $nested) = @$_;
		my $id = sprintf 'e%06d', ++$self->{serial};
		push @ids, $id;
		my $fields = EkkSync::to_fields($self->{db}->entry_fields(
				docId      => $op->{key},
				action     => $nested ? 'create' : 'update',
				created_at => time_value($created_at)));
		$fields->{changes} = { mapValue => { fields => $nested ? nested($paths) : { map { ($_ => $paths->{$_}) } keys %$paths } } };
		push @writes, { update => { name => $self->name_of("sync_queue/$id"), fields => $fields } };
	}
	my $answer = $self->{db}->_call(POST => '/v1/' . $self->{db}->_root . ':commit', { writes => \@writes });
	for my $i (0 .. $#ids)
	{
		my ($op, $kind, $paths, $created_at) = @{ $entries[$i] };
		my $created = micros($answer->{writeResults}[$i]{updateTime});
		my $eff = $created_at < $created && $created_at >= $created - 86_400_000_000 ? $created_at : $created;
		$self->{entries}{ $ids[$i] } = {
			id      => $ids[$i],
			key     => $op->{key},
			kind    => $kind,
			created => $created,
			eff     => $eff,
			v       => { map { $FIELD{$_} ? ($FIELD{$_} => canon($FIELD{$_}, EkkSync::from_value($paths->{$_}))) : () } keys %$paths }
		};
	}
	return;
}

sub paths_of
{
	my ($values) = @_;
	return { map { ($PATH{$_} => remote_value($_, $values->{$_})) } keys %$values };
}

# The stamp of the last change of a field's row, as the queue has it.
sub stamps
{
	my ($self, @ops) = @_;
	return unless @ops;
	my $sql = join ' UNION ALL ', map {
		my ($field) = keys %{ $_->{v} };
		"SELECT '$_->{key}' AS key, (SELECT max(created_at) FROM membership_membersyncqueue WHERE ssn = '$_->{key}' AND fields_changed ? '$field')::text AS at"
	} @ops;
	my %at = map { split /\|/, $_, 2 } split /\n/, $self->admin($sql);
	$_->{at} = length($at{ $_->{key} } // '') ? micros($at{ $_->{key} }) : undef for @ops;
	return;
}

sub do_remote
{
	my ($self, @ops) = @_;
	$self->stamps(grep { $_->{k} eq 'page' && $_->{tie} } @ops);
	my @docs;
	for my $op (@ops)
	{
		delete @$op{qw(refused u)};
		if ($op->{k} eq 'page')
		{
			$self->{pages}{ $op->{id} } = $op if defined $op->{id};
			push @docs, [ $op, { %{ paths_of($op->{v}) }, updated_at => time_value(now()) } ];
		}
		elsif ($op->{k} eq 'console')  { push @docs, [ $op, paths_of($op->{v}) ]; }
		elsif ($op->{k} eq 'status')   { push @docs, [ $op, { 'membership.status' => { stringValue => $op->{value} } } ]; }
		elsif ($op->{k} eq 'unmapped') { push @docs, [ $op, { 'notes.private' => { stringValue => "$op->{value}" } } ]; }
		elsif ($op->{k} eq 'docdel')   { push @docs, [$op]; }
	}
	$self->write_docs(@docs);
	my @entries;
	for my $op (@ops)
	{
		if ($op->{k} eq 'page' && !$op->{late} && !$op->{refused})
		{
			push @entries, [ $op, 'page', paths_of($op->{v}), $op->{at} // now() + 1e6 * ($op->{skew} // 0) ];
		}
		elsif ($op->{k} eq 'enqueue')
		{
			push @entries, [ $op, 'enqueue', paths_of($op->{v}), now() + 1e6 * ($op->{skew} // 0) ];
		}
		elsif ($op->{k} eq 'entry')
		{
			my $page = $self->{pages}{ $op->{of} };
			push @entries, [ $op, 'page', paths_of($page->{v}), $page->{u} + 1e6 * ($op->{skew} // 0) ] if $page && $page->{u};
		}
		elsif ($op->{k} eq 'echo') { push @entries, $self->echoes($op); }
	}
	$self->write_entries(@entries);
	return;
}

# What track_member_changes says of a write to a document, now or when it comes
# to it.
sub echoes
{
	my ($self, $op) = @_;
	$self->take_journal;
	my $write = defined $op->{kept} ? $self->{kept}{ $op->{kept} } : ($self->{writes}{ $op->{key} } // [])->[ -1 - ($op->{back} // 0) ];
	$self->{kept}{ $op->{keep} } = $write if defined $op->{keep};
	return unless $write;
	my $paths = { map { ($_ => $write->{paths}{$_}) } grep { !/^notes\./ } keys %{ $write->{paths} } };
	return map { [ $op, 'echo', $paths, now(), $write->{create} ] } 1 .. $op->{times};
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

sub flat
{
	my ($fields, $prefix) = @_;
	return {
		map {
			my $inner = $fields->{$_}{mapValue};
			$inner ? %{ flat($inner->{fields} // {}, "$prefix$_.") } : ("$prefix$_" => $fields->{$_})
		} keys %$fields
	};
}

# ------------------------------------------------------------------------ playing

# The operations of one wave.
sub wave
{
	my ($self, @ops) = @_;
	my (%sql, @remote);
	for my $op (@ops)
	{
		$self->{count}{ops}++ unless $op->{k} eq 'release';
		if ($op->{k} eq 'load')
		{
			my $row = $self->admin("SELECT to_json(m) FROM membership_comrade m WHERE ssn = '$op->{key}'");
			$self->{forms}{ $op->{key} } = $json->decode($row) if $row ne '';
		}
		elsif ($op->{k} eq 'release') { $self->release; }
		elsif (my $make = $local{ $op->{k} })
		{
			my $name = $op->{s} // 's' . (substr($op->{key} // (members_of($op))[0], 0, 7) % 3);
			$sql{$name} .= $make->($self, $op);
		}
		else { push @remote, $op; }
	}
	$self->in_sessions(\%sql) if %sql;
	$self->do_remote(@remote) if @remote;
	return;
}

sub waves { my ($self, $waves) = @_; $self->wave(@{ $_ // [] }) for @{ $waves // [] }; return; }

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
	'log', (SELECT json_agg(l ORDER BY id) FROM chaos.log l),
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
			lo => micros($row->{lo}),
			hi => micros($row->{hi}),
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
		(map { ($_ => $self->{$_} // []) } qw(fences sent removed went_back errors slowest last_runs count))
	};
}

1;
