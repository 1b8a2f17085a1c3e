"""The steps of the word count; the first argument names the step."""

import collections
import json
import os
import pathlib
import re
import sys

PARTS = 4
RESULTS = pathlib.Path("results")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def corpus() -> list[str]:
    return [line for path in sorted(pathlib.Path("data").glob("*.txt")) for line in path.read_text().splitlines()]


def split() -> None:
    lines = corpus()
    for part in range(PARTS):
        share = lines[part::PARTS]
        (RESULTS / f"words-{part}.txt").write_text("\n".join(share))
        print(f"part {part}: {len(share)} lines")


def count() -> None:
    part = int(os.environ["BATCHNS_ARRAY_TASK_ID"])
    found = collections.Counter(words((RESULTS / f"words-{part}.txt").read_text()))
    (RESULTS / f"words-{part}.json").write_text(json.dumps(found))
    print(f"part {part}: {found.total()} words, {len(found)} different ones")


def merge() -> None:
    total: collections.Counter[str] = collections.Counter()
    for part in range(PARTS):
        total.update(json.loads((RESULTS / f"words-{part}.json").read_text()))
    (RESULTS / "words.json").write_text(json.dumps(total))
    print(f"{total.total()} words, {len(total)} different ones")


def report() -> None:
    total = collections.Counter(json.loads((RESULTS / "words.json").read_text()))
    for word, number in total.most_common(12):
        print(f"{number:6}  {word:<10} {'#' * (number * 50 // total.most_common(1)[0][1])}")
    if total != collections.Counter(words("\n".join(corpus()))):
        sys.exit("the merged counts are not those of the text")
    print(f"{total.total()} words: the same as counted in one go")


{"split": split, "count": count, "merge": merge, "report": report}[sys.argv[1]]()
