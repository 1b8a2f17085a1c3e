"""`batchns exec-spec SCRIPT`: the batch process of a job on a node of a Slurm cluster.

1. It is the process that Slurm has started, not a child of a shell: its signals and its end are the job's.
2. Nothing is made outside of what Slurm tracks: no cgroups, no daemon that would fork for it.
3. A file in the user's folder says what became of the job; written whole or not at all.
4. What has completed is not run again when Slurm, which may not have heard of it, starts it once more.

Few modules are imported, none of them with an event loop: a node starts many of these.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from batchns.errors import BatchnsError, UserError
from batchns.model.parcel import VERSION, unpack
from batchns.supervise.batch.place import FIRST
from batchns.supervise.batch.results import Result
from batchns.supervise.batch.single import Supervision
from batchns.supervise.batch.wanted import wanted

EXIT_HOST = 125


def main(script: str, environ: Mapping[str, str] = os.environ) -> int:
    """The exit code for Slurm: 0 only where the job has completed. `script` "-": see `member`."""
    if script == "-":
        return _member(environ)
    nodes = count(environ)
    try:
        with open(script) as file:  # noqa: PTH123
            content = unpack(file.read())
        job_id = job_id_of(environ)
    except (OSError, ValueError, KeyError) as error:
        print(f"batchns: {script} is no batch script of batchns, or not one of a job: {error}", file=sys.stderr)
        return EXIT_HOST
    result = Result.of_job(content["folder"], job_id, content["key"], _where(environ))
    if result.completed:
        print(f"batchns: job {job_id} has completed before; it is not run again", file=sys.stderr)
        return 0
    try:
        if content.get("version") != VERSION:
            what = f"it was submitted by a batchns of another version ({content.get('version')}, not {VERSION})"
            raise UserError(what, "submit it again")
        kind: type[Supervision] = Supervision
        if nodes > 1:
            from batchns.supervise.batch.nodes import Coordination

            kind = Coordination
        return kind(wanted(content["spec"]), content, job_id, result, environ).run()
    except (BatchnsError, OSError) as error:
        result.end("FAILED", reason=str(error))
        print(f"batchns: {error}", file=sys.stderr)
        return EXIT_HOST


def process(script: str) -> NoReturn:
    """`main`, with its exit code as this process's, which looks for garbage neither before nor behind it."""
    gc.freeze()
    gc.enable()
    code = main(script)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _member(environ: Mapping[str, str]) -> int:
    """0 once the first node knows how it ended, so that srun has nothing to say of it in the job's own files."""
    from batchns.supervise.batch.member import set_up

    try:
        content, orders, told = set_up(environ)
    except (OSError, ValueError, KeyError) as error:
        print(f"batchns: {error}", file=sys.stderr)
        return EXIT_HOST
    environ = {**environ, FIRST: content["first"]}
    try:
        Supervision(wanted(content["spec"]), content, job_id_of(environ), told, environ, orders).run()
    except (BatchnsError, OSError) as error:
        told.end("FAILED", reason=str(error))
    return 0


def count(environ: Mapping[str, str]) -> int:
    """Nodes of the allocation."""
    text = environ.get("SLURM_JOB_NUM_NODES", "")
    return int(text) if text.isdecimal() else 1


def _where(environ: Mapping[str, str]) -> str:
    """This node, or all of the job, as Slurm calls them."""
    return environ.get("SLURM_JOB_NODELIST" if count(environ) > 1 else "SLURMD_NODENAME", "")


def job_id_of(environ: Mapping[str, str]) -> str:
    """ "12", of an array's task "12_3"."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ["SLURM_JOB_ID"]
