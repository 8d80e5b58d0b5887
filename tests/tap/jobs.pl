# A job over all flights is ended at random moments, by cancel, terminate, kill -9 and an immediate stop of the server: one more run
# then has every key exactly once, as a straight predict_batch() has it, and no chunk was scored twice but the one in flight.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $root = $ENV{PG_PREDICT_ROOT};
my $seed = $ENV{PG_PREDICT_SEED} // 7;
srand($seed);
note("seed $seed (PG_PREDICT_SEED)");

my $node = server('jobs', conf => "shared_preload_libraries = 'pg_predict'\nfsync = off\nmax_wal_size = 2GB\ncheckpoint_timeout = 1h\n");
$node->safe_psql('postgres', "CREATE TABLE flights (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, year smallint, month smallint, day smallint, dep_time smallint,
    sched_dep_time smallint, dep_delay smallint, arr_time smallint, sched_arr_time smallint, arr_delay smallint, carrier text, flight integer, tailnum text, origin text,
    dest text, air_time smallint, distance integer, hour smallint, minute smallint, time_hour timestamptz);
    COPY flights (year, month, day, dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay, carrier, flight, tailnum, origin, dest, air_time, distance, hour, minute, time_hour)
    FROM PROGRAM 'gzip -dc $root/models/data/flights.csv.gz' WITH (FORMAT csv, HEADER); VACUUM ANALYZE flights;
    SELECT predict.create_model_from_file('late', '$root/models/late.onnx', '{\"trees\": \"onnxruntime\"}');
    SELECT predict.create_job('late', 'late', 'flights', 'id', 'scores', '{\"chunk_size\": 10000, \"skip_unchanged\": true}');
    CREATE TABLE straight AS SELECT p.* FROM predictions((SELECT predict_batch('late', f) FROM flights f)) AS p(id int, label bigint, probabilities real[]);
    CHECKPOINT");
my $flights = $node->safe_psql('postgres', 'SELECT count(*) FROM flights');
is($flights, 336776, 'all flights are there');

# Two runs of one job do not overlap, and the first one goes on.
{
    my $run = start_psql($node, 'postgres', q(CALL predict.run_job('late')));
    ok(wait_for(sub { $node->safe_psql('postgres', "SELECT count(*) FROM predict.job_runs WHERE status = 'running' AND chunks > 0") eq '1' }), 'a run is under way');
    my ($rc, undef, $stderr) = $node->psql('postgres', "CALL predict.run_job('late')");
    like($stderr, qr/job "late" is already running\nDETAIL:  Process \d+ runs it/, 'a second one is refused');
    (undef, undef, $stderr) = $node->psql('postgres', "SELECT predict.alter_job('late', '{\"chunk_size\": 5}')");
    like($stderr, qr/already running/, 'it cannot be changed meanwhile');
    is(($run->finish)[1], '', 'the first one ends well');
}

my $per_kind = 5;
for my $kind (('cancel', 'terminate', 'kill', 'crash') x $per_kind) {
    $node->safe_psql('postgres', 'TRUNCATE scores; TRUNCATE predict.job_run, predict.job_error; UPDATE predict.job SET reached = NULL, reached_version = NULL');
    my $run = start_psql($node, 'postgres', q(CALL predict.run_job('late')));
    my $pid;
    wait_for(sub { $pid = $node->safe_psql('postgres', "SELECT pid FROM predict.job_runs WHERE status = 'running'") }) or die 'no run began';
    # At a random place of a run, which may be quick or slow.
    my $wait = rand 0.9;
    wait_for(sub { $node->safe_psql('postgres', "SELECT coalesce(sum(scored), 0) >= $flights * $wait FROM predict.job_runs") eq 't' }, 60) or die 'the run does not go on';
    if ($kind eq 'cancel') { $node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)") }
    elsif ($kind eq 'terminate') { $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") }
    elsif ($kind eq 'kill') { kill 'KILL', $pid }
    else { $node->stop('immediate') }
    $run->finish;
    if ($kind eq 'crash') { $node->start }
    my $name = sprintf '%s after %.2f of a run', $kind, $wait;
    wait_for_server($node, killed => $kind eq 'kill' ? $pid : undef) or die "$name: the server did not come back";
    my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM scores');
    # What was committed is committed for good: it is not scored again.
    $node->safe_psql('postgres', 'CREATE TABLE before AS SELECT id, scored_at FROM scores');
    my ($rc, undef, $stderr) = $node->psql('postgres', "CALL predict.run_job('late')");
    is($stderr, '', "$name ($before rows kept): the next run ends well");
    is($node->safe_psql('postgres', "SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE s.label = p.label AND s.probabilities = p.probabilities)
            FROM scores s FULL JOIN straight p USING (id)"), "$flights|$flights|$flights", "$name: every key once, as predict_batch() has it");
    is($node->safe_psql('postgres', 'SELECT count(*) FROM before b JOIN scores s USING (id) WHERE b.scored_at <> s.scored_at'), '0', "$name: no chunk was scored twice");
    my $ran = $node->safe_psql('postgres', 'SELECT sum(scored), sum(rows), bool_and(status <> \'running\'), count(DISTINCT pid) FROM predict.job_runs');
    like($ran, qr/^$flights\|$flights\|t\|/, "$name: the runs together scored each row once ($ran)");
    $node->safe_psql('postgres', 'DROP TABLE before');
}

# Nothing has changed: no model is reached.
my $calls = "SELECT calls FROM predict.stat_models WHERE model = 'late'";
$node->safe_psql('postgres', "CALL predict.run_job('late')");
my $had = $node->safe_psql('postgres', $calls);
$node->safe_psql('postgres', "CALL predict.run_job('late')");
is($node->safe_psql('postgres', $calls), $had, 'a run over unchanged rows reaches no model');
is($node->safe_psql('postgres', 'SELECT skipped, scored FROM predict.job_runs ORDER BY run DESC LIMIT 1'), "$flights|0", 'and skips all of them');

$node->stop;
done_testing();
