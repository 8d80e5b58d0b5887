# What the other tests stand on: waiting for a server that goes down or comes up survives every state of it, and ends only where the
# server will answer the next query too.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use IO::Socket::UNIX;
use PgPredict;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = server('restart', conf => "fsync = off\n");
my $socket = $node->host . '/.s.PGSQL.' . $node->port;
ok(wait_for_server($node, seconds => 5), 'a server that runs');

# Sessions that are killed outright: until the postmaster has noticed, it lets everybody in, and throws them out a moment later.
my $lost = 0;
for (1 .. 10)
{
	my @sessions = map { session($node) } 1 .. 3;
	my $psql = start_psql($node, 'postgres', 'SELECT pg_sleep(600)');
	# A program that is slow to start would find the server that has recovered, and sleep there.
	my $sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'";
	wait_for(sub { $sessions[0]->text($sleeps) eq '1' }, 30) or $lost++;
	my $victim = $sessions[1]->pid;
	kill 'KILL', $victim;
	$lost++ if !wait_for_server($node, killed => $victim);
	my ($rc, $out) = $node->psql('postgres', 'SELECT 1');
	$lost++ if $rc != 0 || $out ne '1';
	my (undef, $err) = $psql->finish;
	$lost++ if $err !~ /connection to server was lost|server closed the connection|the database system is/;
}
is($lost, 0, 'ten times a session is killed outright: the next query after the wait is answered');

# Starting up and in recovery: asked all the while.
{
	my $session = session($node);
	$session->run('CREATE TABLE t AS SELECT i FROM generate_series(1, 300000) i');
	$node->stop('immediate');
	my $asker = fork // die "fork: $!";
	if (!$asker) { require POSIX; POSIX::_exit(wait_for_server($node, seconds => 60) ? 0 : 1); }
	$node->start;
	waitpid $asker, 0;
	is($?, 0, 'who asks from before the start until recovery has ended gets an answer');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '300000', 'and the server is whole');
}

# Shutting down: a session that stays keeps it from ending.
{
	my $session = session($node);
	$session->text('SELECT 1');
	kill 'TERM', $node->{_pid};
	ok(wait_for(sub { !PgPredict::answers($node, 5) }, 10), 'a server that is shutting down does not answer');
	ok(!wait_for_server($node, seconds => 0.3), 'and is not waited for for ever');
	$session->close;
	ok(wait_for(sub { !-e $node->data_dir . '/postmaster.pid' }, 30), 'it ends');
	$node->{_pid} = undef;
}

# Not there.
ok(!wait_for_server($node, seconds => 0.3), 'a server that is down');

# There, and without a word: somebody else's socket in its place, which accepts nobody, hangs up, or stays silent.
for my $how ('hangs up', 'says nothing')
{
	unlink $socket;
	my $listener = IO::Socket::UNIX->new(Local => $socket, Listen => 5) or die "$socket: $!";
	my $child = fork // die "fork: $!";
	if (!$child)
	{
		# Where this test dies, its child must not keep others waiting.
		alarm 60;
		my @kept;
		while (my $client = $listener->accept) { push @kept, $client if $how eq 'says nothing'; }
		require POSIX;
		POSIX::_exit(0);
	}
	my $begin = time;
	ok(!wait_for_server($node, seconds => 0.5), "a server that $how");
	cmp_ok(time - $begin, '<', 5, 'is given up in time');
	kill 'KILL', $child;
	waitpid $child, 0;
	close $listener;
	unlink $socket;
}

# A postmaster that does not get round to it (stopped) answers when it goes on.
$node->start;
kill 'STOP', $node->{_pid};
ok(!wait_for_server($node, seconds => 0.5), 'a postmaster that is stopped');
kill 'CONT', $node->{_pid};
ok(wait_for_server($node), 'and one that goes on');
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'answers');
$node->stop;
done_testing();
