# How and where the library is loaded makes no difference; ONNX Runtime is in no process before its first use; a session's
# signals stay its own; a crashed session, a prepared transaction, another database, another encoding: the same answers.

use strict;
use warnings FATAL => 'all';
use utf8;

use Encode qw(encode decode);
use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = server('preload');
create_model($node, $_) for qw(double words);
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT i AS id, i::real AS x FROM generate_series(1, 1000) i; ANALYZE t');
my $question = "SELECT count(*), sum(y::float8) FROM predictions((SELECT predict_batch('double', t) FROM t)) AS p(id int, y real)";
my $answer = '1000|1001000';
my $parallel = "SET max_parallel_workers_per_gather = 2; SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;";

# Whether a process has a library mapped.
sub has_mapped
{
	my ($pid, $name) = @_;
	return slurp_file("/proc/$pid/maps") =~ /\Q$name\E/ ? 1 : 0;
}

# 1. However it is loaded.
for my $how ('nothing', 'shared_preload_libraries', 'session_preload_libraries')
{
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nsession_preload_libraries = ''");
	$node->append_conf('postgresql.conf', "$how = 'pg_predict'") if $how ne 'nothing';
	$node->restart;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my $session = session($node);
	$session->run('SELECT 1');
	is(has_mapped($session->pid, '/pg_predict.so'), $how eq 'nothing' ? 0 : 1, "$how: a fresh session has the extension's library as it should");
	is(has_mapped($session->pid, 'libonnxruntime'), 0, "$how: a fresh session has nothing of ONNX Runtime");
	is(has_mapped($postmaster, 'libonnxruntime'), 0, "$how: the postmaster has nothing of ONNX Runtime");
	is(scalar(threads($postmaster)), 1, "$how: the postmaster has one thread");
	$session->run('SELECT * FROM predict.models; SET pg_predict.batch_size = 7; SHOW pg_predict.session_cache_size');
	is(has_mapped($session->pid, 'libonnxruntime'), 0, "$how: nor has one that only looks at models and settings");
	$session->run("SELECT predict.create_model_from_file('other', '" . model_file('triple') . "')");
	is(has_mapped($session->pid, 'libonnxruntime'), 0, "$how: nor has one that makes a model");
	is($session->text($question), $answer, "$how: it predicts");
	is(has_mapped($session->pid, 'libonnxruntime'), isolation() eq 'backend' ? 1 : 0, "$how: ONNX Runtime is there only if models run in the backend");
	is(has_mapped($postmaster, 'libonnxruntime'), 0, "$how: and still not in the postmaster");
	is($session->text($question), $answer, "$how: it predicts again");
	$session->run($parallel);
	is($session->text($question), $answer, "$how: and with workers");
	$session->close;
}
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nsession_preload_libraries = ''");
$node->restart;

# 2. Signals, and the threads of a model in the backend.
{
	my $session = session($node);
	$session->run('SET pg_predict.isolation = backend; SET pg_predict.threads = 3');
	$session->text($question);
	my $pid = $session->pid;
	# A query's own thread may end while it is looked at: only those that stay are counted.
	sleep 0.2;
	my %masks;
	for my $thread (threads($pid))
	{
		my $status = PgPredict::slurp("/proc/$pid/task/$thread/status") // '';
		$masks{$thread} = hex $1 if $status =~ /^SigBlk:\s*[0-9a-f]{8}([0-9a-f]{8})$/m;
	}
	my @others = grep { $_ != $pid } keys %masks;
	cmp_ok(scalar(@others), '>=', 2, 'a session with threads inside a run has them');
	my $all = 0;
	$all |= 1 << ($_ - 1) for 1 .. 31;
	# KILL and STOP cannot be blocked; ILL, TRAP, BUS, FPE and SEGV come from what a thread does itself.
	$all &= ~(1 << ($_ - 1)) for 9, 19, 4, 5, 7, 8, 11;
	is(scalar(grep { ($masks{$_} & $all) != $all } @others), 0, 'every thread but the first has every signal blocked that comes from outside');
	is($masks{$pid} & (1 << 1 | 1 << 14 | 1 << 9), 0, 'the first has not: the server can signal it');
	# The server's own signals, many of them, while runs are under way.
	my $control = session($node);
	my $wrong = 0;
	for (1 .. 50)
	{
		$session->ask($question);
		for (1 .. 5) { kill $_, $pid for qw(HUP USR1); }
		my $got = $session->wait;
		$wrong++ if join('|', @{ $got->{rows}[0] // [] }) ne $answer;
	}
	is($wrong, 0, 'signals in the middle of runs change no answer');
	$session->close;
}

# 3. Floating point: what a model does with small numbers does not leak into the session.
{
	my $session = session($node);
	$session->text($question);
	is($session->text("SELECT predict('double', 1::real), 1e-300::float8 * 1e-10::float8 > 0, 2e-308::float8 / 8 > 0"), '2|t|t', 'denormal numbers are as before after a prediction');
	$session->close;
}

# 4. A crash of one session.
{
	my $session = session($node);
	my $victim  = session($node);
	$session->text($question);
	$victim->text($question);
	kill 'KILL', $victim->pid;
	ok(wait_for(sub { is_gone($session->pid) }, 30), 'when one session is killed outright, the server restarts them all');
	ok(wait_for_server($node, killed => $victim->pid), 'the server comes back');
	is(session($node)->text($question), $answer, 'and predicts');
}

# 5. Prepared transactions.
{
	my $session = session($node);
	my $triple = model_file('triple');
	$session->run('BEGIN');
	is($session->text("SELECT predict.create_model_from_file('prepared', '$triple')"), '1', 'a model is made in a transaction');
	is($session->text("SELECT predict('prepared', 2::real)"), '6', 'and used in it');
	my $got = $session->run("PREPARE TRANSACTION 'p'");
	is($got->{message}, undef, 'which can be prepared');
	like($session->text("SELECT predict('prepared', 2::real)"), qr/^42704/, 'nobody sees the model before the commit');
	$node->stop('immediate');
	$node->start;
	$session = session($node);
	$session->run("COMMIT PREPARED 'p'");
	is($session->text("SELECT predict('prepared', 2::real)"), '6', 'and it is there after it, over a crash');
	$session->run("BEGIN");
	$session->run("SELECT predict.drop_model('prepared')");
	$session->run("PREPARE TRANSACTION 'q'");
	is($session->text("SELECT predict('prepared', 2::real)"), '6', 'a prepared drop has not happened yet');
	$session->run("ROLLBACK PREPARED 'q'");
	is($session->text("SELECT predict('prepared', 2::real)"), '6', 'and rolled back never does');
}

# 6. Two databases.
{
	$node->safe_psql('postgres', 'CREATE DATABASE second');
	$node->safe_psql('second', 'CREATE EXTENSION pg_predict');
	create_model($node, 'double', file => 'triple', database => 'second');
	is($node->safe_psql('second', "SELECT predict('double', 2::real)"), '6', 'a database has its own models');
	is($node->safe_psql('postgres', "SELECT predict('double', 2::real)"), '4', 'and another its own');
	is($node->safe_psql('second', "SELECT string_agg(name, ' ') FROM predict.models"), 'double', 'which it alone shows');
	$node->safe_psql('postgres', 'DROP DATABASE second');
}

# 7. Encodings: the same words in, the same words out.
{
	my @words = ('Größe', 'Übermaß', 'café', 'plain', 'ÿ not in it');
	my $values = join ', ', map { "($_, '$words[$_]')" } 0 .. $#words;
	my @questions = (
		"SELECT string_agg(predict_text('words/translation', word), ';' ORDER BY id) FROM w",
		"SELECT string_agg(predict_json('words', w)::text, ';' ORDER BY id) FROM w",
		"SELECT sum(predict('words/scores[très bon]', w)) FROM w",
		"SELECT (predict_batch('words/translation', w ORDER BY id))::text[] FROM w",
		# jsonb orders its keys by their bytes, which differ: one value is looked at.
		"SELECT (predict_batch('words', w ORDER BY id))::jsonb -> 0 ->> 'Straße' FROM w",
		"SELECT string_agg(p.translation || p.\"Straße\" || p.scores, ';' ORDER BY id) FROM predictions((SELECT predict_batch('words', w) FROM w)) AS p(id int, \"Straße\" text, translation text, scores jsonb)",
		"SELECT predict_batch('words', w ORDER BY id)::text FROM w",
		"SELECT string_agg(p.translation || p.\"Straße\", ';' ORDER BY id) FROM (SELECT (predict_batch('words', w ORDER BY id)::text)::prediction_batch AS b FROM w) s, LATERAL predictions(s.b) AS p(id int, \"Straße\" text, translation text)",
		"SELECT predict('words\@Ärger/scores[schön ärgerlich]', 'café'::text)",
		"SELECT string_agg(array_to_string(aliases, ','), ';') FROM predict.models",
		"SELECT predict('wörter', 1)",
		"SELECT predict('words\@größer', 'x'::text)",
		"SELECT predict('words/größe', 'x'::text)",
		"SELECT * FROM predictions((SELECT predict_batch('words', w) FROM w)) AS p(\"süß\" int)",
		"SELECT predict.create_model_from_file('x', '" . model_file('words') . "', '{\"größe\": 1}')");
	my %answers;
	for my $encoding (qw(UTF8 LATIN1 SQL_ASCII))
	{
		my $database = lc $encoding;
		$node->safe_psql('postgres', "CREATE DATABASE $database ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
		$node->safe_psql($database, 'CREATE EXTENSION pg_predict');
		create_model($node, 'words', database => $database);
		my $client = $encoding eq 'SQL_ASCII' ? 'SQL_ASCII' : 'UTF8';
		my $session = session($node, $database, client_encoding => $client);
		my $made = $session->run("CREATE TABLE w (id int, word text, \"Straße\" text); INSERT INTO w SELECT id, word, 'Straße ' || word FROM (VALUES $values) v(id, word)");
		is($made->{message}, undef, "$encoding: words are stored");
		$made = $session->run("SELECT predict.set_alias('words', 'Ärger', 1)");
		is($made->{message}, undef, "$encoding: an alias with an umlaut is made");
		for my $form (qw(UTF8 LATIN1))
		{
			next if $encoding eq 'SQL_ASCII' && $form eq 'LATIN1';
			my $sender = session($node, $database, client_encoding => $encoding eq 'SQL_ASCII' ? 'SQL_ASCII' : $form);
			$answers{"$encoding database, $form client"} = [ map { decode($form, $sender->text(encode($form, $_))) } @questions ];
			$sender->close;
		}
	}
	my $truth = $answers{'UTF8 database, UTF8 client'};
	like($truth->[0], qr/^taille élevée;démesure;Kaffeehaus;einfach;ÿ unbekannt$/, 'a UTF8 database translates words');
	is($truth->[8], '0.25', 'and finds an element by a key with an umlaut, through an alias with one');
	for my $i (0 .. $#questions)
	{
		for my $where (sort keys %answers)
		{
			my $expected = $truth->[$i];
			# The texts of our errors go through pgrx as UTF-8: elsewhere what is not ASCII is written by its code point.
			$expected =~ s/([^\x00-\x7f])/sprintf('\\u%04x', ord $1)/ge if $expected =~ /^[0-9A-Z]{5}: / && $where !~ /^UTF8 database/;
			is(encode('UTF8', $answers{$where}[$i]), encode('UTF8', $expected), encode('UTF8', "$where: the same answer to question $i: $questions[$i]"));
		}
	}
	# A word that the database's encoding has no letter for.
	my $session = session($node, 'latin1');
	like($session->text("SELECT predict_text('words/translation', '日本'::text)"), qr/^22P05/, 'LATIN1: a word that the encoding lacks is PostgreSQL\'s error');
}

ok(!has_log($node, qr/PANIC|terminated by signal (?!9)/), 'no process crashed but the one that was killed');
done_testing();
