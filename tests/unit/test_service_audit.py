"""What a link of the audit trail says, and what it does not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from canary_engine import parse
from canary_engine.diff import Difference
from canary_engine.pseudonyms import hashing
from decision_svc import audit
from decision_svc.audit import Audit, masked
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import ChangeRecord, Link, MemberEdit, StoreUnavailable, Tail

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RULE = {"name": "r", "source": "header", "variant": "canary"}


def record(revision: int = 1) -> ChangeRecord:
    return ChangeRecord(revision=revision, actor="ada", at=NOW, reason="why", summary="what")


def link_of(before: dict[str, Any], after: dict[str, Any], *members: MemberEdit) -> dict[str, Any]:
    old = parse.policy({"service_key": "shop", **before})
    new = parse.policy({"service_key": "shop", **after})
    hash_ = parse.content_hash(parse.document(new))
    found = audit.revision_link(Tail(), record(), old, new, hash_, members, lambda: "salt")
    assert sha256(found.entry.encode()).hexdigest() == found.hash
    fields: dict[str, Any] = json.loads(found.entry)
    return fields


def mask(**fields: Any) -> str:
    return json.dumps(masked(parse.policy({"service_key": "shop", **fields}), hashing("salt")))


def test_everything_that_may_be_somebodys_id_is_hashed() -> None:
    ann = hashing("salt")("ann")
    for fields in (
        {"whitelist": {"users": ["ann"]}},
        {"whitelist": {"consumers": ["ann"]}},
        {"flags": [{"name": "f", "users": ["ann"]}]},
        {"rules": [{**RULE, "key": "x-user-id", "exact": "ann"}]},
        {"rules": [{**RULE, "key": "x-user-id", "one_of": ["ann", "bob"]}]},
        {"rules": [{**RULE, "key": "x-user-id", "pattern": "ann"}]},
        {"rules": [{**RULE, "source": "consumer", "exact": "ann"}]},
        {"rules": [{**RULE, "source": "cookie", "key": "canary_id", "exact": "ann"}]},
        {
            "bucketing": {"hash_on": [{"source": "cookie", "key": "who"}]},
            "rules": [{**RULE, "source": "cookie", "key": "who", "exact": "ann"}],
        },
        {
            "shadow": {
                "policy": {"service_key": "shop", "whitelist": {"users": ["ann"]}},
                "expires_at": "2026-04-01T00:00:00Z",
            }
        },
    ):
        said = mask(**fields)
        assert '"ann"' not in said
        assert ann in said


def rule(source: str, key: str, **values: Any) -> dict[str, Any]:
    named = {"key": key} if key else {}
    return {"rules": [{"name": "r", "variant": "canary", "source": source, **named, **values}]}


ALICE, HOME = "alice@example.com", "203.0.113.77"


@pytest.mark.parametrize(
    ("fields", "hidden"),
    [
        ({"whitelist": {"ips": [HOME, "192.0.2.0/24"]}}, HOME),
        ({"whitelist": {"ips": [f"{HOME}/32"]}}, HOME),
        ({"whitelist": {"ips": [f"::ffff:{HOME}"]}}, HOME),
        ({"whitelist": {"ips": ["2001:DB8:0::7"]}}, "2001:db8::7"),
        ({"whitelist": {"ips": ["2001:db8:0:7::/64"]}}, "2001:db8:0:7::/64"),
        (rule("ip", "", cidrs=["192.0.2.0/24", HOME]), HOME),
        (rule("ip", "", exact=HOME), HOME),
        (rule("ip", "", one_of=[HOME]), HOME),
        (rule("ip", "", pattern=r"203[.]0[.]113[.]77"), r"203[.]0[.]113[.]77"),
        (rule("header", "x-user-email", exact=ALICE), ALICE),
        (rule("header", "x-user-email", one_of=[ALICE, "bob"]), ALICE),
        (rule("header", "x-account", exact="4711"), "4711"),
        (rule("header", "x-phone", pattern="^[+]4930"), "^[+]4930"),
        (rule("cookie", "session", exact="4711"), "4711"),
        (rule("header", "x-canary-test", exact=ALICE), ALICE),
        (rule("path", "", pattern=f"/users/{ALICE}/.*"), f"/users/{ALICE}/.*"),
        (
            {
                "segments": [
                    {
                        "name": "s",
                        "canary_eligible": True,
                        "criteria": {"custom": {"employer": "acme", "plan": "gold"}},
                    }
                ]
            },
            "acme",
        ),
    ],
)
def test_addresses_of_a_household_and_values_that_may_be_somebodys_are_hashed(
    fields: dict[str, Any], hidden: str
) -> None:
    said = mask(**fields)
    assert json.dumps(hidden).strip('"') not in said
    assert hashing("salt")(hidden) in said
    for text in ("192.0.2.0/24", "gold"):
        assert (text in said) == (text in json.dumps(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"whitelist": {"ips": ["203.0.113.76/31"]}},
        {"whitelist": {"ips": ["2001:db8::/48"]}},
        rule("ip", "", cidrs=["203.0.113.76/31"]),
        rule("header", "x-user-tier", one_of=["premium", "enterprise"]),
        rule("header", "x-canary-test", exact="true"),
        rule("cookie", "yyc3_canary", exact="enabled"),
        rule("header", "user-agent", pattern="Mozilla"),
        rule("path", "", pattern="/api/v1/.*"),
        {
            **rule("header", "x-where", exact="north"),
            "identity": {"attribute_headers": {"region": "x-where"}},
        },
    ],
)
def test_what_says_of_what_kind_somebody_is_stays_as_it_is(fields: dict[str, Any]) -> None:
    assert "#" not in mask(**fields)


def test_what_is_no_id_stays_as_it_is() -> None:
    said = mask(
        bucketing={"hash_on": [{"source": "header", "key": "x-user-id"}]},
        whitelist={"ips": ["192.0.2.0/24"], "consumers": ["partner"]},
        rules=[{**RULE, "key": "x-user-tier", "exact": "premium"}],
    )
    for text in ("192.0.2.0/24", "partner", "premium"):
        assert text in said


def test_a_link_names_the_document_and_members_by_their_hashes() -> None:
    edit = MemberEdit(segment="beta", drop=True, add=["ann"], remove=["bob"])
    said = link_of({}, {"whitelist": {"ips": ["192.0.2.1"]}}, edit)
    hash_ = hashing("salt")
    assert said["members"] == [
        {"segment": "beta", "dropped": True, "added": [hash_("ann")], "removed": [hash_("bob")]}
    ]
    written = parse.document(
        parse.policy({"service_key": "shop", "whitelist": {"ips": ["192.0.2.1"]}})
    )
    assert said["document"] == parse.content_hash(written)
    assert said["salt"] == "salt"


def test_a_change_of_many_or_long_fields_is_told_as_far_as_there_is_room() -> None:
    many = [Difference(f"f{number}", "", '"x"') for number in range(audit.MAX_CHANGES + 5)]
    assert audit.changes_told(many)["more"] == 5
    long = json.dumps("x" * audit.MAX_VALUE)
    (change,) = audit.changes_told([Difference("f", "", long)])["changes"]
    digest = sha256(long.encode()).hexdigest()
    assert change == {"path": "f", "after": {"characters": len(long), "sha256": digest}}
    nearly = json.dumps("x" * (audit.MAX_VALUE - 2))
    told = audit.changes_told([Difference("f", nearly, nearly)] * 100)
    assert len(json.dumps(told)) < 2 * audit.MAX_VALUES
    assert len(told["changes"]) + told["more"] == 100


class Losing(MemoryStore):
    """Loses the answers to the next appends, before or after they are done."""

    def __init__(self, *losses: str) -> None:
        super().__init__()
        self.losses = list(losses)

    async def append(self, service_key: str, link: Link) -> None:
        loss = self.losses.pop(0) if self.losses else ""
        if loss != "before":
            await super().append(service_key, link)
        if loss:
            raise StoreUnavailable("no answer")


async def test_a_note_whose_answer_was_lost_is_made_once() -> None:
    for loss in ("before", "after"):
        store = Losing(loss)
        noted = Audit(store, clock=lambda: NOW, new_salt=lambda: "salt")
        await noted.note("", "ada", "why", "what")
        assert len(await store.links("")) == 1
