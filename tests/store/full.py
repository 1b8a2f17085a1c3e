"""Fill a small file system with a store, make room, and see that it works on: python -m tests.store.full FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from batchns.store.interface import StoreError
from batchns.store.store import Store

from . import batches


def main(folder: Path) -> str:
    filler = folder / "filler"
    filler.write_bytes(bytes(1 << 20))
    told = []
    acknowledged, refused = [], []
    with Store.open(folder / "state" / "batchns.db") as store:
        for number in range(1000):
            try:
                store.commit(batches.batch(number))
                acknowledged.append(number)
            except StoreError as error:
                refused.append(number)
                told.append(str(error))
                if len(refused) == 3:
                    break
        assert len(refused) == 3, "it is never full"
        assert all("the disk is full" in text and "df -h" in text for text in told), told
        assert store.load().notes["batch"] == acknowledged[-1]
        filler.unlink()
        for number in range(1000, 1003):
            store.commit(batches.batch(number))
            acknowledged.append(number)
    with Store.open(folder / "state" / "batchns.db") as store:
        assert store.check() == []
        assert not any(batches.missing(store, number) for number in acknowledged)
        assert all(store.job(str(batches.JOBS * number + 1)) is None for number in refused)
    return f"{len(acknowledged)} batches acknowledged, {len(refused)} refused"


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
