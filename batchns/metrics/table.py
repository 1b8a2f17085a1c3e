"""The contract as the table of docs/metrics.md: `python -m batchns.metrics.table` prints it."""

from __future__ import annotations

from collections.abc import Iterable

from batchns.metrics.contract import ACCOUNTING, DAEMON, JOB, NODE, Metric

SECTIONS = (("The node", NODE), ("Users", ACCOUNTING), ("The daemon", DAEMON), ("Jobs", JOB))


def markdown() -> str:
    return "\n".join(f"### {title}\n\n{_table(metrics)}" for title, metrics in SECTIONS)


def _table(metrics: Iterable[Metric]) -> str:
    lines = ["| name | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for one in metrics:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.name}` | {one.type.value} | {labels} | {one.unit} | {one.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
