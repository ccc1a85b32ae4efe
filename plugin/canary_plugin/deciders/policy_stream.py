"""Keeps what a gateway knows of policies and users at what the service says."""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

import grpc
from canary.decision.v1 import decision_pb2 as pb
from canary_engine.errors import InvalidPolicy

from canary_plugin.config import Baseline
from canary_plugin.deciders import messages
from canary_plugin.deciders.persons import Persons
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.troubles import Troubles

if TYPE_CHECKING:
    from canary.decision.v1.decision_pb2_grpc import DecisionServiceAsyncStub

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0


class PolicyStream:
    """Follows every policy there is, so that a gateway that has just started knows them all."""

    def __init__(
        self,
        stubs: list[DecisionServiceAsyncStub],
        policies: KnownPolicies,
        persons: Persons,
        troubles: Troubles,
        gateway: str,
    ) -> None:
        self._stubs, self._policies, self._persons = stubs, policies, persons
        self._troubles = troubles
        self._gateway = gateway
        self._pause_s = SHORTEST_PAUSE_S
        # By identity and weakly: a baseline is declared for as long as an instance holds it.
        self._baselines: MutableMapping[int, Baseline] = weakref.WeakValueDictionary()
        self._changed = asyncio.Event()
        self._whole_since: float | None = None
        self.complete = asyncio.Event()
        """Set once every policy there was has been heard."""

    @property
    def age_s(self) -> float:
        """For how long the stream that stands has told everything; 0 while there is none."""
        return 0.0 if self._whole_since is None else time.monotonic() - self._whole_since

    def declare(self, baseline: Baseline) -> None:
        """Let people see a baseline of this gateway, for as long as the caller holds it."""
        if all(other.hash != baseline.hash for other in self._baselines.values()):
            self._changed.set()
        self._baselines[id(baseline)] = baseline
        weakref.finalize(baseline, self._changed.set).atexit = False

    async def run(self) -> None:
        """Follow until cancelled; a broken stream is opened again at the next address."""
        at, is_declaring = 0, True
        while True:
            self._changed.clear()
            stub = self._stubs[at % len(self._stubs)]
            was_declaring, is_declaring = is_declaring, True
            try:
                await self._read(stub, is_declaring=was_declaring)
            except Exception as error:  # whatever it is, the stream must come back
                if was_declaring and _is_refusal(error):
                    # A service of another version; the policies must be heard all the same.
                    self._troubles.count("baselines-refused", _told(error))
                    is_declaring = False
                    continue
                self._troubles.count("policy-stream", _told(error))
                at += 1
                # Jitter: a thousand gateways must not come back in the same millisecond.
                await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
                self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _declared(self) -> list[Baseline]:
        """Every baseline once."""
        return list({baseline.hash: baseline for baseline in self._baselines.values()}.values())

    async def _read(self, stub: DecisionServiceAsyncStub, *, is_declaring: bool) -> None:
        """Read one stream until there is something else to follow. Raises when it breaks."""
        call = stub.WatchPolicies(
            pb.WatchPoliciesRequest(
                gateway=self._gateway,
                baselines=map(messages.baseline_message, self._declared() if is_declaring else ()),
            )
        )
        told: set[str] = set()
        changed = asyncio.create_task(self._changed.wait())
        changed.add_done_callback(lambda _: call.cancel())
        try:
            # Its headers come when the service has begun to watch. What was announced before was
            # missed, and so was what changed between the question and now.
            await call.initial_metadata()
            self._persons.outdate_all()
            async for message in call:
                self._pause_s = SHORTEST_PAUSE_S
                self._hear(message, told)
            raise ConnectionError("the service ended the stream")
        except asyncio.CancelledError:
            # It was the call that was cancelled, unless somebody wants this task to end.
            task = asyncio.current_task()
            if not self._changed.is_set() or (task is not None and task.cancelling()):
                raise
        finally:
            self._whole_since = None
            changed.cancel()
            call.cancel()

    def _hear(self, message: pb.WatchPoliciesResponse, told: set[str]) -> None:
        if message.all_outdated:
            self._persons.outdate_all()
        elif message.outdated_users:
            self._persons.outdate(message.outdated_users)
        elif message.service_key:
            told.add(message.service_key)
            self._hear_policy(message)
        else:
            self._policies.heard_all(told)
            self.complete.set()
            if self._policies.has_heard_older and len(self._stubs) > 1:
                self._pause_s = LONGEST_PAUSE_S
                raise ConnectionError("the service is behind; another may not be")
            self._whole_since = self._whole_since or time.monotonic()

    def _hear_policy(self, message: pb.WatchPoliciesResponse) -> None:
        try:
            self._policies.heard(message.service_key, messages.policy(message))
        except InvalidPolicy as error:
            # A newer service may say what is not understood here; the others must be heard.
            self._troubles.count("bad-policy", f"{message.service_key}: {error}")


def _is_refusal(error: Exception) -> bool:
    return (
        isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.INVALID_ARGUMENT
    )


def _told(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
