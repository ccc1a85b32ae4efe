"""The scripted plugin server, by which other tests see the gateway: it does what it is told."""

from pathlib import Path

from support.gateway import stage
from support.raw_http import fetch
from support.scripted_plugin import Script


async def test_the_scripted_server_answers_what_its_script_says(tmp_path: Path) -> None:
    script = Script(access=[("kong.request.get_method", [])])
    async with stage(tmp_path, script) as staged:
        reply = await fetch(staged.port, "/orders/1")
    assert reply.one("X-Served-By") == "stable"
    assert script.results["access"] == ["GET"]
