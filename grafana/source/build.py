"""Dashboards as Grafana reads them: every call of the SDK is here.

Source: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.source import daemon, job, node, users
from grafana.source.spec import Board, Panel, Query, Series, Stat, Table, Timeline, Unit, Variable

FOLDER = Path(__file__).parent.parent / "dashboards"
BOARDS = (node.BOARD, job.BOARD, users.BOARD, daemon.BOARD)
TAG = "batchns"
WINDOWS = ("10m", "1h", "6h", "1d")
_WINDOW = "1h"
_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_CALM = "green"  # below every threshold
_BOUND = "orange"
_JOB = (
    "/d/batchns-job?${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"
    "&var-job_id=${__value.raw}&${__url_time_range}"
)


def texts() -> dict[str, str]:
    """The JSON of every dashboard, by the name of its file."""
    return {
        f"{board.file}.json": json.dumps(dashboard(board), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for board in BOARDS
    }


def dashboard(board: Board) -> models.Dashboard:
    made = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.text)
        .tags([TAG])
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time(board.begin, "now")
        .timezone("browser")
        .refresh("30s")
        .links([_links()])
        .variables([*_variables(board)])
    )
    ids = iter(range(1, 1000))
    for row in board.rows:
        made.with_row(builders.Row(row.title).id(next(ids)))
        for panel in row.panels:
            made.with_panel(_panel(panel).id(next(ids)))
    return made.build()


def _links() -> builders.DashboardLink:
    """To the other dashboards, with what is chosen here."""
    return (
        builders.DashboardLink("batchns")
        .type(models.DashboardLinkType.DASHBOARDS)
        .icon("external link")
        .tooltip("The other dashboards of batchns, with this machine and this time")
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )


def _variables(board: Board) -> Iterator[Any]:
    yield (
        builders.DatasourceVariable("datasource")
        .label("Data source")
        .type("prometheus")
        .description("The Prometheus that scrapes the daemon.")
    )
    yield from map(_variable, board.variables)
    if board.window:
        yield (
            builders.IntervalVariable("window")
            .label("Over")
            .description("The time over which percentiles, means and efficiency are taken.")
            .values(",".join(WINDOWS))
            .current(models.VariableOption(selected=True, text=_WINDOW, value=_WINDOW))
            .options([models.VariableOption(selected=one == _WINDOW, text=one, value=one) for one in WINDOWS])
        )


def _variable(variable: Variable) -> builders.QueryVariable:
    made = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .description(variable.text)
        .query({"query": variable.query, "refId": variable.name})
        .datasource(_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.NUMERICAL_DESC if variable.newest_first else models.VariableSort.ALPHABETICAL_ASC)
        .multi(variable.several)
        .include_all(variable.several)
    )
    if variable.hidden:
        made.hide(models.VariableHide.HIDE_VARIABLE)
    if variable.several:
        made.all_value(".*").current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return made


def _panel(panel: Panel) -> Any:
    match panel:
        case Series():
            made: Any = _series(panel)
        case Stat():
            made = _stat(panel)
        case Table():
            made = _table(panel)
        case Timeline():
            made = _timeline(panel)
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        made.with_target(_target(panel, letter, query))
    made.title(panel.title).description(panel.text).datasource(_SOURCE)
    made.unit(panel.unit.value).span(panel.width).height(panel.height)
    return made.thresholds(_thresholds(panel))


def _target(panel: Panel, letter: str, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).expr(query.expr).datasource(_SOURCE)
    match panel:
        case Table():
            return target.instant().format(PromQueryFormat.TABLE)
        case Stat(label=label):
            return target.instant().legend_format(f"{{{{{label}}}}}" if label else query.legend)
        case _:
            return target.range().legend_format(query.legend)


def _thresholds(panel: Panel) -> builders.ThresholdsConfig:
    steps = [models.Threshold(value=None, color=_CALM)]
    steps += [models.Threshold(value=step.value, color=step.colour) for step in panel.steps]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _series(panel: Series) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .min(0)
        .line_width(1)
        .fill_opacity(40 if panel.stacked else 8)
        .show_points(common.VisibilityMode.AUTO)
        .span_nulls(False)
        .color_scheme(builders.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
    )
    if panel.stacked:
        made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if panel.bars:
        made.draw_style(common.GraphDrawStyle.BARS).fill_opacity(70)
    if panel.maximum is not None:
        made.max(panel.maximum)
    if panel.logarithmic:
        scale = common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        made.scale_distribution(scale)
    if panel.steps:
        made.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED))
    for legend in panel.bounds:
        made.override_by_name(legend, _bound(stacked=panel.stacked))
    return made


def _bound(*, stacked: bool) -> list[models.DynamicConfigValue]:
    """How a line is drawn that bounds others."""
    drawn: dict[str, object] = {
        "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
        "custom.fillOpacity": 0,
        "custom.lineWidth": 2,
        "color": {"mode": "fixed", "fixedColor": _BOUND},
    }
    if stacked:
        drawn["custom.stacking"] = {"mode": "none", "group": "A"}
    return [*_values(drawn)]


def _stat(panel: Stat) -> stat.Panel:
    made = (
        stat.Panel()
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(common.BigValueTextMode.NAME if panel.label else common.BigValueTextMode.AUTO)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .no_value("none")
    )
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    return made.mappings(_mappings(panel.words)) if panel.words else made


def _timeline(panel: Timeline) -> statetimeline.Panel:
    return (
        statetimeline.Panel()
        .mappings(_mappings(panel.words))
        .merge_values(True)
        .show_value(common.VisibilityMode.AUTO)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .color_scheme(builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    )


def _mappings(words: Mapping[int, tuple[str, str]]) -> list[models.ValueMapping]:
    return [
        models.ValueMap(
            options={
                str(value): models.ValueMappingResult(text=text, color=colour, index=index)
                for index, (value, (text, colour)) in enumerate(words.items())
            }
        )
    ]


def _table(panel: Table) -> table.Panel:
    """Answers side by side, one row for what has the same labels."""
    values = {f"Value #{letter}": query for letter, query in zip(ascii_uppercase, panel.queries, strict=False)}
    if len(panel.queries) == 1:
        values = {"Value": panel.queries[0]}
    columns = {name: query.legend for name, query in values.items() if query.legend}
    order = [*panel.labels, *columns]
    made = (
        table.Panel()
        .show_header(True)
        .no_value("-")
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True} | {name: True for name in values if name not in columns},
                    "indexByName": {name: index for index, name in enumerate(order)},
                    "renameByName": {**panel.labels, **columns},
                },
            )
        )
    )
    for query in panel.queries:
        if query.legend and query.unit is not None:
            made.override_by_name(query.legend, [*_values({"unit": query.unit.value})])
    for label, title in panel.labels.items():
        drawn: dict[str, object] = {"unit": Unit.TEXT.value}
        if label == panel.link:
            drawn["links"] = [{"title": "This job", "url": _JOB}]
        made.override_by_name(title, [*_values(drawn)])
    if panel.sort:
        made.sort_by([common_builders.TableSortByFieldState().display_name(panel.sort).desc(True)])
    return made


def _values(values: Mapping[str, object]) -> Iterator[models.DynamicConfigValue]:
    for name, value in values.items():
        yield models.DynamicConfigValue(id_val=name, value=value)
