"""Every field that a cluster cannot honour is named; what keeps a job from running is told from what it loses."""

from __future__ import annotations

import pytest
from attrs import evolve

from batchns.slurm.facts import ask, parse
from batchns.slurm.lint import lacks
from batchns.slurm.tools import Tools
from tests.slurm.fake import CONFIG, FakeSlurm
from tests.slurm.test_mapping import ALL, job, target

BARE = evolve(ALL, gres=(), confines=(), plugin=False, preempt="OFF", max_array=100)


def named(text: str, facts: object = BARE, user: str = "alice") -> list[tuple[str, bool]]:
    return [(one.path, one.fatal) for one in lacks(job(text), target(facts), user)]  # type: ignore[arg-type]


def test_nothing_is_amiss_with_a_plain_job() -> None:
    assert named("") == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[resources]\nblkio_weight = 500", "resources.blkio_weight"),
        ("[resources]\ncpu_shares = 500", "resources.cpu_shares"),
        ("[resources]\npids = 500", "resources.pids"),
        ('[resources]\ncpuset = "1"', "resources.cpuset"),
        ("[resources]\ncpus = 2", "resources.cpus"),
        ('[resources]\nmemory = "1GiB"', "resources.memory"),
        ("retry_memory = 2\nmax_retries = 1", "retry_memory"),
        ('[network]\nallow = ["jobs"]', "network.allow"),
        ('notify = ["failed"]', "notify"),
        ('stdout = "/o/%r"', "stdout"),
        ("priority = 60", "priority"),
        ('[preempt]\nmode = "suspend"', "preempt.mode"),
        ('[preempt]\ngrace_time = "60s"', "preempt.grace_time"),
    ],
)
def test_what_a_job_loses(text: str, path: str) -> None:
    assert named(text) == [(path, False)]


def test_a_rate_needs_the_plug_in_to_be_held_and_the_gres_to_be_counted() -> None:
    text = '[network]\negress = "1mbit"'
    assert named(text) == [("network.egress", False)] * 2
    assert named(text, evolve(BARE, plugin=True)) == [("network.egress", False)]
    assert named(text, ALL) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[resources]\ngpus = 1", "resources.gpus"),
        ('[isolation]\nidentity = "private"', "isolation.identity"),
        ('array = "0-100"', "array"),
        ('queue = "nope"', "queue"),
        ('time_limit = "2d"', "time_limit"),
        ('[resources]\nmemory = "300GiB"', "resources.memory"),
    ],
)
def test_what_keeps_a_job_from_running(text: str, path: str) -> None:
    assert (path, True) in named(text, evolve(BARE, confines=("memory", "cpus")))


def test_root_has_no_jobs_there() -> None:
    assert named("", user="root") == [("user", True)]


def test_operators_may_raise_priorities() -> None:
    assert named("priority = 60", evolve(BARE, operators=("root", "alice"))) == []


def test_a_strict_job_loses_no_limit() -> None:
    text = 'retry_memory = 2\nmax_retries = 1\n[resources]\nstrict = true\nmemory = "1GiB"'
    assert named(text) == [("resources.memory", True), ("retry_memory", False)]


def test_devices_of_gpus_are_not_seen() -> None:
    assert named("[resources]\ngpus = 1", ALL) == [("resources.gpus", False)]


def test_a_lack_says_where_it_is() -> None:
    spec = job("[resources]\npids = 3")
    (lack,) = lacks(spec, target(BARE), "alice")
    assert str(lack.problem(spec)).startswith("/d/f.toml:1: resources.pids: Slurm bounds no number of processes")


def test_a_job_that_may_not_be_preempted_is_told_where_all_are() -> None:
    assert named('[preempt]\nmode = "off"', ALL) == [("preempt.mode", False)]
    assert named('[preempt]\nmode = "off"', evolve(ALL, preempt="OFF")) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[resources]\ngpus = 3", "resources.gpus"),
        ('[network]\ningress = "11mbit"', "network.ingress"),
        ('[resources]\ncpuset = "0-64"', "resources.cpus"),
    ],
)
def test_no_node_has_so_much(text: str, path: str) -> None:
    partition = evolve(ALL.partitions[0], gres={"gpu": 2, "bw": 10})
    assert (path, True) in named(text, evolve(ALL, partitions=(partition,)))
    less = text.replace("3", "2").replace("11m", "10m").replace("64", "63")
    assert (path, True) not in named(less, evolve(ALL, partitions=(partition,)))


def test_what_nodes_have_is_what_they_say() -> None:
    lines = (
        "p\x1fp*\x1finfinite\x1f8\x1f100\x1fgpu:t4:2(S:0-1),gpu:a100:1,bw:10K\np\x1fp*\x1finfinite\x1f8\x1f100\x1fgpu:1"
    )
    (partition,) = parse("GresTypes = gpu,bw", lines, "").partitions
    assert partition.gres == {"gpu": 3, "bw": 10240}


def test_an_account_that_the_user_does_not_have_is_named() -> None:
    text = '[slurm]\naccount = "phsics"'
    assert named(text, ALL) == []  # nobody says which there are
    known = evolve(ALL, accounts=("bio", "physics"))
    (lack,) = lacks(job(text), target(known), "alice")
    assert (lack.path, lack.fatal, lack.hint) == ("slurm.account", False, "did you mean physics?")
    assert named(text, evolve(known, enforced=True)) == [("slurm.account", True)]
    assert named(text.replace("phsics", "Physics"), known) == []
    assert named("", known) == []


def test_the_accounts_are_asked_for_where_there_is_accounting(fake: FakeSlurm) -> None:
    fake.put("sacctmgr.says", "physics\nbio\nphysics\n")
    tools = Tools({"PATH": fake.path})
    assert ask(tools).accounts is None
    assert fake.calls("sacctmgr") == []
    fake.put("config", CONFIG.replace("accounting_storage/none", "accounting_storage/slurmdbd"))
    assert ask(tools).accounts == ("bio", "physics")
    assert "cluster=test" in fake.calls("sacctmgr")[0]
    fake.put("sacctmgr.says", "")
    assert ask(tools).accounts is None  # nobody has any: accounts are not used there
    fake.put("config", f"{CONFIG}AccountingStorageType = x\nAccountingStorageEnforce = associations,limits\n")
    assert ask(tools).accounts == ()
    fake.put("sacctmgr.error", "you are not allowed to")
    assert ask(tools).accounts is None


@pytest.mark.parametrize("name", ["egress", "ingress"])
def test_a_rate_that_the_prolog_refuses_is_named(name: str) -> None:
    """Slurm's own tools would say no more than that the option is wrong."""
    text = f'[network]\n{name} = "1.001tbit"'
    assert (f"network.{name}", True) in named(text, ALL)
    assert named(text.replace("1.001", "1"), ALL) == []
    assert (f"network.{name}", True) not in named(text, BARE)
