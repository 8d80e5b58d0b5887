# Memory is bounded by settings: five million rows go through predict_batch in a backend that stays as small as it was,
# with workers too; results spill into temporary files that are gone afterwards; what cannot be one value is an error.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use Test::More;
use Time::HiRes qw(sleep time);

my $ROWS = 5_000_000;
# The sum of y = 2x over x = i % 1000.
my $SUM = 2 * 999 * 500 * ($ROWS / 1000);
my $BOUND_KB = 200 * 1024;

my $node = server('memory', conf => <<'CONF');
shared_buffers = 64MB
work_mem = 64MB
max_parallel_workers = 2
max_parallel_workers_per_gather = 2
min_parallel_table_scan_size = 0
parallel_setup_cost = 0
parallel_tuple_cost = 0
fsync = off
CONF
create_model($node, $_) for qw(double wide one_node);
$node->safe_psql('postgres',
	"CREATE TABLE t AS SELECT i AS id, (i % 1000)::real AS x FROM generate_series(1, $ROWS) i; VACUUM ANALYZE t");

# Temporary files that are there now.
sub leftovers
{
	my @files = glob($node->data_dir . "/base/pgsql_tmp/*");
	return @files;
}

# Runs a statement; gives its answer, and the most memory of their own that the backend and its workers each had.
sub watched
{
	my ($session, $sql) = @_;
	my $pid = $session->pid;
	my (%most, $answer, $spilled);
	$session->ask($sql);
	my $turn = 0;
	until ($answer)
	{
		# Workers are children of the postmaster: found by their title, now and then.
		my @workers = $turn++ % 4 ? grep { $_ != $pid } keys %most : workers_of($pid);
		for my $process ($pid, @workers)
		{
			my $now = memory_kb($process, 'RssAnon');
			$most{$process} = $now if $now > ($most{$process} // 0);
		}
		$spilled ||= leftovers();
		my $got = $session->wait(0.02);
		$answer = $got if !$got->{late};
	}
	return ($answer, $pid, \%most, $spilled);
}

sub workers_of
{
	my ($pid) = @_;
	return grep {
		my $title = '';
		if (open my $file, '<', "/proc/$_/cmdline") { local $/; $title = <$file> // ''; }
		$title =~ /parallel worker for PID $pid\b/;
	} children(parent_of($pid));
}

# Keys each once, without a sort of five million.
my $cheap = <<'SQL';
SELECT count(*), sum(id::bigint), bit_xor(id), min(id), max(id), sum(y::float8)
  FROM predictions((SELECT predict_batch('double', t) FROM t)) AS p(id int, y real)
SQL
my $expected = $node->safe_psql('postgres', 'SELECT count(*), sum(id::bigint), bit_xor(id), min(id), max(id) FROM t') . "|$SUM";

# Streamed: nothing is kept but a batch.
for my $workers (0, 2)
{
	my $session = session($node);
	$session->run("SET max_parallel_workers_per_gather = $workers");
	$session->run("SELECT predict('double', 1::real)");
	my $idle = memory_kb($session->pid, 'RssAnon');
	my ($answer, $pid, $most, $spilled) = watched($session, $cheap);
	is(join('|', @{ $answer->{rows}[0] // [ $answer->{message} ] }), $expected, "streamed, $workers workers: $ROWS rows in, $ROWS rows out, each key with its answer");
	ok(!$spilled, "streamed, $workers workers: without temporary files");
	diag(sprintf 'streamed: %.1f s, most %d kB above idle', $answer->{seconds}, $most->{$pid} - $idle);
	cmp_ok($most->{$pid} - $idle, '<', 32 * 1024, "streamed, $workers workers: the backend takes less than 32 MB more than when idle");
	$session->close;
}

# As one value, which goes to temporary files.
my $as_value = 'SET pg_predict.enable_batch_scan = off';
for my $workers (0, 2)
{
	my $how = $workers ? "with $workers workers" : 'in one process';
	my $session = session($node);
	$session->run("$as_value; SET max_parallel_workers_per_gather = $workers");
	my $plan = $session->text("EXPLAIN (COSTS OFF) $cheap");
	if ($workers) { like($plan, qr/Gather/, "$how: the plan is parallel"); }
	$session->run("SELECT predict('double', 1::real)");
	my $idle = memory_kb($session->pid, 'RssAnon');
	my ($answer, $pid, $most, $spilled) = watched($session, $cheap);
	is(join('|', @{ $answer->{rows}[0] // [ $answer->{message} ] }), $expected, "$how: $ROWS rows in, $ROWS rows out, each key with its answer");
	ok($spilled, "$how: the result went to temporary files");
	my $most_of = delete $most->{$pid};
	diag(sprintf '%s: %.1f s, idle %d kB, most %d kB above idle; workers %s kB', $how, $answer->{seconds}, $idle, $most_of - $idle, join ' ', values %$most);
	cmp_ok($most_of - $idle, '<', $BOUND_KB, "$how: the backend takes less than 200 MB more than when idle");
	is(scalar(grep { $_ > $idle + $BOUND_KB } values %$most), 0, "$how: so does each worker");
	cmp_ok(scalar(keys %$most), '>=', 1, "$how: workers were seen") if $workers;
	is(join(' ', leftovers()), '', "$how: no temporary file is left");
	my $after = memory_kb($session->pid, 'RssAnon');
	diag("$how: " . ($after - $idle) . ' kB kept afterwards');
	cmp_ok($after - $idle, '<', 64 * 1024, "$how: the backend is small again afterwards");
	$session->close;
}

# A cancelled one.
{
	my $control = session($node);
	for my $workers (0, 2)
	{
		my $session = session($node);
		$session->run("$as_value; SET max_parallel_workers_per_gather = $workers; SET work_mem = '1MB'");
		$session->ask($cheap);
		ok(wait_for(sub { leftovers() > 0 }, 30), "to be cancelled, $workers workers: the result goes to a temporary file");
		$control->run('SELECT pg_cancel_backend(' . $session->pid . ')');
		is($session->wait->{code}, '57014', "cancelled, $workers workers: with PostgreSQL's own error");
		is(join(' ', leftovers()), '', "cancelled, $workers workers: no temporary file is left");
		is($session->text("SELECT predict('double', 4::real)"), '8', "cancelled, $workers workers: the next query in the session is right");
		$session->close;
	}
}

# Many groups of few rows, all of them open at once: each group's buffers are as large as its rows are many.
{
	my $session = session($node);
	$session->run("SET max_parallel_workers_per_gather = 0; SET enable_sort = off; SET work_mem = '1GB'");
	$session->run("SELECT predict('double', 1::real)");
	my $idle = memory_kb($session->pid, 'RssAnon');
	my ($answer, $pid, $most) = watched($session,
		"SELECT count(b), sum(cardinality(b)) FROM (SELECT id % 20000 AS g, predict_batch('double', x)::real[] AS b FROM t WHERE id <= 200000 GROUP BY 1) r");
	is(join('|', @{ $answer->{rows}[0] // [ $answer->{message} ] }), '20000|200000', '20,000 groups of 10 rows: each row with its answer');
	diag(sprintf '20,000 groups: %d kB above idle', $most->{$pid} - $idle);
	cmp_ok($most->{$pid}, '<', 300 * 1024, '20,000 groups of 10 rows take less than 300 MB');
	$session->close;
}

# What a session can name in a portal while its result is being read, then left.
{
	my $session = session($node);
	$session->run("SET work_mem = '1MB'; SET max_parallel_workers_per_gather = 0; SET synchronize_seqscans = off; BEGIN");
	$session->run("DECLARE c CURSOR FOR SELECT * FROM predictions((SELECT predict_batch('double', t) FROM t WHERE id <= 500000)) AS p(id int, y real)");
	is($session->text('FETCH 2 FROM c'), "1|2\n2|4", 'a cursor over predictions gives its first rows');
	$session->run('ROLLBACK');
	is(join(' ', leftovers()), '', 'a cursor that is left in the middle leaves no temporary file');
	$session->close;
}

# Beyond 1 GB there is no one value.
{
	my $session = session($node);
	$session->run("SET max_parallel_workers_per_gather = 0; SET statement_timeout = '60s'");
	my ($answer, $pid, $most) = watched($session, "CREATE TABLE flat AS SELECT predict_batch('wide', t) AS b FROM (SELECT * FROM t WHERE id <= 28000) t");
	SKIP:
	{
		skip 'making a value beyond 1 GB takes over 60 s here', 3 if ($answer->{code} // '') eq '57014';
		is($answer->{code}, '54000', 'a prediction_batch beyond 1 GB that must be one value is a clear error');
		like($answer->{message} // '', qr/does not fit into one value/, 'which says so');
		cmp_ok($most->{$pid}, '<', 300 * 1024, 'and needs no gigabyte to say so');
	}
	is(join(' ', leftovers()), '', 'and leaves no temporary file');
	my ($got, $reader, $reading) = watched($session,
		"SELECT count(*), sum(y[10000]) FROM predictions((SELECT predict_batch('wide', t) FROM (SELECT * FROM t WHERE id <= 28000) t)) AS p(id int, y real[])");
	SKIP:
	{
		skip 'reading 1 GB of results takes over 60 s here', 2 if ($got->{code} // '') eq '57014';
		is($got->{rows}[0][0], '28000', 'the same result goes straight into predictions()');
		diag('a result of 1.1 GB: ' . ms($got->{seconds}) . ' ms, most ' . $reading->{$reader} . ' kB');
		cmp_ok($reading->{$reader}, '<', 300 * 1024, 'in bounded memory');
	}
	is(join(' ', leftovers()), '', 'and leaves no temporary file either');
	$session->close;
}

# temp_file_limit is PostgreSQL's own bound on it.
{
	my $session = session($node);
	my $got = $session->run("$as_value; SET max_parallel_workers_per_gather = 0; SET work_mem = '1MB'; SET temp_file_limit = '10MB'; $cheap");
	is($got->{code}, '53400', 'temp_file_limit holds for results too');
	is(join(' ', leftovers()), '', 'and nothing is left of them');
	$session->close;
}

clean_log($node, 'no process of the server crashed');
done_testing();
