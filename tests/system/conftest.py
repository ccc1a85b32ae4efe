"""A failure is shown with what the parts of its stack said last."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from dev_stack.stack import Stack


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(running, Stack):
        report.sections.append(("plugin server", running.plugin.output()[-4_000:]))
        report.sections.append(("decision service", running.decision.output()[-2_000:]))
        report.sections.append(("gateway", running.gateway.log()[-2_000:]))
    return report
