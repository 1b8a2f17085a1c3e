"""steps.py COUNT: work in steps of about a tenth of a second, and see whether any time went by between two of them.

Its result is compared with the one that is known: whatever happened to it meanwhile, nothing of it may be lost.
"""

import sys
import time


def main(count: int) -> int:
    total, longest = 0, 0.0
    last = time.monotonic()
    for step in range(count):
        total += step
        time.sleep(0.1)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    print(f"{count} steps, the longest took {longest:.1f} s")
    return 0 if total == count * (count - 1) // 2 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
