"""Which ids a job has: inside its user namespace, on the host, and in the folders that it reaches. Pure.

1. Host uid 0 is mapped in no identity: what maps it is no boundary.
2. init has an id of the slot's private range, whoever the command is: the command can neither signal nor trace it.
3. In every identity the job has on the host's files the rights of its submitter, and no others.
4. Without root there is one id to map, the user's own: init has it, too, and is guarded by not being dumpable.
5. The user namespace belongs to that id of init's: what the kernel grants each user so much of (inotify instances,
   pending signals, bytes in message queues) it counts against the owner, too. If that were root, one job could use up
   everybody's.

Sources: user_namespaces(7), mount_setattr(2) on id-mapped mounts.
"""

from __future__ import annotations

from typing import NamedTuple

from batchns.errors import UserError
from batchns.launch.plan import Credentials, IdMap, Ids, Owner
from batchns.model.job import Identity
from batchns.model.submitter import Submitter

IDS_PER_RANGE = 65536
_INIT = 65533  # its place in the slot's range, and its number inside unless that is taken
_GROUPS_MAPPED = 300  # a map has at most 340 lines


class Identified(NamedTuple):
    """`ids`: the user namespace's maps. `shift`: those of id-mapped folders, empty where none is needed."""

    ids: Ids
    shift: Ids
    credentials: Credentials


def identity_of(submitter: Submitter, asked: Identity | None) -> Identity:
    """What is asked for, or the default: `private` for root, `self` for everybody else.

    Raises:
        UserError: root asks for what would map host uid 0.
    """
    if asked is None:
        return Identity.PRIVATE if submitter.is_root else Identity.SELF
    if submitter.is_root and asked is not Identity.PRIVATE:
        raise UserError(
            f"isolation.identity = {asked.value!r} is not for jobs of root: host uid 0 is never a job's",
            'write identity = "private" or nothing, or run the job as another user: batchns run --user NAME',
        )
    return asked


def identify(submitter: Submitter, asked: Identity | None, id_start: int, *, root: bool = True) -> Identified:
    """The ids of a job of `submitter`. `id_start`: the first of its slot's 65536 private ids.

    `root`: batchns has root's rights, and may map whom it likes.

    Raises:
        UserError: as `identity_of`, or nobody but root can give that identity.
    """
    identity = identity_of(submitter, asked)
    if not root:
        return _alone(submitter, identity)
    if identity is Identity.PRIVATE:
        return _private(submitter, id_start)
    uid, gid = (0, 0) if identity is Identity.ROOT else (submitter.uid, submitter.gid)
    groups = [group for group in submitter.groups if group not in (submitter.gid, gid)][:_GROUPS_MAPPED]
    init = _free({uid, gid, *groups})
    its_own = IdMap(init, id_start + _INIT, 1)
    return Identified(
        Ids(
            (IdMap(uid, submitter.uid, 1), its_own),
            (IdMap(gid, submitter.gid, 1), *(IdMap(group, group, 1) for group in groups), its_own),
        ),
        Ids(),
        _credentials(submitter, uid, gid, init)._replace(owner=id_start + _INIT),
    )


def _alone(submitter: Submitter, identity: Identity) -> Identified:
    if identity is Identity.PRIVATE:
        raise UserError(
            "isolation.identity = 'private' needs an id range, which only root's batchns hands out",
            'write identity = "self" or "root", or nothing',
        )
    uid, gid = (0, 0) if identity is Identity.ROOT else (submitter.uid, submitter.gid)
    ids = Ids((IdMap(uid, submitter.uid, 1),), (IdMap(gid, submitter.gid, 1),))
    return Identified(ids, Ids(), _credentials(submitter, uid, gid, uid)._replace(groups=None))


def _private(submitter: Submitter, id_start: int) -> Identified:
    """uid 0 inside. On disk its files are the submitter's: of root all ids, as in a container, of others their own."""
    whole = (IdMap(0, id_start, IDS_PER_RANGE),)
    if submitter.is_root:
        shift = Ids(whole, whole)
    else:
        shift = Ids((IdMap(submitter.uid, id_start, 1),), (IdMap(submitter.gid, id_start, 1),))
    credentials = _credentials(submitter, 0, 0, _INIT, groups=False)._replace(owner=id_start + _INIT)
    return Identified(Ids(whole, whole), shift, credentials)


def _credentials(submitter: Submitter, uid: int, gid: int, init: int, *, groups: bool = True) -> Credentials:
    """`groups`: whether the command has the submitter's."""
    return Credentials(
        uid=uid,
        gid=gid,
        groups=submitter.groups if groups else (),
        init=init,
        submitter=Owner(submitter.uid, submitter.gid, submitter.groups),
    )


def _free(taken: set[int]) -> int:
    return next(number for number in range(_INIT, 0, -1) if number not in taken)
