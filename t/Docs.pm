# Docs.pm: the documents as tests read them: their statements of SQL, which run,
# and their headings and links.

package Docs;

use strict;
use warnings;
use Carp qw(croak);
use Exporter qw(import);
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

our @EXPORT_OK = qw(document statements blocks run_statement anchors);

# A file of the checkout, as text.
sub document
{
	my ($file) = @_;
	my $text = slurp_file("$ENV{EKKSYNC_TOP}/$file");
	utf8::decode($text);
	return $text;
}

# The statements of the blocks of SQL, without comments.
sub statements
{
	my ($text) = @_;
	return map { _split($_) } $text =~ /^```sql\n(.*?)^```$/msg;
}

sub _split
{
	my ($block) = @_;
	$block =~ s/^--.*\n//mg;
	return grep { /\S/ } split /;\s*\n\s*/, $block;
}

# The blocks of SQL, each a hash: heading (that it stands under), role and
# database (by its first line, "-- ROLE, in DATABASE"), statements.
sub blocks
{
	my ($text) = @_;
	my ($heading, @found) = ('');
	while ($text =~ /^(?:#+ ([^\n]*)|```sql\n(.*?)^```)$/msg)
	{
		if (defined $1) { $heading = $1; next; }
		my $block = $2;
		my ($role, $database) = $block =~ /^-- (\w+), in (\w+)$/m
		  or croak("who runs this? $block");
		push @found, { heading => $heading, role => $role, database => $database, statements => [ _split($block) ] };
	}
	return @found;
}

# A test: run a statement, as the superuser or as the registry's role, to the
# end of the run that it may have begun.  It may warn.  The project is the
# test's own.
sub run_statement
{
	my ($db, $statement, %arg) = @_;
	my ($name) = $statement =~ /^(.*)/;
	my $project = $db->project;
	$statement =~ s/'my-project'/'$project'/;
	my ($status, $out, $error) = $arg{admin} ? $db->admin_err($statement) : $db->sql_err($statement);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is("$status $error" =~ s/^(\d+) (?:(?:psql:\S+ )?(?:NOTICE|WARNING): .*\n?(?:(?:DETAIL|HINT): .*\n?)*)*$/$1/r,
		'0', ($arg{name} // '') . $name);
	$db->wait_for(
		sub {
			$db->admin_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ekksync run'") == 0;
		}) or croak('a run does not end');
	return $out;
}

# The anchors of a document's headings, as GitHub makes them.
sub anchors
{
	my ($text) = @_;
	$text =~ s/^```.*?^```$//msg;
	my (%seen, @anchors);
	for my $anchor (map { lc s/`//gr =~ s/[^\w\- ]//gr =~ s/ /-/gr } $text =~ /^#+ (.*)$/mg)
	{
		my $again = $seen{$anchor}++;
		push @anchors, $again ? "$anchor-$again" : $anchor;
	}
	return @anchors;
}

1;
