/*
 * SPANK plug-in of batchns: a job that asks for --batchns-network runs in the network namespace that the prolog made.
 *
 * The namespace belongs to the initial user namespace: nothing in the job, not even root of a user namespace of its
 * own, can change its addresses, routes or shapers. A user cannot join it: setns(2) is done here, by root, before the
 * task has the user's ids. Without the option nothing is done.
 *
 * Compile it against the headers of the Slurm that loads it: see the Makefile.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(batchns, 1);

#define LONGEST 64

static char wanted[LONGEST]; /* "EGRESS,INGRESS" in bits per second, 0 for no rate; "": not asked for */
static int refused;	     /* on the node: what came is no such thing */

/* The `length` characters are 0, or 1000 to 10^12, as people write numbers: the prolog has the same rule. */
static int is_rate(const char *text, size_t length)
{
	if (length == 0 || strspn(text, "0123456789") < length)
		return 0;
	if (text[0] == '0')
		return length == 1;
	return (length >= 4 && length <= 12) || (length == 13 && strncmp(text, "1000000000000", 13) == 0);
}

static int are_rates(const char *text)
{
	const char *comma = text == NULL ? NULL : strchr(text, ',');

	return comma != NULL && strlen(text) < LONGEST && is_rate(text, comma - text) &&
	       is_rate(comma + 1, strlen(comma + 1));
}

/* On the node a refusal here would be the step's, and drain the node: there the task fails instead. */
static int take(int value, const char *text, int remote)
{
	if (!are_rates(text)) {
		slurm_error("batchns: --batchns-network=EGRESS,INGRESS: bits per second, 1000 to 10^12, or 0 for no rate");
		refused = remote;
		return remote ? 0 : -1;
	}
	strcpy(wanted, text);
	return 0;
}

static struct spank_option option = {
	"batchns-network",
	"EGRESS,INGRESS",
	"a network namespace of the job's own, with these rates in bits per second (0: none)",
	1,
	0,
	take,
};

int slurm_spank_init(spank_t job, int count, char **words)
{
	return spank_option_register(job, &option) == ESPANK_SUCCESS ? 0 : -1;
}

int slurm_spank_task_init_privileged(spank_t job, int count, char **words)
{
	uint32_t number = 0;
	char path[64];
	int fd;

	if (refused) {
		slurm_error("batchns: what --batchns-network says is not two rates");
		return -1;
	}
	if (wanted[0] == '\0')
		return 0;
	if (spank_get_item(job, S_JOB_ID, &number) != ESPANK_SUCCESS) {
		slurm_error("batchns: this job has no number");
		return -1;
	}
	snprintf(path, sizeof(path), "/run/netns/batchns-%u", number);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		slurm_error("batchns: %s: %m (has the prolog run? PrologFlags=Alloc)", path);
		return -1;
	}
	if (setns(fd, CLONE_NEWNET) != 0) {
		slurm_error("batchns: %s: setns: %m", path);
		close(fd);
		return -1;
	}
	close(fd);
	return 0;
}
