"""What a queue lets a job ask for, and gives to one that does not ask."""

from __future__ import annotations

import pytest

from batchns.model.codec import check_dependencies, parse_jobs
from batchns.model.config import Bound, Config, Defaults, Queue
from batchns.model.config_table import parse_config
from batchns.model.job import JobSpec
from batchns.model.options import job_from_options
from batchns.model.problems import JobFileErrors

CONFIG = parse_config(
    b"""
    [defaults]
    cpus = 4
    memory = "8GiB"
    time_limit = "1d"
    [queues.short]
    max_priority = 40
    defaults = { time_limit = "10m", pids = 64 }
    per_job = { cpus = 2, memory = "2GiB", egress = "10mbit", ingress = "20mbit", time_limit = "1h", pids = 100,
                scratch = "64MiB" }
    [queues.shared]
    per_user = { cpus = 2.5, memory = "1GiB" }
    total = { cpus = 8, memory = "512MiB", egress = "1mbit" }
    """,
    "batchns.toml",
)


def job(line: str, config: Config = CONFIG) -> JobSpec:
    text = f'name = "x"\ncommand = ["true"]\n{line}\n'
    return parse_jobs(text.encode(), file="f.toml", folder="/", config=config)[0]


OTHER = "or choose another queue"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("priority = 41", f'priority: 41 is more than jobs of queue "short" may have - write at most 40, {OTHER}'),
        (
            'time_limit = "2h"',
            f'time_limit: 2h is more than a job of queue "short" may have, 1h - write at most 1h, {OTHER}',
        ),
        (
            "resources.cpus = 3",
            f'resources.cpus: 3 is more than a job of queue "short" may have, 2 - write at most 2, {OTHER}',
        ),
        (
            'resources.cpuset = "0-3"',
            f'resources.cpuset: 4 is more than a job of queue "short" may have, 2 - write at most 2, {OTHER}',
        ),
        (
            'resources.memory = "3GiB"',
            f'resources.memory: 3GiB is more than a job of queue "short" may have, 2GiB - write at most 2GiB, {OTHER}',
        ),
        (
            "resources.pids = 101",
            f'resources.pids: 101 is more than a job of queue "short" may have, 100 - write at most 100, {OTHER}',
        ),
        (
            'resources.scratch = "1GiB"',
            f'resources.scratch: 1GiB is more than a job of queue "short" may have, 64MiB - '
            f"write at most 64MiB, {OTHER}",
        ),
        (
            'network.egress = "1gbit"',
            f'network.egress: 1gbit is more than a job of queue "short" may have, 10mbit - '
            f"write at most 10mbit, {OTHER}",
        ),
        (
            'network.ingress = "21mbit"',
            f'network.ingress: 21mbit is more than a job of queue "short" may have, 20mbit - '
            f"write at most 20mbit, {OTHER}",
        ),
        (
            'warn_signal = "USR1@10m"',
            "warn_signal: 10m before a time limit of 10m is before it begins - "
            "write a shorter time behind @, or a longer time_limit",
        ),
    ],
)
def test_a_job_that_asks_for_more_than_its_queue_has_is_refused_with_the_numbers(line: str, message: str) -> None:
    with pytest.raises(JobFileErrors) as raised:
        job(f'{line}\nqueue = "short"' if "." not in line.partition("=")[0] else f'queue = "short"\n{line}')
    assert [str(problem).partition(": ")[2] for problem in raised.value.problems] == [message]
    assert job(line).queue == "normal"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cpus = 3", 'resources.cpus: 3 is more than one user may have in queue "shared", 2.5'),
        ('memory = "2GiB"', 'resources.memory: 2GiB is more than all jobs of queue "shared" may have together, 512MiB'),
    ],
)
def test_the_narrowest_bound_is_the_one_that_is_named(line: str, message: str) -> None:
    with pytest.raises(JobFileErrors) as raised:
        job(f'queue = "shared"\nresources.{line}')
    assert str(raised.value).startswith(f"f.toml:4: {message} - write at most ")
    assert len(raised.value.problems) == 1


def test_as_much_as_the_queue_has_may_be_asked_for() -> None:
    job(
        'queue = "short"\npriority = 40\ntime_limit = "1h"\nresources = { cpus = 2, memory = "2GiB" }\n'
        'network = { egress = "10mbit", ingress = "20mbit" }'
    )


def test_an_option_that_asks_for_too_much_is_named() -> None:
    with pytest.raises(JobFileErrors) as raised:
        job_from_options({"command": ["true"], "queue": "short", "memory": "4GiB"}, config=CONFIG, folder="/")
    assert str(raised.value).startswith("--memory: 4GiB is more than a job of queue")


def test_the_usual_priority_is_never_too_large() -> None:
    assert (job('queue = "short"').priority, job("").priority) == (40, 50)


def test_what_a_job_gets_that_does_not_ask_is_the_queues_and_within_its_bounds() -> None:
    assert CONFIG.defaults_of("normal") == Defaults(cpus=4.0, memory=8 << 30, time_limit=86400.0)
    assert CONFIG.defaults_of("short") == Defaults(
        cpus=2.0, memory=2 << 30, time_limit=600.0, pids=64, scratch=64 << 20
    )
    assert CONFIG.defaults_of("shared") == Defaults(cpus=2.0, memory=512 << 20, time_limit=86400.0)
    assert CONFIG.queues["shared"].most("egress") == 10**6 and CONFIG.queues["normal"].most("egress") is None


def test_the_longest_time_is_that_of_a_job_without_a_limit() -> None:
    bounded = Config(queues={"normal": Queue(per_job=Bound(time_limit=60.0, cpus=0.5, memory=1 << 20))})
    assert bounded.defaults_of("normal") == Defaults(time_limit=60.0, cpus=0.5)
    assert job('warn_signal = "USR1@30s"', bounded).time_limit is None


def test_a_warning_may_be_before_the_limit_that_the_job_gets() -> None:
    assert job('queue = "short"\nwarn_signal = "USR1@9m"').time_limit is None
    assert job('warn_signal = "USR1@23h"').time_limit is None


def test_a_bad_key_hides_no_rule_and_gives_no_second_message() -> None:
    with pytest.raises(JobFileErrors) as raised:
        job(
            'queue = "shrt"\npriority = 99\ntime_limit = 1\nwarn_signal = "USR1@1h"\n'
            'max_retries = -1\nretry_delay = "1s"\nbegin = "+2h"\ndeadline = "+1h"'
        )
    assert [problem.path for problem in raised.value.problems] == ["queue", "time_limit", "max_retries", "begin"]


def two(first: str, second: str) -> list[JobSpec]:
    text = f'[[job]]\nname = "a"\nscript = "true"\n{first}\n[[job]]\nname = "b"\nscript = "true"\n{second}\n'
    return parse_jobs(text.encode(), file="f.toml", folder="/", config=Config())


def test_aftercorr_needs_the_same_tasks_on_the_other_side() -> None:
    check_dependencies(two('array = "0-9"', 'array = "0-9:3"\ndependency = ["aftercorr:a"]'))
    for array, lacks in (("", "array"), ('array = "0-3"', "task 4")):
        with pytest.raises(JobFileErrors) as raised:
            check_dependencies(two(array, 'array = "0-9:2"\ndependency = ["aftercorr:a"]'))
        assert str(raised.value) == (
            f'f.toml:5: dependency: aftercorr: "a" has no {lacks} - write afterok:a, or give both the same array'
        )


def test_singleton_waits_for_no_name_and_is_no_cycle() -> None:
    jobs = two('dependency = ["singleton"]', 'dependency = ["singleton", "after:a", "singleton"]')
    check_dependencies(jobs)
    assert [[edge.name for edge in job.dependency] for job in jobs] == [[""], ["", "a"]]
