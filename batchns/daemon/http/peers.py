"""Who is at the other end: the kernel says it (SO_PEERCRED), or a certificate; never the request.

1. The user database may be slow (LDAP): it is asked in a thread, and its answers are believed for some seconds.
2. A uid that is not in it has its number for a name, and no groups but its own.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Mapping
from typing import Any

import trio
from attrs import frozen

from batchns.daemon.service import Peer

BELIEVED = 10.0  # seconds
MANY = 4096  # users that are remembered
_UCRED = struct.Struct("3i")


def credentials(connection: Any) -> tuple[int, int]:
    """(uid, gid) of who connected to a unix socket, as they were then: unix(7), SO_PEERCRED."""
    _, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid, gid


def common_name(certificate: Mapping[str, Any] | None) -> str:
    """Of the subject, as `ssl.SSLSocket.getpeercert` has it; "" where there is none, or more than one."""
    subject = (certificate or {}).get("subject", ())
    names = [value for pairs in subject for key, value in pairs if key == "commonName"]
    return names[0] if len(names) == 1 else ""


@frozen
class _Known:
    peer: Peer | None
    until: float


_Key = tuple[int, int] | str  # (uid, gid), or a name
_Memory = dict[_Key, _Known]


class Peers:
    """The user database, remembered."""

    def __init__(self, admins: frozenset[str], admin_groups: frozenset[str]) -> None:
        self._admins = admins
        self._admin_groups = admin_groups
        self._known: _Memory = {}

    def change(self, admins: frozenset[str], admin_groups: frozenset[str]) -> None:
        """Who administers from now on. A look-up that is under way has its answer forgotten with the others."""
        self._admins, self._admin_groups = admins, admin_groups
        self._known = {}

    async def by_uid(self, uid: int, gid: int) -> Peer:
        known = self._remembered((uid, gid))
        if known and known.peer:
            return known.peer
        memory = self._known
        peer = await trio.to_thread.run_sync(self._look_up, uid, gid)
        self._remember(memory, (uid, gid), peer)
        return peer

    async def by_name(self, name: str) -> Peer | None:
        """None: there is no such user."""
        known = self._remembered(name)
        if known:
            return known.peer
        memory = self._known
        peer = await trio.to_thread.run_sync(self._look_up_name, name)
        self._remember(memory, name, peer)
        return peer

    def _remembered(self, key: _Key) -> _Known | None:
        known = self._known.get(key)
        return known if known and trio.current_time() < known.until else None

    @staticmethod
    def _remember(memory: _Memory, key: _Key, peer: Peer | None) -> None:
        if len(memory) >= MANY:
            memory.clear()
        memory[key] = _Known(peer, trio.current_time() + BELIEVED)

    def _look_up(self, uid: int, gid: int) -> Peer:
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            return Peer(uid=uid, gid=gid, user=str(uid), admin=uid == 0, groups=(gid,))
        groups = tuple(os.getgrouplist(name, gid))
        return Peer(uid=uid, gid=gid, user=name, admin=self._administers(uid, name, groups), groups=groups)

    def _look_up_name(self, name: str) -> Peer | None:
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError):  # NUL
            return None
        return self._look_up(entry.pw_uid, entry.pw_gid)

    def _administers(self, uid: int, name: str, groups: tuple[int, ...]) -> bool:
        return uid == 0 or name in self._admins or any(_group(gid) in self._admin_groups for gid in groups)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
