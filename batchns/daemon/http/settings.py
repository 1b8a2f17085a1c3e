"""Where the API listens, who administers, and what one user may take of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import Factory, frozen


@frozen(kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds. What is above is refused; root has `reserve` connections of its own."""

    header: int = 16 << 10
    body: int = 1 << 20
    files: int = 8 << 20  # the body of a submission
    connections: int = 512
    per_user: int = 100  # that of batchns.toml
    reserve: int = 32
    turns: int = 8  # questions of one user that are worked on at the same time
    idle: float = 75.0  # an open connection without a question
    request: float = 20.0  # from a request's first byte to its last
    write: float = 20.0  # 64 KiB of an answer; a stream's reader may take its time
    grace: float = 2.0  # at the end, for answers that are being made
    heartbeat: float = 15.0


@frozen(kw_only=True)
class Tls:
    """A TCP listener that takes nobody without a certificate of `authority`. All of them files of PEM.

    `users`: common name of a certificate's subject to a user of this machine; other names are the user's own. Root must
    be named here.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    authority: Path
    users: Mapping[str, str] = Factory(dict)


@frozen(kw_only=True)
class Settings:
    """`admins`, `admin_groups`: names of users and groups that may do all that root may, root aside."""

    socket: Path
    mode: int = 0o666
    admins: frozenset[str] = frozenset()
    admin_groups: frozenset[str] = frozenset()
    limits: Limits = Limits()
    tls: Tls | None = None
