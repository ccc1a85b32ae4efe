"""Records in Redis, in the slot of their service key.

Key::

    canary:{<slot>}:record:<release>   hash  record, fence, closed (1 or 0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decision_svc.records.protocol import KEPT_S, Record, RecordKey, RecordState, TooLate
from decision_svc.store.connection import Connection, as_bytes, slot_key
from decision_svc.store.protocol import StoreError, StoreUnavailable
from decision_svc.store.servers import Asked, Script

_PIPELINED = 500
_STATES = {b"0": RecordState.OPEN, b"1": RecordState.CLOSED}


class RedisRecords:
    """See RecordStore."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._put = Script("put_record.lua")

    async def put(self, key: RecordKey, record: Record) -> None:
        """See RecordStore."""
        where = _key(key)
        args: list[bytes | int] = [record.fence, record.data, int(record.is_closed), KEPT_S]
        newest = await self._connection.ask(where, self._put.on([where], args))
        if int(newest) > record.fence:
            raise TooLate(key, record.fence, int(newest))

    async def get(self, key: RecordKey) -> Record | None:
        """See RecordStore."""
        where = _key(key)
        fields = ["record", "fence", "closed"]
        data, fence, closed = await self._connection.ask(
            where, lambda redis: redis.hmget(where, fields)
        )
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
            answers = await self._connection.ask_some([_is_closed(key) for key in some])
            for key, answer in zip(some, answers, strict=True):
                found[key] = _state(answer)
        return found


def _state(answer: bytes | str | StoreError | None) -> RecordState:
    if isinstance(answer, StoreUnavailable):
        return RecordState.OPEN
    if isinstance(answer, StoreError):
        raise answer
    if answer is None:
        return RecordState.NONE
    return _STATES.get(as_bytes(answer), RecordState.OPEN)


def _is_closed(key: RecordKey) -> Asked:
    where = _key(key)
    return Asked(where, lambda redis: redis.hget(where, "closed"))


def _key(key: RecordKey) -> str:
    return slot_key(key.service_key, "record", key.release_id)
