# Loaded models take no more memory in a session than pg_predict.session_cache_size says: the least recently used goes first,
# what a query uses stays, what can never fit is an error. And a session follows the registry: it never answers from a
# model that has been dropped, made anew or rolled back.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use Test::More;

# Without the file cache a load reads the tables.
my $node = server('sessions', conf => "session_preload_libraries = 'pg_predict'\npg_predict.file_cache_size = 0\n");
create_model($node, $_) for qw(double triple);
# Six models of some 20 MB each.
my @models = map { "big$_" } 1 .. 6;
for my $i (1 .. 6)
{
	my $path = large_model($node->basedir, 700 + $i);
	$node->safe_psql('postgres', "SELECT predict.create_model_from_file('big$i', '$path')");
	unlink $path;
}
my $each = $node->safe_psql('postgres', "SELECT max((signature->>'session_bytes')::bigint) >> 20 FROM predict.version WHERE model LIKE 'big%'") + 1;
diag("a session of one of the models is taken to need $each MB");

# Uses models in a session and tells which of them it had to load: only a load reads the bytes.
sub loads
{
	my ($session, @names) = @_;
	my $reads = 'SELECT coalesce(sum(coalesce(seq_scan, 0) + coalesce(idx_scan, 0)), 0) FROM pg_stat_xact_all_tables WHERE schemaname = \'predict\' AND relname = \'chunk\'';
	my @loaded;
	for my $name (@names)
	{
		$session->run('BEGIN');
		my $before = $session->text($reads);
		my $got = $session->text("SELECT predict('$name', 5::real)");
		push @loaded, "$name: $got" if $got ne '5';
		push @loaded, $name if $session->text($reads) > $before;
		$session->run('COMMIT');
	}
	return join ' ', @loaded;
}

# 1. Least recently used first.
{
	my $session = session($node);
	$session->run('SET pg_predict.session_cache_size = \'' . (3 * $each) . 'MB\'');
	is(loads($session, qw(big1 big2 big3)), 'big1 big2 big3', 'a first use loads a model');
	is(loads($session, qw(big1 big2 big3 big1)), '', 'a second does not, while all fit');
	is(loads($session, 'big4'), 'big4', 'one more than fits is loaded');
	is(loads($session, qw(big1 big3 big4)), '', 'and those that were used last are there still');
	is(loads($session, 'big2'), 'big2', 'the one that was not is loaded again');
	is(loads($session, qw(big4 big3 big2)), '', 'which drops the one that then was least recently used');
	is(loads($session, 'big1'), 'big1', 'and no other');
	$session->close;
}

# 2. Memory.
{
	my $session = session($node);
	$session->text("SELECT predict('double', 5::real)");
	my $idle = session_kb($session, 'RssAnon');
	loads($session, @models);
	my $all = session_kb($session, 'RssAnon') - $idle;
	cmp_ok($all, '>', 6 * 15 * 1024, 'six models of 20 MB are in memory, where they fit');
	$session->run('SET pg_predict.session_cache_size = \'' . (2 * $each) . 'MB\'');
	loads($session, 'triple');
	is($session->text("SELECT predict('triple', 5::real)"), '15', 'the smallest use under a lower setting');
	my $few = session_kb($session, 'RssAnon') - $idle;
	diag("six models: $all kB above idle, then $few kB with room for two");
	cmp_ok($few, '<', 2 * $each * 1024 + 32 * 1024, 'makes memory fall below it');
	for (1 .. 5) { loads($session, @models); }
	my $after = session_kb($session, 'RssAnon') - $idle;
	diag("after thirty loads: $after kB");
	cmp_ok($after, '<', 2 * $each * 1024 + 64 * 1024, 'and thirty more loads leave it there');
	$session->close;
}

# 3. What is in use stays.
{
	my $session = session($node);
	$session->run('SET pg_predict.session_cache_size = \'' . ($each + 2) . 'MB\'');
	is($session->text("SELECT sum(predict('big1', i::real)), sum(predict('big2', i::real)), sum(predict('big3', i::real)) FROM generate_series(1, 5) i"), '15|15|15',
		'a query may use more models than fit');
	is(loads($session, qw(big4 big4)), 'big4', 'and afterwards there is room for one');
	$session->close;
}

# 4. What can never fit.
{
	my $session = session($node);
	my $got = $session->run("SET pg_predict.session_cache_size = '1MB'; SELECT predict('big1', 5::real)");
	is($got->{code}, '53400', 'a model larger than the whole cache is an error');
	like($got->{message} // '', qr/big1.*needs \d+ MB in memory, and loaded models may take 1 MB/, 'which says what it needs');
	like($got->{hint} // '', qr/pg_predict\.session_cache_size/, 'and names the setting');
	is($session->text("RESET pg_predict.session_cache_size; SELECT predict('big1', 5::real)"), '5', 'with room, it works in the same session');
	$node->safe_psql('postgres', 'CREATE ROLE guest LOGIN');
	like($session->text("SET ROLE guest; SET pg_predict.session_cache_size = '1GB'"), qr/^42501/, 'only a superuser sets it');
	$session->close;
}

# 5. The registry moves on.
{
	my $session = session($node);
	my $other = session($node);
	my $double = model_file('double');
	my $make = sub { my ($options) = @_; return "SELECT predict.create_model_from_file('m', '$double', '$options')" };
	$other->run($make->('{"on_null": "error"}'));
	like($session->text("SELECT predict('m', NULL::real)"), qr/^22004/, 'a model that refuses NULL refuses it');
	$other->run("SELECT predict.drop_model('m')");
	like($session->text("SELECT predict('m', 1::real)"), qr/^42704/, 'dropped, it is gone from a session that had it loaded');
	$other->run($make->('{}'));
	is($session->text("SELECT predict('m', NULL::real) IS NULL"), 't', 'made anew from the same bytes, it has its new options there');
	$other->run("SELECT predict.drop_model('m')");

	$session->run('BEGIN');
	$session->run($make->('{"on_null": "error"}'));
	like($session->text("SAVEPOINT s; SELECT predict('m', NULL::real)"), qr/^22004/, 'a model can be used in the transaction that makes it');
	$session->run('ROLLBACK');
	like($session->text("SELECT predict('m', 1::real)"), qr/^42704/, 'and is gone when that is rolled back');
	$session->run($make->('{}'));
	is($session->text("SELECT predict('m', NULL::real) IS NULL"), 't', 'another of its name, number and bytes has its own options');

	$session->run("PREPARE q AS SELECT predict('m', 3::real), (predict_batch('m', 3::real))::real[]");
	is($session->text('EXECUTE q'), '6|{6}', 'a prepared statement predicts');
	$session->text('EXECUTE q') for 1 .. 6;
	$other->run("SELECT predict.create_model_from_file('m', '" . model_file('triple') . "'); SELECT predict.set_alias('m', 'default', 2)");
	is($session->text('EXECUTE q'), '9|{9}', 'and follows a promotion');
	$other->run("SELECT predict.revoke_usage('m', 'public')");
	$session->close;
	$other->close;
}

# 6. The extension goes and comes.
{
	my $session = session($node);
	is($session->text("SELECT predict('double', 5::real)"), '10', 'a session that has predicted');
	$node->safe_psql('postgres', 'DROP EXTENSION pg_predict; CREATE EXTENSION pg_predict');
	like($session->text("SELECT predict('double', 5::real)"), qr/^42704/, 'finds no model after the extension was made anew');
	create_model($node, 'double', file => 'triple');
	is($session->text("SELECT predict('double', 5::real)"), '15', 'and the new one of that name when there is one');
	$session->close;
}

clean_log($node, 'no process of the server crashed');
done_testing();
