"""expect.py FOLDER RESULTS: did each job of FOLDER/*.toml end as its file says it should?

RESULTS holds the lines that `batchns run --json FOLDER` printed. A job that is meant to end otherwise than COMPLETED
says so in its environment, as EXPECT_STATE; one that is meant to be frozen for another says for how many seconds at
least, as EXPECT_FROZEN. Exits with 1 when a job did not end as meant, or did not run at all.
"""

import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path


def expectations(folder: Path) -> dict[str, tuple[str, float]]:
    """Each job's name, the state it is meant to end in, and for how many seconds it is to be frozen at least."""
    found = {}
    for path in sorted(folder.glob("*.toml")):
        if path.name == "batchns.toml":  # settings
            continue
        document = tomllib.loads(path.read_text())
        for job in document.get("job", [document]):
            env = job.get("env", {})
            found[job["name"]] = (env.get("EXPECT_STATE", "COMPLETED"), float(env.get("EXPECT_FROZEN", "0")))
    return found


def faults(ended: list[dict], state: str, frozen: float) -> list[str]:
    """What is wrong with the ends of a job's tasks."""
    if not ended:
        return [f"did not run, meant to end as {state}"]
    wrong = sorted({f"{record['state']}, meant to end as {state}" for record in ended if record["state"] != state})
    short = min(record.get("frozen_seconds", 0.0) for record in ended)
    if short < frozen:
        wrong.append(f"frozen for {short:.1f} s, meant to be for {frozen:g} s or more")
    return wrong


def main(folder: Path, results: Path) -> int:
    ended = defaultdict(list)
    for line in results.read_text().splitlines():
        record = json.loads(line)
        ended[record["name"]].append(record)
    expected = expectations(folder)
    width = max(map(len, expected))
    wrong = 0
    for name, (state, frozen) in expected.items():
        found = faults(ended[name], state, frozen)
        wrong += bool(found)
        if found:
            print(f"{name:<{width}}  WRONG: {'; '.join(found)}")
        elif state != "COMPLETED":
            print(f"{name:<{width}}  failed as meant: {state}")
        elif frozen:
            print(f"{name:<{width}}  frozen as meant: {ended[name][0]['frozen_seconds']:.1f} s, and completed")
    tasks = sum(map(len, ended.values()))
    failures = sum(state != "COMPLETED" for state, _ in expected.values())
    verdict = "all as meant" if not wrong else f"{wrong} NOT as meant"
    print(f"{len(expected)} sample jobs ({tasks} with array tasks), {failures} of them meant to fail: {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
