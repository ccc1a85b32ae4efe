"""Run the plugin process's phases: an instance per config, events step by step."""

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import Any

from dev_gateway import pdk
from dev_gateway.balancer import Balancer
from dev_gateway.context import Phase, RequestContext
from dev_gateway.entities import PluginConfig
from dev_gateway.errors import LuaError, RpcError
from dev_gateway.lua import json_ready
from dev_gateway.protocol import RpcClient

CLAIM_TIMEOUT_S = 10
NO_INSTANCE = "no plugin instance"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Claim:
    """An instance, or the promise of one that another request is starting."""

    instance_id: Any = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Instances:
    """Instance ids by plugin id, for one generation; never closed, as Kong's workers do it."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._claims: dict[str, _Claim] = {}

    async def id_of(self, config: PluginConfig) -> Any:
        """The instance's id; LuaError if it cannot be started: that request gets a 500."""
        while True:
            claim = self._claims.get(config.id)
            if claim is None:
                return await self._start(config)
            if claim.settled.is_set():
                return claim.instance_id
            try:
                async with asyncio.timeout(CLAIM_TIMEOUT_S):
                    await claim.settled.wait()
            except TimeoutError as late:
                self._forget(config, claim)
                raise RpcError(
                    f"Could not claim instance_id for {config.name} (key: {config.id})"
                ) from late

    async def _start(self, config: PluginConfig) -> Any:
        claim = self._claims[config.id] = _Claim()
        started: Any = None
        try:
            started = await self._rpc.call(
                "plugin.StartInstance", {"Name": config.name, "Config": _encode(config)}
            )
        except RpcError as fault:
            log.error("starting instance: %s", fault)
            raise LuaError(str(fault)) from fault
        finally:
            if not isinstance(started, dict) or "Id" not in started:
                self._forget(config, claim)
            claim.settled.set()
        if "Id" not in started:
            raise LuaError("the plugin server started an instance without an Id")
        claim.instance_id = started["Id"]
        return claim.instance_id

    def _forget(self, config: PluginConfig, claim: _Claim) -> None:
        if self._claims.get(config.id) is claim:
            del self._claims[config.id]

    def reset(self) -> None:
        """All instances live in the same process: one unknown, all unknown."""
        self._claims.clear()


class PluginServer:
    """The plugin process as the request loop sees it."""

    def __init__(self, rpc: RpcClient, balancer: Balancer) -> None:
        self._rpc = rpc
        self._instances = Instances(rpc)
        self._pdk = pdk.Pdk(balancer)

    async def handle(self, ctx: RequestContext, phase: Phase, config: PluginConfig) -> None:
        """Run a phase. Trouble after the instance is known is logged and the request goes on."""
        while True:
            try:
                await self._run(ctx, phase, await self._instances.id_of(config))
            except RpcError as fault:
                if NO_INSTANCE in str(fault).lower():
                    self._instances.reset()
                    log.warning("[%s] %s", config.name, fault)
                    continue
                log.error("[%s] %s", config.name, fault)
            return

    def close(self) -> None:
        """A later generation took over: let go of the connections."""
        self._rpc.close()

    async def _run(self, ctx: RequestContext, phase: Phase, instance_id: Any) -> None:
        step = await self._rpc.call(
            "plugin.HandleEvent", {"InstanceId": instance_id, "EventName": phase.value}
        )
        event_id = step.get("EventId") if isinstance(step, dict) else None
        while True:
            wanted = step.get("Data") if isinstance(step, dict) else None
            if wanted == "ret":
                return
            if not isinstance(wanted, dict):
                raise LuaError("attempt to index field 'Data'")
            method = str(wanted.get("Method"))
            result = self._pdk.call(ctx, phase, method, wanted.get("Args"))
            answer = {"EventId": event_id}
            if result is not None:
                answer["Data"] = result
            step = await self._rpc.call(pdk.step_method(method), answer)


def _encode(config: PluginConfig) -> str:
    return json.dumps(json_ready(dict(config.values)), separators=(",", ":"), ensure_ascii=False)
