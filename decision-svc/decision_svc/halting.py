"""Halts everything at once: one trouble never keeps the others from being halted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog
from canary_engine.errors import CanaryError
from canary_engine.model import Policy

from decision_svc.documents import stored_policy
from decision_svc.editor import Editor, Who
from decision_svc.snapshot import Snapshot
from decision_svc.store.protocol import PolicyStore, StoreError, StoreUnavailable

log = structlog.get_logger()

AT_ONCE = 16
SUMMARY = "halt release, with all others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Halted:
    """What became of one service key; ``trouble`` says why it could not be halted."""

    service_key: str
    revision: int = 0
    trouble: str = ""


class Halting:
    """Halts every release in force that somebody may halt."""

    def __init__(self, editor: Editor, store: PolicyStore, snapshot: Snapshot) -> None:
        self._editor, self._store, self._snapshot = editor, store, snapshot

    async def halt_all(self, who: Who, may: Callable[[str], bool] = lambda _: True) -> list[Halted]:
        """One entry for each service key with a release in force; halting again changes nothing.

        ``may`` says whether the caller may change a service key. Raises BadRequest without who
        and why, and StoreUnavailable if nothing could be read at all.
        """
        who.check()
        slots = asyncio.Semaphore(AT_ONCE)

        async def in_turn(service_key: str) -> Halted | None:
            async with slots:
                return await self._halt(service_key, who, may)

        found = await asyncio.gather(*map(in_turn, sorted(await self._service_keys())))
        return [halted for halted in found if halted is not None]

    async def _service_keys(self) -> Iterable[str]:
        """Those of the store; where it is spoiled, those in memory must do."""
        try:
            return {*await self._store.revisions(), *self._snapshot.policies()}
        except StoreUnavailable:
            raise
        except StoreError:
            return self._snapshot.policies()

    async def _halt(self, service_key: str, who: Who, may: Callable[[str], bool]) -> Halted | None:
        try:
            if not await self._is_in_force(service_key):
                return None
            if not may(service_key):
                return Halted(service_key=service_key, trouble="your role does not allow it")
            edit = self._editor.halt_if_possible()
            revision = await self._editor.change(service_key, None, who, SUMMARY, edit)
        except CanaryError as error:
            return Halted(service_key=service_key, trouble=str(error))
        except Exception:
            log.exception("could not be halted", service_key=service_key)
            return Halted(service_key=service_key, trouble="internal error; see the service's log")
        return Halted(service_key=service_key, revision=revision)

    async def _is_in_force(self, service_key: str) -> bool:
        held = self._snapshot.get(service_key)
        stored = await self._store.load(service_key)
        # What is gone from the store goes on ruling from memory, so it is halted there.
        policy: Policy | None = held if stored is None else stored_policy(service_key, stored)
        return policy is not None and policy.release is not None and policy.release.is_in_force
