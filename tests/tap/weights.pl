# What models are loaded from: files in the data directory that all backends share. They are checked, made anew where they are lost or damaged,
# bounded, gone with the model, and no part of a base backup; weights that are shared are not each backend's own; a model that
# nobody uses for a time is dropped; load_model() loads one before it is needed.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $root = $ENV{PG_PREDICT_ROOT};
my $node = server('weights', init => { allows_streaming => 1 }, conf => "shared_preload_libraries = 'pg_predict'\nmax_connections = 30\n");
sub ask { return $node->safe_psql('postgres', $_[0]) }
my $cache = $node->data_dir . '/pgsql_tmp_pg_predict';
sub entries { my @all = grep { !m{/new-} } glob "$cache/*"; return @all }
sub file { my ($entry, $name) = @_; return "$entry/$name" }
sub log_end { return -s $node->logfile }

# A model with a single small file.
ask("SELECT predict.create_model_from_file('credit', '$root/models/diamonds.onnx', '{\"features\": [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\"]}')");
my $predict = "SELECT predict('credit', 1, 2, 3, 4, 5, 6, 7, 8, 9)";
is(scalar(entries()), 0, 'creating a model keeps no files');
my $answer = ask($predict);
is(scalar(entries()), 1, 'loading it keeps them');
is((stat $cache)[2] & 0777, 0700, 'in a folder that nobody else reads');
my ($entry) = entries();
ok(-s file($entry, 'model.onnx') && -s file($entry, 'list.json'), 'the model and the list of its files');
my $inode = (stat file($entry, 'model.onnx'))[1];
is(ask($predict), $answer, 'another backend answers the same');
is((stat file($entry, 'model.onnx'))[1], $inode, 'from the same file');

# Lost and damaged.
for my $case ('the model is cut', 'the model is changed', 'the model is gone', 'the list is gone', 'the list is no list', 'everything is gone')
{
	my $model = file($entry, 'model.onnx');
	my $bytes = slurp_file($model);
	if    ($case =~ /cut/)        { truncate $model, length($bytes) / 2 or die $!; }
	elsif ($case =~ /changed/)    { substr($bytes, length($bytes) / 2, 1) ^= "\1"; open my $f, '>:raw', $model or die $!; print $f $bytes; close $f; }
	elsif ($case =~ /model is gone/) { unlink $model or die $!; }
	elsif ($case =~ /list is gone/)  { unlink file($entry, 'list.json') or die $!; }
	elsif ($case =~ /no list/)    { open my $f, '>', file($entry, 'list.json') or die $!; print $f 'x'; close $f; }
	else                          { system('rm', '-rf', $cache) == 0 or die; }
	is(ask($predict), $answer, "$case: the same answer");
	is(slurp_file(file($entry, 'model.onnx')), slurp_file("$root/models/diamonds.onnx"), "$case: and the files are as they were");
}

# Where nothing can be written, models load all the same, and the log says why they are not kept.
system('rm', '-rf', $cache) == 0 or die;
open my $in_the_way, '>', $cache or die $!;
close $in_the_way;
my $from = log_end();
is(ask($predict), $answer, 'a file in the place of the folder keeps nothing from being answered');
ok(wait_for(sub { slurp_file($node->logfile, $from) =~ /model "credit\@1" could not be kept in the file cache/ }), 'and the log says so');
unlink $cache or die $!;
is(ask("SET pg_predict.file_cache_size = 0; $predict"), $answer, 'without a cache the answer is the same');
ok(!-e $cache, 'and nothing is kept');

# Bounded: three models of 8 MB where there is room for two.
my $large = large_model($node->basedir, 300);
ask("SELECT predict.create_model_from_file('large_$_', '$large', '{\"batch_size\": $_}')") for 1;
sub all_bytes { my $all = 0; $all += -s $_ for glob "$cache/*/*"; return $all }
ask("SELECT predict.load_model('large_1')");
my ($weights) = glob "$cache/*/weights.bin";
ok($weights && -s $weights > 8_000_000, 'large weights lie in a file of their own');
ok(-s((glob "$cache/*/model.onnx")[0]) < 100_000, 'and not in the model');
ask("SET pg_predict.file_cache_size = '1MB'; $predict");
ok(all_bytes() < 1 << 20, 'the files used longest ago go where there are too many bytes') or diag(all_bytes());
ask("SET pg_predict.file_cache_size = '1MB'; SELECT predict.load_model('large_1')");
ok(all_bytes() < 1 << 20, 'what is larger than the cache is not kept, and loads');

# Gone with the model; what was never finished goes too, when it is old.
ask("$predict; SELECT predict.load_model('large_1')");
is(scalar(entries()), 2, 'two models, two entries');
mkdir "$cache/new-1-x" or die $!;
utime time - 7200, time - 7200, "$cache/new-1-x" or die $!;
mkdir "$cache/new-2-x" or die $!;
ask("SELECT predict.drop_model('credit')");
is(scalar(entries()), 1, 'a model that is dropped takes its files along');
ask("SELECT predict.create_model_from_file('credit', '$root/models/diamonds.onnx'); SELECT predict.load_model('credit')");
ok(!-e "$cache/new-1-x" && -e "$cache/new-2-x", 'what was left unfinished long ago goes, what may be under way stays');

# No part of a base backup.
$node->backup('without');
ok(!-e $node->backup_dir . '/without/pgsql_tmp_pg_predict', 'a base backup has none of it');

# Many backends at once make one entry.
system('rm', '-rf', $cache) == 0 or die;
my @crowd = map { session($node) } 1 .. 8;
$_->ask("SELECT predict.load_model('large_1')") for @crowd;
my @came = map { $_->wait(60) } @crowd;
is(scalar(grep { $_->{code} } @came), 0, 'eight backends load at once');
is(scalar(entries()), 1, 'and keep one entry');

# Weights that are shared are not each backend's own.
sub private_kb
{
	my ($session) = @_;
	my $all = 0;
	for my $pid (grep { defined } $session->pid, model_process($session))
	{
		my $text = slurp_file("/proc/$pid/smaps_rollup");
		$all += $1 while $text =~ /^Private_\w+:\s+(\d+) kB/mg;
	}
	return $all;
}
my ($own, $shared) = (session($node), session($node));
$shared->run('SET pg_predict.share_weights = on');
my $call = "SELECT predict('large_1', array_fill(1::real, ARRAY[7168]))";
my %before = map { $_ => private_kb($_) } $own, $shared;
my @answers = map { $_->run($call)->{rows}[0][0] } $own, $shared;
is($answers[0], $answers[1], 'shared weights give the same answer');
my %grown = map { $_ => private_kb($_) - $before{$_} } $own, $shared;
cmp_ok($grown{$shared}, '<', $grown{$own} - 6000, "a backend that shares them has $grown{$shared} kB more of its own, another one $grown{$own} kB");

# load_model() says how long the load took, and 0 where there was nothing to do.
my $loader = session($node);
cmp_ok($loader->run("SELECT predict.load_model('large_1')")->{rows}[0][0], '>', 0, 'load_model() loads');
is($loader->run("SELECT predict.load_model('large_1\@1')")->{rows}[0][0], 0, 'and has nothing to do the second time');
is($loader->run("SELECT predict.load_model('nothing')")->{code}, '42704', 'a model that is not there is an error');
ask('CREATE ROLE stranger');
is($loader->run('SET ROLE stranger')->{code}, undef, 'as another role');
is($loader->run("SELECT predict.load_model('large_1')")->{code}, '42501', 'that may not use it, neither');

# Idle ones go by themselves, while the backend does nothing; what is used stays.
my $idle = session($node);
$idle->run("SET pg_predict.session_idle_timeout = '300ms'");
$idle->run($call);
my $kept = "SELECT count(*) FROM predict.stat_sessions WHERE pid = " . $idle->pid;
is(ask($kept), 1, 'a loaded model is shown');
my $kb = session_kb($idle, 'VmRSS');
ok(wait_for(sub { ask($kept) == 0 }, 10), 'and dropped when nobody has used it for the time');
ok(wait_for(sub { session_kb($idle, 'VmRSS') < $kb - 6000 }, 10), 'and its memory is given back') or diag("$kb kB before, " . session_kb($idle, 'VmRSS'));
is($idle->run($call)->{rows}[0][0], $answers[0], 'it is loaded again when it is needed');
is(scalar(named_threads($idle->pid, 'pg_predict idle')), 1, 'one thread of the backend watches');
$idle->run("SET pg_predict.session_idle_timeout = 0");
$idle->run($call);
sleep 1;
is(ask($kept), 1, 'without the setting it stays');
ask("SELECT predict.create_model_from_file('slow', '$root/tests/models/slow.onnx')");
$idle->run("SET pg_predict.session_idle_timeout = '50ms'");
$idle->ask("SELECT count(predict('slow', g)) FROM generate_series(1, 2000) g");
is($idle->wait(120)->{code}, undef, 'a query that runs longer than the time keeps its model');

clean_log($node, 'no process of the server crashed');
done_testing();
