# docs/guide.md, step by step as it stands there, from a server that has nothing
# to the morning after the first nightly run.  The night is short: the launcher's
# clock is the test's.

use strict;
use warnings;
use Test::More;
use Docs qw(document blocks run_statement);
use EkkSync;
use Time::Local qw(timegm);

my $noon = timegm(0, 0, 12, 3, 2, 2031);
my $db = EkkSync->new(preload => 0, extension => 0, attach => 0, clock => $noon);
my ($node, $host) = ($db->node, $db->host);
my %in = (socialism => $db, postgres => bless { %$db, database => 'postgres' }, ref $db);

# An empty server.
$node->safe_psql('postgres', 'DROP DATABASE socialism');
$node->safe_psql('postgres', 'DROP ROLE socialism');

my $guide = document('docs/guide.md');
my @blocks = blocks($guide);
cmp_ok(scalar @blocks, '>=', 8, 'the guide has blocks of SQL');

# What each statement said, by its beginning.
my @said;
sub said
{
	my ($beginning) = @_;
	return map { $_->[1] } grep { index($_->[0], $beginning) == 0 } @said;
}

# Run the blocks of the next sections, to the one whose heading has this word.
sub follow
{
	my ($word) = @_;
	while (my $block = shift @blocks)
	{
		for my $statement (@{ $block->{statements} })
		{
			my $out = run_statement($in{ $block->{database} }, $statement, admin => $block->{role} eq 'postgres', name => "$block->{heading}: ");
			push @said, [ $statement, $out ];
		}
		$node->restart if $block->{statements}[0] =~ /shared_preload_libraries/;
		return if $block->{heading} =~ /\b$word\b/ && (!@blocks || $blocks[0]{heading} ne $block->{heading});
	}
	die "the guide has no section with $word";
}

follow('server');
is($node->safe_psql('postgres', 'SHOW ekksync.databases'), 'socialism', 'the library is loaded');
follow('database');
$db->create_registry(40);				# manage.py migrate, and its members
$db->use_host($host);
follow('extension');
is($db->sql('SELECT count(*) FROM membership_membersyncqueue'), 0, 'there is a queue');

follow('Look');
my ($checks) = said('SELECT * FROM ekksync_check()');
unlike($checks, qr/^\w[\w ]*\|f\|/m, 'no check fails') or diag($checks);
like($checks, qr/\|t\|/, '... and some succeed');
is($db->count_docs('members'), 0, 'looking writes no document');
follow('first run');
like((said('SELECT run, status, to_firestore'))[0], qr/^\d+\|success\|40\|0\|0\|0\|/, 'the first run brings all members');
is(join('', said('SELECT * FROM ekksync_diff()'), said('SELECT side, member'), said('SELECT member, field, django_value')),
	'', '... and leaves nothing to say');
is($db->count_docs('members'), 40, 'there are documents');
is($db->count_docs('sync_logs'), 1, '... and one of the run');

follow('night');
my ($next) = said('SELECT next_run, health, reason');
like($next, qr/^2031-03-04 03:30:00\+00\|ok\|/, 'the next run is tonight');

# The day: an edit on each side.
my ($one, $two) = split /\n/, $db->sql('SELECT ssn FROM membership_comrade WHERE id IN (1, 2) ORDER BY id');
$db->sql("UPDATE membership_comrade SET name = 'Um daginn' WHERE ssn = '$one'");
$db->profile_edit($two, 'name', 'Af vefnum');
$db->set_clock(timegm(1, 30, 3, 4, 2, 2031));
my $run = $db->scheduled_run('2031-03-04 03:30:00+00');
is($run && "$run->{status} $run->{to_firestore} $run->{to_django}", 'success 1 1', 'at night there is a run');
is($db->doc($one)->{profile}{name}, 'Um daginn', '... which brings the day\'s edit to Firestore');
is($db->sql("SELECT name FROM membership_comrade WHERE ssn = '$two'"), 'Af vefnum', '... and the other to Django');

follow('morning');
like((said('SELECT run, scheduled'))[0], qr/^\d+\|2031-03-04 03:30:00\+00\|success\|1\|1\|0\|/, 'in the morning it is on record');
like((said('SELECT health, reason, pending'))[0], qr/^ok\|.*\|0\|0\|$/, '... and all is well');
is(scalar @blocks, 0, 'that was all of the guide');

# What it installs.
my ($wanted) = document('README.md') =~ /^apt-get install (.*)$/m;
my ($installed) = $guide =~ /^apt-get install ((?:.*\\\n)*.*)$/m;
is(join(' ', grep { $installed !~ /(?<!\S)\Q$_\E(?!\S)/ } split ' ', $wanted), '', 'the guide installs what the README wants');

done_testing();
