# The kill matrix, database and tables ("Crash-proof", "Never blocks the
# application"): at each step of a run, and while each of its requests hangs,
# the database or the extension is dropped, and the tables concerned are altered
# and truncated.  See KillMatrix.pm.

use strict;
use warnings;
use utf8;
use KillMatrix qw(drop_databases emptied execute sides);
use Test::More;

my $matrix = KillMatrix->new;

$matrix->try(
	'columns added',
	execute('ALTER TABLE ... ADD COLUMN', <<'SQL'),
ALTER TABLE membership_comrade ADD COLUMN nickname text;
ALTER TABLE membership_contactinfo ADD COLUMN telex text;
ALTER TABLE membership_membersyncqueue ADD COLUMN remark text;
SQL
	goes_on => 1,
	before  => sub { $_[0]{db}->sql(<<'SQL'); });
ALTER TABLE membership_comrade DROP COLUMN nickname;
ALTER TABLE membership_contactinfo DROP COLUMN telex;
ALTER TABLE membership_membersyncqueue DROP COLUMN remark;
SQL

# What a renamed column was in the way of has failed, and is tried again.
$matrix->try(
	'a column renamed, and back',
	execute('ALTER TABLE ... RENAME COLUMN', 'ALTER TABLE membership_contactinfo RENAME facebook TO fésbók'),
	goes_on => 1,
	before  => sub {
		my ($cell) = @_;
		$cell->{db}->sql('ALTER TABLE membership_contactinfo RENAME fésbók TO facebook');
		$cell->{db}->sql("UPDATE membership_membersyncqueue SET sync_status = 'pending' WHERE sync_status = 'failed'");
		my $failed = $cell->{db}->docs('sync_queue', where => [ sync_status => 'failed' ]);
		$cell->{db}->patch_doc("sync_queue/$_", { sync_status => 'pending' }) for keys %$failed;
	},
	check => sides(1));

# Who drops the extension drops what it knew; what the queues say is still there.
$matrix->try(
	'extension dropped',
	execute('DROP EXTENSION', 'DROP EXTENSION ekksync'),
	goes_on => 1,
	before  => sub {
		my ($cell) = @_;
		$cell->{db}->create_extension;
		$cell->{db}->attach;
	},
	check => sides(1));

# Who empties the queue drops what it said.  Members are looked at without it
# when a field is mapped anew; those that nobody knows yet when they are edited.
$matrix->try(
	'queue truncated',
	execute('TRUNCATE of the queue', 'TRUNCATE membership_membersyncqueue'),
	goes_on => 1,
	before  => sub {
		my ($cell) = @_;
		$cell->{db}->sql(<<'SQL');
SELECT ekksync_map('name', 'profile.name', 'text', "column" => 'name');
UPDATE membership_comrade SET housing_situation = 1 WHERE id IN (7, 1001);
SQL
	},
	check => sides(1));
$matrix->try(
	'related table truncated',
	execute('TRUNCATE of a related table', 'TRUNCATE membership_contactinfo'),
	goes_on => 1,
	check   => sides(0));
$matrix->try(
	'member table truncated',
	execute('TRUNCATE of the member table', 'SET client_min_messages = warning; TRUNCATE membership_comrade CASCADE'),
	goes_on => 1,
	check   => \&emptied);
$matrix->try('database dropped', \&drop_databases, check => sub { });

done_testing();
