/*
 * Logs when the exit handlers of a process run, and delays the end of the process. Exit handlers run in reverse order, so
 * this one runs after those of ONNX Runtime. A thread that still works then uses what they have destroyed.
 */
#include "postgres.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fmgr.h"

PG_MODULE_MAGIC;

void _PG_init(void);

static void
wait_a_little(void)
{
	fprintf(stderr, "exit handlers of process %d\n", (int) getpid());
	fflush(stderr);
	usleep(300000);
}

void
_PG_init(void)
{
	atexit(wait_a_little);
}
