"""What administrators and others may not, although they see the job."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from batchns.daemon.reading import Reading
from batchns.daemon.service import Peer, Refused
from batchns.daemon.serving import Serving
from batchns.model.config import See
from batchns.wire import types as wire

ALICE = Peer(uid=1001, gid=1001, user="alice", admin=False, groups=(1001,))
BOB = Peer(uid=1002, gid=1002, user="bob", admin=False, groups=(1002,))
ADMIN = Peer(uid=1003, gid=1003, user="carol", admin=True, groups=(1003,))
ROOT = Peer(uid=0, gid=0, user="root", admin=True, groups=(0,))


class Owned:
    def __getitem__(self, array_id: str) -> Any:
        return SimpleNamespace(uid=ALICE.uid)


@pytest.mark.parametrize(("peer", "code"), [(ADMIN, "forbidden"), (ALICE, "conflict"), (ROOT, "conflict")])
def test_nobody_enters_a_job_but_its_owner_and_root(peer: Peer, code: str) -> None:
    """Who is in a job has its owner's rights on files: root's, in a job of root's."""
    job = SimpleNamespace(id="7", array_id="7", state=SimpleNamespace(value="PENDING"))
    here: Any = SimpleNamespace(
        control=SimpleNamespace(mine=lambda peer, texts: [job]),
        scheduler=SimpleNamespace(owners=Owned(), books=SimpleNamespace(attempts={})),
    )

    async def main() -> None:
        async with Serving.execute(here, peer, "7", wire.ExecRequest()):
            raise AssertionError

    with pytest.raises(Refused) as refused:
        trio.run(main)
    assert refused.value.code == code


ALL = ["env", "name", "script"]


@pytest.mark.parametrize(("peer", "keys"), [(BOB, ["name"]), (ALICE, ALL), (ROOT, ALL)])
def test_where_everybody_sees_all_jobs_environment_and_script_stay_the_owners(peer: Peer, keys: list[str]) -> None:
    stored = SimpleNamespace(submission=SimpleNamespace(uid=ALICE.uid), ending=object())
    row = wire.JobRow(id="7", array_id="7", name="a", user="alice", queue="normal", state="COMPLETED", submitted=0.0)
    found = wire.JobDetail(row=row, spec={"name": "a", "env": {"TOKEN": "secret"}, "script": "secret"})

    class Here(Reading):
        def _detail(self, job_id: str, stored: object) -> wire.JobDetail:  # type: ignore[override]
            return found

    unused: Any = None
    here = Here(
        config=lambda: SimpleNamespace(daemon=SimpleNamespace(see=See.ALL)),  # type: ignore[arg-type,return-value]
        journal=SimpleNamespace(job=lambda job_id: stored),  # type: ignore[arg-type]
        books=SimpleNamespace(schedule={}),  # type: ignore[arg-type]
        hub=unused,
        owners=unused,
        clock=unused,
    )
    assert sorted(trio.run(here.job, peer, "7").spec) == keys


def test_a_job_that_leaves_memory_while_it_is_looked_up_is_looked_up_again() -> None:
    """Its end is recorded before it leaves."""
    looks: list[Any] = [SimpleNamespace(submission=SimpleNamespace(uid=0), ending=ending) for ending in (None, "over")]
    seen: list[Any] = []

    class Here(Reading):
        def _detail(self, job_id: str, stored: Any) -> wire.JobDetail:
            seen.append(stored.ending)
            return None  # type: ignore[return-value]

    unused: Any = None
    here = Here(
        config=lambda: SimpleNamespace(daemon=SimpleNamespace(see=See.OWN)),  # type: ignore[arg-type,return-value]
        journal=SimpleNamespace(job=lambda job_id: looks.pop(0)),  # type: ignore[arg-type]
        books=SimpleNamespace(schedule={}),  # type: ignore[arg-type]
        hub=unused,
        owners=unused,
        clock=unused,
    )
    trio.run(here.job, ROOT, "7")
    assert seen == ["over"]
