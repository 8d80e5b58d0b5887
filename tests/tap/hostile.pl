# A model process that attacks is stopped and reported, and never disturbs the server: whatever it writes, sends or tries,
# its query ends with an error in time, its session goes on, and no other session notices.
#
# The server finds the program of the model process in its library folder, and this folder by the place of its own program. So
# the test makes an installation of its own, in which it puts another program in the place of the real one:
# crates/model_process/examples/hostile.rs, where the attacks are.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use File::Copy;
use File::Path qw(make_path);
use FindBin;
use lib $FindBin::Bin;
use PgPredict;
use PostgreSQL::Test::Utils;
use Test::More;

my $hostile = $ENV{PG_PREDICT_HOSTILE} or die 'PG_PREDICT_HOSTILE does not name the hostile program: run scripts/test.sh tap hostile';

# Makes an installation that is the one of PG_CONFIG except for the program of the model process. Returns the folder of its bin/
# and the path of that program.
sub installation
{
	my ($bin, $lib, $share) = map { my $got = `pg_config --$_`; chomp $got; $got } qw(bindir pkglibdir sharedir);
	my $root = PostgreSQL::Test::Utils::tempdir . '/installation';
	make_path(map { "$root$_" } $bin, "$lib/pg_predict", dirname($share));
	# PostgreSQL follows links to its programs, so that they are copied.
	for my $program (glob "$bin/*")
	{
		copy($program, "$root$program") or die "$program: $!";
		chmod 0755, "$root$program";
	}
	for my $file (grep { $_ ne "$lib/pg_predict" } glob("$lib/*"), glob("$lib/pg_predict/*"))
	{
		symlink $file, "$root$file" or die "$file: $!";
	}
	symlink $share, "$root$share" or die "$share: $!";
	return (dirname("$root$bin"), "$root$lib/pg_predict/pg_predict_model_process");
}

my ($install_path, $program) = installation();
my $real = readlink $program or die "$program: $!";

# Puts a program in the place of the model process, with an attack for the hostile one. Processes that run stay.
sub replace_program
{
	my ($by, $attack) = @_;
	if (defined $attack)
	{
		open my $file, '>', "$program.attack" or die $!;
		print $file $attack;
		close $file or die $!;
	}
	unlink "$program.new";
	symlink $by, "$program.new" or die $!;
	rename "$program.new", $program or die $!;
	return;
}

my $node = server('hostile', install_path => $install_path, conf => <<~'CONF');
	shared_preload_libraries = 'pg_predict'
	pg_predict.isolation = process
	pg_predict.batch_size = 40
	CONF
create_model($node, 'double');
create_model($node, 'double_null', file => 'double', options => '{"on_error": "null"}');
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT i AS id, i::real AS x FROM generate_series(1, 200) i; ANALYZE t');
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
my $other   = session($node);
is($other->text("SELECT predict('double', 4::real)"), '8', 'another session predicts');
my $other_process = model_process($other);

my $call    = "SELECT predict('double', 4::real)";
my $scan    = "SELECT sum(predict('double', x)) FROM t";
my $batch   = "SELECT sum(y::float8) FROM predictions((SELECT predict_batch('double', t) FROM t)) AS p(id int, y real)";
my %answers = ($call => '8', $scan => '40200', $batch => '40200');

# What an error must be: its SQLSTATE and its message.
my $name  = qr/the model process of model "double(?:_null)?\@1"/;
my %kinds = (
	broken    => [ qr/^38000$/, qr/^(?:model "double(?:_null)?\@1"|the model) failed: its model process broke the protocol$/ ],
	killed    => [ qr/^38000$/, qr/^$name did not respond and was killed$/ ],
	stopped   => [ qr/^38000$/, qr/^$name was stopped$/ ],
	memory    => [ qr/^38000$/, qr/^$name was terminated by signal (?:11 \(SIGSEGV\)|7 \(SIGBUS\))$/ ],
	forbidden => [ qr/^38000$/, qr/^$name was terminated by signal 31 \(SIGSYS\)$/ ],
	refused   => [ qr/^38000$/, qr/^$name exited with code 50$/ ],
	shrunk    => [ qr/^38000$/, qr/^$name exited with code 40$/ ],
	noisy     => [ qr/^38000$/, qr/^$name exited with code 3$/ ],
	idle      => [ qr/^38000$/, qr/^$name (?:exited with code 0|did not respond and was killed)$/ ],
	silent    => [ qr/^57014$/, qr/^canceling statement due to statement timeout$/ ],
	large     => [ qr/^54000$/, qr/^a prediction_batch of \d+ MB does not fit into one value$/ ],
	# With several batches under way, one may be sent while another one ends the process, or be the one that failed.
	any       => [ qr/^38000$/, qr/model process|^model "double(?:_null)?\@1" failed while running$/ ],
	# A process that ended although no run is to blame is started again, until there were too many or the time is over.
	restarted => [ qr/^(?:38000|57014)$/, qr/^$name|statement timeout$/ ],
);

# The attacks, and how each one ends if its request is the only one under way.
my %attacks = (
	length_beyond_region  => 'broken',
	length_of_all_memory  => 'broken',
	empty_response        => 'broken',
	count_beyond_response => 'broken',
	random_bytes          => 'broken',
	overwritten_control   => 'broken',
	zero_byte_in_error    => 'broken',
	descriptors           => 'broken',
	unknown_outcome       => 'killed',
	too_small_but_fits    => 'killed',
	nonsense_in_socket    => 'killed',
	closed_socket         => 'killed',
	exit_as_if_idle       => 'idle',
	beyond_the_region     => 'memory',
	shrunk_region         => 'shrunk',
	noisy_exit            => 'noisy',
	stopped               => 'stopped',
	ever_larger           => 'large',
	answers_to_nobody     => 'silent',
	full_socket           => 'silent',
	silent                => 'silent',
	too_many_descriptors  => 'silent',
	open                  => 'refused',
	map { $_ => 'forbidden' } qw(socket exec fork ptrace kill),
);
# Attacks on the answer to a run. The process answers everything else rightly.
my %run_attacks = (missing_values => 'broken', other_type => 'broken', no_outputs => 'broken', early_end => 'any', failed_rows => 'any');
# Attacks whose process is not seen as hostile, so that it stays.
my %stays = map { $_ => 1 } qw(ever_larger early_end zero_byte_in_fallback zero_byte_in_report);

# What of a model process is left in a session: processes that run, descriptors that are not of the server's files, and memory.
sub left
{
	my ($session) = @_;
	my $pid = $session->pid;
	my @files = grep { m{^/memfd:|^socket:|^pipe:|^anon_inode:|pgsql_tmp_pg_predict} } map { readlink($_) // '' } glob "/proc/$pid/fd/*";
	my @maps = slurp_file("/proc/$pid/maps") =~ m{(/memfd:pg_predict.*)$}mg;
	return join ' ', (map { "process $_" } grep { !is_gone($_) } children($pid)), sort(@files), map { "mapped $_" } @maps;
}

# Runs a query during an attack. It must end in time, with an error of this kind.
sub is_error
{
	my ($session, $sql, $kind, $how) = @_;
	my ($code, $message) = @{ $kinds{$kind} };
	my $got = $session->ask($sql)->wait(20);
	cmp_ok($got->{seconds} // 20, '<', 5, "$how: in time");
	like($got->{code} // 'no error', $code, "$how: SQLSTATE");
	like($got->{message} // 'no error', $message, "$how: message");
	return $got;
}

# A session of its own with the hostile program, and what it holds before it predicts. $words: what the program says.
sub attacked_session
{
	my ($how, $words) = @_;
	my $session = session($node);
	$session->run("SET statement_timeout = '500ms'");
	my $before = left($session);
	replace_program($hostile, defined $words ? "$how\n$words" : $how);
	return ($session, $before);
}

# What must hold after an attack.
sub undisturbed
{
	my ($session, $before, $how) = @_;
	is($session->text('SELECT 1'), '1', "$how: the session goes on");
	# A killed process may take a moment to end.
	wait_for(sub { left($session) eq $before }, 1);
	is(left($session), $before, "$how: nothing of it is left");
	is($other->text($call), '8', "$how: the other session predicts");
	is(model_process($other), $other_process, "$how: in the same process");
	replace_program($real);
	$session->run('RESET statement_timeout');
	is($session->text($_), $answers{$_}, "$how: with the real program, the same session predicts") for $call, $batch;
	$session->close;
	return;
}

# The attack begins at the first request, at the second one, or at the first or second run.
for my $begins (qw(load prepare run second))
{
	my %all = ($begins eq 'load' || $begins eq 'prepare' ? () : %run_attacks, %attacks);
	for my $attack (sort keys %all)
	{
		my $how    = "$begins $attack";
		my $kind   = $all{$attack};
		my $sticks = $kind eq 'silent' || $kind eq 'large' || $kind eq 'broken';
		$kind = 'restarted' if $begins eq 'prepare' && !$sticks || $begins eq 'run' && ($kind eq 'idle' || $kind eq 'memory');
		my $several = $kind eq 'broken' || !($sticks || $kind eq 'restarted') ? 'any' : $kind;
		my ($session, $before) = attacked_session($how);
		if ($begins eq 'second' && ($kind eq 'idle' || $kind eq 'memory'))
		{
			# No run is to blame, and each process answers its first run rightly.
			like($session->text($_), qr/^(?:38000: $name.*|57014: .*|$answers{$_})$/, "$how: no wrong answer") for $scan, $batch;
		}
		else
		{
			is_error($session, $call, $kind, "$how, a call") if $begins ne 'second';
			is_error($session, $scan, $several, "$how, a scan") if $begins ne 'prepare';
			is_error($session, $batch, $several, "$how, a batch") if $begins ne 'prepare';
		}
		$session->run('SELECT predict.end_model_process()') if $stays{$attack} || $kind eq 'restarted' || $begins eq 'second';
		undisturbed($session, $before, $how);
	}
}

# With on_error = 'null', a row that ends its process is NULL. A process that breaks the protocol is an error of the query.
for my $attack (grep { !$stays{$_} } sort keys %attacks)
{
	my $kind = $attacks{$attack};
	next if $kind eq 'idle' || $kind eq 'memory';
	my $null = $call =~ s/double/double_null/r;
	my $how  = "on_error null, $attack";
	my ($session, $before) = attacked_session("run $attack");
	if ($kind eq 'broken' || $kind eq 'silent')
	{
		is_error($session, $null, $kind, $how);
	}
	else
	{
		my $got = $session->run($null);
		is($got->{message} // join(' ', map { $_->[0] // 'NULL' } @{ $got->{rows} }), 'NULL', "$how: the row is NULL");
		is(join('|', @{ $got->{notices} }), 'a row could not be run with model "double_null@1", and its prediction is NULL', "$how: with a warning");
	}
	undisturbed($session, $before, $how);
}

# So many rows end their process that the query gives up.
{
	my ($session, $before) = attacked_session('run noisy_exit');
	is_error($session, $scan =~ s/double/double_null/r, 'restarted', 'on_error null, a scan of rows that all end the process');
	$session->run('SELECT predict.end_model_process()');
	undisturbed($session, $before, 'on_error null, a scan');
}

# Errors name the model, and say what the process wrote in one line.
{
	my ($session) = attacked_session('run noisy_exit');
	my $got = $session->run($call);
	like($got->{detail}, qr/^It wrote: ab\x{ef}\x{bf}\x{bd}\\u001b\[31m$/, 'what a process wrote is shown without its control characters');
	like($got->{hint}, qr/^The next call starts another process\./, 'a HINT says that the next call starts another process');
	replace_program($hostile, 'run exec');
	is($session->run($call)->{detail}, 'It made a system call that its sandbox forbids.', 'the DETAIL of SIGSYS says that the sandbox forbids the call');
	replace_program($hostile, 'run empty_response');
	like($session->run($call)->{message}, qr/"double\@1"/, 'broken protocol in a run: the message names the model');
	replace_program($real);
	$session->close;
}

# A process that sends packets faster than the backend reads them.
{
	my $how = 'load flooded_socket';
	my ($session, $before) = attacked_session($how);
	my $got = $session->ask($call)->wait(3);
	is($got->{late} ? 'late' : 'in time', 'in time', "$how: in time");
	for (1 .. 20)
	{
		last if !$got->{late};
		kill 'KILL', children($session->pid);
		$got = $session->wait(1);
	}
	like($got->{code} // 'no error', qr/^(?:38000|57014)$/, "$how: SQLSTATE");
	undisturbed($session, $before, $how);
}

# The validation of a new version.
my $file     = model_file('double');
my $creation = "SELECT predict.create_model_from_file('new', '$file')";
my $crashed  = qr/^the model crashed the program that tries it: /;
my $invalid  = qr/^the program that tries the model gave no valid answer$/;
my %validations = (
	crash          => [ '22023', qr/${crashed}signal 6$/ ],
	stopped        => [ '22023', qr/${crashed}it was stopped by a signal$/ ],
	endless_output => [ '22023', qr/$invalid|${crashed}signal 25$/ ],
	noisy_exit     => [ '22023', qr/${crashed}exit code 3$/ ],
	silent         => [ '57014', qr/^canceling statement due to statement timeout$/ ],
	open           => [ '22023', qr/${crashed}exit code 50$/ ],
	(map { $_ => [ '22023', qr/${crashed}signal 31$/ ] } qw(socket exec fork ptrace kill)),
	'nothing'                    => [ '22023', $invalid, '' ],
	'nonsense'                   => [ '22023', $invalid, '{"Signature": 7' ],
	'deep nonsense'              => [ '22023', $invalid, '{"Refusal":' x 200_000 ],
	'a refusal with a zero byte' => [ '38000', qr/^the model failed while running$/, '{"Refusal": {"Run": {"reason": "a\u0000b"}}}' ],
	'a file that is not there'   => [ '58P01', qr/^could not read file /, '{"Needs": ["weights"]}' ],
	'a file elsewhere'           => [ '42501', qr/^the model keeps weights in file "\/etc\/passwd", which may not be read/, '{"Needs": ["/etc/passwd"]}' ],
	'a file with a zero byte'    => [ '58P01', qr/^could not read file /, '{"Needs": ["a\u0000b"]}' ],
);
for my $attack (sort keys %validations)
{
	my ($code, $message, $words) = @{ $validations{$attack} };
	my $how = "validation, $attack";
	my ($session, $before) = attacked_session(defined $words ? 'say' : $attack, $words);
	my $got = $session->ask($creation)->wait(20);
	cmp_ok($got->{seconds} // 20, '<', 5, "$how: in time");
	is($got->{code} // 'no error', $code, "$how: SQLSTATE");
	like($got->{message} // 'no error', $message, "$how: message");
	is($session->text("SELECT count(*) FROM predict.models WHERE name = 'new'"), '0', "$how: no version is left");
	is(join(' ', glob $node->data_dir . '/base/pgsql_tmp/*'), '', "$how: no folder is left");
	undisturbed($session, $before, $how);
}
{
	my ($session, $before) = attacked_session('silent');
	my $got = $session->run("SET pg_predict.validation_timeout = '200ms'; $creation");
	is($got->{code}, '53400', 'a validation that does not end is ended by its own timeout');
	undisturbed($session, $before, 'validation timeout');
	is($node->safe_psql('postgres', $creation), '1', 'with the real program, the version is created');
}

# False figures change no answer, or are an error, and nobody else sees them. These are last, because the figures of a model are
# shared.
for my $attack (qw(zero_byte_in_fallback zero_byte_in_report largest_session largest_figures))
{
	my ($session, $before) = attacked_session("load $attack");
	my $answers = sub { $attack =~ /^largest/ ? qr/^38000: / : qr/^$answers{$_[0]}$/ };
	like($session->text($_), $answers->($_), "$attack: the answer is right, or an error") for $call, $scan, $batch;
	like($session->text('SELECT predict.sandbox()'), qr/^\{|^22P05: /, "$attack: the report is shown, or is an error") if $attack ne 'largest_figures';
	like($session->text("SET log_min_messages = debug1; $call") =~ s/^\n//r, $answers->($call), "$attack: the answer is right, or an error, at DEBUG1");
	like($other->text("SELECT count(*) FROM predict.$_"), qr/^\d+$/, "$attack: predict.$_ can be read") for qw(stat_models stat_sessions model_processes);
	$session->run('SELECT predict.end_model_process()');
	undisturbed($session, $before, $attack);
}

# The counters of a model can be set to zero again.
like($other->text('SELECT predict.stat_reset(); SELECT count(*) FROM predict.stat_models'), qr/^\n\d+$/, 'predict.stat_reset() removes false figures');

# Validation that returns a false signature. Each version is rolled back.
my $signature = $node->safe_psql('postgres', "SELECT signature FROM predict.version ORDER BY model LIMIT 1");
for (
	[ 'session_bytes', $signature =~ s/("session_bytes": )\d+/${1}18446744073709551615/r ],
	[ 'batch_size',    $signature =~ s/("batch_size": )\d+/${1}18446744073709551615/r ],
	[ 'row_micros',    $signature =~ s/("row_micros": )[-+.e\d]+/${1}-1e308/r ],
	[ 'outputs',       $signature =~ s/("outputs": )\[.*?\]\}\]/${1}[]/r ],
	[ 'shape',         $signature =~ s/("name": "y", "shape": )\[\]/${1}[9223372036854775807]/r ],
	[ 'element',       $signature =~ s/("name": "y".*?"element": )"float32"/$1"string"/r ],
	[ 'name',          $signature =~ s/("name": )"y"/$1"y\\u0000"/r ])
{
	my ($what, $false) = @$_;
	isnt($false, $signature, "false $what: the signature is false");
	my ($session, $before) = attacked_session('say', "{\"Signature\": $false}");
	$session->run('BEGIN');
	my $created = $session->text($creation);
	like($created, $what eq 'name' ? qr/^22P05: / : qr/^(?:\d+|(?!XX)\w{5}: .*)$/, "false $what: the version is created, or is an error");
	replace_program($real);
	if ($created =~ /^\d+$/)
	{
		$session->run('SAVEPOINT created');
		like($session->text('SELECT sum(batch_size) FROM predict.models'), qr/^\d+$/, "false $what: predict.models can be read");
		$session->run('ROLLBACK TO created');
		my $predicted = $session->text($call =~ s/double/new\@$created/r);
		like($predicted, qr/^(?:8|(?!XX)\w{5}: .*)$/, "false $what: the prediction is right or an error");
		$session->run('ROLLBACK TO created');
		$predicted = $session->text($scan =~ s/double/new\@$created/r);
		like($predicted, qr/^(?:40200|(?!XX)\w{5}: .*)$/, "false $what: the predictions are right or an error");
	}
	$session->run('ROLLBACK');
	$session->run('SELECT predict.end_model_process()');
	undisturbed($session, $before, "false $what");
}

is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server is the same one');
clean_log($node, 'no process of the server crashed');
done_testing();
