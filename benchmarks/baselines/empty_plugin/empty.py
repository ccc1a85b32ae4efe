"""A plugin that does nothing, for kong-pdk's own server: what any Python plugin costs at least."""

Schema: list[dict[str, object]] = []
version = "1.0.0"
priority = 1000


class Plugin:
    """One phase, empty."""

    def __init__(self, config: object) -> None:
        self.config = config

    def access(self, kong: object) -> None:
        """Nothing."""
