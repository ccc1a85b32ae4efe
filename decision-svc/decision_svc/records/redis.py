"""Records in Redis, in the slot of their service key.

Key::

    canary:{<slot>}:record:<release>   hash  record, fence, closed (1 or 0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decision_svc.records.protocol import KEPT_S, Record, RecordKey, RecordState, TooLate
from decision_svc.store.connection import Connection, as_bytes, slot_key
from decision_svc.store.protocol import StoreError

_PIPELINED = 500
_STATES = {b"0": RecordState.OPEN, b"1": RecordState.CLOSED}


class RedisRecords:
    """See RecordStore."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._put = connection.script("put_record.lua")

    async def put(self, key: RecordKey, record: Record) -> None:
        """See RecordStore."""
        where = _key(key)
        args: list[bytes | int] = [record.fence, record.data, int(record.is_closed), KEPT_S]
        newest = await self._connection.ask(where, self._put(keys=[where], args=args))
        if int(newest) > record.fence:
            raise TooLate(key, record.fence, int(newest))

    async def get(self, key: RecordKey) -> Record | None:
        """See RecordStore."""
        where = _key(key)
        asked = self._connection.client.hmget(where, ["record", "fence", "closed"])
        data, fence, closed = await self._connection.ask(where, asked)
        if data is None or fence is None or closed is None:
            return None
        try:
            return Record(data=as_bytes(data), fence=int(fence), is_closed=bool(int(closed)))
        except ValueError as error:
            raise StoreError(f"{where} holds something that is not a record") from error

    async def states(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, RecordState]:
        """See RecordStore."""
        found: dict[RecordKey, RecordState] = {}
        for start in range(0, len(keys), _PIPELINED):
            some = keys[start : start + _PIPELINED]
            async with self._connection.pipeline() as pipeline:
                for key in some:
                    pipeline.hget(_key(key), "closed")
                answers = await self._connection.ask_all("records", pipeline)
            for key, answer in zip(some, answers, strict=True):
                state = RecordState.NONE if answer is None else _STATES.get(as_bytes(answer))
                found[key] = state or RecordState.OPEN
        return found


def _key(key: RecordKey) -> str:
    return slot_key(key.service_key, "record", key.release_id)
