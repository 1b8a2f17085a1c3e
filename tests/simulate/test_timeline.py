"""The picture: its parts are counted here; how it looks, people judge."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="the plot extra is not installed")

from batchns.core.demand import Demand
from batchns.simulate import timeline
from batchns.simulate.engine import Outcome, Segment
from batchns.simulate.statistics import slowdowns
from batchns.simulate.workload import Workload


def outcome(count: int = 3, cpus: int = 4) -> Outcome:
    """Jobs of two CPUs, each 100 s after the one before, queued for 10 s, frozen from 30 s to 50 s of their time."""
    submitted = [100.0 * number for number in range(count)]
    held = tuple(range(cpus))[1:3]
    segments = []
    for number, moment in enumerate(submitted):
        segments += [Segment(number, moment + 10, moment + 30, held), Segment(number, moment + 50, moment + 70, held)]
    return Outcome(
        workload=Workload(
            cpus=cpus,
            ids=[f"id{number}" for number in range(count)],
            submitted=submitted,
            running=[40.0] * count,
            limit=[None] * count,
            demand=[Demand(whole=2)] * count,
            user=["u"] * count,
        ),
        started=[moment + 10 for moment in submitted],
        ended=[moment + 70 for moment in submitted],
        ran=[40.0] * count,
        frozen=[20.0] * count,
        lost=0.0,
        preemptions=count,
        segments=segments,
    )


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("count", [1, 3, 500])
def test_a_picture_is_written(tmp_path: Path, suffix: str, count: int) -> None:
    file = tmp_path / f"picture.{suffix}"
    timeline.draw(outcome(count), str(file), "a trace, easy")
    if suffix == "png":
        assert file.read_bytes().startswith(b"\x89PNG\r\n")
    else:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")


def test_its_title_axes_and_legend_are_words(tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    timeline.draw(outcome(), str(file), "a trace, easy")
    text = file.read_text()
    words = ["a trace, easy: 3 jobs on 4 CPUs", "CPUs in use", "job, by submission", "queued", "running", "frozen"]
    words += ["minutes since the first job was submitted", "id1"]
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_equal_pictures_are_equal_files(tmp_path: Path, suffix: str) -> None:
    one, other = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    for file in (one, other):
        timeline.draw(outcome(), str(file), "a trace")
    assert one.read_bytes() == other.read_bytes()


def test_a_title_is_no_formula(tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    timeline.draw(outcome(), str(file), r"$\frac{broken, $5")
    assert r"$\frac{broken, $5" in file.read_text()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        timeline.draw(outcome(), str(tmp_path / "no-such-folder" / "x.png"), "")


def test_nothing_ran_is_a_picture_too(tmp_path: Path) -> None:
    found = outcome(1)
    empty = Outcome(
        workload=found.workload,
        started=[float("nan")],
        ended=[0.0],
        ran=[0.0],
        frozen=[0.0],
        lost=0.0,
        preemptions=0,
        segments=[],
    )
    timeline.draw(empty, str(tmp_path / "x.svg"), "")


def test_spans_are_queued_running_and_frozen() -> None:
    assert timeline.spans(outcome(1)) == ([(0, 0, 10)], [(0, 10, 30), (0, 50, 70)], [(0, 30, 50)])


@pytest.mark.parametrize(
    ("cpus", "expected"), [((), []), ((3,), [(3, 4)]), ((0, 1, 2), [(0, 3)]), ((0, 2, 3, 7), [(0, 1), (2, 4), (7, 8)])]
)
def test_neighbouring_cpus_are_one_rectangle(cpus: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    assert timeline.ranges(cpus) == expected


def test_the_curve_is_the_sum_of_what_runs() -> None:
    assert timeline.steps([(0, 10, 2), (5, 10, 1), (10, 12, 4)]) == [(0, 2), (5, 3), (10, 4), (12, 0)]


def test_a_colour_says_what_a_job_paid() -> None:
    assert slowdowns(outcome(1)) == [70 / 40]
    colours = [timeline.colour(value) for value in (1, 1.99, 2, 9, 10, 99, 100, 1e9)]
    assert [colours.index(colour) for colour in colours] == [0, 0, 2, 2, 4, 4, 6, 6]
