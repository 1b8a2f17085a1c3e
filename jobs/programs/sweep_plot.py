"""Join the tables of all tasks and draw them: above the line the logistic map is chaotic."""

import pathlib

points = []
for path in sorted(pathlib.Path("results").glob("sweep-*.csv")):
    points += [tuple(map(float, line.split(","))) for line in path.read_text().split()]
points.sort()
columns, height = 64, 12
low, high = -1.5, 0.8
rows = [[" "] * columns for _ in range(height)]
zero = int((high - 0) / (high - low) * (height - 1))
rows[zero] = ["-"] * columns
for number, (_, exponent) in enumerate(points):
    row = int((high - min(max(exponent, low), high)) / (high - low) * (height - 1))
    rows[row][number * columns // len(points)] = "*"
print("Lyapunov exponent of the logistic map, chaotic above the line")
print("\n".join("".join(row).rstrip() for row in rows))
print(f"r = {points[0][0]:.2f}{'r = 4':>{columns - 8}}")
chaotic = [r for r, exponent in points if exponent > 0.01]
print(f"{len(points)} values of r, {len(chaotic)} chaotic, the first at r = {chaotic[0]:.3f} (known: 3.570)")
if len(points) != 320 or abs(chaotic[0] - 3.570) > 0.01:
    raise SystemExit("the tables are not complete, or not right")
