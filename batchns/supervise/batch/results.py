"""What became of a job on a node, in a file that the command line reads: replaced as a whole, synced at the end.

A folder that cannot be written to costs the job nothing: it is said once, on its stderr.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any


class Result:
    """`values`: what the file says."""

    def __init__(self, path: str, values: dict[str, Any]) -> None:
        self._path = path
        self._host = str(values.get("host") or socket.gethostname())
        self._told = False
        self.values = values

    @classmethod
    def of_job(cls, folder: str, job_id: str, key: str, node: str = "") -> Result:
        """What is there of this very submission, or nothing yet. `node`: this one, as Slurm calls it."""
        path = f"{folder}/results/{job_id}.json"
        try:
            with open(path) as file:  # noqa: PTH123
                values = json.load(file)
            if values["key"] != key:
                values = {}
        except (OSError, ValueError, KeyError, TypeError):
            values = {}
        known = {"version": 1, "job": job_id, "key": key, "attempts": 0, "failures": 0, "happened": []}
        known |= {"limits": {}, "usage": {}}
        return cls(path, {**known, **values, "host": node or socket.gethostname(), "pid": os.getpid()})

    @property
    def completed(self) -> bool:
        return self.values.get("state") == "COMPLETED"

    def change(self, event: str, detail: str = "", **values: Any) -> None:
        """Something has happened."""
        now = time.time()
        self.values |= {"since": now, **values}
        happened: list[dict[str, Any]] = self.values["happened"]
        happened.append({"at": now, "event": event, "detail": detail})
        del happened[:-200]
        self._write(sync=False)

    def end(self, state: str, **values: Any) -> None:
        """It is over for good."""
        now = time.time()
        self.values |= {"state": state, "ended": now, "since": now, **values}
        reason = values.get("reason", "")
        self.values["happened"].append({"at": now, "event": state.lower(), "detail": reason})
        self._write(sync=True)

    def _write(self, *, sync: bool) -> None:
        mine = f"{self._path}.{self._host}"
        try:
            with open(mine, "w") as file:  # noqa: PTH123
                json.dump(self.values, file)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(mine, self._path)
        except OSError as error:
            if not self._told:
                self._told = True
                print(f"batchns: what becomes of this job is not recorded: {error}", file=sys.stderr)
