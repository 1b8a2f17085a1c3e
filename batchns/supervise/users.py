"""Who submits, as the user database of this host has it."""

from __future__ import annotations

import os
import pwd

from batchns.errors import UserError
from batchns.model.submitter import Submitter


def current() -> Submitter:
    """The user who runs this process. One without an entry in the database has the process's groups.

    What counts is who has the rights: behind sudo that is root.
    """
    uid = os.geteuid()
    try:
        return _of(pwd.getpwuid(uid))
    except KeyError:
        groups = tuple(sorted({os.getegid(), *os.getgroups()}))
        return Submitter(name=str(uid), uid=uid, gid=os.getegid(), groups=groups)


def numbered(uid: int) -> Submitter:
    """The user of that number.

    Raises:
        UserError: there is none.
    """
    try:
        return _of(pwd.getpwuid(uid))
    except (KeyError, OverflowError):
        raise UserError(f"there is no user {uid} on this host", "see the users: getent passwd") from None


def named(name: str) -> Submitter:
    """The user of that name, or of that number.

    Raises:
        UserError: there is none.
    """
    try:
        entry = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise UserError(f"there is no user {name!r} on this host", "see the names: getent passwd") from None
    return _of(entry)


def _of(entry: pwd.struct_passwd) -> Submitter:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Submitter(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=tuple(sorted({entry.pw_gid, *groups})),
        home=entry.pw_dir or "/",
        shell=entry.pw_shell or "/bin/sh",
    )
