"""With the administrator's prolog, epilog and plug-in: rates are held between nodes, and no job changes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.people import way_for_all
from tests.slurm import cluster
from tests.slurm.cluster import Cluster, open_folder, running
from tests.slurm.test_cluster import Client, client_of, nothing_is_left, until

HEADER = Path("/usr/include/slurm/spank.h")
SOURCE = Path(__file__).parents[2] / "packaging" / "slurm"
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not cluster.installed(), reason="Slurm is not installed: make test-slurm"),
    pytest.mark.skipif(not HEADER.exists() or not shutil.which("cc"), reason="no headers of Slurm: make test-slurm"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
# Takes what comes, and sends a megabyte at a time to who says "send".
SERVER = """
import socket, threading
listener = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
def serve(peer):
    if peer.recv(4) == b"send":
        for _ in range(8): peer.sendall(bytes(1 << 20))
    else:
        while peer.recv(1 << 16): pass
        peer.sendall(b"!")
    peer.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
# Whether the node's end of the link is reached by the address that IPv6 makes of its hardware's.
NEIGHBOUR = """
import socket, time
time.sleep(2)  # an address is not used before nobody has objected to it
mac = bytes.fromhex(open("/proc/net/arp").read().splitlines()[1].split()[3].replace(":", ""))
host = bytes([0xfe, 0x80, *bytes(6), mac[0] ^ 2, *mac[1:3], 0xff, 0xfe, *mac[3:]])
peer = socket.socket(socket.AF_INET6)
peer.settimeout(3)
try:
    peer.connect((socket.inet_ntop(socket.AF_INET6, host), 7000, 0, socket.if_nametoindex("bns0")))
    print("reached")
except OSError:
    pass
print(*(line.split()[-1] for line in open("/proc/net/if_inet6") if "bns0" in line))
"""
# Mbit/s sent and received.
CLIENT = """
import socket, time
def up():
    begin = time.monotonic()
    with socket.create_connection(("{host}", 7000)) as peer:
        peer.sendall(b"take")
        for _ in range(8): peer.sendall(bytes(1 << 20))
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)
    return 8 * (8 << 20) / (time.monotonic() - begin) / 1e6
def down():
    begin = time.monotonic()
    with socket.create_connection(("{host}", 7000)) as peer:
        peer.sendall(b"send")
        while peer.recv(1 << 16): pass
    return 8 * (8 << 20) / (time.monotonic() - begin) / 1e6
print(up(), down())
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Cluster]:
    with way_for_all(), open_folder() as folder:
        built = folder / "plugin"
        shutil.copytree(SOURCE, built, ignore=shutil.ignore_patterns("*.so"))
        subprocess.run(["make", "-s", "-C", built], check=True)
        lab = folder / "lab"
        extra = f"Prolog={built}/prolog\nEpilog={built}/epilog\nPrologFlags=Alloc"
        plugstack = f"required {built}/spank_batchns.so\n"
        with running(Cluster(folder=lab, nodes=2, bandwidth=1000, extra=extra, plugstack=plugstack)) as made:
            yield made


@pytest.fixture
def client(lab: Cluster, request: pytest.FixtureRequest) -> Client:
    return client_of(lab, lab.folder.parent / request.node.name)


@pytest.fixture
def server(lab: Cluster) -> Iterator[str]:
    """On the second node; jobs start on the first."""
    process = subprocess.Popen(lab.on_node("n2", sys.executable, "-c", SERVER))
    yield f"{lab.net}.12"
    process.kill()
    process.wait()


def test_rates_are_held_between_nodes_and_are_reported(client: Client, server: str) -> None:
    (client.folder / "client.py").write_text(CLIENT.format(host=server))
    text = 'name = "sends"\ncommand = ["python3", "client.py"]\n[network]\negress = "20mbit"\ningress = "40mbit"\n'
    (job_id,) = client.submit(text)
    client.batchns("wait", "-q", job_id)
    sent, received = map(float, client.batchns("logs", job_id).split())
    assert 16 <= sent <= 21
    assert 32 <= received <= 42
    (shown,) = map(json.loads, client.batchns("show", "--json", job_id).splitlines())
    assert shown["row"]["cpu_list"] == "n1"
    assert {name: shown["limits"][name]["value"] for name in ("egress", "ingress")} == {
        "egress": 20_000_000,
        "ingress": 40_000_000,
    }


def test_a_job_changes_nothing_of_its_network_and_reaches_no_service_of_its_node(client: Client, lab: Cluster) -> None:
    service = subprocess.Popen(lab.on_node("n1", sys.executable, "-c", SERVER))
    try:
        script = f"""
ip -o -4 addr show bns0 | awk '{{print $4}}'
tc qdisc show dev bns0 | cut -d' ' -f2
unshare -r echo unshared
tc qdisc del dev bns0 root && echo removed
unshare -r tc qdisc del dev bns0 root && echo removed
unshare -rn true && echo nested
unshare -r sh -c 'echo 0 > /proc/sys/net/ipv6/conf/bns0/disable_ipv6' && echo enabled
ip addr add 10.9.9.9/32 dev bns0 && echo added
python3 -c 'import socket; socket.create_connection(("{lab.net}.11", 7000), timeout=2)' && echo reached
python3 neighbour.py
grep ^nameserver /etc/resolv.conf | grep -c 127.0.0
true
"""
        (client.folder / "neighbour.py").write_text(NEIGHBOUR)
        # Without a filter of system calls, which would refuse what is to fail here for want of power over the network.
        (client.folder / "all.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}')
        settings = client.folder / "batchns.toml"
        settings.write_text(f'[isolation]\nseccomp = {{ all = "{client.folder}/all.json" }}\n')
        client.config = str(settings)
        more = '[network]\negress = "20mbit"\n[isolation]\nseccomp = "all"\n'
        text = f"name = \"tries\"\nscript = '''{script}'''\n{more}"
        (job_id,) = client.submit(text)
        client.batchns("wait", "-q", job_id)
    finally:
        service.kill()
        service.wait()
    address, shaper, *rest = client.batchns("logs", job_id).split()
    assert address.startswith("10.214.")
    assert (shaper, rest) == ("tbf", ["unshared", "nested", "0"])


@pytest.mark.parametrize(
    "words",
    [
        "09,0",
        "1,0",
        "999,0",
        "1",
        "1,2,3",
        "1000000,2,3",
        ",",
        "0,",
        "0,1000000000001",
        f"{'9' * 20},0",
        "a,0",
        "1e6,0",
    ],
)
def test_rates_that_are_none_fail_neither_the_prolog_nor_a_node(client: Client, lab: Cluster, words: str) -> None:
    """By whatever way they came: a prolog that fails takes its node from everybody."""
    plain = lab.command("sbatch", f"--batchns-network={words}", "--wrap", "true", user="nobody")
    assert subprocess.run(plain, check=False, capture_output=True, cwd="/").returncode != 0
    variable = "SPANK__SLURM_SPANK_OPTION_batchns_batchns_network"
    prolog = lab.folder.parent / "plugin" / "prolog"
    done = subprocess.run(
        lab.on_node("n1", "env", f"{variable}={words}", "SLURM_JOB_ID=4000000000", str(prolog)),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, Path("/run/netns/batchns-4000000000").exists()) == (0, False), done.stderr


@pytest.mark.parametrize("words", ["0,0", "1000,1000000000000"])
def test_the_least_and_the_most_that_is_held(lab: Cluster, words: str) -> None:
    plugin = lab.folder.parent / "plugin"
    env = [f"SPANK__SLURM_SPANK_OPTION_batchns_batchns_network={words}", "SLURM_JOB_ID=4000000001"]
    try:
        subprocess.run(lab.on_node("n1", "env", *env, str(plugin / "prolog")), check=True)
        assert Path("/run/netns/batchns-4000000001").exists()
    finally:
        subprocess.run(lab.on_node("n1", "env", *env, str(plugin / "epilog")), check=True)
    assert not Path("/run/netns/batchns-4000000001").exists()


def test_a_client_without_the_plug_in_fails_its_own_task_and_drains_nothing(client: Client, lab: Cluster) -> None:
    words = ("env", "_SLURM_SPANK_OPTION_batchns_batchns_network=09,0", "sbatch", "--parsable", "--chdir=/tmp")
    job_id = lab.run(
        *words, "--output=/dev/null", "--no-requeue", "--wrap", f"touch {client.folder}/ran", user="nobody"
    )
    until(lambda: client.slurm(job_id) not in ("PENDING", "RUNNING", "COMPLETING"), "it is over")
    assert client.slurm(job_id) == "FAILED"
    assert not (client.folder / "ran").exists()
    assert "drain" not in lab.run("sinfo", "-h", "-o", "%T")


def test_bandwidth_is_counted_so_that_a_node_is_not_given_away_twice(client: Client) -> None:
    one = '[[job]]\nname = "{}"\nscript = "sleep 4"\n[job.network]\negress = "600mbit"\n'
    ids = client.submit("".join(one.format(name) for name in "abc"))
    until(lambda: [client.slurm(job_id) for job_id in ids].count("RUNNING") == 2, "two run")
    assert [client.slurm(job_id) for job_id in ids].count("PENDING") == 1
    client.batchns("wait", "-q", *ids)


def test_after_a_job_nothing_of_it_is_left(client: Client, lab: Cluster) -> None:
    (job_id,) = client.submit('name = "stays"\nscript = "sleep 60"\n[network]\negress = "20mbit"\n')
    until(lambda: client.state(job_id) == "RUNNING", "it runs")
    client.batchns("freeze", job_id)
    folders = f"batchns-65534*/slurm-{job_id}-*"
    assert list(Path("/tmp").glob(folders))
    lab.run("scancel", "--full", "--signal=KILL", job_id)  # whoever runs it has no time to put anything away
    client.batchns("wait", "-q", job_id, code=1)
    links = lab.on_node("n1", "ip", "-o", "link")

    def gone() -> bool:
        text = subprocess.run(links, check=True, capture_output=True, text=True).stdout
        return "bnsj" not in text and nothing_is_left(lab) and not Path(f"/run/batchns-slurm/{job_id}").exists()

    until(gone, "link, processes and notes are gone")
    assert not list(Path("/tmp").glob(folders))
