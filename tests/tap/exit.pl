# With isolation `backend`, a process can end while its inference thread works: during a run, between two batches, and while memory is released after
# the last batch, as in every parallel worker. No process may end with a signal.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $TIMES    = 20;
my $PARALLEL = 10;

# A library that delays the end of each process until the exit handlers of ONNX Runtime have run.
my $late = "$PostgreSQL::Test::Utils::tmp_check/late_exit.so";
chomp(my $headers = `@{[ $ENV{PG_CONFIG} || 'pg_config' ]} --includedir-server`);
system_or_bail($ENV{CC} || 'cc', '-O1', '-fPIC', '-shared', "-I$headers", "$FindBin::Bin/late_exit.c", '-o', $late);

my $node = server('exit', conf => "max_connections = 40\nwork_mem = '64MB'\nshared_preload_libraries = '$late,pg_predict'\npg_predict.isolation = backend\n");
create_model($node, 'texts');
$node->safe_psql('postgres', "CREATE TABLE t AS SELECT i AS id, repeat('x', 300) AS s FROM generate_series(1, 100000) i; ANALYZE t");
my $statement = "SELECT count(y) FROM predictions((SELECT predict_batch('texts', t) FROM t)) AS p(y text)";
my $rows      = '100000';

# Exit handlers must not run in a process that has loaded a model, because one of its threads may use ONNX Runtime.
my ($without, $with) = (session($node), session($node));
is($with->text($statement), $rows, 'the statement returns all rows');
is($without->text('SELECT 1'), '1', 'another session loads no model');
$_->close for $without, $with;
for ($without, $with) { my $pid = $_->pid; wait_for(sub { is_gone($pid) }, 30) or die "backend $pid does not end"; }
ok(has_log($node, qr/exit handlers of process @{[ $without->pid ]}\n/), 'exit handlers run in a session without a model');
ok(!has_log($node, qr/exit handlers of process @{[ $with->pid ]}\n/), 'and not in one with a model');

# Sessions that are terminated during a statement.
srand 7;
my $control = session($node);
my $ended   = 0;
for my $time (1 .. $TIMES)
{
	my $session = session($node);
	my $pid     = $session->pid;
	$session->ask("SET pg_predict.batch_size = 20000; $statement");
	sleep 0.01 + rand 0.15;
	$control->run("SELECT pg_terminate_backend($pid)");
	my $got = $session->wait(30);
	wait_for(sub { is_gone($pid) }, 30) or die "backend $pid does not end";
	$ended++ if ($got->{code} // '') eq '57P01' || $got->{lost};
}
cmp_ok($ended, '>', $TIMES / 2, "of $TIMES sessions, most were terminated during the statement");

# A worker ends after it has sent its results, while its thread releases the memory of large batches.
my $parallel = session($node);
$parallel->run("SET $_")
	for 'parallel_setup_cost = 0', 'parallel_tuple_cost = 0', 'min_parallel_table_scan_size = 0', 'max_parallel_workers_per_gather = 2', 'pg_predict.batch_size = 40000';
like($parallel->text("EXPLAIN (COSTS OFF) SELECT predict_batch('texts', t) FROM t"), qr/Workers Planned: 2/, 'the plan is parallel');
my $right = grep { $parallel->text($statement) eq $rows } 1 .. $PARALLEL;
is($right, $PARALLEL, "$PARALLEL parallel statements return all rows");
is($control->text('SELECT 1'), '1', 'a session beside them was not disturbed');
clean_log($node, 'no process of the server crashed');

done_testing();
