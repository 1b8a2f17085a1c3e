"""The reference pages: every key has its row, made from the tables, and every example in them is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from batchns.model.codec import check_dependencies, parse_jobs
from batchns.model.config import Config
from batchns.model.config_table import config_table, parse_config
from batchns.model.daemon_table import ADMINS, TLS
from batchns.model.job_table import job_table
from batchns.model.kinds import Table
from batchns.model.queue_table import PER_JOB, PER_USER, QUEUE, TOTAL

DOCS = Path(__file__).parents[2] / "docs"
JOB_PAGE = (DOCS / "job-file.md").read_text()
CONFIG_PAGE = (DOCS / "configuration.md").read_text()
SCHEDULING_PAGE = (DOCS / "scheduling.md").read_text()


def section(page: str, heading: str) -> str:
    return re.split(r"^## ", page, flags=re.MULTILINE)[
        [part.partition("\n")[0] for part in re.split(r"^## ", page, flags=re.MULTILINE)].index(heading)
    ]


def reference(table: Table[Any]) -> str:
    """One row per key that is not a table itself: key, meaning, default."""
    rows = ["| key | meaning | default |", "|---|---|---|"]
    for key, field in table.fields.items():
        if not isinstance(field.kind, Table):
            default = field.default or ("required" if field.required else "none")
            rows.append(f"| `{key}` | {field.doc} | {default} |")
    return "\n".join(rows)


def tables_of(table: Table[Any]) -> dict[str, Table[Any]]:
    return {key: field.kind for key, field in table.fields.items() if isinstance(field.kind, Table)}


JOB = job_table(Config(), "/home/ada")
SECTIONS = [
    (JOB_PAGE, "Keys of a job", JOB),
    *((JOB_PAGE, f"[{name}]", table) for name, table in tables_of(JOB).items()),
    *((CONFIG_PAGE, f"[{name}]", table) for name, table in tables_of(config_table()).items()),
    *((CONFIG_PAGE, "[daemon]", table) for table in (ADMINS, TLS)),
    *((CONFIG_PAGE, "[queues.NAME]", table) for table in (QUEUE, PER_JOB, PER_USER, TOTAL)),
]


@pytest.mark.parametrize(
    ("page", "heading", "table"),
    SECTIONS,
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_table_in_the_docs_is_the_table_of_the_parser(page: str, heading: str, table: Table[Any]) -> None:
    assert reference(table) in section(page, heading)


def examples(page: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", examples(JOB_PAGE))
def test_every_job_in_the_docs_is_right(text: str) -> None:
    check_dependencies(parse_jobs(text.encode(), file="example.toml", folder="/home/ada", config=Config()))


@pytest.mark.parametrize("text", examples(CONFIG_PAGE) + examples(SCHEDULING_PAGE))
def test_every_setting_in_the_docs_is_right(text: str) -> None:
    assert parse_config(text.encode(), "batchns.toml") != Config()
