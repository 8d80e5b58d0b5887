# Weights in files beside a model: taken from its folder and from nowhere else, stored with the version, and gone with the
# last version that has them. A dump brings them along, and a tokenizer too.

use strict;
use warnings FATAL => 'all';

use File::Copy qw(copy);
use File::Path qw(make_path);
use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Utils;
use POSIX qw(mkfifo);
use Test::More;

my $models = "$FindBin::Bin/../models";
my $node   = server('files');
my $base   = $node->basedir;
$node->safe_psql('postgres', 'CREATE DATABASE origin');
$node->safe_psql('origin', 'CREATE EXTENSION pg_predict');

# The model is y = x * weights, with one weight in the file weights.bin.
my $three = pack 'f<', 3;

# A folder with the model and what `prepare` puts beside it; gives the path of the model.
sub folder
{
	my ($name, $prepare, $model) = @_;
	my $folder = "$base/$name/models";
	make_path($folder);
	copy("$models/" . ($model // 'external') . '.onnx', "$folder/external.onnx") or die "copy: $!";
	$prepare->($folder);
	return "$folder/external.onnx";
}

sub put
{
	my ($path, $content) = @_;
	open my $file, '>:raw', $path or die "$path: $!";
	print $file $content;
	close $file or die "$path: $!";
	return;
}

# Creates from a file and gives what went wrong, empty where nothing did.
sub create_error
{
	my ($name, $path) = @_;
	my ($rc, $out, $err) = $node->psql('origin', "\\set VERBOSITY verbose\nSELECT predict.create_model_from_file('$name', '$path')");
	return $rc == 0 ? '' : $err;
}

my $good = folder('good', sub { put("$_[0]/weights.bin", $three) });
is(create_error('good', $good), '', 'a file beside the model is taken');
is($node->safe_psql('origin', "SELECT predict('good', 2)"), '6', 'its weights are');
is($node->safe_psql('origin', "SELECT count(*) FROM predict.content"), '2', 'model and weights are stored');

unlink "$base/good/models/weights.bin";
is($node->safe_psql('origin', "SELECT predict('good', 2)"), '6', 'a version keeps its weights when the file is gone');

my $secret = "$base/secret";
put($secret, pack 'f<', 4711);
my %refused = (
	'a link out of the folder'      => [ sub { symlink $secret, "$_[0]/weights.bin" or die $! }, qr/42501.*may not be read: it is a link/s ],
	'a link inside the folder'      => [ sub { put("$_[0]/real.bin", $three); symlink 'real.bin', "$_[0]/weights.bin" or die $! }, qr/42501.*it is a link/s ],
	'another name of a file outside' => [ sub { link $secret, "$_[0]/weights.bin" or die $! }, qr/42501.*another name elsewhere/s ],
	'a pipe'                        => [ sub { mkfifo("$_[0]/weights.bin", 0600) or die $! }, qr/42501.*not a regular file/s ],
	'a folder'                      => [ sub { make_path("$_[0]/weights.bin") }, qr/42501.*not a regular file/s ],
	'no file'                       => [ sub { }, qr/58P01.*could not read file.*weights\.bin/s ],
	'too short a file'              => [ sub { put("$_[0]/weights.bin", 'ab') }, qr/22023/ ],
);
my $n = 0;
for my $what (sort keys %refused)
{
	my ($prepare, $expected) = @{ $refused{$what} };
	like(create_error("bad$n", folder('bad' . $n++, $prepare)), $expected, "$what is refused");
}
for my $model (qw(external_climbs external_memory))
{
	like(create_error('climbs', folder($model, sub { }, $model)), qr/22023.*(leaves the folder|keeps for itself)/s, "$model is refused");
}
is($node->safe_psql('origin', "SELECT count(*) FROM predict.models WHERE name LIKE 'bad%' OR name = 'climbs'"), '0', 'nothing of them is there');

# As bytes.
my $hex    = unpack 'H*', slurp_file("$models/external.onnx");
my $weight = unpack 'H*', $three;
$node->safe_psql('origin', "SELECT predict.create_model('bytes', '\\x$hex', external_data => '\\x$weight')");
is($node->safe_psql('origin', "SELECT predict('bytes', 5)"), '15', 'external_data is the file');
is($node->safe_psql('origin', "SELECT count(*) FROM predict.content"), '2', 'what is the same is stored once');
my ($rc, $out, $err) = $node->psql('origin', "SELECT predict.create_model('none', '\\x$hex')");
like($err, qr/weights\.bin": it was not given/, 'without it the model is refused');
my $whole = unpack 'H*', slurp_file("$models/linear.onnx");
($rc, $out, $err) = $node->psql('origin', "SELECT predict.create_model('none', '\\x$whole', external_data => '\\x$weight')");
like($err, qr/has all its weights in itself/, 'weights that nobody asked for are refused');

# A dump and what comes of it, with a tokenizer too.
my $tokens    = unpack 'H*', slurp_file("$models/tokens.onnx");
my $tokenizer = '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, '
  . '"post_processor": null, "decoder": null, "model": {"type": "WordLevel", "vocab": {"[UNK]": 1, "red": 2}, "unk_token": "[UNK]"}}';
$node->safe_psql('origin', "SELECT predict.create_model('tokens', '\\x$tokens', '{\"pooling\": \"mean\"}', '$tokenizer')");
my $question = "SELECT predict('good', 7), predict('bytes', 7), embed('tokens', 'red pink'), (SELECT count(*) FROM predict.content)";
my $answers  = $node->safe_psql('origin', $question);
is($answers, '21|21|{1.5,1}|4', 'answers before the dump');
command_ok([ 'pg_dump', '-Fc', '-f', "$base/dump", '-d', $node->connstr('origin') ], 'a dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), "$base/dump" ], 'is restored');
is($node->safe_psql('restored', $question), $answers, 'with the same answers');

# Damage is found.
$node->safe_psql('restored', "UPDATE predict.chunk SET data = '\\x00000000' WHERE length(data) = 4");
($rc, $out, $err) = $node->psql('restored', "\\set VERBOSITY verbose\nSELECT predict('good', 7)");
like($err, qr/XX001.*fail their hash/s, 'damaged weights are not used');

$node->safe_psql('origin', "SELECT predict.drop_model('good')");
is($node->safe_psql('origin', "SELECT predict('bytes', 7), count(*) FROM predict.content"), '21|4', 'weights that another version has stay');
$node->safe_psql('origin', "SELECT predict.drop_model('bytes'), predict.drop_model('tokens')");
is($node->safe_psql('origin', "SELECT (SELECT count(*) FROM predict.content), (SELECT count(*) FROM predict.chunk)"), '0|0', 'and go with the last');

$node->stop;
done_testing();
