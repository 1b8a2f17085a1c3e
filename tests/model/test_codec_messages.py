"""Every mistake in a job file has one message: file, line, path, what is wrong, what to write."""

from __future__ import annotations

import pytest
from attrs import evolve

from batchns.model.codec import check_dependencies, check_names, parse_jobs
from batchns.model.config import Config, Node, Queue
from batchns.model.job import JobSpec
from batchns.model.problems import JobFileErrors
from batchns.model.values import parse_dependency

CONFIG = Config(
    node=Node(cpus=(0, 1, 2, 3), memory=8 << 30, egress=10**9, ingress=10**9, resources={"gpus": 2}),
    queues={"normal": Queue(), "urgent": Queue(priority=90)},
)
HEAD = 'name = "x"\ncommand = ["true"]\n'
KEYS_OF_A_JOB = (
    "name, command, script, cwd, env, queue, priority, time_limit, array, dependency, max_retries, stdout, stderr, "
    "notify, begin, deadline, hold, warn_signal, retry_delay, retry_memory, resources, network, isolation, "
    "preempt, slurm"
)
MOMENT = 'write for example "2026-12-01T08:00", or "+2h" after it was submitted'
WARN = 'write "USR1@60s"'
NAME = "is not a name - write 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit"


def errors(data: str | bytes, config: Config = CONFIG) -> list[str]:
    data = data.encode() if isinstance(data, str) else data
    with pytest.raises(JobFileErrors) as raised:
        parse_jobs(data, file="f.toml", folder="/home/ada", config=config)
    shown = str(raised.value).split("\n")
    assert shown == [str(problem) for problem in raised.value.problems]
    assert all(line.isprintable() for line in shown)
    return shown


def parse(text: str, folder: str = "/home/ada") -> list[JobSpec]:
    return parse_jobs(text.encode(), file="f.toml", folder=folder, config=CONFIG)


# The line of the mistake is 3: the first below HEAD. Other keys that it takes follow on lines of their own.
IN_A_JOB = [
    ("comand = 1", "comand: unknown key - did you mean command?"),
    ("zzz = 1", f"zzz: unknown key - the keys here are {KEYS_OF_A_JOB}"),
    ("cpus = 2", "cpus: unknown key - write it in [resources], as resources.cpus"),
    ('"a\\u001b[31m" = 1', f'"a\\x1b[31m": unknown key - the keys here are {KEYS_OF_A_JOB}'),
    ('script = "true"', "script: stands beside command - keep one of the two"),
    # strings, paths
    ("cwd = 3", 'cwd: must be a string, not 3 - write "/data/run7"'),
    ('cwd = "../x"', 'cwd: "../x" holds ".." - write the path that it leads to'),
    ('cwd = "~/x"', 'cwd: "~/x" begins with ~ - write the full path: ~ and $HOME are not expanded'),
    ('cwd = ""', "cwd: the path is empty - write a path, or remove the key"),
    ('cwd = "/a\\nb"', 'cwd: "/a\\nb" holds a control character - write a path without it'),
    ('cwd = "/a\\u0000b"', 'cwd: "/a\\x00b" holds a NUL character - remove it'),
    (f'cwd = "/{"a" * 5000}"', "cwd: a path of more than 4095 bytes - no kernel takes it: write a shorter one"),
    ('stdout = "o/../../x"', 'stdout: "o/../../x" holds ".." - write the path that it leads to'),
    ('stdout = "o/"', 'stdout: "o/" is a folder - write a file\'s name: logs/%x-%j.out'),
    (
        'stderr = "%u.err"',
        'stderr: "%u" is no pattern - write %x (name), %j (job id), %A (array\'s job id), %a (array index), '
        "%r (attempt) or %%",
    ),
    (
        'stderr = "100%"',
        'stderr: "%" is no pattern - write %x (name), %j (job id), %A (array\'s job id), %a (array index), '
        "%r (attempt) or %%",
    ),
    # env
    ("env = 1", "env: must be a table, not 1 - write its keys below a [env] line"),
    ("env = { A = 1 }", 'env.A: must be a string, not 1 - write "value"'),
    (
        'env = { "A-B" = "" }',
        'env.A-B: "A-B" is not a variable\'s name - write letters, digits and _, no digit first',
    ),
    (
        'env = { "A\\nB" = "" }',
        'env."A\\nB": "A\\nB" is not a variable\'s name - write letters, digits and _, no digit first',
    ),
    (
        'env = { BATCHNS_JOB_ID = "" }',
        "env.BATCHNS_JOB_ID: BATCHNS_* variables are set by batchns - choose another name",
    ),
    ('env = { A = "a\\u0000" }', 'env.A: "a\\x00" holds a NUL character - remove it'),
    # scalars
    ('queue = "urgnt"', 'queue: there is no queue "urgnt" - did you mean "urgent"?'),
    ('queue = "x;rm"', 'queue: there is no queue "x;rm" - there is normal, urgent'),
    ("priority = 101", "priority: 101 is out of range - write 0 to 100"),
    ("priority = -1", "priority: -1 is out of range - write 0 to 100"),
    ("priority = true", "priority: must be a whole number, not true - write for example 50"),
    ("priority = 5.0", "priority: must be a whole number, not 5.0 - write for example 50"),
    ('priority = "5"', 'priority: must be a whole number, not "5" - write for example 50'),
    ("priority = [5]", "priority: must be a whole number, not a list - write for example 50"),
    ("priority = 2020-01-01", "priority: must be a whole number, not a date or time - write for example 50"),
    (f"priority = 0x{'f' * 5000}", "priority: a number of more than 64 bits is out of range - write 0 to 100"),
    ("max_retries = 101", "max_retries: 101 is out of range - write 0 to 100"),
    ("time_limit = 60", 'time_limit: "60" has no unit - write "60s", "60m" or "60h"'),
    ('time_limit = "60"', 'time_limit: "60" has no unit - write "60s", "60m" or "60h"'),
    ('time_limit = "0s"', 'time_limit: "0s" is too small - write at least "1ms"'),
    ("time_limit = nan", 'time_limit: nan has no unit - write for example "2h30m"'),
    ("time_limit = inf", 'time_limit: inf has no unit - write for example "2h30m"'),
    ("time_limit = true", 'time_limit: must be a string with a unit, not true - write for example "2h30m"'),
    # arrays
    ('array = "a"', 'array: "a" is not an array - write indices and ranges: "0-99", "1,3,5-9:2", "0-99%10"'),
    ('array = "9-1"', 'array: range "9-1" runs backwards - write "1-9"'),
    ('array = "0-9:0"', 'array: range "0-9:0" has a step of 0 - write a step of 1 or more'),
    ('array = "1,1"', "array: index 1 is there twice - write each index once"),
    ('array = "0-10000"', "array: more than 10000 array tasks - split it into several jobs"),
    ('array = "0-9%0"', 'array: "0-9%0" has no number of tasks behind % - write for example "0-99%10"'),
    ('array = "0-9%"', 'array: "0-9%" has no number of tasks behind % - write for example "0-99%10"'),
    ("array = 3", 'array: must be a string, not 3 - write "0-99%10"'),
    # dependencies
    ('dependency = "afterok:a"', 'dependency: must be a list, not "afterok:a" - write ["afterok:prep"]'),
    ('dependency = ["aftrok:a"]', 'dependency[0]: "aftrok" is no condition - did you mean "afterok:NAME"?'),
    (
        'dependency = ["x:a"]',
        'dependency[0]: "x" is no condition - write one of after, afterok, afternotok, afterany, aftercorr, singleton, '
        'as "afterok:NAME"',
    ),
    ('dependency = ["afterok"]', 'dependency[0]: "afterok" names no job - write "afterok:NAME"'),
    ('dependency = ["afterok:a:"]', f'dependency[0]: "" {NAME}'),
    ('dependency = ["afterok:a;b"]', f'dependency[0]: "a;b" {NAME}'),
    ('dependency = ["singletn"]', 'dependency[0]: "singletn" is no condition - did you mean "singleton"?'),
    (
        'dependency = ["singleton:a"]',
        'dependency[0]: "singleton:a" names a job - write "singleton": it waits for jobs of its own name and user',
    ),
    (
        'dependency = ["aftercorr:a"]',
        "dependency: aftercorr waits for the task of the same index, and this job has no array - "
        'write afterok, or array = "0-9" besides',
    ),
    # begin, deadline, hold
    ("begin = 8", f"begin: must be a moment, not 8 - {MOMENT}"),
    ("begin = 2026-12-01", f"begin: must be a moment, not a day without a time - {MOMENT}"),
    ("begin = 08:00:00", f"begin: must be a moment, not a date or time - {MOMENT}"),
    ('begin = "tomorrow"', f'begin: "tomorrow" is no moment - {MOMENT}'),
    ('begin = ""', f'begin: "" is no moment - {MOMENT}'),
    ('begin = "2026-12-01"', 'begin: "2026-12-01" names a day without a time - write "2026-12-01T08:00"'),
    ('begin = "8:00"', 'begin: "8:00" names a time without a day - write "2026-12-01T08:00", with the day'),
    (
        'begin = "2026-13-01T08:00"',
        f'begin: "2026-13-01T08:00" does not exist: month must be in 1..12 - {MOMENT}',
    ),
    (
        'deadline = "0001-01-01T00:00"',
        'deadline: "0001-01-01T00:00" is out of range - write a year from 1971 to 2199',
    ),
    (
        "deadline = 9999-12-31T23:59:59-12:00",
        'deadline: "9999-12-31 23:59:59-12:00" is out of range - write a year from 1971 to 2199',
    ),
    ('deadline = "90"', 'deadline: "90" has no unit - write "90s", "90m" or "90h"'),
    ('deadline = "+0s"', 'deadline: "+0s" is too small - write at least "1ms", or remove it'),
    ('deadline = "+1x"', 'deadline: "1x" has an unknown unit - the units are d, h, m, s and ms'),
    (
        'begin = "2026-12-01T08:00Z"\ndeadline = "2026-12-01T09:00+01:00"',
        "begin: is not before the deadline - write an earlier begin or a later deadline",
    ),
    (
        'begin = "+2h"\ndeadline = "1h"',
        "begin: is not before the deadline - write an earlier begin or a later deadline",
    ),
    ("hold = 1", "hold: must be true or false, not 1 - write true or false, without quotes"),
    # warnings
    ("warn_signal = 10", 'warn_signal: must be a string, not 10 - write "USR1@60s"'),
    ('warn_signal = "USR1"', f'warn_signal: "USR1" does not say how long before the time limit - {WARN}'),
    ('warn_signal = "USR1@60"', 'warn_signal: "USR1@60" has no unit - write "USR1@60s" or "USR1@60m"'),
    ('warn_signal = "USR1@0s"', f'warn_signal: "USR1@0s" is not before the time limit - {WARN}'),
    ('warn_signal = "10@60s"', 'warn_signal: "10" is no signal - did you mean "USR1"?'),
    ('warn_signal = "sigusr1@60s"', 'warn_signal: "sigusr1" is no signal - did you mean "USR1"?'),
    ('warn_signal = "@60s"', 'warn_signal: "" is no signal - write its name: "USR1", "TERM", "RTMIN+1"'),
    ('warn_signal = "USR1+1@60s"', 'warn_signal: "USR1+1" is no signal - write its name: "USR1", "TERM", "RTMIN+1"'),
    *(
        (
            f'warn_signal = "{name}@60s"',
            f'warn_signal: "{name}" cannot be handled by any process - write for example "USR1" or "TERM"',
        )
        for name in ("KILL", "SIGSTOP")
    ),
    (
        'warn_signal = "USR1@60s"',
        'warn_signal: there is no time limit to warn before - write time_limit = "2h" besides',
    ),
    (
        'warn_signal = "USR1@1m"\ntime_limit = "30s"',
        "warn_signal: 1m before a time limit of 30s is before it begins - "
        "write a shorter time behind @, or a longer time_limit",
    ),
    # retries
    ('retry_delay = "30s"', "retry_delay: there are no retries - write max_retries = 2 besides, or remove it"),
    (
        "retry_memory = 1.5\nmax_retries = 0",
        "retry_memory: there are no retries with max_retries = 0 - write max_retries = 2 besides, or remove it",
    ),
    ("retry_memory = 0.5\nmax_retries = 1", "retry_memory: 0.5 is out of range - write 1 to 16"),
    ("retry_memory = 17\nmax_retries = 1", "retry_memory: 17 is out of range - write 1 to 16"),
    ("retry_delay = 30\nmax_retries = 1", 'retry_delay: "30" has no unit - write "30s", "30m" or "30h"'),
    # resources
    ("resources = 1", "resources: must be a table, not 1 - write its keys below a [resources] line"),
    ("resources.memory = 4", 'resources.memory: "4" has no unit - write "4MiB" or "4GiB"'),
    ("resources.memory = 4.5", 'resources.memory: 4.5 has no unit - write for example "4GiB"'),
    ('resources.memory = "1KiB"', 'resources.memory: "1KiB" is too small - write at least "1MiB"'),
    ('resources.memory = "9GiB"', "resources.memory: more memory than the node has, 8GiB - write at most 8GiB"),
    (
        "resources.cpus = 1.5",
        "resources.cpus: 1.5 is neither whole nor below 1 - "
        "write 1 or 2 for whole CPUs, or a fraction such as 0.5 for a shared one",
    ),
    ("resources.cpus = 0", "resources.cpus: 0 is not above 0 - write 1 or more whole CPUs, or a fraction such as 0.5"),
    ("resources.cpus = 0.12345", "resources.cpus: 0.12345 has more than three decimals - write 0.123"),
    ("resources.cpus = 5", "resources.cpus: 5 CPUs are more than the node has - write at most 4"),
    ("resources.cpus = nan", "resources.cpus: nan is out of range - write for example 2"),
    ("resources.cpus = true", "resources.cpus: must be a number, not true - write for example 2"),
    (
        f"resources.cpus = 0x{'f' * 5000}",
        "resources.cpus: a number of more than 64 bits is out of range - write for example 2",
    ),
    ('resources.cpuset = "0-"', 'resources.cpuset: "0-" is not a list of CPUs - write numbers and ranges: "0-3,8"'),
    ('resources.cpuset = "3-0"', 'resources.cpuset: range "3-0" runs backwards - write "0-3"'),
    ('resources.cpuset = "4"', "resources.cpuset: CPU 4 is not one that jobs may use - choose among 0-3"),
    ('resources.cpuset = "0-2,2"', "resources.cpuset: CPU 2 is there twice - write each CPU once"),
    ('resources.cpuset = "9999"', "resources.cpuset: there is no CPU 9999 in any kernel - write 0 to 8191"),
    (
        'resources = { cpus = 2, cpuset = "0" }',
        "resources.cpus: cpus = 2, but cpuset names 1 - write cpus = 1, or a fraction below 1 to share them",
    ),
    ("resources.cpu_shares = 1", "resources.cpu_shares: 1 is out of range - write 2 to 262144"),
    ("resources.blkio_weight = 5", "resources.blkio_weight: 5 is out of range - write 10 to 1000"),
    ("resources.pids = 0", "resources.pids: 0 is out of range - write 1 to 4194304"),
    ('resources.scratch = "10"', 'resources.scratch: "10" has no unit - write "10MiB" or "10GiB"'),
    ("resources.strict = 1", "resources.strict: must be true or false, not 1 - write true or false, without quotes"),
    ("resources.gpus = 3", "resources.gpus: more gpus than the node has, 2 - write at most 2"),
    (
        "resources.gpu = 1",
        "resources.gpu: unknown key - did you mean gpus? "
        "(other resources are named in batchns.toml, below [node.resources])",
    ),
    (
        "resources.licences = 1",
        "resources.licences: unknown key - other resources are named in batchns.toml, below [node.resources]",
    ),
    # network
    (
        'network.mode = "privat"',
        'network.mode: must be one of private, none, host, not "privat" - did you mean "private"?',
    ),
    (
        "network.mode = 1",
        'network.mode: must be one of private, none, host, not 1 - write "private" or "none" or "host"',
    ),
    (
        'network.egress = "10mbps"',
        'network.egress: "10mbps" has an unknown unit - '
        'write "10mbit" for bits per second, "80mbit" where bytes are meant',
    ),
    ('network.egress = "1bit"', 'network.egress: "1bit" is too small - write at least "8kbit"'),
    ('network.egress = "2gbit"', "network.egress: more egress than the node has, 1gbit - write at most 1gbit"),
    (
        'network.interface = "eth0; reboot"',
        "network.interface: unknown key - the keys here are mode, egress, ingress, allow",
    ),
    (
        'network = { mode = "none", allow = ["jobs"] }',
        'network.allow: there is nothing to allow with mode = "none" - remove it, or write mode = "private"',
    ),
    ('network.allow = "jobs"', 'network.allow: must be a list, not "jobs" - write ["jobs"]'),
    (
        'network.allow = ["job"]',
        'network.allow[0]: "job" is none of what can be allowed - write "jobs", "host:8080", "host:53/udp" '
        'or an address range such as "10.1.0.0/16"',
    ),
    (
        'network.allow = ["jobs", "host"]',
        'network.allow[1]: "host" names no port of the host - write "host:8080", "host:8000-8099" or "host:53/udp"',
    ),
    (
        'network.allow = ["host:0"]',
        'network.allow[0]: "host:0": ports are 1 to 65535 - write for example "host:8080"',
    ),
    ('network.allow = ["host:9-8"]', 'network.allow[0]: "host:9-8" runs backwards - write "host:8-9"'),
    (
        'network.allow = ["10.1.0.1/16"]',
        'network.allow[0]: "10.1.0.1/16" is not written as a range - write "10.1.0.0/16"',
    ),
    (
        'network.allow = ["127.0.0.1"]',
        'network.allow[0]: "127.0.0.1" is not outside of a job - write a range of hosts: jobs have their own loopback',
    ),
    (
        'network.allow = ["host:22"]',
        'network.allow[0]: "host:22" is not allowed on this machine - '
        'remove it, or have "host:22" added to allow under [network] in batchns.toml',
    ),
    (
        'network = { mode = "none", ingress = "1mbit" }',
        'network.ingress: there is no rate to limit with mode = "none" - remove it, or write mode = "private"',
    ),
    # isolation
    ('isolation.binds = "/a:/b"', 'isolation.binds: must be a list, not "/a:/b" - write ["/data:/data"]'),
    (
        'isolation.binds = ["/a"]',
        'isolation.binds[0]: "/a" names no place inside the job - write "SRC:DST", for example "/a:/a"',
    ),
    ('isolation.binds = ["a:/b"]', 'isolation.binds[0]: "a" is not an absolute path - write the full path'),
    (
        'isolation.binds = ["~/a:/b"]',
        'isolation.binds[0]: "~/a" is not an absolute path - write the full path: ~ and $HOME are not expanded',
    ),
    (
        'isolation.binds = ["/a/../etc:/b"]',
        'isolation.binds[0]: "/a/../etc" holds ".." - write the path that it leads to',
    ),
    (
        'isolation.binds = ["/a:/b:rx"]',
        'isolation.binds[0]: "rx" is no option of a bind - write "SRC:DST" or "SRC:DST:ro"',
    ),
    (
        'isolation.binds = ["/a://"]',
        'isolation.binds[0]: "/a://" would cover the job\'s root - bind it to a folder below /',
    ),
    *(
        (
            f'isolation.binds = ["/ok:/ok", "/a:{target}"]',
            f'isolation.binds[1]: "/a:{target}" would cover the job\'s own {folder} - '
            "bind it to another folder, such as /mnt",
        )
        for target, folder in (("/proc", "/proc"), ("/sys/x", "/sys"), ("/./dev", "/dev"), ("//run", "/run"))
    ),
    (
        'network.mode = "host"',
        "network.mode: the host's network is not allowed on this machine - "
        'write mode = "private", or have host = true written under [network] in batchns.toml',
    ),
    (
        'isolation.overlay = "1GiB"',
        "isolation.overlay: the host's own root is always read-only - "
        'write rootfs = "/srv/images/ml" besides, or remove it',
    ),
    (
        'isolation.identity = "selv"',
        'isolation.identity: must be one of self, root, private, not "selv" - did you mean "self"?',
    ),
    (
        'preempt.mode = "kill"',
        'preempt.mode: must be one of suspend, requeue, cancel, off, not "kill" - '
        'write "suspend" or "requeue" or "cancel" or "off"',
    ),
    ('slurm.account = "-x"', 'slurm.account: "-x" is not an account\'s name - write letters, digits, _, -, . and :'),
    ('slurm.qos = "a b"', 'slurm.qos: "a b" is not a quality of service - write letters, digits, _, -, . and :'),
    (
        'slurm.constraint = "a b"',
        'slurm.constraint: "a b" is no constraint - write features as sbatch has them: "intel&ssd"',
    ),
    ("preempt.grace_time = 10", 'preempt.grace_time: "10" has no unit - write "10s", "10m" or "10h"'),
]


@pytest.mark.parametrize(("line", "message"), IN_A_JOB)
def test_a_mistake_is_one_message_with_its_line(line: str, message: str) -> None:
    assert errors(f"{HEAD}{line}\n") == [f"f.toml:3: {message}"]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ['f.toml:1: no job in this file - write name = "train" and command = ["PROGRAM", "ARGUMENT"]']),
        (
            'name = "x"\n',
            ["f.toml:1: command: missing - write command = [\"PROGRAM\", \"ARGUMENT\"] or script = '''...'''"],
        ),
        ('command = ["a"]', ['f.toml:1: name: missing - write name = "train"']),
        ("job = []", ["f.toml:1: job: the list of jobs is empty - write a job's keys below a [[job]] line"]),
        ("\n[job]\n", ["f.toml:2: job: one job in [job] - write [[job]], or the job's keys at the top of the file"]),
        ("job = [1]", ["f.toml:1: job[0]: must be a table, not 1 - write its keys below a [[job]] line"]),
        (
            'queue = "normal"\nzzz = 1\n[[job]]\nname = "x"\nscript = "true"',
            [
                "f.toml:1: queue: stands outside the [[job]]s - "
                "move it below a [[job]] line: each job has its own keys",
                "f.toml:2: zzz: unknown key - a file of [[job]]s has nothing beside them",
            ],
        ),
        (
            '[[job]]\nname = "x"\nscript = "true"\n[[job]]\nname = "x"\nscript = "true"',
            ['f.toml:5: job[1].name: "x" is there twice - choose another name: the one of line 2 has it'],
        ),
        (
            'name = "a b"\ncommand = []\n',
            [f'f.toml:1: name: "a b" {NAME}', 'f.toml:2: command: the list is empty - write ["PROGRAM", "ARGUMENT"]'],
        ),
        (
            'name = ".."\ncommand = ["echo", 1]\n',
            [f'f.toml:1: name: ".." {NAME}', 'f.toml:2: command[1]: must be a string, not 1 - write "ARGUMENT"'],
        ),
        (
            'name = "x$(reboot)"\ncommand = ["echo hello"]\n',
            [
                f'f.toml:1: name: "x$(reboot)" {NAME}',
                'f.toml:2: command[0]: "echo hello" is no program\'s name - '
                "write one string per argument: [\"echo\", \"hello\"], or use script = '''...'''",
            ],
        ),
        (
            'name = "x\\n"\ncommand = "true"\n',
            [
                f'f.toml:1: name: "x\\n" {NAME}',
                'f.toml:2: command: must be a list, not "true" - write ["PROGRAM", "ARGUMENT"]',
            ],
        ),
        (
            f'name = "{"x" * 65}"\nscript = """\n  \n"""\n',
            [
                f'f.toml:1: name: "{"x" * 57}..." {NAME}',
                "f.toml:2: script: the script is empty - write its commands between ''' and '''",
            ],
        ),
        (
            '[[job]]\nname = "a"\nscript = "true"\n[job.resources]\nmemory = 1\n\n[[job]] # second\nname = "b"\n'
            "script = '''\nmemory = 1\n'''\nresources = {memory = \"1GiB\", pids = 0}\n",
            [
                'f.toml:5: job[0].resources.memory: "1" has no unit - write "1MiB" or "1GiB"',
                "f.toml:12: job[1].resources.pids: 0 is out of range - write 1 to 4194304",
            ],
        ),
    ],
)
def test_mistakes_of_the_whole_file(text: str, messages: list[str]) -> None:
    assert errors(text) == messages


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = 1\na = 2", "f.toml:2: end of file: the same key is written twice - keep one of the two"),
        (
            b"[a]\n[a]\n",
            "f.toml:2: column 3: the same [table] is written twice - put all its keys below one [table] line",
        ),
        (b"name = train\n", 'f.toml:1: column 8: this is no TOML value - put text in quotes: key = "value"'),
        (b"\nname\n", 'f.toml:2: column 5: a key must be followed by = - write key = "value"'),
        (b"a = [1,\n2\n\n", "f.toml:2: end of file: a list is not closed - end it with ]"),
        (
            b'a = "x\nb = 1',
            "f.toml:1: column 7: a string is not closed on its line - "
            "end it with its quotes; '''...''' holds several lines",
        ),
        (b"a = '''x\n", "f.toml:1: end of file: a string is not closed - end it with the quotes it begins with"),
        (b'a = "\\q"', "f.toml:1: column 8: a backslash that begins no escape - write \\\\, or use '...' quotes"),
        (b"a = '\x1b[31m'", "f.toml:1: column 6: a control character - write it as an escape: \\n, \\t or \\u001b"),
        (b"a = '\x00'", "f.toml:1: column 6: a control character - write it as an escape: \\n, \\t or \\u001b"),
        (b"a = 1 b = 2", "f.toml:1: column 7: something follows the value - write one key = value per line"),
        (
            b'a = "\\ud800"',
            "f.toml:1: column 12: not TOML: Escaped character is not a Unicode scalar value - see https://toml.io",
        ),
        (b"\xef\xbb\xbfname = 'x'", "f.toml:1: begins with a byte order mark - save it as plain UTF-8"),
        (b"# a\nname = '\xff'", "f.toml:2: byte 0xff is not UTF-8 - save the file as UTF-8"),
        (b"a = '\xed\xa0\x80'", "f.toml:1: byte 0xed is not UTF-8 - save the file as UTF-8"),
        (b"#" * 65537, "f.toml: more than 64 KiB - split it into several files"),
        (b"\na = " + b"[" * 65000, "f.toml:2: nested too deeply - nothing here is deeper than 12 levels"),
        (b"a = " + b"{a=" * 20000, "f.toml:1: nested too deeply - nothing here is deeper than 12 levels"),
        (b"a." * 32000 + b"a = 1", "f.toml:1: nested too deeply - nothing here is deeper than 12 levels"),
        (b"[" + b"a." * 32000 + b"a]", "f.toml:1: nested too deeply - nothing here is deeper than 12 levels"),
        (b"\na = " + b"9" * 60000, "f.toml:2: a number with too many digits - TOML's numbers have 64 bits"),
    ],
)
@pytest.mark.timeout(5)
def test_what_is_not_toml(data: bytes, message: str) -> None:
    """Bombs among it: each is refused before it costs time or stack."""
    assert errors(data) == [message]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "data",
    [
        b"[[job]]\n" * 8000,
        b"".join(b"k%05d=1\n" % n for n in range(7000)),
        b"resources={" + b",".join(b"memor%d=1" % n for n in range(5000)) + b"}",
        HEAD.encode() + b"env = {" + b",".join(b"'%d'=1" % n for n in range(7000)) + b"}",
        HEAD.encode() + b'array = "' + b"0-9999:9999," * 4000 + b'"',
        HEAD.encode() + b'resources.cpuset = "' + b"0-8191," * 9000 + b'"',
        HEAD.encode() + b'dependency = ["afterok' + b":a" * 30000 + b':"]',
        HEAD.encode() + b'time_limit = "' + b"1" * 60000 + b'"',
        b"'" + b"x" * 65000 + b"' = 1",
        b'"""' * 21000,
        b'"\\' * 30000,
    ],
)
def test_a_file_full_of_mistakes_is_answered_in_bounded_time(data: bytes) -> None:
    """64 KiB of anything: seconds at the very most, on a busy machine."""
    assert errors(data)


def jobs(**dependencies: list[str]) -> list[JobSpec]:
    """One job each, in a file of its own; only the dependencies differ."""
    (plain,) = parse(HEAD)
    return [
        evolve(plain, name=name, dependency=tuple(edge for text in after for edge in parse_dependency(text)))
        for name, after in dependencies.items()
    ]


def test_an_unknown_dependency_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(JobFileErrors) as raised:
        check_dependencies(jobs(prep=[], train=["afterok:perp"], report=["afterany:elsewhere"]))
    assert str(raised.value).split("\n") == [
        'f.toml:1: dependency: there is no job "perp" - did you mean prep?',
        'f.toml:1: dependency: there is no job "elsewhere" - give the file that holds it as well',
    ]


@pytest.mark.parametrize(
    ("after", "shown"),
    [
        ({"a": ["after:a"]}, "a -> a"),
        ({"a": ["afterok:b"], "b": ["afterok:a"]}, "a -> b -> a"),
        ({"z": ["afterok:a"], "a": ["afterok:b"], "b": ["afterany:c"], "c": ["afterok:a"]}, "a -> b -> c -> a"),
    ],
)
def test_a_cycle_is_shown_as_it_runs(after: dict[str, list[str]], shown: str) -> None:
    with pytest.raises(JobFileErrors) as raised:
        check_dependencies(jobs(**after))
    assert str(raised.value) == f"f.toml:1: dependency: waits for itself: {shown} - remove one of these dependencies"


@pytest.mark.timeout(10)
def test_a_long_chain_is_no_recursion_and_a_diamond_is_no_cycle() -> None:
    chain = {f"j{n}": [f"afterok:j{n - 1}"] if n else [] for n in range(3000)}
    check_dependencies(jobs(**chain))
    check_dependencies(jobs(top=[], left=["afterok:top"], right=["afterok:top"], end=["afterok:left:right"]))
    chain["j0"] = ["afterok:j2999"]
    with pytest.raises(JobFileErrors, match=r"waits for itself: j0 -> \.\.\. \(3000 jobs\)"):
        check_dependencies(jobs(**chain))


def test_a_name_twice_in_one_run_is_refused_with_both_places() -> None:
    first = parse_jobs(HEAD.encode(), file="a.toml", folder="/", config=CONFIG)
    second = parse_jobs(HEAD.encode(), file="b.toml", folder="/", config=CONFIG)
    check_names(first)
    with pytest.raises(JobFileErrors) as raised:
        check_names(first + second)
    assert str(raised.value) == 'b.toml:1: name: "x" is there twice - choose another name: the job at a.toml:1 has it'
