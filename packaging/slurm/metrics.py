#!/usr/bin/python3
"""Metrics of batchns's jobs on a node of a Slurm cluster, for the textfile collector of node_exporter.

    metrics [FOLDER]     writes FOLDER/batchns.prom as a whole, or removes it and says on stderr why

FOLDER is by default that of Debian's prometheus-node-exporter.

Slurm's HealthCheckProgram, a timer or cron runs it as root, every half minute or so. No user writes anything there:
a file of theirs could claim what it likes, and spoil all metrics of the node. The numbers are the kernel's own, of the
cgroups that Slurm has made; which jobs there are, and whose, slurmctld says.

Standard library only. Names, labels and help are those of batchns's other metrics: docs/metrics.md.
"""

import glob
import os
import re
import socket
import subprocess
import sys

MARK = "batchns:"  # begins the comments of its jobs
SEPARATOR = "\x1f"
FORMAT = SEPARATOR.join(("%A", "%i", "%u", "%P", "%S", "%C", "%D", "%k", "%j"))
FOLDER = "/var/lib/prometheus/node-exporter"
UNLIMITED = 1 << 60
PATIENCE = 20  # seconds; Slurm ends a HealthCheckProgram after 60
V1 = ("cpuacct", "cpu,cpuacct", "memory", "freezer", "cpuset", "pids")
GAUGE, COUNTER = "gauge", "counter"
METRICS = {
    "batchns_job_info": (GAUGE, "Whose job it is."),
    "batchns_job_start_time_seconds": (GAUGE, "When the attempt started, since the epoch."),
    "batchns_job_cpus": (GAUGE, "CPUs that it asked for."),
    "batchns_job_cpu_seconds_total": (COUNTER, "CPU time."),
    "batchns_job_memory_usage_bytes": (GAUGE, "Memory, its cache included."),
    "batchns_job_memory_peak_bytes": (GAUGE, "Most memory so far."),
    "batchns_job_memory_limit_bytes": (GAUGE, "Memory limit in force."),
    "batchns_job_oom_kills_total": (COUNTER, "Processes that the kernel killed for memory."),
    "batchns_job_tasks": (GAUGE, "Processes and threads."),
    "batchns_job_frozen": (
        GAUGE,
        "1 from the kernel's confirmation of a freeze to that of its thaw, as the job table has it.",
    ),
}


def main(words):
    folder = words[0] if words else FOLDER
    if len(words) > 1 or not os.path.isdir(folder):
        print(f"batchns: {folder} is no folder - write that of --collector.textfile.directory", file=sys.stderr)
        return 2
    path, new = f"{folder}/batchns.prom", f"{folder}/.batchns.prom.{os.getpid()}"
    try:
        text = render(jobs(asked()), "/sys/fs/cgroup", "/proc")
        with open(new, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
        os.chmod(new, 0o644)
        os.replace(new, path)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"batchns: no metrics of jobs: {error}", file=sys.stderr)
        for left in (new, path):  # what is old is worse than nothing: its mtime alone tells
            if os.path.exists(left):
                os.unlink(left)
        return 1
    return 0


def asked():
    node = os.environ.get("SLURMD_NODENAME") or os.environ.get("SLURM_NODENAME") or socket.gethostname().split(".")[0]
    command = ["squeue", "--noheader", "--states=running,suspended,completing", f"--nodelist={node}"]
    environ = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    done = subprocess.run(
        [*command, f"--format={FORMAT}"], env=environ, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout


def jobs(text):
    """Those of batchns, by Slurm's number: labels, start, CPUs on each node. What is no row of theirs is left out."""
    found = {}
    for line in text.split("\n"):
        parts = line.split(SEPARATOR, 8)
        if len(parts) == 9 and parts[0].isdigit() and re.fullmatch("[0-9]+(_[0-9]+)?", parts[1]):
            number, job_id, user, queue, start, cpus, nodes, comment, name = parts
            if comment.startswith(MARK):
                labels = {"job_id": job_id, "name": name, "user": user, "queue": queue}
                here = int(cpus) // max(1, int(nodes)) if cpus.isdigit() and nodes.isdigit() else None
                found[number] = (labels, start, here)
    return found


def render(known, cgroups, proc):
    """The text of the file."""
    samples = {name: [] for name in METRICS}
    for number in sorted(known, key=int):
        labels, start, cpus = known[number]
        for name, more, value in readings(number, labels, start, cpus, cgroups, proc):
            samples[name].append((more, value))
    lines = []
    for name, (kind, meaning) in METRICS.items():
        if samples[name]:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{{{_labels(labels)}}} {value}" for labels, value in samples[name]]
    return "".join(f"{line}\n" for line in lines)


def readings(number, labels, start, cpus, cgroups, proc):
    """(metric, labels, value) of one job; what the kernel does not count here is left out, never 0."""
    own = {"job_id": labels["job_id"]}
    yield "batchns_job_info", labels, 1
    if start.isdigit():
        yield "batchns_job_start_time_seconds", own, start
    if cpus is not None:
        yield "batchns_job_cpus", own, cpus
    folders = where(number, cgroups)
    pids = members(folders.values())
    for mode, seconds in sorted(cpu(folders, pids, proc).items()):
        yield "batchns_job_cpu_seconds_total", {**own, "mode": mode}, seconds
    for metric, value in memory(folders).items():
        yield metric, own, value
    if pids:
        states = [status(proc, pid) for pid in pids]
        yield "batchns_job_tasks", own, sum(int(one.get("Threads", "0")) for one in states)
        yield "batchns_job_frozen", own, int(stands(folders, states))


def where(number, cgroups):
    """The job's cgroup of each v1 controller, or that of v2 as ""."""
    found = {}
    for controller in V1:
        for path in glob.glob(f"{cgroups}/{controller}/slurm*/uid_*/job_{number}"):
            found.update((word, path) for word in controller.split(","))
    for path in glob.glob(f"{cgroups}/system.slice/*slurmstepd.scope/job_{number}"):
        found[""] = path
    return found


def members(folders):
    """All its processes: they are in the cgroups of its steps and tasks."""
    found = set()
    for folder in folders:
        for above, _, files in os.walk(folder):
            if "cgroup.procs" in files:
                found.update(int(word) for word in read(f"{above}/cgroup.procs").split())
    return sorted(found - {0})


def cpu(folders, pids, proc):
    """Seconds by mode: what a cgroup counts, else what is known of processes that live and of those they waited for."""
    tick = os.sysconf("SC_CLK_TCK")
    if "" in folders:
        values = pairs(f"{folders['']}/cpu.stat")
        names = {"user": "user_usec", "system": "system_usec"}
        return {mode: int(values[name]) / 1e6 for mode, name in names.items() if name in values}
    if "cpuacct" in folders:
        values = pairs(f"{folders['cpuacct']}/cpuacct.stat")
        return {mode: int(values[mode]) / tick for mode in ("user", "system") if mode in values}
    spent = {"user": 0.0, "system": 0.0}
    for pid in pids:
        fields = read(f"{proc}/{pid}/stat").rpartition(")")[2].split()
        if len(fields) > 14:  # proc_pid_stat(5): utime, stime, cutime, cstime
            user, system, of_children, systems = (int(field) / tick for field in fields[11:15])
            spent["user"] += user + of_children
            spent["system"] += system + systems
    return spent if pids else {}


def memory(folders):
    folder = folders.get("memory") or folders.get("")
    if folder is None:
        return {}
    v1 = "memory" in folders
    usage, peak, limit, events = (
        ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control")
        if v1
        else ("memory.current", "memory.peak", "memory.max", "memory.events")
    )
    found = {}
    for metric, name in (("usage", usage), ("peak", peak), ("limit", limit)):
        text = read(f"{folder}/{name}").strip()
        if text.isdigit() and int(text) < UNLIMITED:
            found[f"batchns_job_memory_{metric}_bytes"] = int(text)
    kills = pairs(f"{folder}/{events}").get("oom_kill")
    if kills is not None:
        found["batchns_job_oom_kills_total"] = int(kills)
    return found


def stands(folders, states):
    """Slurm's freezer has stopped it, or every process of its command stands still: those below the init of its PID
    namespace, which itself goes on when batchns freezes a job.
    """
    if "freezer" in folders and read(f"{folders['freezer']}/freezer.state").strip() == "FROZEN":
        return True
    if "" in folders and pairs(f"{folders['']}/cgroup.events").get("frozen") == "1":
        return True
    inside = [one for one in states if len(one.get("NSpid", "").split()) > 1 and one["NSpid"].split()[-1] != "1"]
    return bool(inside) and all(one.get("State", "X")[0] in "TtZX" for one in inside)


def status(proc, pid):
    lines = read(f"{proc}/{pid}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def pairs(path):
    lines = (line.split() for line in read(path).splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def read(path):
    """ "" of what is not there, or has ended meanwhile."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def _labels(labels):
    escaped = {name: re.sub(r'(["\\])', r"\\\1", value).replace("\n", "\\n") for name, value in labels.items()}
    return ",".join(f'{name}="{value}"' for name, value in escaped.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
