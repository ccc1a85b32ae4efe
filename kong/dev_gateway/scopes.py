"""Which plugin configs a request meets: by priority, and of each plugin the most specific one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from dev_gateway.context import RequestContext
from dev_gateway.entities import PluginConfig
from dev_gateway.plugin_info import PluginInfo

_Scope = tuple[str | None, str | None, str | None]


class Scopes:
    """Immutable; a reload makes a new one."""

    def __init__(self, plugins: Iterable[PluginInfo], configs: Sequence[PluginConfig]) -> None:
        self._plugins = tuple(
            sorted(plugins, key=lambda info: (info.priority, info.name), reverse=True)
        )
        self._configs: dict[str, dict[_Scope, PluginConfig]] = {}
        for config in configs:
            scope = (config.route_id, config.service_id, config.consumer_id)
            self._configs.setdefault(config.name, {})[scope] = config

    def collect(self, ctx: RequestContext) -> Iterator[tuple[PluginInfo, PluginConfig]]:
        """Lazily: who the consumer is may become known on the way."""
        for info in self._plugins:
            known = self._configs.get(info.name)
            config = _most_specific(known, ctx) if known else None
            if config is not None:
                yield info, config

    def global_ones(self) -> Iterator[tuple[PluginInfo, PluginConfig]]:
        """What Kong runs for a request that never reached the access phase, a 404 say."""
        for info in self._plugins:
            config = self._configs.get(info.name, {}).get((None, None, None))
            if config is not None:
                yield info, config


def _most_specific(
    known: Mapping[_Scope, PluginConfig], ctx: RequestContext
) -> PluginConfig | None:
    route = ctx.route.id if ctx.route else None
    service = ctx.service.id if ctx.service else None
    consumer = ctx.consumer["id"] if ctx.consumer else None
    # Kong's order of lookup.
    for scope in (
        (route, service, consumer),
        (route, None, consumer),
        (None, service, consumer),
        (route, service, None),
        (None, None, consumer),
        (route, None, None),
        (None, service, None),
        (None, None, None),
    ):
        if scope in known:
            return known[scope]
    return None
