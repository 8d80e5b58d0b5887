# Small calls again and again, in one backend: what a query leaves for the next is small and never outlives what it was true of: not a
# promotion or a dropped model on a standby, nor a cancelled, failed or parallel query before it, nor the end of the registry's tables
# that VACUUM cuts off.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = server('small', init => { allows_streaming => 1 }, conf => "wal_level = replica\nmax_wal_senders = 5\nshared_preload_libraries = 'pg_predict'\n");
create_model($primary, 'm', file => 'double');
create_model($primary, "words_$_", file => 'words') for 1 .. 12;
$primary->safe_psql('postgres', <<'SQL');
CREATE TABLE t AS SELECT i AS id, i::real AS x FROM generate_series(1, 200000) i;
ALTER TABLE t ADD PRIMARY KEY (id);
CREATE TABLE w AS SELECT 1 AS id, repeat('long text ', 2000000) AS word UNION ALL SELECT 2, 'café';
ANALYZE;
SQL

# Texts of 20 MB, each with another model: none of them stays.
my $session = session($primary);
$session->run('SET plan_cache_mode = force_generic_plan; SET pg_predict.max_batch_memory = 65536');
$session->run("PREPARE word_$_ (int) AS SELECT length(predict_text('words_$_', word)) FROM w WHERE id = \$1") for 1 .. 12;
isnt($session->text("EXECUTE word_$_(2)"), '', "model $_ answers a short text") for 1 .. 2;
my $before = memory_kb($session->pid, 'RssAnon');
my %said = map { $session->text("EXECUTE word_$_(1)") => 1 } 1 .. 12;
is(scalar(keys %said), 1, 'twelve models say the same of a text of 20 MB') or diag(join ', ', keys %said);
my $grown = memory_kb($session->pid, 'RssAnon') - $before;
ok($grown < 60_000, 'and the backend keeps none of it') or diag("it has grown by $grown kB");
note("grown by $grown kB");

# A statement that was cancelled, one that failed, one with workers; the next small one is right.
$session->run("PREPARE point(int) AS SELECT predict('m', x) FROM t WHERE id = \$1");
is($session->text('EXECUTE point(21)'), '42', 'a point query');
$session->ask("SELECT sum(predict('m', x)) FROM t, generate_series(1, 1000)");
ok(wait_for(sub { $primary->safe_psql('postgres', 'SELECT count(*) FROM predict.stat_progress') > 0 }), 'a long query runs');
$primary->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $session->pid . ')');
is($session->wait->{code}, '57014', 'and is cancelled');
is($session->text('EXECUTE point(22)'), '44', 'the point query after it');
is($session->run("SELECT predict('m', 'x') FROM t WHERE id = 1")->{code}, '42804', 'a call that fails');
is($session->text('EXECUTE point(23)'), '46', 'the point query after it');
$session->run('SET max_parallel_workers_per_gather = 2; SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0');
is($session->text("SELECT sum(predict('m', x)) FROM t"), '40000200000', 'a query with workers');
like($session->text("EXPLAIN SELECT sum(predict('m', x)) FROM t"), qr/Workers Planned/, 'which it had');
is($session->text('EXECUTE point(24)'), '48', 'the point query after it');
is($session->text('EXECUTE point(0)'), '', 'no row, no answer');
is($session->text('SELECT predict(\'m\', x), i FROM generate_series(1, 3) i LEFT JOIN LATERAL (SELECT x FROM t WHERE id = i) q ON true ORDER BY i'),
	"2|1\n4|2\n6|3", 'a node that is scanned again for each outer row');

# What another session does counts from the next statement on, in a transaction too, and not for a snapshot that is kept.
create_model($primary, 'other', file => $_) for 'double', 'triple';
$session->run("PREPARE other(int) AS SELECT predict('other', x) FROM t WHERE id = \$1");
sub promote { $primary->safe_psql('postgres', "SELECT predict.set_alias('other', 'default', $_[0])"); return; }
$session->run('BEGIN');
is($session->text('EXECUTE other(5)'), '10', 'a point query in a transaction') for 1 .. 2;
promote(2);
is($session->text('EXECUTE other(5)'), '15', 'after another session has promoted');
is($session->text("SELECT predict.set_alias('other', 'default', 1)"), '', 'its own promotion');
is($session->text('EXECUTE other(5)'), '10', 'counts at once');
$session->run('ROLLBACK');
is($session->text('EXECUTE other(5)'), '15', 'and not when it is undone');
$session->run('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($session->text('EXECUTE other(5)'), '15', 'under a snapshot');
promote(1);
is($session->text('EXECUTE other(5)'), '15', 'the same after a promotion');
$session->run('COMMIT');
is($session->text('EXECUTE other(5)'), '10', 'which counts from then on') for 1 .. 2;
$primary->safe_psql('postgres', "BEGIN; SELECT predict.set_alias('other', 'default', 2); ROLLBACK");
is($session->text('EXECUTE other(5)'), '10', 'one that is undone never does');
# Others have more subtransactions than a snapshot lists: it tells only that, and then has no list of those that it counted before.
$primary->safe_psql('postgres', 'CREATE TABLE many (i int)');
my @busy = map { session($primary) } 1 .. 3;
for my $i (0 .. 2)
{
	my $count = (10, 100, 10)[$i];
	$busy[$i]->run('BEGIN');
	is($busy[$i]->run("DO \$\$ BEGIN FOR n IN 1..$count LOOP BEGIN INSERT INTO many VALUES (n); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END \$\$")->{code},
		undef, "$count subtransactions");
}
# Those count that began before one which has ended.
$primary->safe_psql('postgres', 'INSERT INTO many VALUES (0)');
is($session->text('EXECUTE other(5)'), '10', 'a point query beside them') for 1 .. 2;
is($session->text("SELECT predict_text('words_1', 'plain')"), 'einfach', 'and a call alone');
$_->close for @busy;

# Values that PostgreSQL has to work on: what that takes is given back row by row.
$primary->safe_psql('postgres', "CREATE TABLE n AS SELECT i::numeric AS x FROM generate_series(1, 2000000) i; ANALYZE n");
my $fresh = session($primary);
$fresh->run('SET max_parallel_workers_per_gather = 0');
is($fresh->text("SELECT sum(predict('other', x)) FROM n WHERE x < 1000"), '999000', 'numerics');
my $peak = sub { memory_kb($fresh->pid, 'VmHWM') };
my $low = $peak->();
is($fresh->text("SELECT sum(predict('other', x)) FROM n"), '4000002000000', 'two million numerics');
is($fresh->text("SELECT (predict_batch('other', x)) IS NOT NULL FROM n"), 't', 'by predict_batch, too');
my $more = $peak->() - $low;
ok($more < 40_000, 'take no memory of their own') or diag("it has grown by $more kB");
note("grown by $more kB");
$fresh->close;

# A function's expression keeps what it knows of its model from one evaluation to the next, and sees as much as a statement would.
$session->run(<<~'SQL');
    CREATE FUNCTION patient(n int) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE said text := ''; seen int;
    BEGIN
        FOR i IN 1..2 LOOP
            said := said || ' ' || predict('other', 5::real);
            seen := 0;
            WHILE i = 1 AND seen < n LOOP
                PERFORM pg_sleep(0.01);
                SELECT version INTO seen FROM predict.alias WHERE model = 'other' AND alias = 'default';
            END LOOP;
        END LOOP;
        RETURN said;
    END $$
    SQL
$session->ask('SELECT patient(2)');
ok(wait_for(sub { $primary->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") > 0 }),
	'a function waits');
promote(2);
is($session->wait->{rows}[0][0], ' 10 15', 'and its next evaluation follows a promotion by another session');
$session->run(<<~'SQL');
    CREATE FUNCTION undone() RETURNS text LANGUAGE plpgsql AS $$
    DECLARE said text := '';
    BEGIN
        FOR i IN 1..3 LOOP
            BEGIN
                IF i = 2 THEN PERFORM predict.set_alias('other', 'default', 1); END IF;
                said := said || ' ' || predict('other', 5::real);
                IF i = 2 THEN RAISE division_by_zero; END IF;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END LOOP;
        RETURN said;
    END $$
    SQL
is($session->text('SELECT undone()'), ' 15 10 15', 'one that is undone within the function is undone for its expression');
$primary->safe_psql('postgres', "SELECT predict.drop_model('other')");
like($session->text('EXECUTE other(5)'), qr/^42704: model "other" does not exist/, 'and a model that is dropped is gone');

# A standby: what it knew goes with what the primary did.
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('small_standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
sub catch_up { $primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush')); return; }
catch_up();
my $reader = session($standby);
$reader->run('SET plan_cache_mode = force_generic_plan');
$reader->run("PREPARE point(int) AS SELECT predict('m', x) FROM t WHERE id = \$1");
is($reader->text('EXECUTE point(10)'), '20', 'a point query on a standby') for 1 .. 2;
create_model($primary, 'm', file => 'triple');
$primary->safe_psql('postgres', "SELECT predict.set_alias('m', 'default', 2)");
catch_up();
is($reader->text('EXECUTE point(10)'), '30', 'after a promotion on the primary');
$reader->run('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->text('EXECUTE point(11)'), '33', 'under a snapshot');
$primary->safe_psql('postgres', "SELECT predict.set_alias('m', 'default', 1)");
catch_up();
is($reader->text('EXECUTE point(11)'), '33', 'which a promotion does not change');
$reader->run('COMMIT');
is($reader->text('EXECUTE point(11)'), '22', 'and the next transaction sees it');
# The end of a table is cut off there too.
$primary->safe_psql('postgres', "SELECT predict.set_alias('m', 'a' || n, 1) FROM generate_series(1, 500) n");
catch_up();
$reader->run("PREPARE late(int) AS SELECT predict('m\@a500', x) FROM t WHERE id = \$1");
is($reader->text('EXECUTE late(5)'), '10', 'an alias at the end of its table');
$primary->safe_psql('postgres', "SELECT predict.drop_alias('m', 'a' || n) FROM generate_series(1, 500) n");
$primary->safe_psql('postgres', 'VACUUM (TRUNCATE) predict.alias');
catch_up();
like($reader->text('EXECUTE late(5)'), qr/^42704: .*a500/, 'and it is gone with that');
$primary->safe_psql('postgres', "SELECT predict.drop_model('m')");
catch_up();
like($reader->text('EXECUTE point(5)'), qr/^42704: model "m" does not exist/, 'a model that is dropped is dropped here');
$reader->close;
$session->close;
$standby->stop;
clean_log($standby, 'nothing is wrong in the log of the standby');
$primary->stop;
clean_log($primary, 'nor of the primary');
done_testing();
