"""A picture of a simulation: who had which CPUs, who waited and was frozen, how full the machine was.

1. Three panels over one time axis: CPUs (a rectangle for each job), jobs (a line for each), CPUs in use.
2. Everything is drawn as a few collections, whatever the number of jobs.
3. Colours are those of Okabe and Ito, which colour-blind people tell apart; lightness differs as well.

matplotlib is imported here and nowhere else: it is an extra, `batchns[plot]`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from matplotlib import rc_context
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from batchns.simulate.engine import Outcome, Segment
from batchns.simulate.statistics import slowdowns

QUEUED, RUNNING, FROZEN, INK = "#b8b8b8", "#0072b2", "#cc79a7", "#404040"
# A job's colour on its CPUs: what it paid. (bounded slowdown below this, colour, name in the legend)
SLOWDOWNS = (
    (2.0, "#cfe3f1", "slowdown below 2"),
    (10.0, "#7fb8dd", "below 10"),
    (100.0, "#e69f00", "below 100"),
    (inf, "#d55e00", "100 and more"),
)
FEW = 24  # jobs; up to so many, each line has the job's id beside it
MANY = 400  # jobs; of more, rectangles have no edges and are drawn as pixels in SVG, too
_UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_Span = tuple[int, float, float]
_Line = tuple[tuple[float, float], tuple[float, float]]


def draw(outcome: Outcome, file: str, title: str) -> None:
    """Write the picture to `file`, in the format that its suffix names (.svg, .png). Needs `Outcome.segments`.

    Raises:
        OSError: it cannot be written.
    """
    workload = outcome.workload
    begin = min(workload.submitted, default=0.0)
    span = max(outcome.ended, default=begin) - begin
    unit, unit_name = next((unit for unit in _UNITS if span >= 3 * unit[0]), _UNITS[-1])
    figure = Figure(figsize=(11, 8), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (4, 3, 1.5)})
    scale = _Scale(begin, unit)
    _draw_cpus(top, outcome, scale)
    _draw_jobs(middle, outcome, scale)
    _draw_load(bottom, outcome, scale)
    short = title if len(title) <= 44 else f"{title[:43]}…"  # beside it is the legend
    head = f"{short}: {len(workload):,} jobs on {workload.cpus:,} CPUs"
    top.set_title(head, loc="left", fontsize=11, parse_math=False)
    bottom.set_xlabel(f"{unit_name} since the first job was submitted")
    bottom.set_xlim(0, scale(begin + span) or 1)
    for panel in (top, middle, bottom):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=INK)
    # In SVG words stay words, which can be searched and copied; and equal pictures are equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "batchns"}):
        figure.savefig(file, dpi=130, metadata={"Date": None} if file.lower().endswith(".svg") else None)


class _Scale:
    """Moments as they stand on the time axis."""

    def __init__(self, begin: float, unit: float) -> None:
        self._begin, self._unit = begin, unit

    def __call__(self, moment: float) -> float:
        return (moment - self._begin) / self._unit


def _draw_cpus(panel: Any, outcome: Outcome, scale: _Scale) -> None:
    """Each time that a job held CPUs, and each run of neighbouring ones among them, is a rectangle."""
    shapes, colours = [], []
    paid = [colour(value) for value in slowdowns(outcome)]
    for segment in outcome.segments:
        left, right = scale(segment.begin), scale(segment.end)
        tint = paid[segment.number]
        for low, high in ranges(segment.cpus):
            shapes.append(((left, low), (right, low), (right, high), (left, high)))
            colours.append(tint)
    many = len(outcome.workload) > MANY
    edges = {"linewidths": 0} if many else {"edgecolors": "white", "linewidths": 0.8}
    panel.add_collection(PolyCollection(shapes, facecolors=colours, rasterized=many, **edges))
    cpus = outcome.workload.cpus
    panel.set_ylim(0, cpus)
    panel.set_ylabel("CPU")
    _legend(panel, [(tint, name) for _, tint, name in SLOWDOWNS])
    if cpus <= 16:
        panel.set_yticks([cpu + 0.5 for cpu in range(cpus)], [str(cpu) for cpu in range(cpus)])
    if not many:
        _label_jobs(panel, outcome, scale)


def colour(slowdown: float) -> str:
    """What a job of this bounded slowdown is drawn in."""
    return next((tint for bound, tint, _ in SLOWDOWNS if slowdown < bound), SLOWDOWNS[-1][1])


def _legend(panel: Any, entries: Sequence[tuple[str, str]]) -> None:
    """Above the panel, to the right: it covers nothing."""
    handles = [Patch(facecolor=tint, label=name) for tint, name in entries]
    panel.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        borderaxespad=0.1,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _label_jobs(panel: Any, outcome: Outcome, scale: _Scale) -> None:
    """The jobs' ids, in those rectangles that have room for them."""
    segments = outcome.segments
    width = scale(max((segment.end for segment in segments), default=0.0)) or 1.0
    for segment in segments:
        text = outcome.workload.ids[segment.number]
        low, high = max(ranges(segment.cpus), key=lambda part: part[1] - part[0], default=(0, 0))
        left, right = scale(segment.begin), scale(segment.end)
        if (right - left) / width > 0.012 * len(text) and (high - low) / outcome.workload.cpus > 0.035:
            middle = ((left + right) / 2, (low + high) / 2)
            panel.text(*middle, text, ha="center", va="center", fontsize=8, color="black", parse_math=False)


def ranges(cpus: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring numbers among ascending ones, as (first, one past the last)."""
    found: list[tuple[int, int]] = []
    for cpu in cpus:
        if found and found[-1][1] == cpu:
            found[-1] = (found[-1][0], cpu + 1)
        else:
            found.append((cpu, cpu + 1))
    return found


def _draw_jobs(panel: Any, outcome: Outcome, scale: _Scale) -> None:
    """A line for each job, the first above: from its submission until it ran, while it ran, while it was frozen."""
    queued, running, frozen = spans(outcome)
    count = len(outcome.workload)
    points = 200 / max(count, 1)  # that the panel's height gives to one job
    width = min(6.0, max(0.5, 0.75 * points))
    entries = [(QUEUED, "queued"), (RUNNING, "running"), (FROZEN, "frozen")]
    for parts, (tint, _) in zip((queued, running, frozen), entries, strict=True):
        lines: list[_Line] = [((scale(left), row + 1), (scale(right), row + 1)) for row, left, right in parts]
        panel.add_collection(
            LineCollection(lines, colors=tint, linewidths=width, capstyle="butt", rasterized=count > MANY)
        )
    _legend(panel, entries if frozen else entries[:2])
    panel.set_ylim(count + 0.5, 0.5)
    panel.set_ylabel("job, by submission")
    if count <= FEW:
        panel.set_yticks(range(1, count + 1), list(outcome.workload.ids), parse_math=False)
    else:
        panel.yaxis.get_major_locator().set_params(integer=True)


def spans(outcome: Outcome) -> tuple[list[_Span], list[_Span], list[_Span]]:
    """(number, begin, end) of what was queued, running, and in between."""
    by_job: dict[int, list[Segment]] = {}
    for segment in outcome.segments:
        by_job.setdefault(segment.number, []).append(segment)
    queued: list[_Span] = []
    running: list[_Span] = []
    frozen: list[_Span] = []
    for number, submitted in enumerate(outcome.workload.submitted):
        parts = by_job.get(number, [])
        moment = submitted
        for part in parts:
            if part.begin > moment:
                (queued if part is parts[0] else frozen).append((number, moment, part.begin))
            running.append((number, part.begin, part.end))
            moment = part.end
        if not parts and outcome.ended[number] > submitted:
            queued.append((number, submitted, outcome.ended[number]))
    return queued, running, frozen


def _draw_load(panel: Any, outcome: Outcome, scale: _Scale) -> None:
    """How many CPUs were in use, and how many more the jobs wanted that were submitted and not over."""
    demand = outcome.workload.demand
    used = steps((part.begin, part.end, demand[part.number].cpus) for part in outcome.segments)
    moments, levels = [scale(moment) for moment, _ in used], [level for _, level in used]
    panel.fill_between(moments, levels, step="post", color=RUNNING, alpha=0.75, linewidth=0)
    panel.axhline(outcome.workload.cpus, color=INK, linewidth=0.8, linestyle=":")
    panel.set_ylim(0, outcome.workload.cpus * 1.08)
    panel.set_ylabel("CPUs in use")


def steps(parts: Iterable[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """The sum of levels over time: (moment, level from then on)."""
    changes: defaultdict[float, float] = defaultdict(float)
    for begin, end, level in parts:
        changes[begin] += level
        changes[end] -= level
    level = 0.0
    steps = []
    for moment in sorted(changes):
        level += changes[moment]
        steps.append((moment, level))
    return steps
