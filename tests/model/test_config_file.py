"""batchns.toml: as strict as a job file, and the example in the repository cannot drift from the defaults."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import attrs
import pytest

from batchns.model.config import Config, IsolationSettings, NetworkSettings, Node, Queue, Units
from batchns.model.config_table import config_table, parse_config
from batchns.model.kinds import Table
from batchns.model.problems import JobFileErrors
from batchns.model.reach import HostPorts

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
    flat: dict[str, Any] = {}
    for section, values in attrs.asdict(config).items():
        for key, value in values.items():
            flat |= (
                {f"{section}.{key}.{k}": v for k, v in value.items()}
                if section == "queues"
                else {f"{section}.{key}": value}
            )
    return flat


def test_the_example_as_it_is_has_all_defaults() -> None:
    assert parse_config(EXAMPLE.read_bytes(), "batchns.toml") == Config()


def test_the_settings_of_the_example_are_the_defaults_field_by_field() -> None:
    text = uncommented(fixed=True)
    assert leaves(parse_config(text.encode(), "batchns.toml")) == leaves(Config())
    assert len([line for line in text.splitlines() if "=" in line]) == sum(
        value is not None and value not in ({}, ()) for value in leaves(Config()).values()
    )


def test_the_other_settings_of_the_example_are_valid_and_have_no_fixed_default() -> None:
    shown, default = leaves(parse_config(uncommented(fixed=False).encode(), "f")), leaves(Config())
    changed = {key for key in default if shown[key] != default[key]}
    assert changed == {key for key, value in default.items() if value is None or value in ({}, ())}


def test_every_field_of_the_model_is_a_key_and_is_in_the_example() -> None:
    text = EXAMPLE.read_text()
    for section in attrs.fields(Config):
        assert section.name in config_table().fields
        kind = config_table().fields[section.name].kind
        model = Queue if section.name == "queues" else type(getattr(Config(), section.name))
        keys = {attribute.name for attribute in attrs.fields(model)}
        if isinstance(kind, Table):
            assert set(kind.fields) == keys
        for key in keys:
            assert re.search(rf"^# {key} = |^\[{section.name}\.{key}\]", text, re.MULTILINE), key


def test_what_is_set_is_set() -> None:
    text = """
    [node]
    cpus = "0-1,3"
    memory = "8GiB"
    strict = true
    resources = { gpus = 2, licences = 10 }
    [queues.urgent]
    priority = 90
    [network]
    pool = "192.168.0.0/24"
    nat = false
    pool6 = ""
    outside = ["10.0.0.0/8", "2001:db8::/32"]
    allow = ["host:53/udp", "host:8000-8099", "169.254.169.254"]
    dns = ["192.0.2.53", "2001:db8::53"]
    """
    assert parse_config(text.encode(), "f") == Config(
        node=Node(cpus=(0, 1, 3), memory=8 << 30, strict=True, resources={"gpus": 2, "licences": 10}),
        queues={"normal": Queue(), "urgent": Queue(priority=90)},
        network=NetworkSettings(
            pool="192.168.0.0/24",
            nat=False,
            pool6="",
            outside=(IPv4Network("10.0.0.0/8"), IPv6Network("2001:db8::/32")),
            allow=(HostPorts("udp", 53, 53), HostPorts("tcp", 8000, 8099), IPv4Network("169.254.169.254")),
            dns=("192.0.2.53", "2001:db8::53"),
        ),
    )


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
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
        ("node.resources.devices = 1", "node.resources.devices: devices is a resource that every job file has - "
         "choose another name"),
        ('node.resources.x = { devices = ["/dev/a"], count = 2 }', "node.resources.x.count: 2, but devices lists 1 "
         "units - leave count away: devices says how many there are"),
        ("node.resources.x = { count = 2 }", "node.resources.x.devices: missing - "
         'write devices = ["/dev/nvidia0", "/dev/nvidia1"]'),
        ('node.resources.x = "2"', 'node.resources.x: must be a whole number, not "2" - write for example 4'),
        ('node.resources.x.devices = ["/etc/a"]', 'node.resources.x.devices[0]: "/etc/a" is no device node of the '
         "machine's own - write the node's path below /dev, for example \"/dev/nvidia0\""),
        ('node.resources.x.devices = [["/dev/pts/3"]]', 'node.resources.x.devices[0][0]: "/dev/pts/3" is no device '
         "node of the machine's own - write the node's path below /dev, for example \"/dev/nvidia0\""),
        ('node.resources.x.devices = ["/dev/a", ["/dev/b", "/dev/a"]]', 'node.resources.x.devices[1]: "/dev/a" is '
         "there twice - each node belongs to one unit, or to common"),
        ('node.resources.x = { devices = ["/dev/a"], common = ["/dev/a"] }', 'node.resources.x.devices[0]: "/dev/a" '
         "is there twice - each node belongs to one unit, or to common"),
        ('node.resources.x = { devices = ["/dev/a"], env = "BATCHNS_X" }', 'node.resources.x.env: "BATCHNS_X" is not a '
         "variable's name - write letters, digits and _; the names that begin with BATCHNS_ are taken"),
        ("defaults.cpus = 1.5", "defaults.cpus: 1.5 is neither whole nor below 1 - write 1 or 2 for whole CPUs, "
         "or a fraction such as 0.5 for a shared one"),
        ("defaults.grace_time = 10", 'defaults.grace_time: "10" has no unit - write "10s", "10m" or "10h"'),
        ("queues.urgent.priority = 101", "queues.urgent.priority: 101 is out of range - write 0 to 100"),
        ("queues.urgent = 1", "queues.urgent: must be a table, not 1 - write its keys below a [queues.NAME] line"),
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
        ('paths.run = "run"', 'paths.run: "run" is not an absolute path - write the full path'),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_with_its_line(line: str, message: str) -> None:
    with pytest.raises(JobFileErrors) as raised:
        parse_config(f"# settings\n{line}\n".encode(), "batchns.toml")
    assert str(raised.value) == f"batchns.toml:2: {message}"


def test_as_many_id_ranges_as_the_message_says_fit() -> None:
    config = parse_config(b"isolation.id_ranges = 50277", "f")
    assert config.isolation == IsolationSettings(id_ranges=50277)
    assert config.isolation.id_start + 50277 * 65536 <= (1 << 32) - 1
    with pytest.raises(JobFileErrors):
        parse_config(b"isolation.id_ranges = 50278", "f")
