"""The decision service is hurt under load: the last known policy decides, and nobody notices."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from canary_engine.decide import CompiledPolicy
from dev_stack.gateways import command
from dev_stack.processes import Process
from dev_stack.stack import ANY_PORT
from support import doubtful_plugin
from support.admin import admin_of
from support.chaos import Chaos, chaos_stack, decision_for, stored, until_asked, users_of
from support.load import Load, User, load, until
from support.redis_server import running_redis

STOPPED_S = 6.0
# Who waits for the service waits for longer. What the seed's deadline of 20 ms and a gateway's own
# work add up to is a second or two where the machine is busy.
NOT_FELT_S = 5.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Chaos]:
    with chaos_stack() as running:
        yield running


@pytest.fixture(scope="module")
def users(stack: Chaos) -> list[User]:
    with admin_of(stack.admin_address) as admin:
        return users_of(stored(admin))


async def test_a_killed_decision_service_is_not_missed(stack: Chaos, users: list[User]) -> None:
    """Nobody gets stable for want of a decision: those are made alone, and counted."""
    async with load(stack.gateway.address, users) as found:
        await found.round()
        for _ in range(3):
            stack.decision.kill()
            await found.round()
            await asyncio.to_thread(stack.start_decision_service)
            await until_asked(stack, found)
    found.check()
    assert found.slowest_s < NOT_FELT_S
    assert stack.undecided() == {}
    assert stack.troubles()["alone-unavailable"] > 0


async def test_a_decision_service_that_stands_still_for_seconds_is_not_waited_for(
    stack: Chaos, users: list[User]
) -> None:
    """The first questions cost the deadline; then one probe at a time does."""
    async with load(stack.gateway.address, users) as found:
        await until_asked(stack, found)
        timeouts = stack.troubles()["alone-timeout"]
        stack.decision.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(STOPPED_S)  # what is tested, not a wait for something
        finally:
            stack.decision.signal(signal.SIGCONT)
        await until_asked(stack, found)
    found.check()
    assert found.slowest_s < NOT_FELT_S
    assert stack.undecided() == {}
    assert stack.troubles()["alone-timeout"] > timeouts


async def test_users_move_once_when_the_store_is_set_back_and_nobody_while_it_is_gone(
    stack: Chaos, users: list[User]
) -> None:
    """What the service says is believed, an older revision too: the store was set back.

    Until it says so everybody keeps the newer policy's version; then each user gets the older
    one's, where that differs, and nobody is ever exchanged a second time.
    """
    backup = await asyncio.to_thread(backed_up, stack)
    with admin_of(stack.admin_address) as admin:
        older = stored(admin)
        admin("SetPercentage", percentage=60)
        newer = stored(admin)
    now = users_of(newer)
    async with load(stack.gateway.address, now) as found:
        await until_all_got(found, newer)
        found.forget()
        await found.round()
        stack.decision.kill()
        await found.round()
        found.check()
        await asyncio.to_thread(set_back, stack, backup)
        await asyncio.to_thread(stack.start_decision_service)
        await until_all_got(found, older)
    assert found.failed == [], found.summary()
    for user in now:
        steps = [user.version, decision_for(older, user.headers).version]
        assert found.seen[user.name] in (steps[:1], steps), found.seen[user.name]
    assert stack.undecided() == {}


async def test_a_replica_that_has_stayed_behind_takes_nobody_s_version(stack: Chaos) -> None:
    """Nothing about users or the policy has changed when a gateway must ask another replica.

    That one has lost its store before the policy's last change and goes on with what it has.
    """
    with behind(stack, await asyncio.to_thread(backed_up, stack)) as address:
        with admin_of(stack.admin_address) as admin:
            admin("SetPercentage", percentage=40)
            newer = stored(admin)
        await asyncio.to_thread(stack.plugin.stop)
        # A busy machine may need longer to start a service than a gateway doubts an older policy.
        stack.plugin_module = doubtful_plugin.NAME
        stack.plugin_asks = f"{stack.decision_address},{address}"
        await asyncio.to_thread(stack.start_plugin_server)
        async with load(stack.gateway.address, users_of(newer)) as found:
            await until_asked(stack, found)
            found.forget()
            await found.round()
            stack.decision.kill()
            await until(lambda: stack.troubles()["alone-behind"] > 0, "the other replica")
            await found.round()
            await asyncio.to_thread(stack.start_decision_service)
            await until_asked(stack, found)
    found.check()


@contextmanager
def behind(stack: Chaos, backup: Path) -> Iterator[str]:
    """The address of another replica, whose store is a copy."""
    with running_redis(options=("--dir", str(backup), "--appendonly", "yes")) as store:
        options = ("--listen", ANY_PORT, "--admin-listen", ANY_PORT, "--metrics-listen", ANY_PORT)
        replica = Process(
            "replica",
            command("decision_svc", "--insecure", *options, "--redis-url", store.url),
            stack.plan.run_dir / "replica.log",
            ready_word='"store reached"',
        )
        replica.start()
        try:
            said = (json.loads(line) for line in replica.output().splitlines())
            yield next(str(line["decision"]) for line in said if "decision" in line)
        finally:
            replica.kill()


async def until_all_got(found: Load, policy: CompiledPolicy) -> None:
    """Wait until everybody has last got what a policy says."""
    wanted = {user.name: decision_for(policy, user.headers).version for user in found.users}
    await until(
        lambda: all(found.seen.get(name, [""])[-1] == wanted[name] for name in wanted),
        "everybody's version",
    )


def backed_up(stack: Chaos) -> Path:
    """A copy of what the store holds, made while it stands still."""
    stack.redis.stop()
    copy = Path(tempfile.mkdtemp(dir=stack.plan.run_dir)) / "redis"
    shutil.copytree(stack.plan.run_dir / "redis", copy)
    stack.redis.start()
    return copy


def set_back(stack: Chaos, backup: Path) -> None:
    """The store as it was when it was copied."""
    stack.redis.stop()
    shutil.rmtree(stack.plan.run_dir / "redis")
    shutil.copytree(backup, stack.plan.run_dir / "redis")
    stack.redis.start()
