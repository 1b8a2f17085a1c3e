"""An index of every sequence of up to sixty words: where in the text does it stand? Far too large for 64 MiB."""

import pathlib

index: dict[str, list[int]] = {}
words = [word for path in sorted(pathlib.Path("data").glob("*.txt")) for word in path.read_text().split()]
for length in range(1, 61):
    for place in range(len(words) - length):
        index.setdefault(" ".join(words[place : place + length]), []).append(place)
    print(f"sequences of up to {length} words: {len(index)}", flush=True)
