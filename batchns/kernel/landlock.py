"""Landlock: a process gives up rights over files for good, whatever its mounts and credentials let it do.

Source: Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h. Few imports: every sandbox loads this.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress
from errno import EBADFD, EINVAL, ENOENT, ENOSYS, EOPNOTSUPP

from batchns.kernel import syscalls as sys

LEAST = 2  # the first version in which a file may still be renamed from one folder to another

_NR_CREATE, _NR_ADD, _NR_RESTRICT = 444, 445, 446
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_FOLDERS = 0b1_1111_1111_0000 | 1 << 13  # remove and make entries of any kind, and move them: REMOVE_DIR to REFER
_RESOLVE_UNIX = 1 << 16  # connect or send to a unix socket by its path
_SOCKETS = 9  # the first version that has it: Linux 7.1
_ABSTRACT_SOCKETS = 1  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
_SCOPES = 6  # the first version that has it
_RULESET = struct.Struct("=QQQ")  # struct landlock_ruleset_attr: fs, net, scoped
_RULE = struct.Struct("=Qi")  # struct landlock_path_beneath_attr, packed


def version() -> int:
    """What the kernel offers; 0: it has no Landlock, or not at this boot."""
    try:
        return sys.call("landlock_create_ruleset", _NR_CREATE, None, 0, _VERSION)
    except OSError as error:
        if error.errno in (ENOSYS, EOPNOTSUPP):
            return 0
        raise


def ruleset(
    writable: tuple[str, ...], outputs: tuple[int, ...] = (), *, reached: tuple[str, ...] = (), apart: bool = False
) -> int:
    """A descriptor for `restrict`: nothing may be written, made, moved or removed but beneath these paths.

    `outputs`: descriptors of files that may be written to as well, by whichever name. `reached`: where the kernel
    knows of that, unix sockets of others are connected to beneath these and the writable paths only. `apart`: the same
    of abstract ones, and none. -1: the kernel has no Landlock that will do.

    Raises:
        OSError: the kernel refuses it, or one of the paths, but that of what is not there.
    """
    known = version()
    if known < LEAST:
        return -1
    sockets = _RESOLVE_UNIX if known >= _SOCKETS else 0
    rights = _WRITE_FILE | _FOLDERS | (_TRUNCATE if known >= 3 else 0) | sockets
    scoped = _ABSTRACT_SOCKETS if apart and known >= _SCOPES else 0
    attributes = _RULESET.pack(rights, 0, scoped)[: None if scoped else 8]
    made = sys.call("landlock_create_ruleset", _NR_CREATE, attributes, len(attributes), 0)
    for path in writable:
        _allow_path(made, path, rights)
    for path in reached if sockets else ():
        with suppress(PermissionError):
            _allow_path(made, path, sockets)
    for output in outputs:
        if stat.S_ISREG(os.fstat(output).st_mode):
            _allow(made, output, rights)
    return made


def _allow_path(made: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == ENOENT:
            return
        raise
    _allow(made, place, rights)
    os.close(place)


def _allow(made: int, place: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(place).st_mode):
        rights &= _WRITE_FILE | _TRUNCATE | _RESOLVE_UNIX
    try:
        sys.call("landlock_add_rule", _NR_ADD, made, _BENEATH, _RULE.pack(rights, place), 0)
    except OSError as error:
        if error.errno not in (EBADFD, EINVAL):  # not of a file system that has paths: Landlock does not look there
            raise


def restrict(made: int) -> None:
    """From here on this process and all that it starts are held to the rules. It needs no_new_privs."""
    sys.call("landlock_restrict_self", _NR_RESTRICT, made, 0)
