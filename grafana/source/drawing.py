"""A dashboard drawn from a Prometheus' answers, each panel in its place on the dashboard's grid.

It shows what the panels say, not how Grafana draws them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from grafana.source.asking import Answer, Prometheus, filled, panels

_LABEL = re.compile(r"{{\s*(\w+)\s*}}")
_COLUMN, _LINE = 0.62, 0.42  # inches of the grid's columns and lines
_DPI = 80
_ROWS, _LETTERS = 8, 26  # of a table
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_INK, _FAINT, _PAGE, _EDGE = "#24292e", "#8e9297", "#f4f5f5", "#d8d9da"
_COLOURS = ("#56a64b", "#e0b400", "#3274d9", "#e02f44", "#8f3bb8", "#ff780a", "#37a2b8", "#a16a41")  # Grafana's own
_STEPS = [1.0, 2.0, 2.5, 5.0, 10.0]  # of ticks
_LEGEND_LINE = 0.62  # of the grid's lines
_TITLE = 1.0

Target = Mapping[str, Any]
Ask = Callable[[Target], list[Answer]]


@frozen
class _Page:
    """What is drawn on, in the grid's columns and lines. `begin`, `end`: seconds since the epoch."""

    figure: Figure
    height: int
    ask: Ask
    begin: float
    end: float

    def box(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """As matplotlib counts: parts of the picture, from its bottom."""
        return left / 24, 1 - (top + height) / self.height, width / 24, height / self.height


def draw(
    board: Mapping[str, Any], server: Prometheus, values: Mapping[str, str], begin: float, end: float, path: Path
) -> None:
    """Write a picture of the board. `values`: of its variables. Seconds since the epoch."""
    step = max(1.0, (end - begin) / 200)
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = Figure(figsize=(24 * _COLUMN, height * _LINE), layout=None, facecolor=_PAGE)

    def ask(target: Target) -> list[Answer]:
        return server.asked(target, values, begin, end, step)

    page = _Page(figure, height, ask, begin, end)
    for panel in board["panels"]:
        if panel["type"] == "row":
            left, bottom, _, tall = page.box(0.2, panel["gridPos"]["y"], 1, 1)
            title = filled(panel["title"], values)
            figure.text(left, bottom + tall / 2, title, fontsize=10.5, weight="bold", va="center", color=_INK)
    for panel in panels(board):
        _draw_panel(page, panel)
    figure.savefig(path, dpi=_DPI)


def _draw_panel(page: _Page, panel: Mapping[str, Any]) -> None:
    place = panel["gridPos"]
    left, top, width, height = (float(place[name]) for name in ("x", "y", "w", "h"))
    corner = page.box(left + 0.08, top + 0.1, width - 0.16, height - 0.2)
    page.figure.add_artist(Rectangle(corner[:2], *corner[2:], facecolor="white", edgecolor=_EDGE, lw=0.8, zorder=-1))
    title = page.box(left + 0.3, top + 0.2, 1, _TITLE)
    words: dict[str, Any] = {"fontsize": 8, "weight": "bold", "va": "center", "color": _INK}
    page.figure.text(title[0], title[1] + title[3] / 2, panel["title"], **words)
    if panel["type"] == "timeseries":
        _over_time(page, place, _series(page, panel))
    elif panel["type"] == "state-timeline":
        _over_time(page, place, _spans(page, panel))
    else:
        axes = page.figure.add_axes(page.box(left + 0.3, top + 0.2 + _TITLE, width - 0.6, height - 0.4 - _TITLE))
        axes.axis("off")
        if panel["type"] == "stat":
            axes.text(0.5, 0.55, _number(panel, page.ask), ha="center", va="center", fontsize=17, color=_COLOURS[2])
        else:
            _table(axes, panel, page.ask)


@frozen
class _Drawn:
    """What a panel shows over time. `names`: of its legend."""

    names: Collection[str]
    draw: Callable[[Axes], None]


def _over_time(page: _Page, place: Mapping[str, float], drawn: _Drawn) -> None:
    """With its legend below, in as many lines as it takes."""
    left, top, width, height = (float(place[name]) for name in ("x", "y", "w", "h"))
    per_line = max(1, int(width // 2.6))
    lines = math.ceil(len(drawn.names) / per_line)
    beneath = 0.75 + lines * _LEGEND_LINE  # the times, then the legend
    axes = page.figure.add_axes(page.box(left + 1.35, top + 0.35 + _TITLE, width - 1.75, height - 1.7 - beneath))
    drawn.draw(axes)
    _time_axis(axes, page)
    if lines:
        at = page.box(left + 0.25, top + height - 0.2, 1, 0)[:2]
        style: dict[str, Any] = {"fontsize": 6.5, "frameon": False, "handlelength": 1.2, "columnspacing": 1.2}
        parts = axes.get_legend_handles_labels()
        page.figure.legend(*parts, loc="lower left", bbox_to_anchor=at, ncols=per_line, labelspacing=0.25, **style)


def _series(page: _Page, panel: Mapping[str, Any]) -> _Drawn:
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    logarithmic = custom.get("scaleDistribution", {}).get("type") == "log"
    stacking = custom.get("stacking", {}).get("mode") == "normal"
    found: list[tuple[str, Answer]] = []
    for target in panel["targets"]:
        found += [(_legend(target.get("legendFormat", ""), answer), answer) for answer in page.ask(target)]
    found = [(name, one) for name, one in found if any(math.isfinite(value) for _, value in one.points)]
    bounds = {one["matcher"]["options"] for one in panel["fieldConfig"].get("overrides", ()) if _is_bound(one)}
    piled = [(name, one) for name, one in found if stacking and name not in bounds]

    def draw(axes: Axes) -> None:
        highest = max((value for _, one in found for _, value in one.points if math.isfinite(value)), default=0.0)
        if piled:
            moments = sorted({moment for _, one in piled for moment, _ in one.points})
            columns = [[dict(one.points).get(moment, 0.0) for moment in moments] for _, one in piled]
            names = [name for name, _ in piled]
            axes.stackplot([*map(_date, moments)], columns, labels=names, colors=_COLOURS, alpha=0.65, lw=0)
            highest = max(highest, *map(math.fsum, zip(*columns, strict=True)))
        colours = cycle(_COLOURS)
        for name, one in found:
            if (name, one) not in piled:
                style: dict[str, Any] = {"ls": "--", "color": _FAINT} if name in bounds else {"color": next(colours)}
                moments = [moment for moment, _ in one.points]
                axes.plot([*map(_date, moments)], [value for _, value in one.points], label=name, lw=1.3, **style)
        if not found:
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=_FAINT, fontsize=8)
        shown = [value for _, one in found for _, value in one.points if math.isfinite(value) and value > 0]
        if logarithmic and shown:
            axes.set_yscale("log")
            axes.set_ylim(min(shown) / 2, max(shown) * 2)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value, unit)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            _height_axis(axes, highest, unit)

    return _Drawn([name for name, _ in found], draw)


def _height_axis(axes: Axes, highest: float, unit: str) -> None:
    """From 0 to a round number above what is drawn."""
    top = highest * 1.04 if highest > 0 else 1.0
    base = 1024.0 if unit in ("bytes", "binBps") else 1000.0
    size = base ** max(0, math.floor(math.log(top, base)))
    ticks = [float(tick) for tick in MaxNLocator(nbins=4, steps=_STEPS).tick_values(0, top / size) if tick >= 0]
    axes.set_yticks([tick * size for tick in ticks])
    axes.set_ylim(0, max(top, ticks[-1] * size))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value, unit)))


def _is_bound(override: Mapping[str, Any]) -> bool:
    return any(one["id"] == "custom.lineStyle" for one in override["properties"])


def _spans(page: _Page, panel: Mapping[str, Any]) -> _Drawn:
    words = {
        float(value): (one["text"], one["color"])
        for mapping in panel["fieldConfig"]["defaults"].get("mappings", ())
        for value, one in mapping["options"].items()
        if re.fullmatch(r"-?[0-9.]+", value)
    }
    named = {"green": _COLOURS[0], "blue": _COLOURS[2]}
    answers = [answer for target in panel["targets"] for answer in page.ask(target)]
    told = {words.get(value, (f"{value:g}", "gray")) for answer in answers for _, value in answer.points}

    def draw(axes: Axes) -> None:
        unsaid = {name for name, _ in told}
        for answer in answers:
            for (begin, value), (end, _) in pairwise(answer.points):
                name, colour = words.get(value, (f"{value:g}", "gray"))
                label = name if name in unsaid else None
                unsaid.discard(name)
                axes.axvspan(_date(begin), _date(end), color=named.get(colour, colour), alpha=0.65, lw=0, label=label)
        axes.set_yticks([])

    return _Drawn([name for name, _ in told], draw)


def _time_axis(axes: Axes, page: _Page) -> None:
    """All panels show the same span."""
    axes.set_xlim(_date(page.begin), _date(page.end))
    locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]
    axes.tick_params(labelsize=6.5, colors=_FAINT, labelcolor=_INK, length=2)
    axes.grid(alpha=0.25)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_EDGE)


def _number(panel: Mapping[str, Any], ask: Ask) -> str:
    (target, *_) = panel["targets"]
    answers = [one for one in ask(target) if math.isfinite(one.value)]
    if not answers:
        return "-"
    legend = target.get("legendFormat", "")
    if _LABEL.search(legend):
        return _legend(legend, answers[-1])
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults.get("mappings", ()):
        word = mapping.get("options", {}).get(f"{answers[-1].value:g}")
        if word:
            return str(word["text"])
    return text_of(answers[-1].value, defaults.get("unit", "short"))


def _table(axes: Axes, panel: Mapping[str, Any], ask: Ask) -> None:
    """A row for each first column's labels, a column for each query."""
    rows: dict[str, list[str]] = {}
    values: dict[tuple[str, str], float] = {}  # by row and column, for its order
    names: list[str] = []
    (order,) = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
    called: Mapping[str, str] = order["renameByName"]
    titles = [called.get(f"Value #{target['refId']}", "") for target in panel["targets"]]
    units = {
        one["matcher"]["options"]: each["value"]
        for one in panel["fieldConfig"].get("overrides", ())
        for each in one["properties"]
        if each["id"] == "unit"
    }
    for number, target in enumerate(panel["targets"]):
        for answer in ask(target):
            labels = {name: value for name, value in answer.labels.items() if name != "__name__"}
            key = next((labels[name] for name in ("job_id", "user", "queue") if name in labels), "")
            if number == 0:
                names = names or sorted(labels, key=lambda name: order["indexByName"].get(name, 99))
                rows[key] = [labels.get(name, "") for name in names] + [""] * len(titles)
            if key in rows and titles[number]:
                values[key, titles[number]] = answer.value
                rows[key][len(names) + number] = text_of(answer.value, units.get(titles[number], "short"))
    shown_columns = [number for number, title in enumerate([*names, *titles]) if title]
    heads = [called.get(name, name) for name in names] + [title for title in titles if title]
    for by in panel["options"].get("sortBy", ()):
        first = -1 if by["desc"] else 1
        rows = dict(sorted(rows.items(), key=lambda row: first * values.get((row[0], by["displayName"]), -math.inf)))
    shown = [[row[number][:_LETTERS] for number in shown_columns] for row in list(rows.values())[:_ROWS]]
    if not shown or not heads:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color=_FAINT, fontsize=8)
        return
    table = axes.table(shown, colLabels=heads, loc="upper center", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    for cell in table.get_celld().values():
        cell.set_edgecolor(_EDGE)
        cell.set_text_props(color=_INK)
    for (row, _), cell in table.get_celld().items():
        if row == 0:
            cell.set_text_props(ha="left", weight="bold")


def _legend(text: str, answer: Answer) -> str:
    if not text:
        return ", ".join(value for name, value in answer.labels.items() if name != "__name__")
    return _LABEL.sub(lambda found: answer.labels.get(found[1], ""), text)


def _date(moment: float) -> Any:
    return datetime.fromtimestamp(moment, UTC)


def text_of(value: float, unit: str) -> str:
    """As a person reads it; `unit` by Grafana's name."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return _seconds(value)
    if unit in ("bytes", "binBps"):
        for power, letter in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
            if abs(value) >= 1 << power:
                return f"{_digits(value / (1 << power))} {letter}iB" + ("/s" if unit == "binBps" else "")
        return f"{value:.3g} B" + ("/s" if unit == "binBps" else "")
    if unit == "dateTimeAsIso":
        return f"{_date(value / 1000):%H:%M:%S}"
    for size, letter in _SCALES:
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}" + (" /s" if unit in ("reqps", "cps") else "")


def _digits(value: float) -> str:
    """Three of them, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _seconds(value: float) -> str:
    for size, letters in ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letters}"
    return "0" if not value else f"{value * 1e6:.3g} us"
