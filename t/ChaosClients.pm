# ChaosClients.pm: the clients of a chaos test: what each operation of a history
# (t/ChaosPlan.pm) does to a side, and what is noted of it for the trace.  The
# part of t/Chaos.pm that knows SQL and documents, and nothing of runs.

package ChaosClients;

use strict;
use warnings;
use utf8;
use Carp qw(croak);
use ChaosPlan qw(members_of);
use EkkSync;
use Exporter qw(import);
use JSON::PP ();
use POSIX ();
use Session;
use Time::HiRes qw(time);
use Time::Local qw(timegm);

our @EXPORT_OK = qw(%CONTACT %FIELD %PATH canon flat json micros);

my $json = JSON::PP->new->canonical->allow_nonref;
eval { require Cpanel::JSON::XS; $json = Cpanel::JSON::XS->new->canonical->allow_nonref; };
sub json { return $json; }

# Field => path, and where it is in PostgreSQL.
our %PATH = (
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
our %FIELD = reverse %PATH;
our %CONTACT = map { ($_ => 1) } qw(email facebook phone);
my %BOOLEAN = map { ($_ => 1) } qw(reachable groupable);
my @COLUMNS = qw(name birthday gender housing_situation reachable groupable);
my @LABELS = (
	[ gender            => qw(unknown male female other) ],
	[ housing_situation => qw(unknown owner rental cooperative family other homeless) ]);
my %CODE = map {
	my ($field, @labels) = @$_;
	($field => { map { ($labels[$_] => $_) } 0 .. $#labels })
} @LABELS;

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

# -------------------------------------------------------------------------- waves

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

1;
