"""Plugin instances by id: started by Kong, dropped when idle, recovered by Kong when missed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# Kong repeats StartInstance and then the event when an error starts with these words.
NO_INSTANCE = "no plugin instance"


class Phases(Protocol):
    """What an instance does in each phase that it has a method for."""

    def access(self, kong: Any) -> None: ...


@dataclass(slots=True)
class Instance:
    """A started instance."""

    name: str
    config: Mapping[str, Any]
    phases: Phases
    started: float
    used: float


class Instances:
    """The instances of one plugin. ``clock`` gives seconds and only grows, ``now`` is Unix time.

    Ids start at a random large number: after a restart of the server an id that Kong still
    holds must not name another route's instance (Kong issue 8370).
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Mapping[str, Any]], Phases],
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        idle_s: float,
    ) -> None:
        self._name, self._make = name, make
        self._clock, self._now, self._idle_s = clock, now, idle_s
        self._instances: dict[int, Instance] = {}
        self._next = (1 << 32) + secrets.randbelow(1 << 48)
        self.started: Callable[[int, str, str], None] = lambda id_, name, config_json: None
        """Hears of an instance before Kong does: id, name and config."""

    def __len__(self) -> int:
        return len(self._instances)

    def start(self, name: str, config_json: str) -> dict[str, Any]:
        """Start an instance; the answer is Kong's InstanceStatus. Raises ValueError."""
        if name != self._name:
            raise ValueError(f"this server runs {self._name}, not {name}")
        config = json.loads(config_json)
        id_, self._next = self._next, self._next + 1
        now = self._clock()
        self._instances[id_] = Instance(name, config, self._make(config), self._now(), now)
        self.started(id_, name, config_json)
        return self.status(id_)

    def use(self, id_: int) -> Instance:
        """The instance. Raises LookupError in the words that Kong understands."""
        found = self._instances.get(id_)
        if found is None:
            raise LookupError(f"{NO_INSTANCE} #{id_}")
        found.used = self._clock()
        return found

    def status(self, id_: int) -> dict[str, Any]:
        """Kong's InstanceStatus. Raises LookupError."""
        found = self.use(id_)
        return {
            "Name": found.name,
            "Id": id_,
            "Config": found.config,
            "StartTime": found.started,
        }

    def close(self, id_: int) -> dict[str, Any]:
        """Forget an instance and answer its last status. Raises LookupError."""
        status = self.status(id_)
        del self._instances[id_]
        return status

    def drop_idle(self) -> None:
        """Forget instances that nothing has used for a while: reloads leave theirs behind."""
        idle = self._clock() - self._idle_s
        for id_ in [id_ for id_, found in self._instances.items() if found.used < idle]:
            del self._instances[id_]

    def described(self) -> Iterator[tuple[int, str, str]]:
        """Id, name and config of every instance, for another worker."""
        for id_, found in self._instances.items():
            yield id_, found.name, json.dumps(found.config)

    def adopt(self, id_: int, name: str, config_json: str) -> None:
        """Go on with an instance of another worker."""
        config = json.loads(config_json)
        now = self._clock()
        self._instances[id_] = Instance(name, config, self._make(config), self._now(), now)

    def __iter__(self) -> Iterator[int]:
        return iter(self._instances)
