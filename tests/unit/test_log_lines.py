"""Log lines: JSON on standard error, whoever has something to say."""

from __future__ import annotations

import json
import subprocess
import sys

SAYS = """
import logging, canary_log, structlog
canary_log.configure("info")
structlog.get_logger().debug("too low")
structlog.get_logger().info("ready", address="127.0.0.1:1", who="Zoë")
logging.getLogger("aiohttp").info("nobody asked")
logging.getLogger("aiohttp").warning("%s is late", "a peer")
try:
    raise ValueError("no such thing")
except ValueError:
    structlog.get_logger().exception("failed")
"""


def test_every_line_is_json_on_standard_error_also_that_of_a_library() -> None:
    said = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    ready, late, failed = map(json.loads, said.stderr.splitlines())
    assert said.stdout == ""
    assert (ready["event"], ready["level"], ready["who"]) == ("ready", "info", "Zoë")
    assert (late["event"], late["level"]) == ("a peer is late", "warning")
    assert "ValueError: no such thing" in failed["exception"]
    assert all(line["timestamp"].endswith("Z") for line in (ready, late, failed))
