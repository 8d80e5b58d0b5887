# What the server tests share: private servers with pg_predict in them, a client that speaks the protocol itself, so that
# a test can time an answer and see an error's SQLSTATE, and a look at processes through /proc.
#
# Needs Linux. Servers are made by PostgreSQL::Test::Cluster, on unix sockets only.

package PgPredict;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use File::Basename;
use File::Spec;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
	model_file server create_model session start_psql median ms wait_for wait_for_server
	isolation memory_kb session_kb threads named_threads model_process validation_processes is_running parent_of children is_gone has_log clean_log large_model
);

# Where the models of the tests are, for the server too.
my $ROOT = $ENV{PG_PREDICT_ROOT} // dirname(dirname(dirname(File::Spec->rel2abs(__FILE__))));

# The path of tests/models/tap_NAME.onnx.
sub model_file
{
	my ($name) = @_;
	return "$ROOT/tests/models/tap_$name.onnx";
}

# A running server with pg_predict in its database postgres. Settings: lines for postgresql.conf. install_path: the folder above
# the bin/ of another installation.
sub server
{
	my ($name, %options) = @_;
	my @installation = $options{install_path} ? (install_path => $options{install_path}) : ();
	my $node = PostgreSQL::Test::Cluster->new($name, @installation);
	$node->init(%{ $options{init} // {} });
	$node->append_conf('postgresql.conf', <<~"CONF");
		listen_addresses = ''
		autovacuum = off
		restart_after_crash = on
		max_prepared_transactions = 5
		log_min_messages = warning
		log_statement = none
		log_replication_commands = off
		jit = off
		CONF
	$node->append_conf('postgresql.conf', "pg_predict.isolation = '$ENV{PG_PREDICT_ISOLATION}'") if $ENV{PG_PREDICT_ISOLATION};
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_predict');
	return $node;
}

# Makes a version of the model NAME of tests/models/tap_FILE.onnx, FILE by default NAME.
sub create_model
{
	my ($node, $name, %options) = @_;
	my $file = model_file($options{file} // $name);
	my $json = $options{options} // '{}';
	return $node->safe_psql($options{database} // 'postgres',
		"SELECT predict.create_model_from_file('$name', '$file', '$json')");
}

# A session of its own in a database of the node.
sub session
{
	my ($node, $database, %settings) = @_;
	return PgPredict::Session->new($node, $database // 'postgres', %settings);
}

# The middle of numbers.
sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return @sorted % 2 ? $sorted[ $#sorted / 2 ] : ($sorted[ @sorted / 2 - 1 ] + $sorted[ @sorted / 2 ]) / 2;
}

# Seconds as milliseconds, for people.
sub ms { return join ' ', map { sprintf '%.0f', 1000 * $_ } @_; }

# Waits until the code says yes; false when it does not within so many seconds.
sub wait_for
{
	my ($code, $seconds) = @_;
	my $end = time + ($seconds // 30);
	until ($code->())
	{
		return 0 if time > $end;
		sleep 0.005;
	}
	return 1;
}

# Waits until the server answers a query again; false when it does not within so many seconds. After a backend that was killed
# outright, say which (killed => its process number): until the postmaster has taken note of that, it lets everybody in as before,
# and ends them a moment later.
#
# A server on its way down or up refuses connections, answers that it is starting, in recovery or shutting down, or hangs up in the
# middle: all of that means not yet. It is asked by a connection of our own, since psql may be gone before it has been told what to
# ask, which ends a test with "Broken pipe".
sub wait_for_server
{
	my ($node, %options) = @_;
	my $end = time + ($options{seconds} // 120);
	my $killed = $options{killed};
	# A killed process keeps its entry until its parent, the postmaster, has noticed.
	return 0 if defined $killed && !wait_for(sub { !-e "/proc/$killed" }, $end - time);
	return wait_for(sub { answers($node, $end - time) }, $end - time);
}

# Whether the server lets us in and answers, within so many seconds.
sub answers
{
	my ($node, $seconds) = @_;
	my $answer = eval {
		my $session = PgPredict::Session->new($node, 'postgres', patience => $seconds);
		my $got = $session->ask('SELECT 1')->wait($seconds);
		$session->close;
		$got;
	};
	return $answer && !$answer->{lost} && !$answer->{late} && ($answer->{rows}[0][0] // '') eq '1';
}

# A psql of its own that runs statements while the test goes on, in a database or with a connection string. finish() waits for it and gives what it printed and its errors: it
# may well have lost its server.
sub start_psql
{
	my ($node, $database, @statements) = @_;
	my $self = bless { out => '', err => '' }, 'PgPredict::Psql';
	my $to   = $database =~ /=/ ? $database : $node->connstr($database);
	# Its input is /dev/null: a pipe would break where psql ends first.
	$self->{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $to, map { ('-c', $_) } @statements ],
		'<', '/dev/null', '>', \$self->{out}, '2>', \$self->{err});
	return $self;
}

sub slurp
{
	my ($path) = @_;
	open my $file, '<', $path or return;
	local $/;
	return scalar <$file>;
}

# A line of /proc/PID/status in kB: VmRSS, RssAnon, VmHWM ...
sub memory_kb
{
	my ($pid, $what) = @_;
	my $status = slurp("/proc/$pid/status") // '';
	return $status =~ /^\Q$what\E:\s+(\d+) kB/m ? $1 : 0;
}

# Where models run: the environment variable PG_PREDICT_ISOLATION says it for all servers, or else it is the default.
sub isolation { return $ENV{PG_PREDICT_ISOLATION} || 'process'; }

# The model process of a session, or undef.
sub model_process
{
	my ($session) = @_;
	my ($pid) = grep { (slurp("/proc/$_/cmdline") // '') =~ /pg_predict_model_process\0serve/ } children($session->pid);
	return $pid;
}

# The processes in which a session validates models.
sub validation_processes
{
	my ($session) = @_;
	my $process = model_process($session) // 0;
	return grep { $_ != $process } children($session->pid);
}

# The memory of a session and of its model process in kB.
sub session_kb
{
	my ($session, $what) = @_;
	my $process = model_process($session);
	return memory_kb($session->pid, $what) + ($process ? memory_kb($process, $what) : 0);
}

# Whether a thread of a process runs or is ready to.
sub is_running
{
	my ($pid) = @_;
	return scalar grep { (slurp("$_/stat") // '') =~ /\) R / } glob "/proc/$pid/task/*";
}

# The thread numbers of a process.
sub threads
{
	my ($pid) = @_;
	return map { basename $_ } glob "/proc/$pid/task/*";
}

# How many threads of a process have a name that starts so.
sub named_threads
{
	my ($pid, $name) = @_;
	return scalar grep { (slurp("$_/comm") // '') =~ /^\Q$name\E/ } glob "/proc/$pid/task/*";
}

# The parent of a process.
sub parent_of
{
	my ($pid) = @_;
	return (slurp("/proc/$pid/status") // '') =~ /^PPid:\s+(\d+)/m ? $1 : 0;
}

# The processes that a process started and that still run.
sub children
{
	my ($pid) = @_;
	return grep { parent_of($_) == $pid } map { basename $_ } glob '/proc/[0-9]*';
}

# Whether a process has ended: not there any more, or only waiting for its parent to notice.
sub is_gone
{
	my ($pid) = @_;
	my $status = slurp("/proc/$pid/status");
	return !defined $status || $status =~ /^State:\s+[ZX]/m;
}

# Whether the server's log from an offset on has a line like this.
sub has_log
{
	my ($node, $pattern, $from) = @_;
	return substr(slurp($node->logfile) // '', $from // 0) =~ $pattern;
}

# Checks that no process of the server crashed.
sub clean_log
{
	my ($node, $name) = @_;
	ok(!has_log($node, qr/PANIC|\(PID \d+\) was terminated by signal|crash of another server process|stack smashing|corrupted/),
		$name);
	return;
}

# The path of a model of 205 MB, or of so many columns of 28 KB, made in a folder: y = x. The weights, zeros, are appended to
# what names them: in this format, files put one after the other are merged.
sub large_model
{
	my ($folder, $columns) = @_;
	my $rows = 7168;
	$columns //= $rows;
	my $path  = "$folder/large_$columns.onnx";
	my $bytes = 4 * $rows * $columns;
	# TensorProto: dims, data_type FLOAT, name, raw_data; in GraphProto.initializer; in ModelProto.graph.
	my $tensor = field(1, $rows) . field(1, $columns) . field(2, 1) . text(8, 'weights') . varint(9 << 3 | 2) . varint($bytes);
	my $initializer = varint(5 << 3 | 2) . varint(length($tensor) + $bytes) . $tensor;
	my $graph = varint(7 << 3 | 2) . varint(length($initializer) + $bytes) . $initializer;
	open my $out, '>:raw', $path or die "$path: $!";
	print $out slurp(model_file('large_head')), $graph or die "$path: $!";
	my $zeros = "\0" x (1 << 20);
	print $out $zeros for 1 .. $bytes >> 20;
	print $out substr($zeros, 0, $bytes % (1 << 20));
	close $out or die "$path: $!";
	chmod 0644, $path;
	return $path;
}

# Pieces of the protocol buffers that ONNX files are made of.
sub varint
{
	my ($n) = @_;
	my $bytes = '';
	while ($n > 127) { $bytes .= chr($n & 127 | 128); $n >>= 7; }
	return $bytes . chr $n;
}
sub field { my ($number, $n) = @_; return varint($number << 3) . varint($n); }
sub text  { my ($number, $t) = @_; return varint($number << 3 | 2) . varint(length $t) . $t; }

package PgPredict::Psql;

use strict;
use warnings FATAL => 'all';

sub finish
{
	my ($self) = @_;
	$self->{run}->finish;
	return ($self->{out}, $self->{err});
}

# A connection. Answers are hashes: rows (of columns, undef for NULL), code, message, detail, hint (of the error), notices,
# lost (the server hung up), late (no answer in time), seconds.
package PgPredict::Session;

use strict;
use warnings FATAL => 'all';

use IO::Select;
use IO::Socket::UNIX;
use Time::HiRes qw(time);

my $PATIENCE = 180;

sub new
{
	my ($class, $node, $database, %settings) = @_;
	my $patience = delete $settings{patience};
	my $path = $node->host . '/.s.PGSQL.' . $node->port;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or die "cannot connect to $path: $!";
	my $self = bless { socket => $socket, select => IO::Select->new($socket), buffer => '' }, $class;
	my %all = (user => scalar getpwuid($>), database => $database, client_encoding => 'UTF8', %settings);
	my $startup = pack('N', 196608) . join('', map { "$_\0$all{$_}\0" } sort keys %all) . "\0";
	local $SIG{PIPE} = 'IGNORE';
	$socket->syswrite(pack('N', 4 + length $startup) . $startup);
	my $answer = $self->wait($patience);
	die "cannot connect: $answer->{message}" if $answer->{message};
	die 'cannot connect: ' . ($answer->{late} ? 'no answer' : 'the server hung up') if $answer->{late} || $answer->{lost};
	return $self;
}

sub pid { my ($self) = @_; return $self->{pid}; }

# Sends a statement and does not wait.
sub ask
{
	my ($self, $sql) = @_;
	utf8::encode($sql) if utf8::is_utf8($sql);
	$self->{asked} = time;
	local $SIG{PIPE} = 'IGNORE';
	$self->{socket}->syswrite('Q' . pack('N', 5 + length $sql) . "$sql\0");
	return $self;
}

# One message; nothing when there is none in time or the server hung up.
sub message
{
	my ($self, $end) = @_;
	my $need = 5;
	while (1)
	{
		if (length $self->{buffer} >= 5)
		{
			$need = 1 + unpack 'N', substr $self->{buffer}, 1, 4;
			if (length $self->{buffer} >= $need)
			{
				my $message = substr $self->{buffer}, 0, $need, '';
				return (substr($message, 0, 1), substr $message, 5);
			}
		}
		my $left = $end - time;
		return ('late') if $left <= 0 || !$self->{select}->can_read($left);
		my $read = $self->{socket}->sysread($self->{buffer}, 1 << 16, length $self->{buffer});
		return ('lost') if !$read;
	}
}

# Waits for the answer to what was asked.
sub wait
{
	my ($self, $seconds) = @_;
	my $end = time + ($seconds // $PATIENCE);
	# What came before it was late belongs to the same answer.
	my %answer = %{ delete $self->{part} // { rows => [], notices => [] } };
	while (1)
	{
		my ($kind, $body) = $self->message($end);
		if ($kind eq 'late') { $self->{part} = \%answer; return { late => 1 }; }
		if ($kind eq 'lost') { $answer{lost} = 1; last; }
		last if $kind eq 'Z';
		$self->{pid} = unpack 'N', $body if $kind eq 'K';
		if ($kind eq 'D')
		{
			my ($n, @row) = unpack 'n', substr $body, 0, 2, '';
			for (1 .. $n)
			{
				my $length = unpack 'l>', substr $body, 0, 4, '';
				push @row, $length < 0 ? undef : substr $body, 0, $length, '';
			}
			push @{ $answer{rows} }, \@row;
		}
		elsif ($kind eq 'E' || $kind eq 'N')
		{
			my %fields = map { /^(.)(.*)$/s ? ($1, $2) : () } split /\0/, $body;
			push @{ $answer{notices} }, $fields{M} if $kind eq 'N';
			@answer{qw(code message detail hint)} = @fields{qw(C M D H)} if $kind eq 'E' && !$answer{message};
		}
	}
	$answer{seconds} = time - ($self->{asked} // time);
	return \%answer;
}

# Asks and waits.
sub run
{
	my ($self, $sql) = @_;
	return $self->ask($sql)->wait;
}

# The rows as text: | between columns, a line each; or the error.
sub text
{
	my ($self, $sql) = @_;
	my $answer = $self->run($sql);
	return "$answer->{code}: $answer->{message}" if $answer->{message};
	return 'no answer' if $answer->{lost} || $answer->{late};
	return join "\n", map { join '|', map { $_ // 'NULL' } @$_ } @{ $answer->{rows} };
}

sub close
{
	my ($self) = @_;
	local $SIG{PIPE} = 'IGNORE';
	$self->{socket}->syswrite('X' . pack 'N', 4);
	$self->{socket}->close;
	return;
}

1;
