# A streaming standby predicts as its primary does: the same answers, no writing, and what is promoted there is seen here.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = server('primary', init => { allows_streaming => 1 }, conf => "wal_level = replica\nmax_wal_senders = 5\n");
create_model($primary, 'm', file => 'double');
create_model($primary, 'words');
$primary->safe_psql('postgres', <<'SQL');
CREATE TABLE t AS SELECT i AS id, i::real AS x FROM generate_series(1, 20000) i;
CREATE TABLE w AS SELECT * FROM (VALUES (1, 'Größe'), (2, 'café'), (3, 'other')) v(id, word);
CREATE TABLE stored AS SELECT predict_batch('m', t) AS batch FROM t;
ANALYZE;
SQL
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

sub catch_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	return;
}
catch_up();
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'the standby is one');

my %questions = (
	'predict_batch' => "SELECT count(*), sum(y::float8), sum(id * y::float8) FROM predictions((SELECT predict_batch('m', t) FROM t)) AS p(id int, y real)",
	'predict_batch with workers' => "SET max_parallel_workers_per_gather = 2; SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
		SELECT count(*), sum(y::float8), sum(id * y::float8) FROM predictions((SELECT predict_batch('m', t) FROM t)) AS p(id int, y real)",
	'predict_batch that spills' => "SET work_mem = '64kB'; SELECT count(*), sum(y::float8), sum(id * y::float8) FROM predictions((SELECT predict_batch('m', t) FROM t)) AS p(id int, y real)",
	'predict'       => "SELECT sum(predict('m', t)) FROM t",
	'predict_json'  => "SELECT string_agg(predict_json('words', w)::text, ' ' ORDER BY id) FROM w",
	'casts'         => "SELECT md5((predict_batch('m', t ORDER BY id))::real[]::text) FROM t",
	'stored results' => "SELECT count(*), sum(y::float8) FROM stored, predictions(batch) AS p(id int, y real)",
	'views'         => "SELECT * FROM predict.models, predict.model_inputs i, predict.model_outputs o WHERE i.model = o.model ORDER BY 1, 2");
for my $question (sort keys %questions)
{
	is($standby->safe_psql('postgres', $questions{$question}), $primary->safe_psql('postgres', $questions{$question}),
		"the same answers from $question");
}

# Writing.
my $session = session($standby);
my $triple = model_file('triple');
for my $statement ("predict.create_model_from_file('m', '$triple')", "predict.create_model_from_file('new', '$triple')",
	"predict.set_alias('m', 'a', 1)", "predict.drop_alias('m', 'default')", "predict.drop_model('m')",
	"predict.grant_usage('m', 'public')", "predict.revoke_usage('m', 'public')")
{
	my $got = $session->run("SELECT $statement");
	is($got->{code}, '25006', "$statement on a standby: SQLSTATE of a read-only transaction");
	like($got->{message} // 'no error', qr/read-only transaction|during recovery/, "$statement on a standby: says so");
}
is($session->text("SELECT predict('m', 5::real)"), '10', 'the session predicts after that');

# Promotion of a version, in a session that has the old one loaded.
$primary->safe_psql('postgres', "SELECT predict.create_model_from_file('m', '$triple')");
catch_up();
is($session->text("SELECT predict('m', 5::real), predict('m\@2', 5::real)"), '10|15', 'a version made on the primary can be used on the standby');
$primary->safe_psql('postgres', "SELECT predict.set_alias('m', 'default', 2)");
catch_up();
is($session->text("SELECT predict('m', 5::real)"), '15', 'an alias promoted on the primary is seen on the standby, in the same session');
is($session->text("SELECT sum(y::float8) FROM predictions((SELECT predict_batch('m', t) FROM t)) AS p(id int, y real)"), '600030000', 'by predict_batch too');
$primary->safe_psql('postgres', "SELECT predict.drop_model('words')");
catch_up();
like($session->text("SELECT predict_text('words', 'café')"), qr/^42704/, 'a model dropped on the primary is gone from the standby');

# The standby takes over.
$session->close;
$standby->promote;
is($standby->safe_psql('postgres', "SELECT predict('m', 5::real)"), '15', 'a promoted standby predicts');
is($standby->safe_psql('postgres', "SELECT predict.create_model_from_file('m', '$triple')"), '3', 'and takes new versions');

clean_log($_, 'no process of the ' . $_->name . ' crashed') for $primary, $standby;
done_testing();
