"""Write the scripts of `batchns completion` beside this file, for packages."""

from __future__ import annotations

from pathlib import Path

from batchns.cli.completion import SHELLS, script


def scripts() -> dict[str, str]:
    """Text by name of file."""
    return {f"batchns.{shell}": script(shell) + "\n" for shell in SHELLS}


if __name__ == "__main__":
    for name, text in scripts().items():
        Path(__file__).with_name(name).write_text(text)
