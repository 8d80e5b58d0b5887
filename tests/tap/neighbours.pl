# Other libraries with hooks, loaded before pg_predict and after it: plans have their BatchPredict node, and the others see the
# statements as they are. Without any preload, the very first statement of a session has the node too.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('neighbours');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nauto_explain.log_min_duration = 0\nauto_explain.log_analyze = on\n");
$node->start;
my $root = $ENV{PG_PREDICT_ROOT};
$node->safe_psql('postgres', "CREATE EXTENSION pg_predict; CREATE EXTENSION pg_stat_statements;
    SELECT predict.create_model_from_file('named', '$root/tests/models/named.onnx');
    CREATE TABLE t AS SELECT i AS id, i::real AS a FROM generate_series(1, 1000) i; ANALYZE t;
    CREATE TABLE whole AS SELECT id, a, 1::real AS b, 1::real AS c FROM t;");

my $query = "SELECT id, predict('named', a, 1, 1) FROM t";
my $single = $node->safe_psql('postgres', "SET pg_predict.enable_batch_scan = off; $query");
like($single, qr/^1000\|/m, 'the query gives its rows');
my $cast = "SELECT (predict_batch('named', r))::real[] FROM whole r";
my $cast_single = $node->safe_psql('postgres', "SET pg_predict.enable_batch_scan = off; $cast");
like($cast_single, qr/^\{(?:[^,]+,){999}[^,]+\}$/, 'the cast gives an element for each row');
# Rows that an outer join leaves out, that are NULL, in groups, and none at all.
my %rows = map { my $sql = "SELECT (predict_batch('named', r))::real[] FROM $_"; $sql => $node->safe_psql('postgres', "SET pg_predict.enable_batch_scan = off; $sql") }
    't LEFT JOIN whole r ON r.id = t.id AND r.id < 3 WHERE t.id < 6', '(SELECT NULL::whole AS r FROM t WHERE id < 4) s',
    'whole r WHERE r.id < 9 GROUP BY r.id % 3 ORDER BY r.id % 3', 'whole r WHERE false';
like(join(' ', sort values %rows), qr/\{[^}]*NULL,NULL,NULL\}/, 'rows that are left out are NULL');

for my $libraries ('', 'pg_predict', 'pg_stat_statements,auto_explain,pg_predict', 'pg_predict,auto_explain,pg_stat_statements',
    'pg_stat_statements,pg_predict,auto_explain')
{
    $node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'");
    $node->restart;
    my $name = $libraries || 'nothing preloaded';
    my $first = $node->safe_psql('postgres', "EXPLAIN (COSTS OFF) $query");
    like($first, qr/Custom Scan \(BatchPredict\)/, "$name: the first statement of a session has the node");
    is($node->safe_psql('postgres', $query), $single, "$name: and gives the same");
    like($node->safe_psql('postgres', "EXPLAIN (VERBOSE, COSTS OFF) $cast"),
        qr/predict_batch_columns/, "$name: the first statement reads the columns of whole rows");
    is($node->safe_psql('postgres', $cast), $cast_single, "$name: and gives the same array");
    is($node->safe_psql('postgres', $_), $rows{$_}, "$name: $_") for sort keys %rows;
    like(
        $node->safe_psql('postgres', "PREPARE p AS $query; SET plan_cache_mode = force_generic_plan; EXPLAIN (COSTS OFF) EXECUTE p;"),
        qr/Custom Scan \(BatchPredict\)/, "$name: so has a prepared statement");
    if ($libraries =~ /stat_statements/) {
        $node->safe_psql('postgres', 'SELECT pg_stat_statements_reset()');
        $node->safe_psql('postgres', $query) for 1 .. 2;
        is($node->safe_psql('postgres', "SELECT calls, rows FROM pg_stat_statements WHERE query LIKE 'SELECT id, predict%'"),
            '2|2000', "$name: pg_stat_statements counts calls and rows");
    }
    if ($libraries =~ /auto_explain/) {
        my $offset = -s $node->logfile;
        $node->safe_psql('postgres', $query);
        my $log = slurp_file($node->logfile, $offset);
        like($log, qr/Custom Scan \(BatchPredict\).*Rows: 1000/s, "$name: auto_explain logs the node");
    }
}

# A planner hook that changes how a statement is planned by a hint in its text, as pg_hint_plan does.
my $hints = "$PostgreSQL::Test::Utils::tmp_check/hints.so";
my $config = $ENV{PG_CONFIG} || 'pg_config';
chomp(my $include = `$config --includedir-server`);
system_or_bail($ENV{CC} || 'cc', '-O1', '-fPIC', '-shared', "-I$include", "$root/tests/tap/hints.c", '-o', $hints);
$node->safe_psql('postgres', 'CREATE INDEX ON t (id)');
my $hinted = "/*+ NoSeqScan */ SELECT id, predict('named', a, 1, 1) FROM t WHERE id > 0 AND predict('named', a, 1, 1) > 0";
(my $plain = $hinted) =~ s/^.*?\*\/ //;
for my $libraries ("$hints,pg_predict", "pg_predict,$hints", "pg_stat_statements,$hints,auto_explain,pg_predict") {
    $node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'");
    $node->restart;
    (my $name = $libraries) =~ s/[^,]*hints\.so/hints/;
    my $both = qr/Custom Scan \(BatchPredict\).*(Index|Bitmap) /s;
    like($node->safe_psql('postgres', "EXPLAIN (COSTS OFF) $hinted"), $both, "$name: a hint is followed, and calls are batched");
    unlike($node->safe_psql('postgres', "EXPLAIN (COSTS OFF) $plain"), $both, "$name: without a hint the plan is another");
    is($node->safe_psql('postgres', $hinted), $node->safe_psql('postgres', "SET pg_predict.enable_batch_scan = off; $hinted"), "$name: and both give the same");
}
# Loaded by a session after pg_predict was, and before.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
for my $loads ("LOAD '$hints'; SELECT predict('named', 1, 1, 1);", "SELECT predict('named', 1, 1, 1); LOAD '$hints';") {
    like($node->safe_psql('postgres', "$loads EXPLAIN (COSTS OFF) $hinted"), qr/Custom Scan \(BatchPredict\).*(Index|Bitmap) /s,
        'a hint is followed in a session that loads both');
}

# As the first statement of a session, and with the library loaded by its own planning, the query itself has the node.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'auto_explain'");
$node->restart;
my $offset = -s $node->logfile;
is($node->safe_psql('postgres', $query), $single, 'a first statement that loads the library gives the same');
like(slurp_file($node->logfile, $offset), qr/Custom Scan \(BatchPredict\)/, 'and has the node');

$node->stop;
done_testing();
