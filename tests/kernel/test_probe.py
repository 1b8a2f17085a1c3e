"""The machine is described as it is: what is tried works, what is refused is a fact and not a crash."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from attrs import evolve

from batchns.kernel import probe_cgroups, trial
from batchns.kernel.facts import Fact, Place, Status
from batchns.kernel.probe import capabilities, kernel, other_firewalls, probe, usable
from batchns.kernel.probe_cgroups import block_weights, cgroups, device_rules, hierarchies, mode, swap_accounting

V1 = "32 31 0:29 / {root}/cpu rw - cgroup cgroup rw,cpu\n33 31 0:30 / {root}/memory rw - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 / {root}/unified rw - cgroup2 cgroup2 rw\n"


def make_place(
    tmp_path: Path, mountinfo: str, controllers: str = "", own: str = "4:memory:/a\n3:cpu:/\n0::/\n"
) -> Place:
    """A machine in a folder: `{root}` in `mountinfo` is its cgroup folder."""
    root = tmp_path / "cgroup"
    for name in ("cpu", "memory/a", "unified"):
        (root / name).mkdir(parents=True)
    (root / "unified/cgroup.controllers").write_text(controllers)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(mountinfo.format(root=root))
    (tmp_path / "proc/self/cgroup").write_text(own)
    (tmp_path / "proc/swaps").write_text("Filename\n/dev/sda2 partition\n")
    return Place(proc=tmp_path / "proc", sys=tmp_path / "sys", folder=tmp_path, state=tmp_path, run=tmp_path, uid=0)


def by_name(facts: list[Fact]) -> dict[str, Fact]:
    return {fact.name: fact for fact in facts}


class TestCgroupMode:
    @pytest.mark.parametrize(
        ("mountinfo", "controllers", "expected"),
        [(V1, "", "v1"), (V1 + V2, "", "hybrid"), (V2, "cpu memory pids", "v2"), (V2, "", ""), ("", "", "")],
    )
    def test_is_read_from_the_mounts(self, tmp_path: Path, mountinfo: str, controllers: str, expected: str) -> None:
        assert mode(hierarchies(make_place(tmp_path, mountinfo, controllers))) == expected

    def test_each_controller_has_a_place_of_its_own(self, tmp_path: Path) -> None:
        """The process may sit at another path in each v1 hierarchy."""
        found = {next(iter(h.controllers)): h.own for h in hierarchies(make_place(tmp_path, V1))}
        assert found == {"cpu": tmp_path / "cgroup/cpu", "memory": tmp_path / "cgroup/memory/a"}

    def test_a_mount_point_with_a_blank_is_understood(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup/a b").mkdir(parents=True)
        place = make_place(tmp_path, "33 31 0:30 / {root}/a\\040b rw - cgroup cgroup rw,memory\n")
        assert hierarchies(place)[0].path == tmp_path / "cgroup/a b"

    def test_what_is_not_mounted_is_said_with_what_to_type(self, tmp_path: Path) -> None:
        facts = by_name(list(cgroups(make_place(tmp_path, V1))))
        assert facts["memory"].status is Status.OK
        assert facts["pids"].status is Status.MISSING
        assert "mount -t cgroup -o pids" in facts["pids"].hint

    def test_no_controller_at_all_is_one_fact(self, tmp_path: Path) -> None:
        facts = list(cgroups(make_place(tmp_path, V2)))
        assert [(fact.name, fact.status) for fact in facts] == [("cgroups", Status.MISSING)]

    def test_leaves_no_cgroup_behind(self, tmp_path: Path) -> None:
        place = make_place(tmp_path, V1)
        before = sorted(tmp_path.rglob("*"))
        list(cgroups(place))
        assert sorted(tmp_path.rglob("*")) == before


class TestLookups:
    @pytest.mark.parametrize(
        ("release", "status"),
        [
            ("6.18.44-fc-v657", Status.OK),
            ("6.1.0-18-amd64", Status.OK),
            ("5.15.0-91-generic", Status.LIMITED),
            ("5.4.0", Status.MISSING),
            ("7.2.12+", Status.OK),
            ("6.6-rc1", Status.OK),
        ],
    )
    def test_kernel_version(self, release: str, status: Status) -> None:
        assert kernel(release).status is status

    def test_device_rules_are_the_controllers_or_a_programs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe_cgroups, "why_no_program", lambda: "no BPF here")
        v1 = make_place(tmp_path, V1 + V2)
        assert (device_rules(v1).status, device_rules(v1).found) == (Status.LIMITED, "no BPF here")
        assert device_rules(evolve(v1, uid=1000)).found == "device rules are root's to set"
        monkeypatch.setattr(probe_cgroups, "why_no_program", lambda: "")
        assert device_rules(v1).status is Status.OK
        mount = "34 31 0:31 / {root}/cpu rw - cgroup cgroup rw,devices\n"
        (tmp_path / "proc/self/mountinfo").write_text((V2 + mount).format(root=tmp_path / "cgroup"))
        assert device_rules(v1).found == str(tmp_path / "cgroup/cpu")
        (tmp_path / "proc/self/mountinfo").write_text(V1.format(root=tmp_path / "cgroup"))
        assert "mount -t cgroup -o devices" in device_rules(v1).hint

    def test_bfq_counts_only_where_it_is_chosen(self, tmp_path: Path) -> None:
        place = make_place(tmp_path, V1)
        scheduler = tmp_path / "sys/block/sda/queue/scheduler"
        scheduler.parent.mkdir(parents=True)
        scheduler.write_text("none [mq-deadline] bfq\n")
        offered = block_weights(place)
        scheduler.write_text("none mq-deadline [bfq]\n")
        chosen = block_weights(place)
        assert (offered.status, chosen.status) == (Status.LIMITED, Status.OK)
        assert offered.hint.endswith("/sys/block/sda/queue/scheduler")
        assert chosen.found == "bfq on sda"

    def test_iocost_counts_where_it_is_enabled(self, tmp_path: Path) -> None:
        place = make_place(tmp_path, V2, "io")
        qos = tmp_path / "cgroup/unified/io.cost.qos"
        qos.write_text("8:0 enable=0 ctrl=auto\n")
        assert block_weights(place).status is Status.LIMITED
        qos.write_text("8:0 enable=1 ctrl=auto\n")
        assert block_weights(place).found == "iocost on 8:0"

    def test_swap_that_is_not_counted_is_limited(self, tmp_path: Path) -> None:
        place = make_place(tmp_path, V1)
        assert swap_accounting(place).status is Status.LIMITED
        (tmp_path / "cgroup/memory/a/memory.memsw.limit_in_bytes").write_text("0")
        assert swap_accounting(place).status is Status.OK

    def test_capability_is_bit_24(self) -> None:
        assert capabilities("CapEff:\t000001ffffffffff\n").status is Status.OK
        assert capabilities("CapEff:\t000001fffeffffff\n").status is Status.LIMITED


class TestVerdict:
    def test_only_what_is_needed_and_missing_stops_jobs(self) -> None:
        limited = Fact(name="a", status=Status.LIMITED, found="", needed=True)
        spare = Fact(name="b", status=Status.MISSING, found="")
        needed = Fact(name="c", status=Status.MISSING, found="", needed=True)
        assert usable([limited, spare])
        assert not usable([limited, spare, needed])


class TestAttempt:
    def test_brings_back_what_the_trial_saw(self) -> None:
        assert trial.attempt(lambda: "seen") == trial.Outcome(0, "seen")

    def test_brings_back_an_errno(self) -> None:
        def refused() -> str:
            raise PermissionError(errno.EPERM, "not for you")

        assert trial.attempt(refused) == trial.Outcome(errno.EPERM, "not for you")

    def test_a_hanging_trial_is_ended(self) -> None:
        def hang() -> str:
            time.sleep(60)
            return ""

        started = time.monotonic()
        assert trial.attempt(hang, timeout=0.2).errno == errno.ETIMEDOUT
        assert time.monotonic() - started < 30

    def test_a_defect_is_not_taken_for_a_missing_feature(self) -> None:
        def defect() -> str:
            raise KeyError("oops")

        with pytest.raises(RuntimeError):
            trial.attempt(defect)


@pytest.mark.kernel
class TestTrials:
    @pytest.mark.parametrize(
        "feature",
        [
            trial.user_namespace,
            trial.private_proc,
            trial.veth,
            trial.shaper,
            trial.nftables,
            trial.seccomp,
            trial.idmapped_tmpfs,
        ],
    )
    def test_works_on_this_kernel(self, feature: object) -> None:
        assert trial.attempt(feature).text in ("", f"uid 0 appears as {trial.ID_START}")  # type: ignore[arg-type]

    def test_ids_of_a_folder_are_shifted(self) -> None:
        """On /tmp, which is an ordinary file system (the repository may be on one without id maps)."""
        assert trial.attempt(lambda: trial.idmapped_folder("/tmp")).text == f"uid 0 appears as {trial.ID_START}"

    def test_a_filter_stays_in_its_child(self) -> None:
        assert trial.attempt(trial.seccomp).ok
        status = Path("/proc/self/status").read_text()
        assert "NoNewPrivs:\t0" in status and "Seccomp:\t0" in status

    def test_an_ordinary_user_can_ask(self) -> None:
        """Facts instead of errors; what a user cannot have is said."""

        def as_nobody() -> str:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            facts = by_name(probe(Place(folder=Path("/"))))
            return f"{facts['user'].status.value} {facts['cgroups'].status.value} {facts['network'].status.value}"

        # A process that changes its user without exec may not write its own id maps, as no real user's would:
        # the namespace facts may differ, these do not.
        assert trial.attempt(as_nobody, timeout=30).text == "limited limited limited"

    def test_nothing_is_left(self) -> None:
        def state() -> tuple[object, ...]:
            mounts = Path("/proc/self/mountinfo").read_text()
            links = sorted(os.listdir("/sys/class/net"))
            spaces = sorted((name, os.readlink(f"/proc/self/ns/{name}")) for name in os.listdir("/proc/self/ns"))
            left = [str(path) for path in Path("/sys/fs/cgroup").glob("**/batchns-probe-*")]
            return mounts, links, spaces, left, sorted(os.listdir("/proc/self/fd"))

        before = state()
        probe(Place(folder=Path("/tmp")))
        assert state() == before

    @pytest.mark.skipif(shutil.which("nft") is None, reason="no nft program")
    def test_the_hosts_rules_are_untouched(self) -> None:
        assert trial.attempt(trial.nftables).ok
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        assert "batchns-probe" not in rules


def test_a_firewall_that_drops_what_jobs_send_is_a_fact_with_what_to_type(tmp_path: Path) -> None:
    place = Place(folder=tmp_path, uid=0)
    (fact,) = other_firewalls(place, lambda: ["table ip filter drops what is forwarded - nft add rule ..."])
    assert (fact.status, fact.found, fact.hint) == (
        Status.LIMITED,
        "table ip filter drops what is forwarded",
        "nft add rule ...",
    )
    assert not fact.needed
    assert list(other_firewalls(place, list)) == []
    assert list(other_firewalls(evolve(place, uid=1000), lambda: ["never asked - x"])) == []
