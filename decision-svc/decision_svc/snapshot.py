"""The policies in memory, ready to decide; changed by whole policies, read without waiting."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager

from canary_engine.baseline import InForce, in_force
from canary_engine.decide import CompiledPolicy
from canary_engine.model import Policy

from decision_svc.documents import Documents
from decision_svc.errors import NotReady

MAX_COMPILED = 4_096
MAX_OUTDATED = 1_000


class Snapshot:
    """Service key to policy, and what rules for each baseline."""

    def __init__(self) -> None:
        self.documents = Documents()
        self._policies: dict[str, Policy] = {}
        # By service key and baseline hash, the least recently used first: clients choose both.
        self._compiled: OrderedDict[tuple[str, str], tuple[InForce, CompiledPolicy]] = OrderedDict()
        self._watchers: set[Watcher] = set()
        self._loaded = asyncio.Event()

    @property
    def is_loaded(self) -> bool:
        """Whether the store was read once."""
        return self._loaded.is_set()

    async def loaded(self) -> None:
        """Wait until the store was read once."""
        await self._loaded.wait()

    def check_loaded(self) -> None:
        """Raise NotReady before the store was read once."""
        if not self.is_loaded:
            raise NotReady("no policy was read from the store yet")

    def set_loaded(self) -> None:
        """The store was read."""
        self._loaded.set()

    def policies(self) -> Mapping[str, Policy]:
        """Every policy by service key."""
        return self._policies

    def get(self, service_key: str) -> Policy | None:
        """The policy; None if there is none."""
        return self._policies.get(service_key)

    def revision(self, service_key: str) -> int:
        """The revision held here; 0 if there is none."""
        policy = self._policies.get(service_key)
        return policy.revision if policy else 0

    def put(self, policy: Policy) -> bool:
        """Take over a policy unless a newer one is here. Whether it was taken over."""
        if policy.revision <= self.revision(policy.service_key):
            return False
        self.replace(policy)
        return True

    def replace(self, policy: Policy) -> None:
        """Take over a policy even if it is not newer: the store was set back."""
        self._policies[policy.service_key] = policy
        self._changed(policy.service_key)

    def ruling(
        self, service_key: str, baseline: Policy | None, baseline_hash: str
    ) -> tuple[InForce, CompiledPolicy]:
        """What rules for gateways with that baseline. Raises NotReady before the first load."""
        self.check_loaded()
        key = (service_key, baseline_hash)
        found = self._compiled.get(key)
        if found is not None:
            self._compiled.move_to_end(key)
            return found
        stored = self._policies.get(service_key)
        ruling = in_force(service_key, stored, baseline)
        found = (ruling, CompiledPolicy(ruling.policy))
        if stored is not None or baseline is not None:
            self._compiled[key] = found
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        return found

    @contextmanager
    def watching(self, service_keys: Iterable[str]) -> Iterator[Watcher]:
        """A watcher of these service keys (none: of all), which starts with them changed."""
        wanted = frozenset(service_keys)
        watcher = Watcher(wanted, sorted(wanted or self._policies))
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def profile_changed(self, user: str = "") -> None:
        """Tell the watchers that a user's profile changed; "" means that any may have."""
        for watcher in self._watchers:
            watcher.tell_profile(user)

    def _changed(self, service_key: str) -> None:
        for key in [key for key in self._compiled if key[0] == service_key]:
            del self._compiled[key]
        for watcher in self._watchers:
            watcher.tell(service_key)


class Watcher:
    """Service keys whose policy changed, and users whose profile did, since last asked for.

    Names, not values: a slow watcher skips to the newest revision and holds little memory.
    """

    def __init__(self, service_keys: frozenset[str], changed: Iterable[str]) -> None:
        self._wanted = service_keys
        self._changed: dict[str, None] = dict.fromkeys(changed)
        self._outdated: set[str] = set()
        self._wake = asyncio.Event()
        self._wake.set()

    def tell(self, service_key: str) -> None:
        """A policy has changed."""
        if not self._wanted or service_key in self._wanted:
            self._changed[service_key] = None
            self._wake.set()

    def tell_profile(self, user: str) -> None:
        """A profile has changed; "" means that any may have."""
        # Beyond a bound it is cheaper for everybody to forget all.
        self._outdated.add(user if len(self._outdated) < MAX_OUTDATED else "")
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[str | frozenset[str]]:
        """A service key at a time, or the users whose profiles changed ("" among them: all).

        A watcher of all is told "" when every policy there was has been told.
        """
        is_complete = bool(self._wanted)
        while True:
            await self._wake.wait()
            # What changes while a slow client takes one is told once, when its turn comes.
            while self._changed or self._outdated:
                if self._outdated:
                    outdated, self._outdated = frozenset(self._outdated), set()
                    yield outdated
                if self._changed:
                    service_key = next(iter(self._changed))
                    del self._changed[service_key]
                    yield service_key
            self._wake.clear()
            if not is_complete:
                is_complete = True
                yield ""
