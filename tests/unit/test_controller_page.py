"""The page about the controller is true: its examples are taken, and it knows every alert."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import canary_controller.judging
import canary_engine.concerns
import yaml
from canary_controller.notify.settings import ALERT, settings_in
from canary_controller.webhooks.messages import body_of, headers_of
from canary_engine.plan import Comparison, Occasion, Plan
from canary_engine.plan_reading import plan
from canary_engine.webhooks import Question

PAGE = (Path(__file__).parents[2] / "docs" / "controller.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
KEYS = re.compile(r'key=f?"([^"]+)"')


def example(kind: str, word: str) -> str:
    (found,) = [text for language, text in BLOCKS if language == kind and word in text]
    return str(found)


def test_the_plan_of_the_page_is_a_plan() -> None:
    document = yaml.safe_load(example("yaml", "webhooks:"))["plan"]
    queries = yaml.safe_load(example("yaml", "promql:"))
    found = plan({**document, **queries})
    assert [hook.name for hook in found.webhooks] == ["qa", "chronicle"]
    assert len(found.queries) == 2


def test_what_the_page_says_of_plans_that_say_nothing_is_so() -> None:
    document = yaml.safe_load(example("yaml", "false_rollback:"))
    assert plan(document) == plan({"steps": [{"weight": 5}]})
    judged = {field.name for field in fields(Plan)} & set(document)
    assert set(document["comparison"]) == {field.name for field in fields(Comparison)}
    assert judged == set(document)


def test_the_notify_file_of_the_page_is_one_and_tells_the_defaults() -> None:
    text = example("yaml", "channels:\n")
    found = settings_in(text)
    assert (list(found.channels), found.usual) == (["ops", "pager"], ("ops",))
    assert found.alert == ALERT


def test_the_check_of_the_page_believes_us_and_nobody_else() -> None:
    names: dict[str, Any] = {}
    exec(example("python", "def is_genuine"), names)
    question = Question(
        service_key="shop", release_id="r", version="2", name="qa", url="https://qa/",
        occasion=Occasion.RAISE, weight=25_000,
    )  # fmt: skip
    body = body_of(question, "held", {})
    is_genuine, now = names["is_genuine"], int(names["time"].time())
    headers = headers_of(question, body, b"secret", now)
    assert is_genuine(b"secret", headers, body)
    assert not is_genuine(b"another", headers, body)
    assert not is_genuine(b"secret", headers, body + b" ")
    assert not is_genuine(b"secret", headers_of(question, body, b"secret", now - 600), body)


def test_the_message_of_the_page_has_the_fields_of_one() -> None:
    question = Question(
        service_key="shop", release_id="r", version="2", name="qa", url="https://qa/",
        occasion=Occasion.RAISE, weight=25_000,
    )  # fmt: skip
    shown = yaml.safe_load(example("json", "occasion"))
    assert set(shown) == set(yaml.safe_load(body_of(question, "", {})))


def test_the_page_says_of_every_alert_what_to_do() -> None:
    files = (canary_engine.concerns.__file__, canary_controller.judging.__file__)
    source = "".join(Path(file).read_text() for file in files)
    keys = {
        key.replace("{ABOUT_ROLLBACK}", "rollback").split("{")[0] for key in KEYS.findall(source)
    }
    assert len(keys) > 12
    table = PAGE[PAGE.index("## Alerts, and what to do") :]
    missing = {key for key in keys if f"`{key}" not in table}
    assert missing == set()
