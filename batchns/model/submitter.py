"""Who submits a job: whose rights it has on the host."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Submitter:
    """A user of the host's user database. `groups`: all host gids, the primary one among them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    shell: str = "/bin/sh"

    @property
    def is_root(self) -> bool:
        return self.uid == 0


ROOT = Submitter(name="root", uid=0, gid=0, groups=(0,), home="/root")
