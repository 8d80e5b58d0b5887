# Models in a process of their own (pg_predict.isolation = process): the same answers, and no end of a model process,
# by a model, a signal or the kernel, disturbs the server or another session.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = server('model_process', conf => <<~'CONF');
	shared_preload_libraries = 'pg_predict'
	pg_predict.isolation = process
	pg_predict.batch_size = 40
	CONF
create_model($node, $_) for qw(double one_node many_nodes quotient words);
my $file = model_file('quotient');
$node->safe_psql('postgres', "SELECT predict.create_model_from_file('quotient_null', '$file', '{\"on_error\": \"null\"}')");
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT i AS id, i::real AS x FROM generate_series(1, 40) i; ANALYZE t');
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
my $other   = session($node);
is($other->text("SELECT predict('double', 4::real)"), '8', 'another session predicts');

my $right  = "SELECT count(*), sum(y::float8) FROM predictions((SELECT predict_batch('double', t) FROM t)) AS p(id int, y real)";
my $answer = '40|1640';
my $long   = "SELECT count(*) FROM predictions((SELECT predict_batch('one_node', t) FROM t)) AS p(id int, y real)";

# Waits until the model process of a session runs a batch, and returns its pid.
sub running
{
	my ($session) = @_;
	my $pid;
	wait_for(sub { $pid = model_process($session) }, 20) or die 'there is no model process';
	my $ticks = sub { (split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //r)[11] };
	wait_for(sub { my $before = $ticks->(); sleep 0.2; $ticks->() > $before + 1 }, 30) or die 'nothing runs';
	return $pid;
}

sub undisturbed
{
	my ($session, $how) = @_;
	is($session->text($right), $answer, "$how: the next query predicts");
	is($other->text("SELECT predict('double', 4::real)"), '8', "$how: the other session predicts");
	is(scalar(children($session->pid)), 1, "$how: the session has one process");
	return;
}

# What the process is.
{
	my $session = session($node);
	is($session->text($right), $answer, 'a query predicts in a model process');
	my $pid = model_process($session);
	unlike(slurp_file('/proc/' . $session->pid . '/maps'), qr/libonnxruntime/, 'the backend has not loaded ONNX Runtime');
	like(slurp_file("/proc/$pid/maps"), qr/libonnxruntime/, 'the process has');
	my $status = slurp_file("/proc/$pid/status");
	like($status, qr/^NoNewPrivs:\s+1$/m, 'it gains no privileges');
	like($status, qr/^Seccomp:\s+2$/m, 'seccomp is in force');
	is(slurp_file("/proc/$pid/oom_score_adj") + 0, 1000, 'the kernel kills it first when memory runs out');
	is(join(' ', sort split /\0/, slurp_file("/proc/$pid/environ")), 'ORT_DISABLE_TELEMETRY=1 ORT_TELEMETRY_DISABLED=1',
		'its environment is the two variables that turn telemetry off');
	my (undef, undef, $group) = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //r;
	is($group, $pid, 'it has a process group of its own');
	my @files = map { readlink($_) // '' } glob "/proc/$pid/fd/*";
	is(join(' ', grep { !m{^/memfd:|^socket:|^/dev/null$|^/proc/$pid/statm$|/pgsql_tmp_pg_predict/} } @files), '', 'it has no file but models and the figures of its own memory');
	like($session->text('SELECT predict.sandbox()'), qr/"pid": $pid.*"profile cpu"|"profile cpu".*"pid": $pid/, 'predict.sandbox() shows what is in force');
	is($session->text("SELECT count(*) FROM predict.model_processes WHERE pid = $pid AND memory > 1000000"), '1', 'predict.model_processes lists it');
	is($session->text('SELECT predict.end_model_process()'), 't', 'it can be ended');
	ok(is_gone($pid), 'and then it is gone');
	my $end = -s $node->logfile;
	$session->run('SET log_min_messages = debug1');
	undisturbed($session, 'after that');
	$session->run('RESET log_min_messages');
	$pid = model_process($session);
	my $lines = () = substr(slurp_file($node->logfile), $end) =~ /^.*DEBUG:.*model process $pid: .*profile cpu.*$/mg;
	is($lines, 1, 'the log says once, at DEBUG1, what the sandbox of a new process enforces');
	$session->close;
	ok(wait_for(sub { is_gone($pid) }, 5), 'it ends with its session');
}

# Validation runs in the sandbox too, and still measures the memory of a session.
{
	my $session = session($node);
	my $bytes = $session->text("SELECT predict.load_model('double'); SELECT bytes FROM predict.stat_sessions WHERE pid = pg_backend_pid()");
	cmp_ok((split /\n/, $bytes)[-1], '>', 1e6, 'a session of a model of 143 bytes is known to need more than its file');
	$session->close;
}

# Parallel workers have processes of their own, which end with them. Empty inputs and NULLs need no run.
{
	my $session = session($node);
	$session->run('CREATE TABLE many AS SELECT i AS id, i::real AS x FROM generate_series(1, 200000) i; ANALYZE many');
	my $sum = "SELECT sum(predict('double', x)) FROM many";
	$session->run('SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; RESET pg_predict.batch_size');
	like(join("\n", map { $_->[0] } @{ $session->run("EXPLAIN (COSTS OFF) $sum")->{rows} }), qr/Workers Planned: 2/, 'a query is parallel');
	is($session->text($sum), '40000200000', 'and gives the right sum');
	ok(wait_for(sub { $session->text('SELECT count(*) FROM predict.model_processes WHERE backend_pid <> ' . $other->pid) eq '1' }, 5),
		'the processes of its workers are gone');
	is($session->text("SELECT predict_batch('double', x) FROM many WHERE id < 0"), 'NULL', 'no rows give no batch');
	is($session->text("SELECT predict('double', NULL::real) IS NULL"), 't', 'NULL gives NULL');
	is($session->text("SELECT count(predict('double', CASE WHEN id % 2 = 0 THEN x END)) FROM many"), '100000', 'among others too');
	$session->close;
}

# A model that ends its process.
{
	my $session = session($node);
	for my $form ("predict('quotient', a, b)", "(predict_batch('quotient', a, b))::bigint[]")
	{
		my $got = $session->run("SELECT $form FROM (VALUES (-9223372036854775808, -1::bigint)) v(a, b)");
		is($got->{code}, '38000', "$form: a row that ends the process is an error of that query");
		like($got->{message}, qr/model process of model "quotient\@1" was terminated by signal 8 \(SIGFPE\)/, 'that names the model and the signal');
		undisturbed($session, 'after a crash');
	}
	my $rows = "SELECT string_agg(coalesce(q::text, '-'), ' ' ORDER BY n) FROM (SELECT n, predict('quotient_null', CASE n % 7 WHEN 3 THEN -9223372036854775808 ELSE n END, CASE n % 7 WHEN 3 THEN -1::bigint ELSE 2::bigint END) AS q FROM generate_series(1, 20) n OFFSET 0) s";
	is($session->text($rows), '0 1 - 2 2 3 3 4 4 - 5 6 6 7 7 8 - 9 9 10',
		"with on_error = 'null', only the rows that end the process are NULL");
	undisturbed($session, 'after rows that were isolated');
	my $crashes = $session->text("SELECT process_crashes FROM predict.stat_models WHERE model = 'quotient'");
	is($crashes, '2', 'the ends of the process are counted');
	$session->close;
}

# Signals, in the middle of a run.
for my $signal (qw(KILL SEGV ABRT STOP TERM))
{
	my $session = session($node);
	$session->ask($long);
	my $pid = running($session);
	my $sent = time;
	kill $signal, $pid;
	my $got = $session->wait(20);
	cmp_ok(time - $sent, '<', 1, "SIG$signal: an error within a second");
	is($got->{code}, '38000', "SIG$signal: SQLSTATE 38000");
	like($got->{message} // '', qr/^the model process of model "one_node\@1" was /, "SIG$signal: the error names the model");
	ok(is_gone($pid), "SIG$signal: the process is gone");
	undisturbed($session, "SIG$signal");
	# Between queries, an end of the process goes unnoticed.
	$pid = model_process($session);
	kill $signal, $pid;
	sleep 0.1;
	is($session->text($right), $answer, "SIG$signal between queries: the next query predicts") if $signal ne 'STOP';
	$session->close;
	ok(wait_for(sub { is_gone($pid) }, 5), "SIG$signal: nothing is left behind");
}

# Cancel, timeout and terminate, in the middle of a run that does not stop.
{
	my $session = session($node);
	$session->ask($long);
	my $pid = running($session);
	my $sent = time;
	$other->run('SELECT pg_cancel_backend(' . $session->pid . ')');
	my $got = $session->wait(20);
	cmp_ok(time - $sent, '<', 0.3, 'a cancel is honoured at once');
	is($got->{code}, '57014', 'with its error');
	ok(is_gone($pid), 'a run that does not stop is killed with its process');
	undisturbed($session, 'after a cancel');
	is($session->text("SELECT process_cancels FROM predict.stat_models WHERE model = 'one_node'"), '1', 'which is counted');
	$got = $session->run("SET statement_timeout = 300; $long");
	is($got->{code}, '57014', 'statement_timeout is honoured');
	cmp_ok($got->{seconds}, '<', 1, 'in time');
	$session->run('RESET statement_timeout');
	undisturbed($session, 'after a timeout');
	$session->ask($long);
	$pid = running($session);
	$other->run('SELECT pg_terminate_backend(' . $session->pid . ')');
	$session->wait(20);
	ok(wait_for(sub { is_gone($pid) }, 2), 'after a terminate, the process is gone');
}

# An idle process ends, and the next query starts another one.
{
	my $session = session($node);
	is($session->text("SET pg_predict.model_process_idle_timeout = '300ms'; $right"), $answer, 'a query predicts');
	my $pid = model_process($session);
	ok(wait_for(sub { (slurp_file("/proc/$pid/stat") =~ /\) (\S)/)[0] eq 'Z' }, 5), 'an idle process ends');
	is($session->text("SELECT count(*) FROM predict.model_processes WHERE pid = $pid"), '0', 'and is listed no more');
	is($session->text($right), $answer, 'the next query predicts');
	$session->close;
}

# Subtransactions, cursors and prepared statements go on after an end of the process.
{
	my $session = session($node);
	my $got = $session->text(<<~'SQL');
		BEGIN;
		CREATE TEMP TABLE seen (y bigint);
		DO $$ BEGIN
			INSERT INTO seen SELECT predict('quotient', 9::bigint, 2::bigint);
			BEGIN
				INSERT INTO seen SELECT predict('quotient', -9223372036854775808, -1::bigint);
			EXCEPTION WHEN external_routine_exception THEN
				INSERT INTO seen SELECT predict('quotient', 20::bigint, 2::bigint);
			END;
		END $$;
		COMMIT;
		SELECT string_agg(y::text, ' ' ORDER BY y) FROM seen
		SQL
	is($got, '4 10', 'a block with EXCEPTION goes on after an end of the process');
	$session->run("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT id, predict('double', x) FROM t ORDER BY id");
	is($session->text('FETCH 1 FROM c'), '1|2', 'a cursor gives its first row');
	kill 'KILL', model_process($session);
	sleep 0.1;
	is($session->text('MOVE ALL FROM c; FETCH BACKWARD 1 FROM c'), '40|80', 'and its last one after an end of the process');
	$session->run('COMMIT; CLOSE c');
	$session->close;
}

is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server is the same one');
ok(!has_log($node, qr/PANIC|server process .* was terminated|crash of another server process/), 'no process of the server crashed');
done_testing();
