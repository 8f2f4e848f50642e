#!/usr/bin/env perl
# faultproxy.pl: an HTTP/1.1 proxy that fails as it is told, to stand between
# two programs of a test.  t/FaultProxy.pm starts it, and says what the faults
# are and what can be asked of it.
#
#	faultproxy.pl PORT TO RECORD
#
# It listens on PORT of 127.0.0.1 once it is told to start, and passes requests
# on to TO (host:port).  Its standard input is a socket on which orders come,
# and answers and news go, a line of JSON each; it ends when that is closed.
# RECORD 1 keeps all requests, RECORD 2 all that write, with their answers.
#
# It knows nothing of what passes but JSON and the shape in which Firestore's
# REST API names a call (the verb after the last colon of the URL), writes and
# documents, to count them.

use strict;
use warnings;
use feature 'current_sub';

BEGIN
{
	# No limit, and everything in memory.
	$ENV{MOJO_MAX_MESSAGE_SIZE} = 0;
	$ENV{MOJO_MAX_MEMORY_SIZE} = 1 << 30;
}

use IO::Handle;
use Mojo::IOLoop;
use Mojo::IOLoop::Stream;
use Mojo::JSON qw(decode_json encode_json);
use Mojo::Server::Daemon;
use Mojo::UserAgent;
use Mojolicious;
use Time::HiRes qw(time);

my ($port, $to, $record) = @ARGV;

my $control;					# stream of orders
my $daemon;						# undef: gone
my $era = 0;					# a fault of an earlier one has nobody to meet
my $still;						# true: nothing passes and nothing is answered
my (@rules, @halted, @late, @requests, @journal, %count);

my $app = Mojolicious->new;
$app->log->level('fatal');
$app->max_request_size(0);

my $ua = Mojo::UserAgent->new(
	connect_timeout => 10, inactivity_timeout => 0, max_connections => 100, max_response_size => 0);
$ua->cookie_jar->ignore(sub { 1 });
$ua->transactor->compressed(0)->name('');

# Headers that are about one connection, or that are made anew.
my %HOP = map { ($_ => 1) } qw(connection content-length keep-alive proxy-connection te trailer transfer-encoding upgrade);

sub report { $control->write(encode_json($_[0]) . "\n"); return; }
sub fired { report({ fired => 1 }); return; }

# ----------------------------------------------------------------- connections

sub hang_up
{
	my ($request) = @_;
	my $stream = Mojo::IOLoop->stream($request->{tx}->connection) or return;
	Mojo::IOLoop->next_tick(sub { $stream->close; });
	return;
}

# Refuse connections, and close those that there are.
sub go
{
	$era++;
	undef $daemon;
	undef $still;
	@rules = @halted = ();
	return;
}

# Is there nobody any more to be answered?
sub is_over { return $_[0]{era} != $era; }

sub to_hash
{
	my ($headers) = @_;
	my $all = $headers->to_hash(1);
	return { map { ($_ => $all->{$_}) } grep { !$HOP{ lc $_ } } keys %$all };
}

sub json
{
	my ($text) = @_;
	return $text =~ /^\s*[\[{]/ ? eval { decode_json($text) } : undef;
}

# Pass a request on, and call $then with the answer: status, headers, body.
sub pass
{
	my ($request, $then) = @_;
	my $req = $request->{tx}->req;
	my $body = json($req->body);
	$count{passed}{ $request->{verb} }++;
	$count{writes} += @{ $body->{writes} } if ref $body eq 'HASH' && ref $body->{writes} eq 'ARRAY';
	my $tx = $ua->build_tx($req->method => "http://$to" . $req->url->to_string, to_hash($req->headers),
		length $req->body ? $req->body : ());
	$tx->res->content->auto_decompress(0);
	$ua->start(
		$tx,
		sub {
			my ($self, $done) = @_;
			my $res = $done->res;
			push @journal,
			  {
				came   => $request->{came},
				writes => $body->{writes},
				status => $res->code,
				answer => json($res->body)
			  }
			  if $record == 2 && ref $body eq 'HASH' && $body->{writes};
			# Having refused a body a server may not find the next request.
			Mojo::IOLoop->remove($done->connection) if $done->connection && $res->is_error;
			return hang_up($request) if $done->error && !$done->error->{code};
			my $answer = json($res->body);
			my $docs = ref $answer ne 'ARRAY' ? 0 : grep { ref eq 'HASH' && ($_->{found} || $_->{missing} || $_->{document}) } @$answer;
			$count{reads} += $docs;
			$count{empty}++ if $request->{verb} eq 'runQuery' && ref $answer eq 'ARRAY' && !$docs;
			$then->({ status => $res->code, headers => to_hash($res->headers), body => $res->body });
		});
	return;
}

# Put status and headers of an answer in place.
sub head
{
	my ($request, $answer) = @_;
	my $res = $request->{tx}->res->code($answer->{status});
	my $headers = $res->headers;
	$headers->remove('Server');
	for my $name (keys %{ $answer->{headers} })
	{
		$headers->remove($name);
		$headers->add($name => @{ $answer->{headers}{$name} });
	}
	return $res;
}

# Give an answer, if there is still somebody to get it.
sub give
{
	my ($request, $answer) = @_;
	return if is_over($request) || $still;
	head($request, $answer)->body($answer->{body});
	$request->{tx}->resume;
	return;
}

sub pass_and_give
{
	my ($request) = @_;
	pass($request, sub { give($request, $_[0]); });
	return;
}

# ---------------------------------------------------------------------- faults

# An answer with this body, which is whole.
sub with_body
{
	my ($body, $type) = @_;
	return {
		status  => 200,
		headers => { 'Content-Type' => [ $type // 'application/json; charset=utf-8' ] },
		body    => $body
	};
}

# Without the first element of a list, or of each list in an object.
sub fewer
{
	my ($value) = @_;
	for my $list (ref $value eq 'HASH' ? values %$value : $value)
	{
		shift @$list if ref $list eq 'ARRAY';
	}
	return $value;
}

# The answer of rule "answer".
sub invented
{
	my ($rule) = @_;
	my %error = (
		code    => $rule->{status},
		status  => $rule->{error},
		message => $rule->{text} // 'as the test wants it');
	my $json = $rule->{json} // ($rule->{error} && { error => \%error });
	return {
		status  => $rule->{status},
		headers => {
			'Content-Type' => [ $json ? 'application/json; charset=utf-8' : 'text/plain' ],
			defined $rule->{retry_after} ? ('Retry-After' => [ $rule->{retry_after} ]) : ()
		},
		body => $json ? encode_json($json) : $rule->{text} // ''
	};
}

sub give_huge
{
	my ($request, $rule) = @_;
	my $piece = ' ' x (1 << 20);
	my $left = $rule->{mib} // 0;
	my $res = head($request, with_body(''));
	$res->headers->content_length(length($piece) * $left) if $left;
	my $write = $left ? 'write' : 'write_chunk';
	$res->content->$write(
		$piece => sub {
			my ($content) = @_;
			$content->$write($piece => __SUB__) unless $left && --$left == 0;
		});
	$request->{tx}->resume;
	return;
}

sub give_torn
{
	my ($request, $rule, $answer) = @_;
	my $body = $answer->{body};
	my $res = head($request, $answer);
	$res->headers->content_length(length $body);
	$res->content->write(
		substr($body, 0, $rule->{bytes} // int(length($body) / 2)),
		sub {
			hang_up($request);
			fired();
		});
	$request->{tx}->resume;
	return;
}

# Faults before a request is passed on; called with it and the rule.
my %before = (
	delay => sub {
		my ($request, $rule) = @_;
		my $on = sub { pass_and_give($request) unless is_over($request) || $still; };
		if   ($rule->{seconds}) { Mojo::IOLoop->timer($rule->{seconds} => $on); }
		else                    { push @halted, $on; }
		fired();
	},
	hang => sub { $still = 1; fired(); },
	drop => sub { hang_up($_[0]); fired(); },
	cut  => sub { go(); fired(); },
	late => sub {
		my ($request, $rule) = @_;
		push @late, $request;
		hang_up($request) if $rule->{drop};
		fired();
	},
	duplicate => sub {
		my ($request, $rule) = @_;
		pass(
			$request,
			sub {
				my ($first) = @_;
				pass(
					$request,
					sub {
						my ($second) = @_;
						give($request, ($rule->{give} // 'second') eq 'first' ? $first : $second);
						fired();
					});
			});
	},
	answer => sub { give($_[0], invented($_[1])); fired(); },
	huge => sub { give_huge(@_); fired(); },
);

# Faults afterwards; called with the request, the rule and the answer.
my %after = (
	lose          => sub { hang_up($_[0]); fired(); },
	lose_and_gone => sub { go(); fired(); },
	tear          => \&give_torn,
	broken        => sub {
		my ($request, undef, $answer) = @_;
		give($request, with_body(substr $answer->{body}, 0, length($answer->{body}) / 2));
		fired();
	},
	fewer => sub {
		my ($request, undef, $answer) = @_;
		give($request, with_body(encode_json(fewer(decode_json($answer->{body})))));
		fired();
	},
	shape => sub {
		my ($request, undef, $answer) = @_;
		give($request, with_body(encode_json({ answer => $answer->{body} })));
		fired();
	},
	html => sub { give($_[0], with_body('<html><body>Welcome</body></html>', 'text/html')); fired(); },
);

# ------------------------------------------------------------------- requests

# The rule that strikes a request, if one does.
sub rule_for
{
	my ($request) = @_;
	my $req = $request->{tx}->req;
	my $text;
	for my $rule (@rules)
	{
		next if defined $rule->{verb} && $rule->{verb} ne $request->{verb};
		$text //= join ' ', $req->method, $req->url->to_string, "HTTP/1.1\r\n"
		  . $req->headers->to_string . "\r\n\r\n" . $req->body;
		next if defined $rule->{match} && $text !~ $rule->{match};
		my $nth = ++$rule->{seen} - $rule->{nth};
		return $rule if $nth >= 0 && ($rule->{times} == 0 || $nth < $rule->{times});
	}
	return;
}

sub on_request
{
	my (undef, $tx) = @_;
	return if $still;
	my $path = $tx->req->url->path->to_string;
	my $request = { tx => $tx, era => $era, came => time, verb => $path =~ /:(\w+)\z/ ? $1 : $tx->req->method };
	my $rule = rule_for($request);
	my $fault = $rule ? $rule->{fault} : '';
	$count{came}{ $request->{verb} }++;
	$count{struck}{ $request->{verb} }++ if $rule;
	push @requests,
	  { verb => $request->{verb}, path => $path, time => time, fault => $fault, body => json($tx->req->body) }
	  if $record == 1;
	if (my $strike = $after{$fault} // ($rule && $rule->{applied} ? $before{$fault} : undef))
	{
		pass($request, sub { $strike->($request, $rule, $_[0]) unless is_over($request) || $still; });
	}
	elsif ($rule) { $before{$fault}->($request, $rule); }
	else          { pass_and_give($request); }
	return;
}

# --------------------------------------------------------------------- orders

my %order = (
	start => sub {
		my ($new) = @_;
		for my $rule (@$new)
		{
			die 'no such fault: ' . ($rule->{fault} // 'none given') . "\n"
			  unless $before{ $rule->{fault} // '' } || $after{ $rule->{fault} // '' };
			$rule->{nth} //= 1;
			$rule->{times} //= 1;
			next unless defined $rule->{match};
			utf8::encode($rule->{match});
			$rule->{match} = qr/$rule->{match}/;
		}
		go();
		@rules = @$new;
		@requests = ();
		%count = (came => {}, passed => {}, struck => {}, reads => 0, empty => 0, writes => 0);
		$daemon = Mojo::Server::Daemon->new(
			app                => $app,
			silent             => 1,
			listen             => ["http://127.0.0.1:$port"],
			inactivity_timeout => 0,
			keep_alive_timeout => 0,
			max_requests       => ~0);
		$daemon->unsubscribe('request')->on(request => \&on_request);
		$daemon->start;
		return 1;
	},
	stop     => sub { go();                                   return 1; },
	resume   => sub { $_->() for splice @halted;              return 1; },
	counts   => sub { return \%count; },
	requests => sub { return \@requests; },
	journal  => sub { return [ splice @journal ]; },
);

sub obey
{
	my ($name, $argument) = @{ decode_json($_[0]) };
	if ($name eq 'release')
	{
		my $request = shift @late or return report({ error => "no request is held\n" });
		return pass($request, sub { report({ answer => { status => $_[0]{status}, body => json($_[0]{body}) } }); });
	}
	my $answer = eval { $order{$name}->($argument) };
	return report(defined $answer ? { answer => $answer } : { error => $@ });
}

open my $socket, '+<&=', 0 or die "standard input: $!\n";
$control = Mojo::IOLoop::Stream->new($socket);
$control->timeout(0);
my $heard = '';
$control->on(
	read => sub {
		$heard .= $_[1];
		obey($1) while $heard =~ s/^(.*)\n//;
	});
$control->on(close => sub { exit 0; });
$control->start;
Mojo::IOLoop->start;
