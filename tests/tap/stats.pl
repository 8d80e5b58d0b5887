# What the statistics say agrees with a count by hand: serial and parallel, rows that fail, runs that fail, cancelled queries, two
# databases, sixteen sessions at once; and who sees what.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $root = $ENV{PG_PREDICT_ROOT};
my $node = server('stats', conf => "shared_preload_libraries = 'pg_predict'\nmax_connections = 40\n");
sub ask { my ($sql, $database) = @_; return $node->safe_psql($database // 'postgres', $sql) }
sub set_up {
    my ($database) = @_;
    ask("SELECT predict.create_model_from_file('named', '$root/tests/models/named.onnx'), predict.create_model_from_file('lookup', '$root/tests/models/lookup.onnx'),
            predict.create_model_from_file('lenient', '$root/tests/models/lookup.onnx', '{\"on_error\": \"null\"}'), predict.create_model_from_file('slow', '$root/tests/models/slow.onnx');
        CREATE TABLE t AS SELECT i AS id, i::real AS a, CASE WHEN i % 10 <> 0 THEN 1::real END AS b, 2::real AS c, i % 3 AS k FROM generate_series(1, 10000) i; ANALYZE t;
        ALTER TABLE t SET (parallel_workers = 2)", $database);
}
ask('CREATE DATABASE other');
ask('CREATE EXTENSION pg_predict', 'other');
set_up($_) for 'postgres', 'other';
sub stats { my ($model, $columns, $database) = @_; return ask("SELECT $columns FROM predict.stat_models WHERE model = '$model' AND version = 1", $database) }
my $counted = 'calls, rows, null_rows, failed_rows';

is(stats('named', "$counted, batches, loads, errors, last_used IS NULL"), '0|0|0|0|0|0|0|t', 'a version that was never used counts nothing');

# Serial: both forms, with a batch size that says how many batches there are.
my $serial = 'SET max_parallel_workers_per_gather = 0; SET pg_predict.batch_size = 1000;';
ask("$serial SELECT count(*) FROM predictions((SELECT predict_batch('named', t) FROM t)) AS p(y real)");
# The node begins with a small batch, so that the first rows come soon.
is(stats('named', "$counted, batches, loads, errors"), '1|10000|1000|0|11|1|0', 'predictions(): one call, every row, its NULL rows, its batches');
ok(stats('named', 'run_time > 0 AND wait_time > 0 AND load_time > 0 AND last_used > now() - interval \'1 minute\'') eq 't', 'times are counted');
ask("$serial SELECT sum(predict('named', t)), sum(predict('named', a, b, c)) FROM t");
is(stats('named', $counted), '3|30000|3000|0', 'plain calls in batches: two calls');
ask("$serial SET pg_predict.enable_batch_scan = off; SELECT count(predict('named', t)) FROM t WHERE id <= 777");
is(stats('named', $counted), '4|30777|3077|0', 'plain calls a row at a time');
ask("$serial SELECT predict('named', t) FROM t LIMIT 5");
is(stats('named', 'calls, rows >= 30782'), '5|t', 'under a LIMIT');

# A parallel query is one call, however many processes it has.
ask('SELECT predict.stat_reset(\'named\')');
my $parallel = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET max_parallel_workers_per_gather = 2;';
for my $participates ('on', 'off') {
    my $plan = "$parallel SET parallel_leader_participation = $participates;";
    like(ask("$plan EXPLAIN SELECT sum(predict('named', t)) FROM t"), qr/Workers Planned: 2/, "the plan has workers (leader $participates)");
    ask("$plan SELECT sum(predict('named', t)) FROM t");
    ask("$plan SELECT count(*) FROM predictions((SELECT predict_batch('named', t) FROM t)) AS p(y real)");
}
is(stats('named', $counted), '4|40000|4000|0', 'four parallel queries: four calls, each row once');

# A session belongs to the option `trees` too: the same file twice in one backend is two sessions.
ask("SELECT predict.create_model_from_file('compiled', '$root/tests/models/trees.onnx'),
        predict.create_model_from_file('left', '$root/tests/models/trees.onnx', '{\"trees\": \"onnxruntime\"}')");
my $of_file = "SELECT predict.load_model('compiled'), predict.load_model('left'); SELECT model FROM predict.stat_sessions WHERE pid = pg_backend_pid() ORDER BY model";
like(ask($of_file), qr/compiled\nleft$/, 'versions with different values of `trees` share no session');
ask("SELECT predict.drop_model('compiled'), predict.drop_model('left')");

# Rows that fail and are NULL; runs that fail; what said so last.
ask("$serial SET client_min_messages = error; SELECT (predict_batch('lenient', CASE WHEN id % 100 = 0 THEN 99 ELSE k END))::float8[] FROM t");
is(stats('lenient', "$counted, errors"), '1|10000|0|100|0', 'rows that fail are counted');
for my $form ("SELECT predict_batch('lookup', id::bigint) FROM t", "SELECT predict('lookup', id::bigint) FROM t") {
    my ($rc, undef, $error) = $node->psql('postgres', "$serial $form");
    ok($rc, 'a run fails');
}
is(stats('lookup', 'errors, last_error LIKE \'model "lookup@1" failed while running: %\', last_error_at > now() - interval \'1 minute\''), '2|t|t', 'failures are counted, with what the last one said');

# A query that is cancelled counts what it had done, and leaves no trace of itself.
{
    my ($rc, undef, $error) = $node->psql('postgres', "$serial SET pg_predict.batch_size = 1; SET statement_timeout = '300ms'; SELECT sum(predict('slow', u.id)) FROM t u, t v");
    like($error, qr/statement timeout/, 'a query is cancelled');
    my $rows = stats('slow', 'rows');
    ok($rows > 0 && $rows < 100000000, "what it had done is counted: $rows rows");
    is(ask('SELECT count(*) FROM predict.stat_progress'), '0', 'and it is not shown any more');
}

# A running query shows how far it is, to its own role and to readers of all statistics.
ask("CREATE ROLE worker LOGIN; CREATE ROLE curious LOGIN; CREATE ROLE monitor LOGIN; GRANT pg_read_all_stats TO monitor; SELECT predict.grant_usage('slow', 'worker'); GRANT SELECT ON t TO PUBLIC;
    CREATE SEQUENCE seen");
{
    my $run = start_psql($node, $node->connstr('postgres') . ' user=worker', 'SET pg_predict.batch_size = 10', "SET pg_predict.progress_interval = '100ms'",
        "SELECT cardinality((predict_batch('slow', g))::float8[]) FROM generate_series(1, 1000000) g");
    my $progress = 'SELECT model, version, form, phase, rows_expected, rows_done > 0 AND batches > 0 AND rows_per_second > 0 FROM predict.stat_progress';
    ok(wait_for(sub { ask($progress) eq 'slow|1|aggregate|running|1000000|t' }), 'a running query shows how far it is') or diag(ask('SELECT * FROM predict.stat_progress'));
    is(ask("SET ROLE monitor; $progress"), 'slow|1|aggregate|running|1000000|t', 'to a reader of all statistics');
    is(ask("SET ROLE worker; $progress"), 'slow|1|aggregate|running|1000000|t', 'to its own role');
    is(ask("SET ROLE curious; $progress"), '', 'and to nobody else');
    is(ask('SET ROLE curious; SELECT count(*) FROM predict.stat_sessions'), '0', 'nor are the sessions of others');
    is(ask('SELECT model, version, bytes > 0, device, threads FROM predict.stat_sessions s JOIN pg_stat_activity a USING (pid) WHERE a.usename = \'worker\''), 'slow|1|t|cpu|1', 'its session is shown');
    is(ask('SET ROLE curious; SELECT count(*) FROM predict.stat_models'), '0', 'counters of models that one may not use are not seen');
    is(ask('SET ROLE worker; SELECT string_agg(model, \',\') FROM predict.stat_models'), 'slow', 'those that one may use are');
    is(ask('SELECT count(*) FROM predict.stat_progress', 'other'), '0', 'another database shows its own');
    ask("SELECT pg_cancel_backend(pid) FROM predict.stat_progress");
    like(($run->finish)[1], qr/NOTICE:  model "slow\@1": \d+ of about 1000000 rows in [\d.]+ s, \d+ rows a second, about \d+ s left/, 'and said so from time to time');
    ok(wait_for(sub { ask('SELECT count(*) FROM predict.stat_sessions s JOIN pg_stat_activity a USING (pid) WHERE a.usename = \'worker\'') eq '0' }), 'a backend that is gone shows nothing');
}
for my $sql ('SELECT predict.stat_reset()') {
    my ($rc, undef, $error) = $node->psql('postgres', "SET ROLE worker; $sql");
    like($error, qr/permission denied/, 'not everybody sets counters to zero');
}

# The device that runs a model is shown, and not the wish for one.
{
    my $shown = $node->safe_psql('postgres', "SET pg_predict.device = 'auto'; SELECT predict('lookup', 1); SELECT 'on ' || device FROM predict.stat_sessions WHERE pid = pg_backend_pid()");
    like($shown, qr/^on (cpu|cuda)$/m, 'a session shows the device that runs it');
}

# Evictions: a cache that holds the larger of two sessions. What a session takes is measured at creation, and the error rounds it up.
{
    my $largest = 0;
    for my $call ("predict('named', 1, 1, 1)", "predict('lookup', 1)") {
        my (undef, undef, $error) = $node->psql('postgres', "SET pg_predict.session_cache_size = '1MB'; SELECT $call");
        my ($needed) = $error =~ /needs (\d+) MB in memory/ or die "a model fits into 1 MB: $error";
        $largest = $needed if $needed > $largest;
    }
    $node->safe_psql('postgres', "SELECT predict.stat_reset(); SET pg_predict.session_cache_size = '${largest}MB'; SELECT predict('named', 1, 1, 1); SELECT predict('lookup', 1); SELECT predict('named', 1, 1, 1)");
    my $loads = stats('named', 'loads, evictions');
    like($loads, qr/^2\|1$/, \"loads and evictions of a small cache: $loads");
}

# Sixteen sessions in two databases at once.
ask('SELECT predict.stat_reset()', $_) for 'postgres', 'other';
{
    my @runs;
    for my $n (1 .. 16) {
        my $database = $n % 2 ? 'postgres' : 'other';
        my $sql = join ' ', map { "SELECT sum(predict('named', t)) FROM t;" } 1 .. 10;
        push @runs, start_psql($node, $database, 'SET max_parallel_workers_per_gather = 0', $sql);
    }
    is(($_->finish)[1], '', 'a session ends well') for @runs;
}
is(stats('named', "$counted, loads", $_), '80|800000|80000|0|8', "sixteen sessions: the counters of database $_") for 'postgres', 'other';
ask('SELECT predict.stat_reset()');
is(stats('named', 'calls, rows'), '0|0', 'counters of this database are set to zero');
is(stats('named', 'calls, rows', 'other'), '80|800000', 'those of another are not');

# A version with the number of one that is gone begins at zero; a crash loses counters and nothing else.
ask("SELECT sum(predict('named', t)) FROM t; SELECT predict.drop_model('named'); SELECT predict.create_model_from_file('named', '$root/tests/models/one.onnx')");
is(stats('named', 'calls, rows'), '0|0', 'another version under an old name begins at zero');
$node->stop('immediate');
$node->start;
is(stats('named', 'calls, rows', 'other'), '0|0', 'after a crash counters begin anew');
is(ask("SELECT count(predict('named', t)) FROM t", 'other'), '9000', 'and predictions go on');
is(stats('named', 'rows', 'other'), '10000', 'and are counted');
clean_log($node, 'no process of the server crashed');
$node->stop;
done_testing();
