"""User namespaces: writing their id maps, and making one that only carries a map for id-mapped mounts.

Host uid 0 is never mapped: a process that is host root in all but capabilities could still write what root owns.
"""

from __future__ import annotations

import os
import signal
from errno import EPERM

from batchns.kernel import syscalls

Map = tuple[tuple[int, int, int], ...]  # (inside, outside, count)
Ids = tuple[Map, Map]  # of users, of groups


def map_ids(pid: int, ids: Ids) -> None:
    """Write the maps of `pid`'s user namespace and deny setgroups(2) in it. user_namespaces(7).

    Raises:
        OSError: EPERM where the map would contain host uid 0; else the kernel's, with the path of the map.
    """
    uids, gids = ids
    if any(outside == 0 for _, outside, _ in uids):
        raise OSError(EPERM, f"an id map must not contain host uid 0: {uids}")
    for name, value in (("setgroups", "deny"), ("gid_map", _text(gids)), ("uid_map", _text(uids))):
        path = f"/proc/{pid}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), path) from None
        finally:
            os.close(fd)


def _text(entries: Map) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in entries)


def make_mapped(ids: Ids) -> int:
    """A descriptor of a new user namespace that holds the map and no process: for MOUNT_ATTR_IDMAP.

    A child is born in the namespace, waits while it is mapped, and is killed. It ends with its parent, too, whose
    descriptors it has: whoever waits for the end of the parent waits for the last of them.
    """
    reader, writer = os.pipe()
    pid, pidfd = syscalls.clone3(syscalls.CLONE_NEWUSER)
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)  # nobody writes: the end of the parent, however it comes
        os._exit(0)
    try:
        map_ids(pid, ids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        for fd in (pidfd, reader, writer):
            os.close(fd)


class Mapped:
    """What `make_mapped` gave for ids: the last used ones are kept, since ranges come again."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._fds: dict[Ids, int] = {}

    def get(self, ids: Ids) -> int:
        """A descriptor that stays this object's. Raises OSError as `make_mapped` does."""
        fd = self._fds.pop(ids, -1)
        if fd < 0:
            fd = make_mapped(ids)
        self._fds[ids] = fd
        if len(self._fds) > self._most:
            os.close(self._fds.pop(next(iter(self._fds))))
        return fd
