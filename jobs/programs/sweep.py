"""One task of the sweep: Lyapunov exponents of the logistic map over one eighth of 2.8 <= r <= 4."""

import math
import os
import pathlib

TASKS = 8
VALUES = 40  # of r in each task
SETTLE, STEPS = 500, 20_000

task = int(os.environ["BATCHNS_ARRAY_TASK_ID"])
width = 1.2 / (TASKS * VALUES)
rows = []
for number in range(task * VALUES, (task + 1) * VALUES):
    r = 2.8 + width * number
    x = 0.3
    for _ in range(SETTLE):
        x = r * x * (1 - x)
    total = 0.0
    for _ in range(STEPS):
        x = r * x * (1 - x)
        total += math.log(max(abs(r * (1 - 2 * x)), 1e-300))
    rows.append(f"{r:.6f},{total / STEPS:.6f}\n")
pathlib.Path(f"results/sweep-{task}.csv").write_text("".join(rows))
print(f"task {task}: {len(rows)} values, r from {rows[0].split(',')[0]} to {rows[-1].split(',')[0]}")
