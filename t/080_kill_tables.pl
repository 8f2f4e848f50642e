# The kill matrix, database and tables ("Crash-proof", "Never blocks the
# application"): at each step of a run, and while each of its requests hangs,
# the database or the extension is dropped, and the tables concerned are altered
# and truncated.  See KillMatrix.pm.

use strict;
use warnings;
use utf8;
use KillMatrix qw(execute);
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
	before  => <<'SQL');
ALTER TABLE membership_comrade DROP COLUMN nickname;
ALTER TABLE membership_contactinfo DROP COLUMN telex;
ALTER TABLE membership_membersyncqueue DROP COLUMN remark;
SQL
$matrix->try(
	'a column renamed, and back',
	execute('ALTER TABLE ... RENAME COLUMN', 'ALTER TABLE membership_contactinfo RENAME facebook TO fésbók'),
	goes_on => 1,
	before  => 'ALTER TABLE membership_contactinfo RENAME fésbók TO facebook');

done_testing();
