"""A real Slurm cluster on this machine: each node in network, UTS and mount namespaces of its own, joined by a bridge.

`python -m tests.slurm.cluster FOLDER` starts one and says how to use it, until it is interrupted.

1. Nothing of the machine's own is changed: key, socket, state and logs are in one folder, the bridge is in a namespace.
2. What was started is known by its pid file, and ended by its pid; what is left of jobs by their environment.
3. Not `ip netns exec`: it mounts another /sys, which hides /sys/fs/cgroup, and slurmd refuses to start then.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import define, field

from tests.alone import alone
from tests.people import way_for_all

PATIENCE = 30.0  # seconds for nodes to come up
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")
_NUMBERS = itertools.count()
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass=FOLDER/munge/munge.sock
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment"""
_ENTER = 'mount --bind "$0" /etc/hosts; hostname "$1"; shift; exec "$@"'


def installed() -> bool:
    return all(shutil.which(name, path=_PATH) for name in PROGRAMS)


def accounts_installed() -> bool:
    return installed() and all(shutil.which(name, path=_PATH) for name in ACCOUNTING)


@define(kw_only=True)
class Cluster:
    """`extra`, `node_extra`: more lines of slurm.conf, more words for each node. `cpus`: that each node claims.
    `accounts`: with slurmdbd and a MariaDB of its own; jobs need one of these then, and be of one of its users.
    """

    folder: Path
    nodes: int = 3
    cpus: int = 2
    memory: int = 4000  # MiB that each node claims
    proctrack: str = "linuxproc"
    preempt: str = "SUSPEND"  # SUSPEND, REQUEUE
    bandwidth: int = 0  # mbit of each node, as a gres
    kill_wait: int = 5
    accounts: Mapping[str, Sequence[str]] = field(factory=dict)
    extra: str = ""
    plugstack: str = ""
    net: str = "10.213.77"
    tag: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.tag = f"sl{os.getpid() % 10000}-{next(_NUMBERS)}"

    @property
    def conf(self) -> str:
        return f"{self.folder}/etc/slurm.conf"

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    # -- up and down ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises TimeoutError: the nodes have not come up."""
        for name in ("etc", "state", "spool", "log", "run", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name in ("state", "log", "run"):
            shutil.chown(self.folder / name, "slurm", "slurm")
        self._network()
        self._settings()
        self._munge()
        if self.accounts:
            self._accounts()
        self._inside("ctl", "slurmctld", "-f", self.conf)
        for name in self.names:
            self.start_node(name)
        self._await_nodes()

    def start_node(self, name: str) -> None:
        (self.folder / "spool" / name).mkdir(exist_ok=True)
        self._inside(name, "slurmd", "-N", name)

    def forget_jobs(self) -> None:
        """Another controller, which knows of no job that there was; what is accounted is as it was."""
        self._end("run/slurmctld.pid", 1)
        self._inside("ctl", "slurmctld", "-c", "-f", self.conf)
        self._await_nodes()

    def crash_node(self, name: str) -> None:
        """As a power cut: slurmd, its step daemons and all that runs on the node end at once."""
        pids = _output("ip", "netns", "pids", f"{self.tag}-{name}").split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        (self.folder / "run" / f"slurmd.{name}.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self.run("scancel", "--full", "--user=nobody", timeout=10)
            self._until(lambda: not self.run("squeue", "-h", timeout=5), 8)
        self._end("run/slurmctld.pid", 1)  # it saves its state at once, and then sits out ten seconds
        for name in self.names:
            self._end(f"run/slurmd.{name}.pid", 10)
        for name in self.names:
            for pid in _output("ip", "netns", "pids", f"{self.tag}-{name}", check=False).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        self._end("run/slurmdbd.pid", 10)
        self._end("mysql/pid", 20)
        self._end("munge/munged.pid", 5)
        for name in (*self.names, "ctl"):
            subprocess.run(["ip", "netns", "del", f"{self.tag}-{name}"], check=False, capture_output=True)
        for folder in Path("/sys/fs/cgroup").glob("*/slurm_n*"):
            for path in sorted(folder.rglob("*"), reverse=True):
                if path.is_dir():
                    with contextlib.suppress(OSError):
                        path.rmdir()
            with contextlib.suppress(OSError):
                folder.rmdir()

    # -- use -----------------------------------------------------------------------------------------------------

    def command(self, *words: str, user: str = "", env: dict[str, str] | None = None) -> list[str]:
        """`words` as they run on the controller's host."""
        variables = [f"{name}={value}" for name, value in (env or {}).items()]
        words = ("env", f"SLURM_CONF={self.conf}", *variables, *words)
        if user:
            words = ("setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups", *words)
        return self._within("ctl", *words)

    def run(self, *words: str, user: str = "", timeout: float = 60, check: bool = True) -> str:
        done = subprocess.run(
            self.command(*words, user=user), capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
        return done.stdout.strip()

    def of_jobs(self, uid: int) -> list[int]:
        """Processes of that user's that belong to jobs of this cluster: by their environment, wherever they are."""
        mark = f"SLURM_CONF={self.conf}".encode()
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                words = Path("/proc", entry, "environ").read_bytes() if entry.isdigit() else b""
                if mark in words and b"SLURM_JOB_ID=" in words and _uid_of(entry) == uid:
                    found.append(int(entry))
        return found

    def on_node(self, name: str, *words: str) -> list[str]:
        return self._within(name, *words)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _within(self, name: str, *words: str) -> list[str]:
        hosts = f"{self.folder}/hosts"
        enter = ["nsenter", f"--net=/run/netns/{self.tag}-{name}", "unshare", "--uts", "--mount"]
        return [*enter, "sh", "-c", _ENTER, hosts, name, *words]

    def _inside(self, name: str, *words: str) -> None:
        env = {"PATH": _PATH, "LANG": "C.UTF-8", "SLURM_CONF": self.conf}
        subprocess.run(self._within(name, *words), env=env, check=True, stdin=subprocess.DEVNULL, preexec_fn=_unblock)

    def _network(self) -> None:
        """A namespace for the controller with a bridge in it, one for each node."""
        addresses = {"ctl": 1, **{name: 11 + number for number, name in enumerate(self.names)}}
        lines = ["127.0.0.1 localhost", *(f"{self.net}.{last} {name}" for name, last in addresses.items())]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        for name in addresses:
            _ip("netns", "add", f"{self.tag}-{name}")
            _ip("-n", f"{self.tag}-{name}", "link", "set", "lo", "up")
        ctl = f"{self.tag}-ctl"
        _ip("-n", ctl, "link", "add", "br0", "type", "bridge")
        _ip("-n", ctl, "addr", "add", f"{self.net}.1/24", "dev", "br0")
        _ip("-n", ctl, "link", "set", "br0", "up")
        for name in self.names:
            own = f"{self.tag}-{name}"
            _ip("link", "add", f"v{name}", "netns", ctl, "type", "veth", "peer", "name", "eth0", "netns", own)
            _ip("-n", ctl, "link", "set", f"v{name}", "master", "br0", "up")
            _ip("-n", own, "addr", "add", f"{self.net}.{addresses[name]}/24", "dev", "eth0")
            _ip("-n", own, "link", "set", "eth0", "up")
            _ip("-n", own, "route", "add", "default", "via", f"{self.net}.1")

    def _settings(self) -> None:
        etc = self.folder / "etc"
        if self.proctrack == "cgroup":
            # Without the first line steps fail on a hybrid hierarchy: "unable to create freezer cgroup namespace".
            (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainRAMSpace=yes\n")
        if self.bandwidth:
            (etc / "gres.conf").write_text(f"Name=bw Count={self.bandwidth} Flags=CountOnly\n")
        if self.plugstack:
            (etc / "plugstack.conf").write_text(self.plugstack)
        (etc / "slurm.conf").write_text(self._conf())

    def _conf(self) -> str:
        folder, preempts = self.folder, self.preempt == "SUSPEND"
        gres = f" Gres=bw:{self.bandwidth}" if self.bandwidth else ""
        nodes = [
            f"NodeName={name} NodeAddr={self.net}.{11 + number} Port=16818 CPUs={self.cpus} "
            f"RealMemory={self.memory}{gres} State=UNKNOWN"
            for number, name in enumerate(self.names)
        ]
        return f"""ClusterName=lab
SlurmctldHost=ctl({self.net}.1)
SlurmctldPort=16817
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/munge.sock
SlurmUser=slurm
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/{self.proctrack}
TaskPlugin=task/{"cgroup" if self.proctrack == "cgroup" else "none"}
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
MessageTimeout=10
BatchStartTimeout=10
KillWait={self.kill_wait}
InactiveLimit=0
UnkillableStepTimeout=20
JobRequeue=1
MinJobAge=300
MaxJobCount=20000
MaxArraySize=10001
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,default_queue_depth=1000,\
partition_job_depth=0,bf_interval=2,bf_max_job_test=1000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
JobAcctGatherType=jobacct_gather/none
{_ACCOUNTING.replace("FOLDER", str(folder)) if self.accounts else "AccountingStorageType=accounting_storage/none"}
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode={"SUSPEND,GANG" if preempts else "REQUEUE"}
SchedulerTimeSlice=30
{"GresTypes=bw" if self.bandwidth else ""}
{f"PlugStackConfig={folder}/etc/plugstack.conf" if self.plugstack else ""}
{self.extra}
{chr(10).join(nodes)}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 \
PreemptMode={self.preempt} OverSubscribe=FORCE:1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

    def _munge(self) -> None:
        """One of our own: the machine's is left alone."""
        folder = self.folder / "munge"
        key = folder / "key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(128))
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, "munge", "munge")
        folder.chmod(0o755)
        files = {"key-file": "key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
        options = [f"--{option}={folder}/{name}" for option, name in files.items()]
        as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
        command = [*as_munge, "munged", "--num-threads=2", *options, f"--seed-file={folder}/seed"]
        subprocess.run(command, check=True, env={"PATH": _PATH}, stdin=subprocess.DEVNULL, preexec_fn=_unblock)

    def _accounts(self) -> None:
        """MariaDB and slurmdbd on the controller's host, reached by the loopback there."""
        folder = self.folder / "mysql"
        folder.mkdir()
        shutil.chown(folder, "mysql", "mysql")
        install = ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={folder}/data"]
        subprocess.run(
            [*install, "--auth-root-authentication-method=socket", "--skip-test-db"], check=True, capture_output=True
        )
        places = [f"--datadir={folder}/data", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        words = ["mariadbd", "--no-defaults", "--user=mysql", *places, "--bind-address=127.0.0.1", "--port=16806"]
        with (self.folder / "log" / "mariadb.log").open("w") as log:
            subprocess.Popen(
                self._within("ctl", *words, "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        client = ["mariadb", "--no-defaults", "--user=root", f"--socket={folder}/socket"]
        self._until(lambda: subprocess.run([*client, "-e", ""], capture_output=True, check=False).returncode == 0, 30)
        password = os.urandom(16).hex()
        statements = (
            "create database slurm_acct_db; "
            f"create user slurm@'127.0.0.1' identified by '{password}'; "
            "grant all on slurm_acct_db.* to slurm@'127.0.0.1'"
        )
        subprocess.run(client, input=statements, text=True, check=True)
        settings = self.folder / "etc" / "slurmdbd.conf"
        settings.touch(mode=0o600)
        settings.write_text(f"""AuthType=auth/munge
AuthInfo=socket={self.folder}/munge/munge.sock
DbdHost=ctl
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=16806
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
LogFile={self.folder}/log/slurmdbd.log
PidFile={self.folder}/run/slurmdbd.pid
CommitDelay=1
""")
        shutil.chown(settings, "slurm", "slurm")
        self._inside("ctl", "slurmdbd")
        ask = ("sacctmgr", "--noheader", "show", "cluster")
        self._until(lambda: not subprocess.run(self.command(*ask), capture_output=True, check=False).returncode, 30)
        self.run("sacctmgr", "--immediate", "add", "cluster", "lab")
        for account, users in self.accounts.items():
            self.run("sacctmgr", "--immediate", "add", "account", account)
            for user in users:
                self.run("sacctmgr", "--immediate", "add", "user", user, f"account={account}")

    def _await_nodes(self) -> None:
        def up() -> bool:
            return (
                self.run("sinfo", "-h", "-N", "-p", "batch", "-t", "idle", "-o", "%N", check=False).count("\n") + 1
                == self.nodes
            )

        if not self._until(up, PATIENCE):
            log = (self.folder / "log" / "slurmctld.log").read_text()[-2000:]
            raise TimeoutError(f"the nodes have not come up: {log}")

    @staticmethod
    def _until(done: object, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if done():  # type: ignore[operator]
                return True
            time.sleep(0.1)
        return False

    def _end(self, name: str, seconds: float) -> None:
        path = self.folder / name
        try:
            pid = int(path.read_text())
            os.kill(pid, signal.SIGTERM)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return
        if not self._until(lambda: not _lives(pid), seconds):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A new one that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="batchns-slurm-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _lives(pid: int) -> bool:
    """Not: it is over, and its parent, which may be this process, has not looked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _uid_of(pid: str) -> int:
    """As whom it runs. Not who owns its folder in /proc: of what may not be dumped, as an init, that is root."""
    status = Path("/proc", pid, "status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[2])


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _output(*words: str, check: bool = True) -> str:
    return subprocess.run(words, check=check, capture_output=True, text=True).stdout


def main(arguments: Sequence[str]) -> None:
    folder = Path(arguments[0] if arguments else "/tmp/batchns-slurm")
    options = dict(word.split("=", 1) for word in arguments[1:])
    typed = {name: int(value) if value.isdigit() else value for name, value in options.items()}
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with alone(), way_for_all(), running(Cluster(folder=folder, **typed)) as cluster:  # type: ignore[arg-type]
        print("up. On the controller's host:", " ".join(map(repr, cluster.command("squeue"))), flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main(sys.argv[1:])
