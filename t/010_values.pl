# Values there and back through the emulator: what the codecs write is taken,
# read back as the same canonical value, and reached by quoted field paths.

use strict;
use warnings;
use utf8;
use Test::More;
use HTTP::Tiny;
use JSON::PP ();
use EkkSync;

my $db = EkkSync->new(attach => 0);
my $http = HTTP::Tiny->new(timeout => 60, http_proxy => undef);
my $root = 'projects/' . $db->project . '/databases/(default)/documents';

# One REST call with JSON as text, so that no number is changed on its way;
# returns status and answer.
sub call
{
	my ($method, $url, $text) = @_;
	utf8::encode($text) if defined $text;
	my $answer = $http->request($method, 'http://' . $db->host . "/v1/$root$url",
		{
			headers => { 'content-type' => 'application/json' },
			defined $text ? (content => $text) : ()
		});
	utf8::decode(my $content = $answer->{content});
	return ($answer->{status}, $content);
}

# A text as a test's name.
sub name
{
	my ($text) = @_;
	return substr($text, 0, 80) =~ s/([^ -~])/sprintf '\\x{%x}', ord $1/ger;
}

# The answer of a call that succeeds.
sub call_ok
{
	my ($status, $content) = call(@_);
	die "status $status: $content" unless $status == 200;
	return $content;
}

# --------------------------------------------------------------- there and back

# Write [codec, canonical, options] as values of one document, and decode what
# is there then.
sub there_and_back
{
	my ($cases) = @_;
	$db->admin_sql('CREATE TABLE IF NOT EXISTS value_case (id int, codec text, canon jsonb, options jsonb)');
	$db->admin_sql('TRUNCATE value_case');
	my $id = 0;
	$db->admin_sql('INSERT INTO value_case VALUES ' . join(', ',
			map { sprintf('(%d, %s, %s, %s)', ++$id, map { $db->quote($_) } @$_[ 0 .. 2 ]) } @$cases));
	my $body = $db->admin_sql(<<'SQL');
SELECT jsonb_build_object('fields', jsonb_object_agg('c' || id, ekksync.encode_value(codec, canon, options)))
FROM value_case
SQL
	call_ok(PATCH => '/v/values', $body);
	my $doc = $db->quote(call_ok(GET => '/v/values'));
	$id = 0;
	for my $case (@$cases)
	{
		my ($codec, $canon, $options) = @$case;
		$id++;
		my $back = $db->admin_sql(<<"SQL");
SELECT ekksync.decode_value(codec, $doc\::jsonb -> 'fields' -> ('c' || id), options) FROM value_case WHERE id = $id
SQL
		my $expected = $db->admin_sql("SELECT canon FROM value_case WHERE id = $id");
		is($back, $expected, name("$codec $expected"));
	}
	return;
}

my $pairs = '{"unknown": 0, "male": 1, "kona": 2}';
there_and_back([
	[ 'text', 'null' ],
	[ 'text', '"Þóra Ægisdóttir ÁÉÍÓÚÝÐÖ áéíóúýðö"' ],
	[ 'text', '"😀 👩‍👩‍👧 \u2028 \u2029"' ],
	[ 'text', '"\"quoted\" \\\\ back / slash"' ],
	[ 'text', '"tab\tnewline\nreturn\rfeed\fback\b bell\u0007 unit\u001f del\u007f"' ],
	[ 'text', '" "' ],
	[ 'int',  '0' ],
	[ 'int',  '9223372036854775807' ],
	[ 'int',  '-9223372036854775808' ],
	[ 'int',  '9007199254740993' ],
	[ 'bool', 'true' ],
	[ 'bool', 'false' ],
	[ 'date', '"0001-01-01"' ],
	[ 'date', '"9999-12-31"' ],
	[ 'timestamp', '"0001-01-01T00:00:00.000000Z"' ],
	[ 'timestamp', '"1969-12-31T23:59:59.999999Z"' ],
	[ 'timestamp', '"2026-11-22T13:39:02.250584Z"' ],
	[ 'timestamp', '"2026-11-22T13:39:02.000001Z"' ],
	[ 'timestamp', '"2026-11-22T13:39:02.100000Z"' ],
	[ 'timestamp', '"9999-12-31T23:59:59.999999Z"' ],
	[ 'numeric', '"123456789012345678901234567890.123456789012345678901234567891"' ],
	[ 'enum', '1', $pairs ],
	[ 'enum', '2', $pairs ],
	[ 'enum', 'null', $pairs ],
	[ 'kennitala', '"1201743399"' ],
	[ 'phone',  '"555-1234"' ],
	[ 'text[]', '[]' ],
	[ 'text[]', '["b", "a", "b", "", "Þ, \"ð\""]' ],
	[ 'jsonb',  '{}' ],
	[ 'jsonb',  '[]' ],
	[ 'jsonb', '""' ],
	[ 'jsonb', '{"símanúmer": [1, -2.25, true, false, null, "ð", {"a.b": {"back`tick": [], "sp ace": {}}}]}' ],
	[ 'jsonb', '[9223372036854775807, -9223372036854775808, 0.1, 1e300, 5e-324, 1.7976931348623157e308, -1e22]' ],
]);

# the largest text, and 20 levels
for my $case (
	[ 'text of 1048487 bytes', q{'text', to_jsonb(repeat('ð', 524243) || 'x')} ],
	[ '20 levels', q{'jsonb', (repeat('{"a": ', 20) || '1' || repeat('}', 20))::jsonb} ],
	[ '10 arrays and 10 maps', q{'jsonb', (repeat('[{"a": ', 10) || '1' || repeat('}]', 10))::jsonb} ])
{
	my ($name, $args) = @$case;
	my ($status) = call(PATCH => '/v/large',
		$db->admin_sql("SELECT jsonb_build_object('fields', jsonb_build_object('v', ekksync.encode_value($args)))"));

	is($status, 200, "$name is taken");
}

# ------------------------------------------------------- values made by others

# Write a Value as others may, and read it by a codec.
for my $case (
	[ '{"doubleValue": 3}', 'int', '3' ],
	[ '{"doubleValue": 0.1}', 'numeric', '"0.1"' ],
	[ '{"doubleValue": 1e300}', 'jsonb', '1' . '0' x 300 ],
	[ '{"doubleValue": -0.0}', 'jsonb', '0' ],
	[ '{"doubleValue": "NaN"}', 'jsonb', qr/NaN/ ],
	[ '{"doubleValue": "NaN"}', 'numeric', qr/NaN/ ],
	[ '{"doubleValue": "Infinity"}', 'int', qr/Infinity/ ],
	[ '{"integerValue": 1}', 'enum', '1' ],
	[ '{"stringValue": "kona"}', 'enum', '2' ],
	[ '{"timestampValue": "2026-11-22T13:39:02.123456789+02:00"}', 'timestamp', '"2026-11-22T11:39:02.123456Z"' ],
	[ '{"stringValue": "2026-11-22T13:39:02Z"}', 'timestamp', '"2026-11-22T13:39:02.000000Z"' ],
	[ '{"stringValue": "2024-02-30"}', 'date', qr/2024-02-30/ ],
	[ '{"timestampValue": "2024-02-29T00:00:00Z"}', 'date', qr/timestampValue/ ],
	[ '{"geoPointValue": {"latitude": 0, "longitude": 0}}', 'jsonb', '{"latitude": 0, "longitude": 0}' ],
	[ '{"geoPointValue": {"latitude": 64.15, "longitude": -21.94}}', 'jsonb', '{"latitude": 64.15, "longitude": -21.94}' ],
	[ '{"bytesValue": "3q2-7w"}', 'jsonb', '"3q2+7w=="' ],
	[ qq({"referenceValue": "$root/c/ð"}), 'jsonb', qq("$root/c/ð") ],
	[ '{"mapValue": {}}', 'jsonb', '{}' ],
	[ '{"arrayValue": {}}', 'text[]', '[]' ],
	[ '{"arrayValue": {"values": [{"nullValue": null}]}}', 'text[]', qr/nullValue/ ],
	[ '{"stringValue": "\ud83d"}', 'text', '"?"' ],
	[ '{"nullValue": "NULL_VALUE"}', 'bool', 'null' ])
{
	my ($value, $codec, $expected) = @$case;
	call_ok(PATCH => '/v/other', qq({"fields": {"v": $value}}));
	my $doc = $db->quote(call_ok(GET => '/v/other'));
	my $options = $codec eq 'enum' ? $db->quote($pairs) : 'NULL';
	my (undef, $out, $error) = $db->_psql(undef, 'socialism',
		"SELECT ekksync.decode_value('$codec', $doc\::jsonb -> 'fields' -> 'v', $options)");
	if (ref $expected)
	{
		like($error, $expected, name("$codec refuses $value"));
	}
	else
	{
		is($out, $expected, name("$codec reads $value"));
	}
}

# ----------------------------------------------------------------- field paths

my $json = JSON::PP->new->canonical;
my @keys = ('símanúmer', 'a.b', 'back`tick', 'sp ace', 'back\\slash', '1st', 'plain_1', 'þ😀"\'');
my %map = map { $_ => { integerValue => '0' } } @keys;
call_ok(PATCH => '/v/paths', $json->encode({ fields => { m => { mapValue => { fields => \%map } } } }));
for my $key (@keys)
{
	my $quoted = $key =~ s/([`\\])/\\$1/gr;
	my $path = $db->admin_sql('SELECT ekksync.field_path(' . $db->quote("m.`$quoted`") . ')');
	call_ok(POST => ':commit', $json->encode({
		writes => [ {
			update => {
				name   => "$root/v/paths",
				fields => { m => { mapValue => { fields => { $key => { integerValue => '1' } } } } }
			},
			updateMask      => { fieldPaths => [$path] },
			currentDocument => { exists     => JSON::PP::true }
		} ] }));
	$map{$key} = { integerValue => '1' };
	my $doc = $json->decode(call_ok(GET => '/v/paths'));
	is_deeply($doc->{fields}{m}{mapValue}{fields}, \%map, name("$path names one key"));
}

done_testing();
