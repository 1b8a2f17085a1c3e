"""batchns.toml: as strict as a job file, and the example in the repository cannot drift from the defaults."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import attrs
import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from batchns.model.config import (
    Admins,
    Backfill,
    Bound,
    Config,
    DaemonSettings,
    Defaults,
    FairShare,
    HistorySettings,
    IsolationSettings,
    Neighbour,
    NetworkSettings,
    Node,
    NotifySettings,
    Order,
    OutputSettings,
    Preemption,
    Queue,
    ScheduleSettings,
    See,
    Tls,
    Units,
)
from batchns.model.config_table import config_table, parse_config
from batchns.model.job import Notice, PreemptMode
from batchns.model.kinds import Table
from batchns.model.problems import JobFileErrors
from batchns.model.queue_table import DEFAULTS, PER_JOB, PER_USER, QUEUE
from batchns.model.reach import HostPorts

# Keys that are words of Python, and so have fields of another name.
KEYS = {"yields": "yield", "seconds": "for"}
EXAMPLE = Path(__file__).parents[2] / "batchns.toml"
# A setting, commented out; where the default is no fixed value, the comment behind it begins with "default:".
SETTING = re.compile(r"# (\w+) = (\"[^\"]*\"|\{[^}]*\}|\[[^\]]*\]|[^\s\"]+) +# (default:)?.*")


def uncommented(*, fixed: bool) -> str:
    """The example's tables with those settings active whose default is a fixed value, or is not."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        setting = SETTING.fullmatch(line)
        if setting and bool(setting[3]) != fixed:
            lines.append(f"{setting[1]} = {setting[2]}")
        elif line.startswith("["):
            lines.append(line)
    return "\n".join(lines)


def leaves(config: Any) -> dict[str, Any]:
    """Every setting by its path, with the field's name; of queues only the normal one; a mapping is one setting."""
    flat: dict[str, Any] = {}
    for section, values in attrs.asdict(config, recurse=False).items():
        path, model = (f"{section}.normal", values["normal"]) if section == "queues" else (section, values)
        flat |= {f"{path}.{key}": value for key, value in attrs.asdict(model, recurse=False).items()}
    return flat


def has_no_fixed_default(path: str, value: Any) -> bool:
    """Unset, or empty; that a queue preempts no other is a value that can be written."""
    return value is None or (value in ({}, (), Bound(), Admins()) and path != "queues.normal.preempts")


def test_the_example_as_it_is_has_all_defaults() -> None:
    assert parse_config(EXAMPLE.read_bytes(), "batchns.toml") == Config()


def test_the_settings_of_the_example_are_the_defaults_field_by_field() -> None:
    text = uncommented(fixed=True)
    assert leaves(parse_config(text.encode(), "batchns.toml")) == leaves(Config())
    assert len([line for line in text.splitlines() if "=" in line]) == sum(
        not has_no_fixed_default(path, value) for path, value in leaves(Config()).items()
    )


def test_the_other_settings_of_the_example_are_valid_and_have_no_fixed_default() -> None:
    shown, default = leaves(parse_config(uncommented(fixed=False).encode(), "f")), leaves(Config())
    changed = {key for key in default if shown[key] != default[key]}
    assert changed == {key for key, value in default.items() if has_no_fixed_default(key, value)}


def test_every_field_of_the_model_is_a_key_and_is_in_the_example() -> None:
    text = EXAMPLE.read_text()
    for section in attrs.fields(Config):
        assert section.name in config_table().fields
        kind = config_table().fields[section.name].kind
        model = Queue if section.name == "queues" else type(getattr(Config(), section.name))
        keys = {KEYS.get(attribute.name, attribute.name) for attribute in attrs.fields(model)}
        assert set(kind.fields if isinstance(kind, Table) else QUEUE.fields) == keys
        for key in keys:
            assert re.search(rf"^# {key} = |^\[{section.name}\.{key}\]", text, re.MULTILINE), key


def test_every_key_of_a_queues_tables_is_in_the_example_too() -> None:
    for name, table in {key: field.kind for key, field in QUEUE.fields.items()}.items():
        if isinstance(table, Table):
            (shown,) = re.findall(rf"^# {name} = \{{(.*)\}}", EXAMPLE.read_text(), re.MULTILINE)
            assert re.findall(r"(\w+) =", shown) == list(table.fields)
    for model, table in ((Defaults, DEFAULTS), (Defaults, QUEUE.fields["defaults"].kind)):
        assert isinstance(table, Table) and set(table.fields) == {field.name for field in attrs.fields(model)}
    assert {*PER_JOB.fields, *PER_USER.fields} == {field.name for field in attrs.fields(Bound)}


SETTINGS = """
[node]
cpus = "0-1,3"
memory = "8GiB"
strict = true
resources = { gpus = 2, licences = 10 }
[queues.urgent]
priority = 90
max_priority = 60
users = ["alice", "EXAMPLE\\\\bob"]
groups = ["domain users"]
preempts = ["normal", "idle"]
min_run = "0s"
max_frozen = "2h"
[queues.urgent.defaults]
time_limit = "1h"
[queues.urgent.per_job]
cpus = 8
memory = "8GiB"
egress = "1gbit"
ingress = "1gbit"
time_limit = "2h"
[queues.urgent.per_user]
jobs = 1
cpus = 0.5
[queues.urgent.total]
jobs = 10
[queues.urgent.notify]
on = ["started", "failed"]
[queues.idle]
preempt_mode = "requeue"
yield = true
[schedule]
order = "shortest"
aging = 0.5
backfill = "shortest"
reservations = "all"
preempt = "shorter"
assume = "2h"
learn = false
max_frozen = "0s"
max_freezes = 0
min_run = "5m"
frozen_memory = "0B"
time_slice = "10m"
[fair_share]
enabled = false
half_life = "1d"
shares = { alice = 2, "EXAMPLE\\\\bob" = 0.5 }
[neighbour]
freeze_above = 1
thaw_below = 0
for = "1m"
[network]
pool = "192.168.0.0/24"
nat = false
pool6 = ""
outside = ["10.0.0.0/8", "2001:db8::/32"]
allow = ["host:53/udp", "host:8000-8099", "169.254.169.254"]
dns = ["192.0.2.53", "2001:db8::53"]
[daemon]
socket = "/run/b.sock"
admins = { users = ["alice"], groups = ["domain admins"] }
see = "all"
connections = 7
[daemon.tls]
listen = "[::1]:7443"
certificate = "/etc/c.pem"
key = "/etc/k.pem"
ca = "/etc/ca.pem"
users = { "The Boss" = "root" }
[history]
keep = "1d"
[output]
max_size = "none"
mode = "0640"
[notify]
command = ["/bin/tell", "a b"]
on = []
time_limit = "5s"
"""


def test_what_is_set_is_set() -> None:
    assert parse_config(SETTINGS.encode(), "f") == Config(
        node=Node(cpus=(0, 1, 3), memory=8 << 30, strict=True, resources={"gpus": 2, "licences": 10}),
        queues={
            "normal": Queue(),
            "urgent": Queue(
                priority=90,
                max_priority=60,
                users=("alice", "EXAMPLE\\bob"),
                groups=("domain users",),
                preempts=("normal", "idle"),
                min_run=0.0,
                max_frozen=7200.0,
                defaults={"time_limit": 3600.0},
                per_job=Bound(cpus=8.0, memory=8 << 30, egress=10**9, ingress=10**9, time_limit=7200.0),
                per_user=Bound(jobs=1, cpus=0.5),
                total=Bound(jobs=10),
                notify={"on": (Notice.STARTED, Notice.FAILED)},
            ),
            "idle": Queue(preempt_mode=PreemptMode.REQUEUE, yields=True),
        },
        schedule=ScheduleSettings(
            order=Order.SHORTEST,
            aging=0.5,
            backfill=Backfill.SHORTEST,
            reservations=None,
            preempt=Preemption.SHORTER,
            assume=7200.0,
            learn=False,
            max_frozen=0.0,
            max_freezes=0,
            min_run=300.0,
            frozen_memory=0,
            time_slice=600.0,
        ),
        fair_share=FairShare(enabled=False, half_life=86400.0, shares={"alice": 2.0, "EXAMPLE\\bob": 0.5}),
        neighbour=Neighbour(freeze_above=1.0, thaw_below=0.0, seconds=60.0),
        network=NetworkSettings(
            pool="192.168.0.0/24",
            nat=False,
            pool6="",
            outside=(IPv4Network("10.0.0.0/8"), IPv6Network("2001:db8::/32")),
            allow=(HostPorts("udp", 53, 53), HostPorts("tcp", 8000, 8099), IPv4Network("169.254.169.254")),
            dns=("192.0.2.53", "2001:db8::53"),
        ),
        daemon=DaemonSettings(
            socket="/run/b.sock",
            admins=Admins(users=("alice",), groups=("domain admins",)),
            see=See.ALL,
            tls=Tls(
                listen=("::1", 7443),
                certificate="/etc/c.pem",
                key="/etc/k.pem",
                ca="/etc/ca.pem",
                users={"The Boss": "root"},
            ),
            connections=7,
        ),
        history=HistorySettings(keep=86400.0),
        output=OutputSettings(max_size=None, mode=0o640),
        notify=NotifySettings(command=("/bin/tell", "a b"), on=(), time_limit=5.0),
    )


def test_the_socket_is_below_the_run_folder_unless_it_is_named() -> None:
    assert Config().socket == "/run/batchns/batchns.sock"
    assert parse_config(b'paths.run = "/tmp/r"', "f").socket == "/tmp/r/batchns.sock"
    assert parse_config(b'paths.run = "/tmp/r"\ndaemon.socket = "/s"', "f").socket == "/s"


def test_a_queue_tells_what_it_says_and_else_what_notify_says() -> None:
    config = parse_config(SETTINGS.encode(), "f")
    assert config.notify_of("idle") == config.notify
    assert config.notify_of("urgent") == attrs.evolve(config.notify, on=(Notice.STARTED, Notice.FAILED))


def test_a_job_that_failed_has_ended_too() -> None:
    assert Notice.FAILED.among((Notice.ENDED,)) and Notice.FAILED.among((Notice.FAILED,))
    assert not Notice.ENDED.among((Notice.FAILED,)) and not Notice.FAILED.among(())


def test_a_resource_is_a_number_or_the_nodes_of_its_units() -> None:
    text = """
    [node.resources]
    seats = 3
    gpus = { devices = ["/dev/nvidia0", "/dev/nvidia1"], common = ["/dev/nvidiactl"], env = "GPUS" }
    fpga = { count = 1, devices = [["/dev/dri/card1", "/dev/xdma0"]] }
    """
    node = parse_config(text.encode(), "f").node
    assert node.counts == {"seats": 3, "gpus": 2, "fpga": 1}
    assert node.units == {
        "gpus": Units(devices=(("/dev/nvidia0",), ("/dev/nvidia1",)), common=("/dev/nvidiactl",), env="GPUS"),
        "fpga": Units(devices=(("/dev/dri/card1", "/dev/xdma0"),)),
    }


MISTAKES = [
    ("[nod]", "nod: unknown key - did you mean node?"),
    ("node = 1", "node: must be a table, not 1 - write its keys below a [node] line"),
    ("node.cpu = 2", "node.cpu: unknown key - did you mean cpus?"),
    ("node.cpus = 4", 'node.cpus: must be a string, not 4 - write "0-3,8"'),
    ("node.memory = 64", 'node.memory: "64" has no unit - write "64MiB" or "64GiB"'),
    ('node.egress = "1Gbps"', 'node.egress: "1Gbps" has an unknown unit - '
     'write "1gbit" for bits per second, "8gbit" where bytes are meant'),
    ("node.resources.memory = 1", "node.resources.memory: memory is a resource that every job file has - "
     "choose another name"),
    ("node.resources.GPU = 1", 'node.resources.GPU: "GPU" is not a resource\'s name - '
     "write lower-case letters, digits and _, as in gpus"),

    ("defaults.cpus = 1.5", "defaults.cpus: 1.5 is neither whole nor below 1 - write 1 or 2 for whole CPUs, "
     "or a fraction such as 0.5 for a shared one"),
    ("defaults.grace_time = 10", 'defaults.grace_time: "10" has no unit - write "10s", "10m" or "10h"'),
    ("queues.urgent.priority = 101", "queues.urgent.priority: 101 is out of range - write 0 to 100"),
    ("queues.urgent = 1", "queues.urgent: must be a table, not 1 - write its keys below a [queues.NAME] line"),
    ('queues.urgent.preempts = ["nomal"]', 'queues.urgent.preempts[0]: there is no queue "nomal" - '
     'did you mean "normal"?'),
    ('queues.urgent.preempts = ["x"]', 'queues.urgent.preempts[0]: there is no queue "x" - '
     "there is normal, urgent"),
    ('queues.urgent.preempts = ["normal", "urgent"]', "queues.urgent.preempts[1]: a queue cannot preempt itself - "
     'remove it, or see preempt = "shorter" and time_slice in [schedule]'),
    ('queues.urgent.preempts = "normal"', 'queues.urgent.preempts: must be a list, not "normal" - '
     'write ["normal"]'),
    ('queues.urgent.preempt_mode = "kill"', "queues.urgent.preempt_mode: must be one of suspend, requeue, cancel, "
     'off, not "kill" - write "suspend" or "requeue" or "cancel" or "off"'),
    ('queues.urgent.users = ["a:b"]', 'queues.urgent.users[0]: "a:b" is not a user\'s name - '
     'write it as `id` prints it: "alice"'),
    ('queues.urgent.groups = ["-hpc"]', 'queues.urgent.groups[0]: "-hpc" is not a group\'s name - '
     'write it as `id` prints it: "hpc"'),
    ("queues.urgent.yields = true", "queues.urgent.yields: unknown key - did you mean yield?"),
    ("queues.urgent.max_prio = 5", "queues.urgent.max_prio: unknown key - did you mean max_priority?"),
    ('queues.urgent.time_limit = "1h"', "queues.urgent.time_limit: unknown key - "
     "write it in [defaults], as defaults.time_limit"),
    ("queues.urgent.per_job.jobs = 1", "queues.urgent.per_job.jobs: unknown key - "
     "the keys here are cpus, memory, egress, ingress, time_limit, pids, scratch"),
    ("queues.urgent.per_user.jobs = 0", "queues.urgent.per_user.jobs: 0 is out of range - write 1 to 1000000"),
    ('queues.urgent.total.time_limit = "1h"', "queues.urgent.total.time_limit: unknown key - "
     "the keys here are jobs, cpus, memory, egress, ingress"),
    ("queues.urgent.total.cpus = 0", "queues.urgent.total.cpus: 0 is out of range - "
     "write a number above 0, up to 8192"),
    ("queues.urgent.defaults.cpu = 2", "queues.urgent.defaults.cpu: unknown key - did you mean cpus?"),
    ('queues.u = { defaults.memory = "2GiB", per_job.memory = "1GiB" }', "queues.u.defaults.memory: 2GiB is more "
     "than per_job.memory, 1GiB - write at most 1GiB, or a larger per_job.memory"),
    ('schedule.order = "fifo"', 'schedule.order: must be one of submitted, shortest, not "fifo" - '
     'write "submitted" or "shortest"'),
    ("schedule.aging = -1", "schedule.aging: -1 is out of range - write 0 or more"),
    ("schedule.reservations = -1", "schedule.reservations: -1 is out of range - write 0 to 10000"),
    ('schedule.reservations = "al"', 'schedule.reservations: must be a whole number or "all", not "al" - '
     'write for example 1, or "all"'),
    ("schedule.reservations = true", 'schedule.reservations: must be a whole number or "all", not true - '
     'write for example 1, or "all"'),
    ('schedule.preempt = "shorter"', 'schedule.preempt: preempt = "shorter" needs the shortest to go first - '
     'write order = "shortest" besides, or preempt = "queues"'),
    ('schedule.assume = "0s"', 'schedule.assume: "0s" is too small - write at least "1ms"'),
    ("schedule.max_freezes = 1001", "schedule.max_freezes: 1001 is out of range - write 0 to 1000"),
    ("schedule.frozen_memory = 16", 'schedule.frozen_memory: "16" has no unit - write "16MiB" or "16GiB"'),
    ("schedule.half_life = 1", "schedule.half_life: unknown key - the keys here are order, aging, backfill, "
     "reservations, preempt, assume, learn, max_frozen, max_freezes, min_run, frozen_memory, time_slice"),
    ("fair_share.shares.alice = 0", "fair_share.shares.alice: 0 is not above 0 - "
     "write for example 2 for twice the share of those that are not named"),
    ('fair_share.shares."a/b" = 1', 'fair_share.shares."a/b": "a/b" is not a user\'s name - '
     'write it as `id` prints it: "alice"'),
    ("neighbour.freeze_above = 50", "neighbour.freeze_above: 50 is out of range - "
     "write 0 to 1, the part of the node's CPUs"),
    ("neighbour.freeze_above = 0.2", "neighbour.freeze_above: thaw_below = 0.25 is above freeze_above = 0.2: "
     "jobs would be frozen and thawed in turn - write thaw_below = 0.2 or less"),
    ("neighbour.thaw_below = 0.6", "neighbour.thaw_below: thaw_below = 0.6 is above freeze_above = 0.5: "
     "jobs would be frozen and thawed in turn - write thaw_below = 0.5 or less"),
    ("neighbour.seconds = 10", "neighbour.seconds: unknown key - the keys here are freeze_above, thaw_below, for"),
    ('network.pool = "10.0.0.1/16"', 'network.pool: "10.0.0.1/16" has bits set beyond the prefix - '
     'write "10.0.0.0/16"'),
    ('network.pool = "10.0.0.0"', 'network.pool: "10.0.0.0" is not a network of 4 to 16777216 addresses - '
     'write for example "10.213.0.0/16"'),
    ('network.pool = "127.0.0.0/8"', 'network.pool: "127.0.0.0/8" is reserved - write for example "10.213.0.0/16"'),
    ('network.pool = "fd00::/64"', 'network.pool: "fd00::/64" is not an IPv4 network - '
     'write for example "10.213.0.0/16"'),
    ('network.pool6 = "10.0.0.0/8"', 'network.pool6: "10.0.0.0/8" is not an IPv6 network - '
     'write for example "fd62:6e73:d5::/64", or "" for no IPv6'),
    ('network.pool6 = "fd00::1/64"', 'network.pool6: "fd00::1/64" is not written as a network - write "fd00::/64"'),
    ('network.pool6 = "fe80::/64"', 'network.pool6: "fe80::/64" is reserved - '
     'write for example "fd62:6e73:d5::/64", or "" for no IPv6'),
    ('network.outside = ["169.254.169.254"]', 'network.outside[0]: "169.254.169.254" is not for every job: '
     "services there trust whoever asks - write it under allow, for the jobs that ask for it"),
    ('network.outside = ["jobs"]', 'network.outside[0]: "jobs" is none of what can be allowed - '
     'write an address range such as "10.1.0.0/16" or "fd00::/8"'),
    ('network.dns = ["127.0.0.53"]', 'network.dns[0]: "127.0.0.53" cannot be reached by jobs - write the address '
     'of a name server that is not on this machine\'s loopback, such as "192.0.2.53"'),
    ("network.nat = 1", "network.nat: must be true or false, not 1 - write true or false, without quotes"),
    ("network.mtu = 100", "network.mtu: 100 is out of range - write 576 to 65535"),
    ("isolation.id_start = 0", "isolation.id_start: 0 is out of range - write 65536 to 4294967294"),
    ("isolation.id_ranges = 60000", "isolation.id_ranges: 60000 ranges of 65536 ids from 1000000000 go beyond the "
     "last id, 4294967294 - write id_ranges = 50277"),
    ('cgroup.parent = "a/../b"', 'cgroup.parent: "a/../b" is not a cgroup\'s path - '
     'write a path below the cgroup root, for example "batch.slice"'),
    ('daemon.socket = "b.sock"', 'daemon.socket: "b.sock" is not an absolute path - write the full path'),
    (f'daemon.socket = "/{"s" * 107}"', f'daemon.socket: "/{"s" * 56}..." is 108 bytes long, and a socket\'s path '
     'has at most 107 - write a shorter one, for example "/run/batchns/batchns.sock"'),
    ('daemon.admins = ["alice"]', "daemon.admins: must be a table, not a list - "
     "write its keys below a [daemon.admins] line"),
    ("daemon.admins.users = [0]", 'daemon.admins.users[0]: must be a string, not 0 - write "alice"'),
    ('daemon.see = "none"', 'daemon.see: must be one of own, all, not "none" - write "own" or "all"'),
    ("daemon.connections = 0", "daemon.connections: 0 is out of range - write 1 to 10000"),
    ('daemon.tls = { listen = ":7443", certificate = "/c", key = "/k", ca = "/a" }', 'daemon.tls.listen: ":7443" is '
     'not an address and a port - write for example "0.0.0.0:7443" or "[::]:7443"'),
    ('daemon.tls = { listen = "h:65536", certificate = "/c", key = "/k", ca = "/a" }', 'daemon.tls.listen: "h:65536" '
     'is not an address and a port - write for example "0.0.0.0:7443" or "[::]:7443"'),
    ('daemon.tls = { listen = "h:1", certificate = "/c", key = "/k" }', "daemon.tls.ca: missing - "
     'write ca = "/etc/batchns/ca.pem"'),
    ('daemon.tls = { listen = "h:1", certificate = "/c", key = "k", ca = "/a" }', 'daemon.tls.key: "k" is not an '
     "absolute path - write the full path"),
    ("history.keep = 90", 'history.keep: "90" has no unit - write "90s", "90m" or "90h"'),
    ('output.max_size = "64KiB"', 'output.max_size: "64KiB" is too small - write at least "1MiB"'),
    ('output.max_size = "no"', 'output.max_size: "no" is not a size - write for example "512MiB" or "4GiB"'),
    ("output.mode = 600", 'output.mode: must be a string, not 600 - write "0600"'),
    ('output.mode = "rw"', 'output.mode: "rw" is not a file\'s mode - write "0600", "0640" or "0644": '
     "who besides the owner may read"),
    ('output.mode = "0666"', 'output.mode: "0666" is no mode for output: its owner reads and writes it, others read '
     'at most - write "0600", "0640" or "0644": who besides the owner may read'),
    ('notify.command = ["mail"]', 'notify.command[0]: "mail" is not an absolute path - write the program\'s full path '
     'and its arguments, ["/usr/local/bin/tell"]'),
    ('notify.command = "/bin/mail"', 'notify.command: must be a list, not "/bin/mail" - '
     'write ["/usr/local/bin/tell"]'),
    ('notify.on = ["end"]', 'notify.on[0]: must be one of started, frozen, requeued, ended, failed, not "end" - '
     'did you mean "ended"?'),
    ('queues.urgent.notify.command = ["x"]', 'queues.urgent.notify.command[0]: "x" is not an absolute path - write '
     'the program\'s full path and its arguments, ["/usr/local/bin/tell"]'),
    ('paths.run = "run"', 'paths.run: "run" is not an absolute path - write the full path'),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_one_message_with_its_line(line: str, message: str) -> None:
    with pytest.raises(JobFileErrors) as raised:
        parse_config(f"# settings\n{line}\n".encode(), "batchns.toml")
    assert str(raised.value) == f"batchns.toml:2: {message}"


KEYS_AND_NAMES = st.sampled_from(
    [
        "queues",
        "normal",
        "preempts",
        "per_job",
        "total",
        "defaults",
        "cpus",
        "memory",
        "time_limit",
        "users",
        "yield",
        "schedule",
        "order",
        "preempt",
        "reservations",
        "fair_share",
        "shares",
        "neighbour",
        "freeze_above",
        "for",
    ]
)
WORDS = st.sampled_from(["normal", "all", "1s", "1GiB", ""])
LEAVES = st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | WORDS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS_AND_NAMES, inner, max_size=4), max_leaves=8
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS_AND_NAMES, VALUES, max_size=4))
def test_any_type_in_any_place_gives_settings_or_messages(values: dict[str, Any]) -> None:
    text = tomlkit.dumps(values)
    try:
        config = parse_config(text.encode(), "f")
    except JobFileErrors as errors:
        assert all(problem.what and str(problem).isprintable() for problem in errors.problems)
    else:
        assert all(config.defaults_of(name).cpus > 0 for name in config.queues)


def test_as_many_id_ranges_as_the_message_says_fit() -> None:
    config = parse_config(b"isolation.id_ranges = 50277", "f")
    assert config.isolation == IsolationSettings(id_ranges=50277)
    assert config.isolation.id_start + 50277 * 65536 <= (1 << 32) - 1
    with pytest.raises(JobFileErrors):
        parse_config(b"isolation.id_ranges = 50278", "f")
