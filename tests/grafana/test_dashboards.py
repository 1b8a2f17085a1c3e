"""The committed dashboards: as they are made, as Grafana's schema has them, and of nothing that does not exist."""

from __future__ import annotations

import json
import re

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from batchns.metrics.contract import METRICS
from grafana.source import asking
from grafana.source.build import FOLDER, texts

from .known import BOARDS, RULES, expressions, labels_of, unknown
from .promql import Selector, read

EVERY = pytest.mark.parametrize("name", BOARDS)


def through_the_sdk(text: str) -> str:
    """Read by Grafana's schema, and written again: what it does not know is left out."""
    register_default_plugins()
    return json.dumps(Dashboard.from_json(json.loads(text)), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def test_the_committed_ones_are_those_that_are_made():
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == texts(), "make dashboards"


@EVERY
def test_grafanas_schema_knows_all_of_it(name):
    text = (FOLDER / f"{name}.json").read_text()
    assert through_the_sdk(text) == text


def test_grafanas_schema_leaves_out_what_it_does_not_know():
    text = (FOLDER / "job.json").read_text()
    assert through_the_sdk(text.replace('"gridPos"', '"gridPosition"')) != text.replace('"gridPos"', '"gridPosition"')


def test_uids_stay():
    """Links and bookmarks of other people have them."""
    assert {name: board["uid"] for name, board in BOARDS.items()} == {
        "daemon": "batchns-daemon",
        "job": "batchns-job",
        "node": "batchns-node",
        "users": "batchns-users",
    }


@EVERY
def test_every_panel_says_what_it_shows_and_in_which_unit(name):
    for panel in asking.panels(BOARDS[name]):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    titles = [panel["title"] for panel in BOARDS[name]["panels"]]
    assert len(set(titles)) == len(titles)


@EVERY
def test_panels_fill_the_grid_and_none_covers_another(name):
    places = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    deepest = max(y for _, y in cells) + 1
    assert len(set(cells)) == len(cells) == 24 * deepest
    ids = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert len(set(ids)) == len(ids)


@EVERY
def test_links_lead_to_dashboards_that_there_are(name):
    board = BOARDS[name]
    assert [link["tags"] for link in board["links"]] == [board["tags"]] == [["batchns"]]
    for uid in re.findall(r"/d/([\w-]+)", json.dumps(board)):
        assert uid in [other["uid"] for other in BOARDS.values()]


@EVERY
def test_every_variable_is_there_and_is_used(name):
    board = BOARDS[name]
    have = {one["name"] for one in board["templating"]["list"]}
    used = {found for _, target in asking.queries(board) for found in re.findall(r"\$(\w+)", target["expr"])}
    asked = {found for query in asking.variables(board).values() for found in re.findall(r"\$(\w+)", query)}
    assert used | asked <= have | {"__rate_interval", "__range"}
    assert have - {"datasource"} <= used | asked


class TestNamesExist:
    @pytest.mark.parametrize(("where", "expr"), [*expressions()], ids=[where for where, _ in expressions()])
    def test_in_every_panel_and_rule(self, where, expr):
        assert unknown(expr) == []

    @EVERY
    def test_in_every_variable(self, name):
        for query in asking.variables(BOARDS[name]).values():
            selector, label = asking.parts_of(query)
            assert unknown(selector) == []
            (found,) = read(selector).selectors
            assert label in (labels_of(found.metric) or ())

    @EVERY
    def test_in_every_legend(self, name):
        for title, target in asking.queries(BOARDS[name]):
            labels = set().union(*(labels_of(one.metric) or () for one in read(target["expr"]).selectors))
            assert {*re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))} <= labels, title

    def test_in_every_alerts_words(self):
        for rule in RULES:
            labels = set().union(*(labels_of(one.metric) or () for one in read(rule["expr"]).selectors))
            assert {*re.findall(r"\$labels\.(\w+)", json.dumps(rule.get("annotations", "")))} <= labels

    def test_every_metric_is_shown_somewhere(self):
        seen = {selector.metric for _, expr in expressions() for selector in read(expr).selectors}
        assert [name for name, metric in METRICS.items() if not seen & {*metric.series}] == []

    @pytest.mark.parametrize(
        ("right", "wrong", "said"),
        [
            ("batchns_jobs{", "batchns_job{", "there is no series batchns_job"),
            ("batchns_jobs{", "batchns_jobs_total{", "there is no series batchns_jobs_total"),
            ("queue=~", "queues=~", "batchns_jobs has no label queues"),
            ("RUNNING", "RUNING", "state is never RUNING"),
            ("by (queue)", "by (user)", "none of its series has a label user"),
        ],
    )
    def test_a_wrong_one_is_noticed(self, right, wrong, said):
        (title,) = [where for where, _ in expressions() if where == "users: Running: A"]
        expr = dict(expressions())[title]
        assert unknown(expr) == []
        assert unknown(expr.replace(right, wrong))[0] == said

    def test_a_histogram_has_no_series_of_its_plain_name(self):
        assert unknown("batchns_job_wait_seconds") == ["there is no series batchns_job_wait_seconds"]
        assert unknown("sum by (le) (rate(batchns_job_wait_seconds_sum[1m]))") == ["none of its series has a label le"]


class TestTheTokenizer:
    def test_selectors_and_grouping(self):
        found = read(
            'sum by (a, b) (rate(x:y{c="d{",e!~"f|g"}[5m:1m] offset 1h)) / on (h) group_left (i) z > 1.5e3 and w == 10m'
        )
        assert found.selectors == [
            Selector("x:y", (("c", "=", "d{"), ("e", "!~", "f|g"))),
            Selector("z"),
            Selector("w"),
        ]
        assert found.labels == {"a", "b", "h", "i"}

    def test_an_aggregation_whose_grouping_comes_last(self):
        found = read("max(x) without (a) # and y")
        assert (found.selectors, found.labels) == ([Selector("x")], {"a"})

    def test_what_is_no_promql(self):
        with pytest.raises(ValueError, match="not PromQL"):
            read("x ? y")


@EVERY
def test_what_is_asked_is_of_one_job_of_prometheus_and_one_machine(name):
    for where, target in asking.queries(BOARDS[name]):
        for selector in read(target["expr"]).selectors:
            have = {(label, value) for label, sign, value in selector.matchers if sign == "="}
            assert have >= {("job", "$job"), ("instance", "$instance")}, where


@EVERY
def test_ids_are_shown_and_linked_as_they_are(name):
    """As numbers job 12345 would be "12.3 K", and the link would lead to that."""
    for panel in asking.panels(BOARDS[name]):
        if panel["type"] != "table":
            continue
        units = {
            one["matcher"]["options"]: {each["id"]: each["value"] for each in one["properties"]}.get("unit")
            for one in panel["fieldConfig"]["overrides"]
        }
        (order,) = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
        labels = [title for label, title in order["renameByName"].items() if not label.startswith("Value")]
        assert labels
        assert {units.get(label) for label in labels} == {"string"}
        assert "__value.text" not in json.dumps(panel)


@EVERY
def test_numbers_and_tables_are_of_now_and_a_job_that_is_over_still_has_them(name):
    for panel in asking.panels(BOARDS[name]):
        if panel["type"] in ("stat", "table"):
            for target in panel["targets"]:
                assert target["instant"] and not target.get("range"), panel["title"]
                if name == "job" and panel["title"] != "CPUs used":
                    assert "last_over_time(" in target["expr"], panel["title"]
