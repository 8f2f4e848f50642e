# The reference says what the catalog says: its list of functions and views is
# made of the comments there, its headings have their arguments, its tables the
# defaults of these.  Its statements run.  And all documents name only what
# there is: functions, views, settings, each other.
#
# Where the list is not what it should be, the file as it should be is left
# among the logs: .dev/check/log/tap/reference.md.

use strict;
use warnings;
use utf8;
use Test::More;
use Docs qw(document statements run_statement anchors);
use EkkSync;
use PostgreSQL::Test::Utils ();

my $top = $ENV{EKKSYNC_TOP};
my $reference = document('docs/reference.md');
my $db = EkkSync->new(members => 40);

# ----------------------------------------------------------------- the catalog

# Functions and views: name, comment, and of functions the arguments as [name,
# type, default] and the type returned ('rows' for several).
my @functions = map { $_->{row} } $db->rows(<<'SQL');
SELECT json_build_object(
	'name', CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || p.proname,
	'comment', obj_description(p.oid, 'pg_proc'),
	'returns', CASE WHEN p.proretset OR p.prorettype = 'record'::regtype THEN 'rows' ELSE p.prorettype::regtype::text END,
	'arguments', (SELECT coalesce(json_agg(json_build_array(quote_ident(a.name), a.type::regtype::text,
			pg_get_function_arg_default(p.oid, a.number::integer)) ORDER BY a.number), '[]')
		FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes, p.proargnames) WITH ORDINALITY AS a(type, mode, name, number)
		WHERE coalesce(a.mode, 'i') = 'i')) AS row
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'ekksync'
ORDER BY n.nspname = 'ekksync', p.proname COLLATE "C", p.oid::regprocedure::text COLLATE "C"
SQL
my @views = $db->rows(<<'SQL');
SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname AS name,
	obj_description(c.oid, 'pg_class') AS comment
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'ekksync'
WHERE c.relkind = 'v'
ORDER BY n.nspname = 'ekksync', c.relname COLLATE "C"
SQL
cmp_ok(scalar @functions, '>=', 24, 'there are functions');
cmp_ok(scalar @views,     '>=', 12, 'there are views');

# Names and defaults as one writes them.
for my $function (@functions)
{
	$function->{returns} =~ s/^timestamp with time zone$/timestamptz/;
	for my $argument (@{ $function->{arguments} })
	{
		$argument->[1] =~ s/^timestamp with time zone$/timestamptz/;
		$argument->[2] =~ s/^(.*?)(?:::[\w\[\] ]+)?$/$1/ if defined $argument->[2];
		$argument->[2] =~ s/^NULL$/null/                if defined $argument->[2];
	}
}

# "name(a text, b integer) → bigint"; with defaults, if wanted.
sub signature
{
	my ($function, $defaults) = @_;
	my $arguments = join ', ', map { "$_->[0] $_->[1]" . ($defaults && defined $_->[2] ? " = $_->[2]" : '') } @{ $function->{arguments} };
	my $returns = $function->{returns};
	return "$function->{name}($arguments)" . ($returns eq 'void' || !$defaults && $returns eq 'rows' ? '' : " → $returns");
}

# -------------------------------------------------------------- the whole list

sub list
{
	my ($head, @rows) = @_;
	return join '', map { "$_\n" } "| $head | |", '|---|---|', map { "| `$_->[0]` | " . $_->[1] =~ s/\|/\\|/gr . ' |' } @rows;
}

my $begin = "<!-- made of the catalog's comments, see t/003_reference.pl -->\n";
my $end = "<!-- end -->\n";
my $list = join "\n", $begin,
  list(function => map { [ signature($_, 1), $_->{comment} // '' ] } grep { $_->{name} !~ /\./ && $_->{returns} ne 'trigger' } @functions),
  list(view => map { [ @$_{qw(name comment)} ] } grep { $_->{name} !~ /\./ } @views), $end;
my $found = $reference =~ /\Q$begin\E.*?\Q$end\E/s ? $& : '';
unless (is($found, $list, 'the list of functions and views is that of the catalog'))
{
	my $file = "$PostgreSQL::Test::Utils::log_path/reference.md";
	open my $to, '>:utf8', $file or die "$file: $!";
	print $to $reference =~ s/\Q$begin\E.*?\Q$end\E/$list/sr;
	close $to or die "$file: $!";
	diag('as it should be: .dev/check/log/tap/reference.md; cp it over docs/reference.md');
}
is(join(' ', map { $_->{name} } grep { ($_->{comment} // '') eq '' } @functions, @views), '', 'everything has a comment');
is(join(' ', map { $_->{name} } grep { $_->{comment} !~ /^[^A-Z]/ || $_->{comment} =~ /[.\n]$/ } @functions, @views), '',
	'... which is one phrase: no capital, no full stop');

# ------------------------------------------------------------------- headings

# Headings with calls, and what stands under each.
my %section;
for my $part (split /^(?=##)/m, $reference)
{
	my ($heading, $text) = $part =~ /^### ([^\n]*\([^\n]*)\n(.*)/s or next;
	$section{$1} = $text while $heading =~ /(ekksync_\w+\(.*?\)(?: → [\w\[\]]+)?)(?:, |$)/g;
}
my @calls = grep { $_->{name} !~ /\./ } @functions;
my %call = map { signature($_) => 1 } @calls;
is(join("\n", grep { !$section{$_} } sort keys %call), '', 'each call has a heading, with its arguments');
is(join("\n", grep { !$call{$_} } sort keys %section), '', '... and there is none of anything else');

for my $function (@calls)
{
	my $text = $section{ signature($function) } // next;
	my ($table) = $text =~ /^\| argument \| default \| \|\n\|[-|]+\n((?:\|.*\n)*)/m or next;
	my %default = map { ($_->[0] =~ s/"//gr => $_->[2] // 'none') } @{ $function->{arguments} };
	while ($table =~ /^\| (.*?) \| (.*?) \|/mg)
	{
		my ($names, $said) = ($1, $2);
		$said =~ s/`//g;
		is($default{$_} // 'no such argument', $said, "$function->{name}: default of $_") for $names =~ /`(\w+)`/g;
	}
}

# ----------------------------------------------------------------- statements

# What the examples take for granted.
$db->admin_sql('CREATE ROLE watcher; CREATE ROLE auditor');
$db->sql("UPDATE membership_comrade SET ssn = '1201743399' WHERE id = 1; UPDATE membership_comrade SET ssn = '2112982049' WHERE id = 2");
$db->run;
my @statements = statements($reference);
cmp_ok(scalar @statements, '>=', 7, 'the reference shows statements');
run_statement($db, $_, admin => scalar(/^(?:GRANT|ALTER DATABASE)\b/)) for @statements;

# ---------------------------------------------------- what the documents name

my %exists = map { $_ => 1 } map { s/.*\.//r } (map { $_->{name} } @functions, @views),
  split /\n/, $db->sql('SELECT DISTINCT name FROM ekksync_metrics');
my %setting = map { $_ => 1 } split /\n/, $db->admin_sql(q(SELECT name FROM pg_settings WHERE name LIKE 'ekksync.%'));
my %object = map { $_ => 1 } split /\n/, $db->admin_sql(<<'SQL');
SELECT 'ekksync.' || relname FROM pg_class WHERE relnamespace = 'ekksync'::regnamespace
UNION ALL SELECT 'ekksync.' || proname FROM pg_proc WHERE pronamespace = 'ekksync'::regnamespace
UNION ALL SELECT 'ekksync.' || c.relname || '.' || attname FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
	WHERE relnamespace = 'ekksync'::regnamespace
SQL

# ... and in Django: modules, models, permissions
my $django = join ' ', map { m{(\w+)\.py$}, document(s{^\Q$top\E/}{}r) } glob "$top/django/ekksync/*.py";

my @documents = ('README.md', map { s{^\Q$top\E/}{}r } glob "$top/docs/*.md");
my %text = map { $_ => document($_) } @documents;
my %anchors = map { my $file = $_; $file => { map { $_ => 1 } anchors($text{$file}) } } @documents;
for my $file (@documents)
{
	my $code = '';
	while ($text{$file} =~ /^```(\w*)\n(.*?)^```$/msg) { $code .= $2 if $1 ne 'python'; }
	$code .= join "\n", $text{$file} =~ s/^```.*?^```$//msgr =~ /`([^`]+)`/g;
	my %unknown;
	$exists{$1} or $unknown{$1} = 1 while $code =~ /(?<![\w.\/])(ekksync_\w+)/g;
	$setting{$1} || $object{$1} or $unknown{$1} = 1 while $code =~ /(?<![\w\/.-])(ekksync\.[a-z]\w*(?:\.\w+)?)/g;
	delete @unknown{ grep { /\.(?:c|so|control|clock)$/ || /\.(\w+)$/ && $django =~ /\b$1\b/ } keys %unknown };	# files, and Django's
	is(join(' ', sort keys %unknown), '', "$file names only what there is");

	my @broken;
	while ($text{$file} =~ /\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)/g)
	{
		my ($to, $anchor) = ($1, $2);
		my $target = $to eq '' ? $file : $file =~ s{[^/]*$}{}r . $to;
		1 while $target =~ s{[^/]+/\.\./}{};
		push @broken, "$to#" . ($anchor // '')
		  if !-e "$top/$target" || defined $anchor && !$anchors{$target}{$anchor};
	}
	is("@broken", '', '... and its links lead somewhere');
}
is(join(' ', grep { my $file = s{^docs/}{}r; $text{'README.md'} !~ /\(\Q$_\E/ && !grep { /\(\Q$file\E/ } values %text } grep { m{^docs/} } @documents),
	'', 'there is a link to every document');

done_testing();
