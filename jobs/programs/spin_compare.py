"""Compare what the two spinners got of their CPU: asked 3 to 1."""

import json
import pathlib
import sys

heavy, light = (json.loads(pathlib.Path(f"results/spin-{name}.json").read_text()) for name in ("heavy", "light"))
ratio = heavy["cpu"] / light["cpu"]
print(f"CPU time {ratio:.2f} to 1, work done {heavy['work'] / light['work']:.2f} to 1; asked: 3 to 1")
if not 2.5 < ratio < 3.5:
    sys.exit("the weights did not take effect")
