"""Rules and settings as Prometheus' own tool sees them, and every expression of the dashboards with them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from grafana.source import asking

from .known import ALERTS, BOARDS, FOLDER, RECORDED, RULE_FILES, expressions, placeholders

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def all_expressions(replace: tuple[str, str] = ("", "")) -> str:
    """A rule file that records every expression of a dashboard."""
    values = placeholders()
    rules = [
        {"record": f"panel:{number}", "expr": asking.filled(expr, values).replace(*replace)}
        for number, (where, expr) in enumerate(expressions())
        if ":" in where and where not in RECORDED
    ]
    assert len(rules) > 80
    return yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]})


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_rules_are_right(path):
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done


@pytest.mark.parametrize("path", [*(FOLDER / "rules/tests").glob("*.yml")], ids=lambda path: path.name)
def test_rules_do_what_they_are_for(path):
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done


def test_a_rule_that_does_something_else_is_noticed(tmp_path):
    """The tests of rules are none of those that always pass."""
    shutil.copytree(FOLDER / "rules", tmp_path / "rules")
    alerts = tmp_path / "rules/batchns-alerts.yml"
    alerts.write_text(alerts.read_text().replace("== 0", "== 2"))
    assert promtool("test", "rules", tmp_path / "rules/tests/batchns-alerts.yml").returncode != 0


def test_the_example_of_settings_is_right():
    done = promtool("check", "config", FOLDER / "prometheus.yml")
    assert done.returncode == 0, done


def test_every_expression_of_a_panel_can_be_parsed(tmp_path):
    (tmp_path / "panels.yml").write_text(all_expressions())
    done = promtool("check", "rules", "--lint=none", tmp_path / "panels.yml")
    assert done.returncode == 0, done


def test_one_that_cannot_be_parsed_is_noticed(tmp_path):
    (tmp_path / "panels.yml").write_text(all_expressions(("sum by (state) (", "sum by (state) ((")))
    assert promtool("check", "rules", tmp_path / "panels.yml").returncode != 0


class TestAlerts:
    def test_each_says_how_bad_it_is_and_what_to_type(self):
        for name, rule in ALERTS.items():
            assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
            assert {*rule["annotations"]} == {"summary", "description"}, name
            assert re.search(r"[Tt]ype:? .*(batchns|systemctl|promtool)", rule["annotations"]["description"]), name

    def test_each_is_tested_and_told_of(self):
        tested = yaml.safe_load((FOLDER / "rules/tests/batchns-alerts.yml").read_text())["tests"]
        speaks, silent = set(), set()
        for check in (check for test in tested for check in test["alert_rule_test"]):
            (speaks if check["exp_alerts"] else silent).add(check["alertname"])
        assert speaks == silent == {*ALERTS}
        readme = (FOLDER / "README.md").read_text()
        told = re.findall(r"^\| `(\w+)` \| (\w+) \|", readme, flags=re.MULTILINE)
        assert sorted(told) == sorted((name, rule["labels"]["severity"]) for name, rule in ALERTS.items())

    def test_every_recorded_rule_is_tested(self):
        text = (FOLDER / "rules/tests/batchns-recording.yml").read_text()
        assert [name for name in RECORDED if f"{name}" not in text] == []


def test_provisioning_is_yaml_that_names_where_things_are():
    for kind in ("dashboards", "datasources"):
        settings = yaml.safe_load((FOLDER / f"provisioning/{kind}/batchns.yml").read_text())
        assert settings["apiVersion"] == 1
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/batchns.yml").read_text())["datasources"]
    assert source["name"] == "batchns Prometheus", "another one of that name would be replaced"
    assert yaml.safe_load((FOLDER / "prometheus.yml").read_text())["alerting"]["alertmanagers"]
    settings = yaml.safe_load((FOLDER / "provisioning/dashboards/batchns.yml").read_text())
    assert f"{settings['providers'][0]['options']['path']}/" in (FOLDER / "README.md").read_text()
    assert {path.stem for path in Path(FOLDER / "dashboards").iterdir()} == {*BOARDS}
