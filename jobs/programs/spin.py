"""spin.py ME OTHER: spin beside the other job for the same seconds, and write down the work done and the CPU time.

The two find each other through files in the folder they share; the monotonic clock is the same in both.
"""

import json
import pathlib
import sys
import time

SECONDS = 4.0
me, other = sys.argv[1:]
here, there = (pathlib.Path(f"results/spin-{name}.ready") for name in (me, other))
asked = time.monotonic()
here.write_text(repr(asked))
while True:
    try:
        told = float(there.read_text())
    except (FileNotFoundError, ValueError):
        told = 0.0
    # A time from an earlier run is too old to be the other job of this one.
    if abs(told - asked) < 30:
        break
    if time.monotonic() > asked + 30:
        sys.exit("the other job did not come")
    time.sleep(0.02)

start = max(asked, told) + 0.5
while time.monotonic() < start:
    time.sleep(0.005)
cpu = time.process_time()
work = 0
while time.monotonic() < start + SECONDS:
    for _ in range(1000):
        work += 1
cpu = time.process_time() - cpu
here.unlink()
pathlib.Path(f"results/spin-{me}.json").write_text(json.dumps({"work": work, "cpu": cpu}))
print(f"{me}: {work / 1e6:.1f} million rounds, {cpu:.2f} s of CPU time in {SECONDS:.0f} s")
