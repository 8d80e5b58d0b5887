# A model that crashes, hangs or eats memory when it is tried is refused with a clear error, and the server is untouched: the
# trial is a process of its own, alone in its group, with next to nothing inherited. And what a trial has passed does not
# take the server down later.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

local $ENV{PG_PREDICT_SECRET} = 'not for models';
my $node = server('probe');
create_model($node, 'double');
my $session = session($node);
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

sub try_model
{
	my ($name, $settings) = @_;
	my $file = model_file($name);
	return $session->run(($settings // '') . "SELECT predict.create_model_from_file('$name', '$file')");
}

# The session and its server are as before.
sub untouched
{
	my ($how) = @_;
	is($session->text("SELECT predict('double', 4::real)"), '8', "$how: the session predicts");
	is(scalar(validation_processes($session)), 0, "$how: no process is left");
	is($session->text('SELECT string_agg(name, \' \') FROM predict.models'), 'double', "$how: no model is made");
	is($session->text("SELECT count(*) FROM predict.content"), '1', "$how: no bytes are stored");
	return;
}

# What the kernel says of a process, or nothing if it is gone.
sub status_of
{
	my ($pid) = @_;
	return eval { slurp_file("/proc/$pid/status") } // '';
}

# Crashes.
{
	my $got = try_model('crash');
	is($got->{code}, '22023', 'a model that crashes is refused');
	like($got->{message} // '', qr/crashed the program that tries it: signal 8/, 'and the error says how it crashed');
	untouched('after a crash');
}

# Hangs.
{
	my $got = try_model('hang', "SET pg_predict.validation_timeout = '500ms';");
	is($got->{code}, '53400', 'a model that hangs is refused');
	like($got->{message} // '', qr/longer than 500 ms/, 'and the error says how long it was tried');
	like($got->{hint} // '', qr/pg_predict\.validation_timeout/, 'and names the setting');
	cmp_ok($got->{seconds}, '<', 1.5, 'no later than it should be');
	untouched('after a hang');
	$session->run('RESET pg_predict.validation_timeout');
}

# Eats memory.
for my $name (qw(eats_at_load eats_at_run))
{
	my $got = try_model($name, "SET pg_predict.validation_memory_limit = '512MB';");
	is($got->{code}, '53400', "$name: a model that wants gigabytes is refused");
	like($got->{message} // '', qr/more memory than may be used/, "$name: and the error says why");
	like($got->{hint} // '', qr/pg_predict\.validation_memory_limit/, "$name: and names the setting");
	untouched($name);
	$session->run('RESET pg_predict.validation_memory_limit');
}

# A trial looked at while it hangs.
{
	my $file = model_file('hang');
	$session->ask("SELECT predict.create_model_from_file('hang', '$file')");
	ok(wait_for(sub { scalar validation_processes($session) }, 10), 'a trial is a process of its own');
	my ($probe) = validation_processes($session);
	# It is in its sandbox, so it has started: until then it opens the files of ONNX Runtime.
	ok(wait_for(sub { status_of($probe) =~ /^Seccomp:\s*2$/m }, 60), 'it enters its sandbox');
	my @descriptors = map { s/.*\///r } glob "/proc/$probe/fd/*";
	is(join(' ', sort @descriptors), '0 1 2 3', 'it has four descriptors');
	my @files = map { readlink "/proc/$probe/fd/$_" } 0 .. 3;
	is(scalar(grep { /^\/memfd:/ } @files), 3, 'three of them are files in memory');
	like($files[3], qr{^/proc/\d+/statm$}, 'and one tells how much memory it has');
	is(join(' ', sort split /\0/, slurp_file("/proc/$probe/environ")), 'ORT_DISABLE_TELEMETRY=1 ORT_TELEMETRY_DISABLED=1',
		'its environment is the two variables that turn telemetry off');
	my (undef, undef, $group, $sid) = split ' ', slurp_file("/proc/$probe/stat") =~ s/^.*\) //r;
	is($group, $probe, 'it has a process group of its own');
	like(readlink("/proc/$probe/cwd"), qr{/pgsql_tmp\d+\.validation \(deleted\)$}, 'its working directory is one of its own, empty and removed');
	my $limits = slurp_file("/proc/$probe/limits");
	my %limit = $limits =~ /^(Max [a-z ]+?)\s{2,}\S+\s+(\S+)/gm;
	is($limit{'Max address space'}, 4096 * 1024 * 1024, 'its memory is limited to pg_predict.validation_memory_limit');
	is($limit{'Max core file size'}, 0, 'it leaves no core dump');
	like($limit{'Max cpu time'}, qr/^\d+$/, 'its processor time is limited');
	like($limit{'Max file size'}, qr/^\d+$/, 'what it may write is limited');
	my $status = slurp_file("/proc/$probe/status");
	my ($blocked, $ignored) = map { hex } map { $status =~ /^$_:\s*[0-9a-f]{8}([0-9a-f]{8})$/m } qw(SigBlk SigIgn);
	is(($blocked | $ignored) & (1 << 14 | 1 << 1), 0, 'it can be ended by SIGTERM and SIGINT');
	is($session->wait(0.1)->{late}, 1, 'and it hangs still');
	my $control = session($node);
	$control->run('SELECT pg_cancel_backend(' . $session->pid . ')');
	is($session->wait->{code}, '57014', 'its creation can be cancelled');
	ok(is_gone($probe), 'and then it is gone');
	untouched('after a look');
}

# Nothing of a library that is missing, or that is none.
{
	my $file = model_file('double');
	for my $library ('/nowhere/libonnxruntime.so', $file)
	{
		my $fresh = session($node);
		my $got = $fresh->run("SET pg_predict.onnxruntime_library = '$library'; SELECT predict('double', 1::real)");
		is($got->{code}, '55000', "ONNX Runtime library $library: an error");
		like($got->{message} // '', qr/could not load the ONNX Runtime library/, 'that says so');
		like($got->{hint} // '', qr/make install/, 'and what to do');
		cmp_ok($got->{seconds}, '<', 5, 'at once');
		is($fresh->text("RESET pg_predict.onnxruntime_library; SELECT predict('double', 1::real)"), '2', 'and the right one can be named afterwards');
		$got = $fresh->run("SET pg_predict.onnxruntime_library = '$library'; SELECT predict.create_model_from_file('n', '$file')");
		is($got->{code}, '55000', "ONNX Runtime library $library: an error in a trial too");
		$fresh->close;
	}
}

# Bytes that are no model, or half of one: thousands of them, each an error and nothing more.
{
	my $bytes = slurp_file(model_file('words'));
	my %codes;
	srand 1;
	my @mutants = ('', 'hello', "\0" x 1000, map({ substr $bytes, 0, int rand length $bytes } 1 .. 10));
	for (1 .. 20)
	{
		my $mutant = $bytes;
		substr $mutant, int rand length $bytes, 1, chr int rand 256 for 1 .. 1 + rand 8;
		push @mutants, $mutant;
	}
	$session->run('BEGIN');
	for my $mutant (@mutants)
	{
		$session->run('SAVEPOINT s');
		my $got = $session->run(sprintf "SELECT predict.create_model('mutant', '\\x%s')", unpack 'H*', $mutant);
		$codes{ $got->{lost} ? 'lost' : $got->{code} // 'made' }++;
		$session->run('ROLLBACK TO s');
	}
	$session->run('ROLLBACK');
	diag('damaged models: ' . join ', ', map { "$_ $codes{$_}" } sort keys %codes);
	is(join(' ', grep { !/^(made|22023|0A000|53400|38000|55000)$/ } sort keys %codes), '', 'damaged models are clear errors');
	untouched('after damaged models');
}

is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server is the same one');
clean_log($node, 'no process of the server crashed');

# A chain of comparisons as deep as asked, as a tree: recursion in ONNX Runtime needs stack for each.
sub deep_tree
{
	my ($path, $depth) = @_;
	my $varint = \&PgPredict::varint;
	my $put    = sub { PgPredict::text(@_) };
	my $named  = sub { my ($name, $type, $body) = @_; $put->(5, $put->(1, $name) . $body . PgPredict::field(20, $type)) };
	my $ints   = sub { my ($name, @n) = @_; $named->($name, 7, $put->(8, join '', map { $varint->($_) } @n)) };
	my $floats = sub { my ($name, @x) = @_; $named->($name, 6, $put->(7, pack 'f<*', @x)) };
	my $texts  = sub { my ($name, @t) = @_; $named->($name, 8, join '', map { $put->(9, $_) } @t) };
	# Node 2k compares; below it are leaf 2k + 1 and node 2k + 2. The last is a leaf.
	my $last   = 2 * $depth;
	my @nodes  = 0 .. $last;
	my @inner  = map { $_ % 2 == 0 && $_ < $last } @nodes;
	my @leaves = grep { !$inner[$_] } @nodes;
	my $tree = $put->(1, 'x') . $put->(2, 'y') . $put->(4, 'TreeEnsembleRegressor') . $put->(7, 'ai.onnx.ml')
		. $named->('n_targets', 2, PgPredict::field(3, 1))
		. $ints->('nodes_treeids', (0) x @nodes) . $ints->('nodes_nodeids', @nodes) . $ints->('nodes_featureids', (0) x @nodes)
		. $floats->('nodes_values', map { $_ + 0.5 } @nodes) . $texts->('nodes_modes', map { $_ ? 'BRANCH_LEQ' : 'LEAF' } @inner)
		. $ints->('nodes_truenodeids', map { $inner[$_] ? $_ + 1 : 0 } @nodes) . $ints->('nodes_falsenodeids', map { $inner[$_] ? $_ + 2 : 0 } @nodes)
		. $ints->('target_treeids', (0) x @leaves) . $ints->('target_nodeids', @leaves) . $ints->('target_ids', (0) x @leaves)
		. $floats->('target_weights', (1) x @leaves);
	my $value = sub {
		my ($name) = @_;
		my $shape = join '', map { $put->(1, $_) } $put->(2, 'rows'), PgPredict::field(1, 1);
		return $put->(1, $name) . $put->(2, $put->(1, PgPredict::field(1, 1) . $put->(2, $shape)));
	};
	my $graph = $put->(1, $tree) . $put->(2, 'deep') . $put->(11, $value->('x')) . $put->(12, $value->('y'));
	my $opset = sub { my ($domain, $version) = @_; $put->(8, $put->(1, $domain) . PgPredict::field(2, $version)) };
	open my $out, '>:raw', $path or die "$path: $!";
	print $out PgPredict::field(1, 8) . $put->(7, $graph) . $opset->('', 17) . $opset->('ai.onnx.ml', 3);
	close $out or die "$path: $!";
	chmod 0644, $path;
	return;
}

# Deeper and deeper, until a trial refuses: what it let pass before must run. ONNX Runtime needs stack for each level, and compiled
# trees need none.
for my $trees ('onnxruntime', 'compiled')
{
	my $path = $node->basedir . '/deep.onnx';
	my ($deepest, $refusal, $lost) = (0);
	for my $depth (1000, 2000, 4000, 8000, 12000, 16000, 24000, 32000, 64000, 128000)
	{
		deep_tree($path, $depth);
		my $fresh = session($node);
		my $got = $fresh->run("SELECT predict.create_model_from_file('deep', '$path', '{\"batch_size\": 64, \"trees\": \"$trees\"}')");
		if ($got->{message}) { $refusal = $got; last; }
		$deepest = $depth;
		$got = $fresh->run("SELECT count(*), sum(y::float8) FROM predictions((SELECT predict_batch('deep\@$got->{rows}[0][0]', t) FROM (SELECT i AS id, 1e9::real AS x FROM generate_series(1, 1000) i) t)) AS p(id int, y real)");
		if ($got->{lost} || $got->{message}) { $lost = $got->{message} // 'the server hung up'; last; }
		$fresh->close;
	}
	diag("$trees: a tree of depth $deepest passes its trial");
	is($lost, undef, "$trees: a tree that passed its trial, however deep, does not take the server down");
	is($refusal->{code}, $trees eq 'compiled' ? undef : '22023', "$trees: one that is too deep is refused in its trial");
	ok(wait_for_server($node), 'the server is there');
}

# An honest model, and a row that a processor cannot divide.
{
	my $from = -s $node->logfile;
	create_model($node, 'quotient');
	for my $form ("predict('quotient', a, b)", "(predict_batch('quotient', a, b))::bigint[]")
	{
		my $fresh = session($node);
		is($fresh->text("SELECT $form FROM (VALUES (7::bigint, 2::bigint)) v(a, b)") =~ /(3)/ && $1, '3', "$form: divides");
		my $got = $fresh->run("SELECT $form FROM (VALUES (-9223372036854775808, -1::bigint)) v(a, b)");
		is($got->{code} // ($got->{lost} ? 'the server hung up' : 'no error'), '38000', "$form: a row on which the model crashes is an error of that query");
		ok(wait_for_server($node), 'the server is there');
	}
	ok(!has_log($node, qr/server process \(PID \d+\) was terminated/, $from), 'a row on which a model crashes ends no other session');
}

done_testing();
