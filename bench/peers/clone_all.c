/*
 * clone_all PROGRAM ARG...: run a program in seven fresh namespaces and wait for it.
 *
 * Nothing else is done: no mount, no limit, no network, no id map. It is the least that any sandbox with these
 * namespaces can cost, and so what the others are measured against.
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct clone_args args = {
        .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                 CLONE_NEWCGROUP,
        .exit_signal = SIGCHLD,
    };
    int status;

    if (argc < 2) {
        fprintf(stderr, "usage: clone_all PROGRAM ARG...\n");
        return 125;
    }
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    if (child < 0) {
        perror("clone3");
        return 125;
    }
    if (child == 0) {
        execvp(argv[1], argv + 1);
        perror(argv[1]);
        _exit(127);
    }
    if (waitpid(child, &status, 0) < 0) {
        perror("waitpid");
        return 125;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
