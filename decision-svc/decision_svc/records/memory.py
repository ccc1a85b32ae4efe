"""Records in memory, gone when the service ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from decision_svc.records.protocol import Record, RecordKey, RecordState, TooLate

# A megabyte each at most.
_RECORDS = 1_000


class MemoryRecords:
    """See RecordStore; the oldest record makes room where there is none."""

    def __init__(self) -> None:
        self._records: OrderedDict[RecordKey, Record] = OrderedDict()

    async def put(self, key: RecordKey, record: Record) -> None:
        """See RecordStore."""
        old = self._records.get(key)
        if old is not None and old.fence > record.fence:
            raise TooLate(key, record.fence, old.fence)
        self._records[key] = record
        self._records.move_to_end(key)
        if len(self._records) > _RECORDS:
            self._records.popitem(last=False)

    async def get(self, key: RecordKey) -> Record | None:
        """See RecordStore."""
        return self._records.get(key)

    async def states(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, RecordState]:
        """See RecordStore."""
        return {key: self._state(key) for key in keys}

    def _state(self, key: RecordKey) -> RecordState:
        record = self._records.get(key)
        if record is None:
            return RecordState.NONE
        return RecordState.CLOSED if record.is_closed else RecordState.OPEN
