"""Making the loop's changes durable: one batch for each turn, which is the group commit of all who came in it.

1. What could not be written is kept in memory, in its order, and tried again; nobody is told that it is durable.
2. Endings and notes go with the changes that they belong to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from attrs import define, field

from batchns.core.changes import Finished
from batchns.errors import HostError
from batchns.store.interface import Batch, Ending, Entry, Journal, Json, Submission
from batchns.supervise.ports import Blocking


@define(kw_only=True, eq=False)
class Recorder:
    """`notes`: what is to be kept beside every batch in which something ended, asked for when it is written."""

    journal: Journal
    blocking: Blocking
    notes: Callable[[], Mapping[str, Json]] = dict
    committed: Callable[[float, bool], None] = lambda seconds, durable: None  # told of each batch: how long it took
    trouble: str = ""  # why the last batch could not be written
    _entries: list[Entry] = field(init=False, factory=list)
    _endings: list[Ending] = field(init=False, factory=list)
    _notes: dict[str, Json] = field(init=False, factory=dict)

    @property
    def pending(self) -> bool:
        return bool(self._entries or self._endings or self._notes)

    def note(self, entry: Entry) -> None:
        """To be written with the next batch."""
        self._entries.append(entry)

    def ending(self, ending: Ending) -> None:
        """To be written with the next batch."""
        self._endings.append(ending)

    def keep(self, name: str, value: Json) -> None:
        """A note, with the next batch."""
        self._notes[name] = value

    async def commit(
        self, submissions: Sequence[Submission] = (), notes_too: Mapping[str, Json] = MappingProxyType({})
    ) -> HostError | None:
        """See `supervise.ports.Recorder`."""
        entries, endings, notes = tuple(self._entries), tuple(self._endings), dict(self._notes)
        ended = any(isinstance(entry.change, Finished) for entry in entries)
        batch = Batch(
            submissions=tuple(submissions),
            entries=entries,
            endings=endings,
            notes={**(self.notes() if ended else {}), **notes, **notes_too},
        )
        begun = time.perf_counter()
        try:
            await self.blocking(partial(self.journal.commit, batch))
        except HostError as error:
            self.trouble = str(error)
            self.committed(time.perf_counter() - begun, False)
            return error
        self.committed(time.perf_counter() - begun, True)
        self.trouble = ""
        del self._entries[: len(entries)]
        del self._endings[: len(endings)]
        for name, value in notes.items():
            if self._notes.get(name) is value:
                del self._notes[name]
        return None
