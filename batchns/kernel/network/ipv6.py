"""The machine's side of the jobs' IPv6: is there a way out, and does the kernel forward there.

1. Unlike IPv4's, IPv6 forwarding is one switch for all interfaces (before Linux 6.17), and it changes what a host does:
   interfaces stop accepting router advertisements, and so lose their default route, unless accept_ra is 2.
2. What is changed is written down before it is changed, and changed back from there.
3. A machine that forwards IPv6 already is left as it is.

Source: Documentation/networking/ip-sysctl.rst, /proc/sys/net/ipv6.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from batchns.kernel.network.addresses import PREFIX, Route, parse_routes6

_CONF = Path("/proc/sys/net/ipv6/conf")
_ROUTES = Path("/proc/self/net/ipv6_route")
_EVERY = ("all", "default")


def routes() -> list[Route]:
    """The machine's IPv6 routes; none on a machine without IPv6."""
    try:
        return parse_routes6(_ROUTES.read_text())
    except FileNotFoundError:
        return []


def way_out() -> str:
    """The interface of a default route; "" where there is none."""
    return next((route.interface for route in routes() if route.destination == "::/0"), "")


class Forwarding:
    """The switch, and what has to be changed with it. `note`: the file in which that is written down."""

    def __init__(self, note: Path) -> None:
        self._note = note

    @property
    def ours(self) -> bool:
        """Whether it is on because of batchns, or would be: then nothing but jobs' traffic may use it."""
        return self._note.exists() or _read("all", "forwarding") == "0"

    @property
    def on(self) -> bool:
        return _read("all", "forwarding") == "1"

    def switch_on(self) -> None:
        """Forward, and go on accepting router advertisements where they are accepted now. Twice is once."""
        if not self.ours:
            return
        accepting, forwarding = self._noted()
        names = [path.name for path in _CONF.iterdir() if path.name not in _EVERY and not path.name.startswith(PREFIX)]
        accepting |= {name for name in names if _read(name, "accept_ra") == "1"}
        if _read("all", "forwarding") == "0":
            forwarding |= {name for name in (*names, "default") if _read(name, "forwarding") == "1"}
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps([sorted(accepting), sorted(forwarding)]))
        fresh.replace(self._note)
        # Not the default: the links of jobs come later, and nothing may accept what a job advertises.
        for name in accepting:
            _write(name, "accept_ra", "2")
        _write("all", "forwarding", "1")

    def switch_off(self) -> None:
        """As it was before."""
        if not self._note.exists():
            return
        accepting, forwarding = self._noted()
        _write("all", "forwarding", "0")
        for name in forwarding:
            _write(name, "forwarding", "1")
        for name in accepting:
            if _read(name, "accept_ra") == "2":
                _write(name, "accept_ra", "1")
        self._note.unlink()

    def _noted(self) -> tuple[set[str], set[str]]:
        try:
            accepting, forwarding = json.loads(self._note.read_text())
        except FileNotFoundError:
            return set(), set()
        return set(accepting), set(forwarding)


def _read(name: str, setting: str) -> str:
    """The setting of an interface; "" where there is none any more."""
    try:
        return (_CONF / name / setting).read_text().strip()
    except FileNotFoundError:
        return ""


def _write(name: str, setting: str, value: str) -> None:
    with suppress(FileNotFoundError):  # the interface has gone
        (_CONF / name / setting).write_text(value)
