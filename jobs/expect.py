"""expect.py FOLDER RESULTS: did each job of FOLDER/*.toml end as its file says it should?

RESULTS holds the lines that `batchns run --json FOLDER` printed. A job that is meant to end otherwise than COMPLETED
says so in its environment, as EXPECT_STATE. Exits with 1 when a job did not end as meant, or did not run at all.
"""

import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path


def expectations(folder: Path) -> dict[str, str]:
    """Each job's name and the state it is meant to end in."""
    found = {}
    for path in sorted(folder.glob("*.toml")):
        document = tomllib.loads(path.read_text())
        for job in document.get("job", [document]):
            found[job["name"]] = job.get("env", {}).get("EXPECT_STATE", "COMPLETED")
    return found


def main(folder: Path, results: Path) -> int:
    ended = defaultdict(list)
    for line in results.read_text().splitlines():
        record = json.loads(line)
        ended[record["name"]].append(record["state"])
    expected = expectations(folder)
    width = max(map(len, expected))
    wrong = 0
    for name, state in expected.items():
        others = [found for found in ended[name] if found != state] if ended[name] else ["did not run"]
        wrong += bool(others)
        if others:
            print(f"{name:<{width}}  WRONG: {', '.join(sorted(set(others)))}, meant to end as {state}")
        elif state != "COMPLETED":
            print(f"{name:<{width}}  failed as meant: {state}")
    tasks = sum(map(len, ended.values()))
    failures = sum(state != "COMPLETED" for state in expected.values())
    verdict = "all as meant" if not wrong else f"{wrong} NOT as meant"
    print(f"{len(expected)} sample jobs ({tasks} with array tasks), {failures} of them meant to fail: {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
