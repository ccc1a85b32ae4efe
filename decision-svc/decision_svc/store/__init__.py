"""Where policies and people are kept: one interface, a memory and a Redis adapter."""

from __future__ import annotations

from decision_svc.store.protocol import ChangeRecord, PolicyStore

__all__ = ["was_saved"]


async def was_saved(store: PolicyStore, service_key: str, record: ChangeRecord) -> bool:
    """Whether this very write is what revision ``record.revision`` holds.

    For the writer whose ``save`` ended with StoreUnavailable, which leaves open whether it
    was done: repeating it is safe, and if that loses the race, this tells from whom.
    """
    found = await store.changes(service_key, before=record.revision + 1, limit=1)
    return list(found) == [record]
