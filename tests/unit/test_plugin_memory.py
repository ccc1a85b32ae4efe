"""Instances that outlive a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from canary_plugin.memory import SLACK, Memory
from canary_plugin.runtime.instances import Instances

NAME = "canary-release"


class Quiet:
    def access(self, kong: Any) -> None: ...


def made(config: Mapping[str, Any]) -> Quiet:
    if config.get("percentage") == "bad":
        raise ValueError("no percentage")
    return Quiet()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fd() -> Iterator[int]:
    found = os.memfd_create("test")
    yield found
    os.close(found)


def instances(clock: Clock | None = None) -> Instances:
    return Instances(NAME, made, clock=clock or Clock(), now=lambda: 0.0, idle_s=900)


def kept(fd: int, found: Instances) -> Memory:
    memory = Memory(fd, found)
    memory.recall()
    memory.keep()
    return memory


def test_the_next_worker_has_the_instances_of_the_one_that_died(fd: int) -> None:
    first = instances()
    kept(fd, first)
    ids = [first.start(NAME, f'{{"percentage": {n}}}')["Id"] for n in range(3)]
    second = instances()
    kept(fd, second)
    assert sorted(second) == sorted(ids)
    assert second.status(ids[2])["Config"] == {"percentage": 2}
    ids.append(second.start(NAME, "{}")["Id"])
    third = instances()
    kept(fd, third)
    assert sorted(third) == sorted(ids)


def test_a_record_that_was_cut_off_and_one_that_is_refused_cost_nobody_else(fd: int) -> None:
    first = instances()
    kept(fd, first)
    good = first.start(NAME, "{}")["Id"]
    first.started(7, NAME, '{"percentage": "bad"}')
    first.started(8, NAME, "{}")
    os.ftruncate(fd, os.fstat(fd).st_size - 1)
    second = instances()
    kept(fd, second)
    assert list(second) == [good]


def test_instances_that_are_gone_are_left_out_in_time(fd: int) -> None:
    clock = Clock()
    found = instances(clock)
    kept(fd, found)
    for _ in range(3 * SLACK):
        found.start(NAME, "{}")
        clock.now += 1
        found.drop_idle()
    largest = os.fstat(fd).st_size
    for _ in range(3 * SLACK):
        found.start(NAME, "{}")
        clock.now += 1
        found.drop_idle()
    assert os.fstat(fd).st_size < 2 * largest
