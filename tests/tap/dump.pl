# A dump restored into a new database gives the same answers, versions, aliases and grants; where a role is missing, the
# models survive. Stored prediction_batch values come along.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = server('dump');
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE analyst;
CREATE ROLE steward;
CREATE ROLE "Odd, Role";
CREATE DATABASE origin ENCODING 'UTF8' TEMPLATE template0;
SQL
$node->safe_psql('origin', <<'SQL');
CREATE EXTENSION pg_predict;
CREATE TABLE t AS SELECT i AS id, i::real AS x, 'row ' || i AS note, i * 1.5 AS amount FROM generate_series(1, 3000) i;
CREATE TABLE w (word text);
INSERT INTO w VALUES ('Größe'), ('plain'), (NULL);
GRANT SELECT ON t TO PUBLIC;
GRANT EXECUTE ON FUNCTION predict.create_model_from_file(text, text, jsonb, text), predict.grant_usage(text, text), predict.set_alias(text, text, integer, boolean) TO steward;
GRANT pg_read_server_files TO steward;
SQL
create_model($node, 'm', file => 'double', database => 'origin', options => '{"batch_size": 7}');
create_model($node, 'm', file => 'triple', database => 'origin', options => '{"on_null": "error"}');
create_model($node, 'words', database => 'origin');
# The same bytes under another name are stored once.
create_model($node, 'twin', file => 'double', database => 'origin');
my $triple = model_file('triple');
$node->safe_psql('origin', <<"SQL");
SELECT predict.set_alias('m', 'next', 2);
SELECT predict.set_alias('twin', 'Ünïcode alias', 1);
SELECT predict.grant_usage('m', 'analyst');
SELECT predict.grant_usage('words', 'public');
SET ROLE steward;
SELECT predict.create_model_from_file('stewarded', '$triple');
SELECT predict.grant_usage('stewarded', 'Odd, Role');
RESET ROLE;
SELECT predict.add_checks('m', 'SELECT * FROM t WHERE id <= 5');
SELECT predict.set_baseline('m', 'SELECT * FROM t');
SELECT predict.create_job('nightly', 'm', 'SELECT id, x, note FROM t', 'id', 'scores', '{"chunk_size": 1000, "skip_unchanged": true}');
CALL predict.run_job('nightly');
CREATE TABLE stored AS
  SELECT id % 3 AS third, predict_batch('m', t) AS batch FROM t GROUP BY 1
  UNION ALL SELECT 4, predict_batch('words', w) FROM w
  UNION ALL SELECT 5, predict_batch('m', t) FROM t WHERE false;
SQL

# Everything that a user sees, as text.
my %questions = (
	answers => "SELECT count(*), sum(y::float8), sum(amount), md5(string_agg(note || y, ',' ORDER BY id))
		FROM predictions((SELECT predict_batch('m', t) FROM t)) AS p(id int, note text, amount numeric, y real)",
	plain    => "SELECT sum(predict('m', t)), sum(predict('m\@2', t)), sum(predict('m\@next', t)), sum(predict('twin', t)), sum(predict('stewarded', t)) FROM t WHERE id < 50",
	texts    => "SELECT string_agg(coalesce(predict_json('words', w)::text, 'NULL'), ' ') FROM w",
	versions => "SELECT name, version, aliases, owner, bytes, sha256, batch_size, verified, options, metadata, created_at, created_by FROM predict.models ORDER BY 1, 2",
	inputs   => "SELECT * FROM predict.model_inputs ORDER BY 1, 2, 3",
	outputs  => "SELECT * FROM predict.model_outputs ORDER BY 1, 2, 3",
	grants   => "SELECT model, role::text, privilege FROM predict.privilege ORDER BY 1, 2, 3",
	stored   => "SELECT s.third, count(p.*), sum(p.y::float8), md5(string_agg(p.note, ',' ORDER BY p.id)) FROM stored s,
		LATERAL predictions(s.batch) AS p(id int, note text, y real) WHERE s.third < 3 GROUP BY 1 ORDER BY 1",
	stored_as_text => "SELECT third, md5(batch::text) FROM stored ORDER BY 1",
	checks   => "SELECT model, name, rows, tolerance, created_at FROM predict.checks",
	checked  => "SELECT model_name, version, name, rows, failed, passed FROM predict.check() ORDER BY 1, 2",
	history  => "SELECT at, role, model, action, version, alias, detail, id FROM predict.history ORDER BY id",
	drift    => "SELECT kind, name, baseline_rows, rows, psi, ks, verdict FROM predict.drift('m', 'SELECT * FROM t WHERE id > 1500') ORDER BY 1, 2",
	jobs     => "SELECT name, owner, model, source, key, target, options, status, last_started FROM predict.jobs",
	job_runs => "SELECT * FROM predict.job_runs ORDER BY run",
	contents => "SELECT (SELECT count(*) FROM predict.content), (SELECT count(*) FROM predict.chunk), (SELECT sum(length(data)) FROM predict.chunk)");
my %expected = map { $_ => $node->safe_psql('origin', $questions{$_}) } keys %questions;
like($expected{answers}, qr/^3000\|9003000\|/, 'the origin predicts');
like($expected{stored}, qr/^0\|1000\|.*\n1\|1000\|.*\n2\|1000\|/, 'the origin holds stored results');
is($expected{contents} =~ /^(\d+)/ && $1, '3', 'the same bytes are stored once');

sub same
{
	my ($database, $how, @but) = @_;
	for my $question (sort keys %questions)
	{
		next if grep { $_ eq $question } @but;
		my ($rc, $got, $error) = $node->psql($database, $questions{$question});
		is($rc ? $error : $got, $expected{$question}, "$how: the same $question");
	}
	return;
}

my $folder = $node->basedir;
command_ok([ 'pg_dump', '-Fp', '-f', "$folder/plain.sql", $node->connstr('origin') ], 'a plain dump is made');
command_ok([ 'pg_dump', '-Fc', '-f', "$folder/custom.dump", $node->connstr('origin') ], 'a custom dump is made');
command_ok([ 'pg_dump', '-Fd', '-j', '2', '-f', "$folder/directory", $node->connstr('origin') ], 'a parallel dump is made');

$node->safe_psql('postgres', "CREATE DATABASE $_ ENCODING 'UTF8' TEMPLATE template0") for qw(plain custom directory again);
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', "$folder/out", '-f', "$folder/plain.sql", '-d', 'plain' ], 'the plain dump is restored');
same('plain', 'plain dump');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'custom', "$folder/custom.dump" ], 'the custom dump is restored');
same('custom', 'custom dump');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', 'directory', "$folder/directory" ], 'the parallel dump is restored');
same('directory', 'parallel dump');

# Roles keep what they had, and nobody has more.
sub as_role
{
	my ($role, $sql) = @_;
	my ($rc, $out, $error) = $node->psql('plain', "SET ROLE \"$role\"; $sql", on_error_stop => 1);
	return $rc ? ($error =~ /ERROR:  (.*)/)[0] : $out;
}
is(as_role('analyst', "SELECT predict('m', 2::real)"), '4', 'a role that could use a model still can');
like(as_role('analyst', "SELECT predict('twin', 2::real)"), qr/permission denied/, 'one that could not still cannot');
is(as_role('Odd, Role', "SELECT predict('stewarded', 2::real)"), '6', 'an odd role name survives');
is(as_role('steward', "SELECT predict.set_alias('stewarded', 'mine', 1); SELECT predict('stewarded\@mine', 2::real)") =~ /(\d+)$/ && $1, '6', 'an owner is still the owner');
like(as_role('analyst', 'SELECT count(*) FROM predict.chunk'), qr/permission denied/, 'nobody reads the bytes');
is($node->safe_psql('plain', "SELECT predict.create_model_from_file('m', '$triple')"), '3', 'a restored model gets its next version');

# The job goes on where it was: nothing has changed, and one row is new.
$node->safe_psql('plain', "INSERT INTO t VALUES (3001, 1, 'new', 1)");
$node->safe_psql('plain', "CALL predict.run_job('nightly')");
is($node->safe_psql('plain', 'SELECT scored, skipped, rows FROM predict.job_runs ORDER BY run DESC LIMIT 1'), '1|3000|3001', 'a restored job skips what was scored');

# A dump of the dump.
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$folder/again.dump", '-d', 'custom' ], 'a restored database is dumped again');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'again', "$folder/again.dump" ], 'and restored again');
same('again', 'dump of the dump');

# A server that lacks the roles.
{
	my $other = server('dump_other');
	$other->safe_psql('postgres', "DROP EXTENSION pg_predict; CREATE DATABASE origin ENCODING 'UTF8' TEMPLATE template0");
	for my $form ([ 'plain', 'psql', '-X', '-q', '-o', "$folder/out", '-f', "$folder/plain.sql", '-d', 'plain' ],
		[ 'custom', 'pg_restore', '-d', 'custom', "$folder/custom.dump" ])
	{
		my ($name, @command) = @$form;
		$other->safe_psql('postgres', "CREATE DATABASE $name ENCODING 'UTF8' TEMPLATE template0");
		local %ENV = $other->_get_env();
		my ($out, $errors);
		IPC::Run::run(\@command, '>', \$out, '2>', \$errors);
		like($errors, qr/role "analyst" does not exist|role .*steward.* does not exist/, "$name dump where a role is missing: says which");
		for my $question (qw(answers plain texts inputs outputs stored contents))
		{
			my ($rc, $got, $error) = $other->psql($name, $questions{$question});
			is($rc ? $error : $got, $expected{$question}, "$name dump where a role is missing: the same $question");
		}
		is($other->safe_psql($name, "SELECT predict.set_alias('stewarded', 'kept', 1); SELECT predict('stewarded\@kept', 2::real)") =~ /(\d+)$/ && $1,
			'6', "$name dump where a role is missing: a superuser looks after what lost its owner");
	}
	clean_log($other, 'no process of the other server crashed');
}

# Half a dump, on purpose.
$node->safe_psql('postgres', 'CREATE DATABASE damaged TEMPLATE origin');
$node->safe_psql('damaged', "UPDATE predict.chunk SET data = overlay(data PLACING '\\xff'::bytea FROM length(data) / 2)");
# The file cache has what was stored before, and answers as before; the tables are read where there is no file.
my ($rc, $out, $error) = $node->psql('damaged', "SET pg_predict.file_cache_size = 0; SELECT predict('m', 2::real)", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($error, qr/XX001.*damaged/, 'bytes that changed on the way are an error, never another answer');

clean_log($node, 'no process of the server crashed');
done_testing();
