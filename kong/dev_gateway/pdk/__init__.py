"""The PDK as a plugin process reaches it: names, phases, and which Step carries the result."""

import logging
from collections.abc import Mapping
from typing import Any

from dev_gateway.balancer import Balancer
from dev_gateway.context import Phase, RequestContext
from dev_gateway.errors import LuaError
from dev_gateway.lua import to_wire
from dev_gateway.pdk import request, response, service, surroundings
from dev_gateway.pdk.table import Call, Function

log = logging.getLogger(__name__)

FUNCTIONS: Mapping[str, Function] = {
    **request.FUNCTIONS,
    **response.FUNCTIONS,
    **service.FUNCTIONS,
    **surroundings.FUNCTIONS,
}

# Kong has these; answering "no such method" for them would hide the difference.
NOT_HONOURED = frozenset(
    {
        "kong.client.authenticate", "kong.client.load_consumer", "kong.node.get_memory_stats",
        "kong.request.get_body", "kong.request.get_raw_body", "kong.response.get_raw_body",
        "kong.response.set_raw_body", "kong.response.set_status",
        "kong.service.request.set_body", "kong.service.request.set_raw_body",
        "kong.service.response.get_header", "kong.service.response.get_headers",
        "kong.service.response.get_raw_body", "kong.service.response.get_status",
        "kong.vault.get",
    }
)  # fmt: skip

_STEPS = {
    "kong.client.get_credential": "plugin.StepCredential",
    "kong.client.get_consumer": "plugin.StepConsumer",
    "kong.router.get_route": "plugin.StepRoute",
    "kong.router.get_service": "plugin.StepService",
    "kong.request.get_query": "plugin.StepMultiMap",
    "kong.request.get_headers": "plugin.StepMultiMap",
    "kong.response.get_headers": "plugin.StepMultiMap",
}
_MULTI_MAPS = frozenset(name for name, step in _STEPS.items() if step == "plugin.StepMultiMap")


def step_method(method: str) -> str:
    return _STEPS.get(method, "plugin.Step")


class Pdk:
    """Runs PDK calls against a request; holds nothing of the request itself."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def call(self, ctx: RequestContext, phase: Phase, method: str, args: Any) -> Any:
        """The result ready for the wire; None where Kong sends no Data. LuaError ends the phase."""
        function = FUNCTIONS.get(method)
        if function is None:
            if method in NOT_HONOURED:
                raise LuaError(f"{method}: not honoured by the development gateway")
            log.error("could not find pdk method: %s", method)
            return None
        if phase not in function.phases:
            allowed = ", ".join(sorted(function.phases))
            raise LuaError(
                f"{method}: function cannot be called in {phase} phase (only in: {allowed})"
            )
        given = args if isinstance(args, list) else [args]
        try:
            result = function.run(Call(ctx=ctx, phase=phase, args=given, balancer=self._balancer))
        except (TypeError, ValueError) as fault:
            # What Python cannot do with such arguments, Lua could not either.
            raise LuaError(f"{method}: {fault}") from fault
        return _multi_map(result) if method in _MULTI_MAPS else to_wire(result)


def _multi_map(table: dict[str, Any]) -> dict[str, Any]:
    """Every value a list; an argument without a value is an empty one."""
    shown: dict[str, Any] = {}
    for name, value in table.items():
        if value is True:
            shown[name] = []
        else:
            shown[name] = [value] if isinstance(value, str) else value
    return shown
