"""Messages as plain documents and back, and every way in which a document may not fit."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2 as pb
from canary.record.v1 import record_pb2
from canary_documents import DocumentError, enum_word, to_document, to_message, unknown_fields
from google.protobuf.message import Message

STATUSES = "in-progress, paused, completed, rolled-back, abandoned"
NO_TIMES: list[Any] = [
    "soon",
    "2026-01-31",
    "2026-01-31T12:00:00",
    "2026-13-31T12:00:00Z",
    "0001-01-01T00:00:00+14:00",
    5,
    [],
    date(2026, 1, 31),
]


def complaints(document: Any, cls: type[Message] = pb.Policy) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        to_message(document, cls)
    return caught.value.complaints


def unknown(number: int) -> bytes:
    """A field of that number, holding 1, as it stands on the wire."""
    tag = number << 3
    return bytes([tag & 0x7F | 0x80, tag >> 7, 1]) if tag > 0x7F else bytes([tag, 1])


# Out


def test_an_empty_message_is_an_empty_document() -> None:
    assert to_document(pb.Policy()) == {}


def test_a_message_is_written_with_the_names_of_its_fields() -> None:
    message = pb.Policy(
        service_key="商店",
        revision=7,
        versions=[pb.Version(version="v1", backend=pb.Backend(host="h", port=80))],
        whitelist=pb.Whitelist(users=["ann", "bob"]),
        identity=pb.Identity(attribute_headers={"tier": "x-tier", "region": "x-region"}),
    )
    document = to_document(message)
    assert document == {
        "service_key": "商店",
        "revision": 7,
        "versions": [{"version": "v1", "backend": {"host": "h", "port": 80}}],
        "whitelist": {"users": ["ann", "bob"]},
        "identity": {"attribute_headers": {"region": "x-region", "tier": "x-tier"}},
    }
    assert list(document["identity"]["attribute_headers"]) == ["region", "tier"]


def test_a_document_holds_plain_values_only() -> None:
    message = to_message({"whitelist": {"users": ["a"]}, "release": {"percentage": 5}}, pb.Policy)
    document = to_document(message)
    assert type(document["whitelist"]["users"]) is list
    assert type(document["release"]) is dict
    assert type(document["release"]["percentage"]) is float


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (pb.RELEASE_STATUS_UNSPECIFIED, "unspecified"),
        (pb.RELEASE_STATUS_IN_PROGRESS, "in-progress"),
        (pb.RELEASE_STATUS_ROLLED_BACK, "rolled-back"),
        (99, "99"),
    ],
)
def test_an_enum_value_is_its_word_without_the_prefix(number: int, word: str) -> None:
    enum = pb.Release.DESCRIPTOR.fields_by_name["status"].enum_type
    assert enum is not None
    assert enum_word(enum, number) == word


def test_an_enum_value_that_this_proto_does_not_know_is_its_number_as_text() -> None:
    message = pb.Release.FromString(b"\x18\x63")  # field 3, status, holds 99
    assert to_document(message) == {"status": "99"}


def test_an_enum_of_several_words_loses_its_whole_prefix() -> None:
    bucketing = pb.Bucketing(anonymous=pb.ANONYMOUS_PER_REQUEST)
    assert to_document(bucketing) == {"anonymous": "per-request"}


def test_an_optional_field_stands_where_it_is_set_even_to_zero() -> None:
    assert to_document(pb.Segment(name="s", percentage=0)) == {"name": "s", "percentage": 0.0}
    assert to_document(pb.Segment(name="s")) == {"name": "s"}
    assert to_document(pb.Decision(bucket=0)) == {"bucket": 0}


def test_a_message_that_is_set_but_empty_stands() -> None:
    policy = pb.Policy()
    policy.whitelist.SetInParent()
    assert to_document(policy) == {"whitelist": {}}


# In, and both


@pytest.mark.parametrize(
    ("cls", "document"),
    [
        (pb.Policy, {}),
        (pb.Policy, {"whitelist": {}}),
        (pb.Segment, {"name": "s", "canary_eligible": True, "percentage": 0.0}),
        (
            pb.Policy,
            {
                "service_key": "shop",
                "revision": 2**63 - 1,
                "release": {
                    "id": "r",
                    "status": "rolled-back",
                    "percentage": 0.001,
                    "strategy": "user-segment",
                    "halted": True,
                    "started_at": "2026-01-31T12:00:00Z",
                    "ended_at": "1969-12-31T23:59:59.123456Z",
                },
                "rules": [
                    {"name": "r", "source": "header", "key": "x", "one_of": ["1"]},
                    {"name": "s", "source": "ip", "cidrs": ["::/0"], "variant": "canary"},
                ],
                "segments": [{"name": "s", "criteria": {"custom": {"部门": "研发"}}}],
            },
        ),
        (
            decision_pb2.DecideRequest,
            {"headers": {"x-a": "1"}, "flags": ["f"], "baseline": {"policy": {"revision": 1}}},
        ),
        (decision_pb2.NumberedRequest, {"id": 2**64 - 1}),
        (pb.Decision, {"variant": "canary", "reason": "no-release", "bucket": 99_999}),
    ],
)
def test_a_document_survives_its_message(cls: type[Message], document: dict[str, Any]) -> None:
    message = to_message(document, cls)
    assert to_document(message) == document
    assert to_document(cls.FromString(message.SerializeToString())) == document


def test_nothing_given_is_a_field_not_set() -> None:
    names = ["service_key", "revision", "release", "rules", "identity"]
    assert to_message(dict.fromkeys(names), pb.Policy) == pb.Policy()


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (5, "5"), (0, "0"), (1.5, "1.5"), ("true", "true")],
)
def test_what_yaml_made_of_a_text_is_a_text_again(value: Any, text: str) -> None:
    assert to_message({"exact": value}, pb.Rule).exact == text
    assert to_message({"one_of": [value]}, pb.Rule).one_of == [text]
    assert to_message({"custom": {"beta": value}}, pb.Criteria).custom == {"beta": text}


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31T20:00:00+08:00",
        datetime(2026, 1, 31, 12, tzinfo=UTC),
        datetime(2026, 1, 31, 20, tzinfo=timezone(timedelta(hours=8))),
        datetime(2026, 1, 31, 12),  # YAML's bare time is meant to be UTC
    ],
)
def test_a_time_is_text_or_what_yaml_made_of_it(value: Any) -> None:
    message = to_message({"started_at": value}, pb.Release)
    assert to_document(message) == {"started_at": "2026-01-31T12:00:00Z"}


def test_a_tuple_is_a_list_too() -> None:
    assert to_message({"users": ("a", "b")}, pb.Whitelist).users == ["a", "b"]


# What does not fit


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        # shapes
        (None, "document: give a mapping, not nothing"),
        ([], "document: give a mapping, not a list"),
        ("policy", "document: give a mapping, not 'policy'"),
        (date(2026, 1, 1), "document: give a mapping, not date"),
        ({"release": []}, "release: give a mapping, not a list"),
        ({"release": "r1"}, "release: give a mapping, not 'r1'"),
        ({"rules": {}}, "rules: give a list, not a mapping"),
        ({"rules": "r"}, "rules: give a list, not 'r'"),
        ({"rules": ["r"]}, "rules[0]: give a mapping, not 'r'"),
        ({"rules": [{}, None]}, "rules[1]: give a mapping, not nothing"),
        ({"whitelist": {"users": ["a", None]}}, "whitelist.users[1]: give text, not nothing"),
        (
            {"identity": {"attribute_headers": ["x"]}},
            "identity.attribute_headers: give a mapping, not a list",
        ),
        (
            {"identity": {"attribute_headers": {"tier": None}}},
            "identity.attribute_headers.tier: give text, not nothing",
        ),
        (
            {"identity": {"attribute_headers": {5: "x"}}},
            "identity.attribute_headers: give text as name, not 5",
        ),
        # unknown fields
        ({"colour": 1}, "colour: unknown field"),
        ({"segment": []}, "segment: unknown field; did you mean segments?"),
        (
            {"release": {"percent": 5}},
            "release.percent: unknown field; did you mean percentage?",
        ),
        (
            {"rules": [{}, {"oneof": []}]},
            "rules[1].oneof: unknown field; did you mean one_of?",
        ),
        ({5: 1}, "5: unknown field"),
        ({None: 1}, "None: unknown field"),
        # words
        (
            {"release": {"status": "running"}},
            f"release.status: 'running' is none of {STATUSES}",
        ),
        ({"release": {"status": 1}}, f"release.status: 1 is none of {STATUSES}"),
        (
            {"release": {"status": "RELEASE_STATUS_PAUSED"}},
            f"release.status: 'RELEASE_STATUS_PAUSED' is none of {STATUSES}",
        ),
        ({"release": {"status": "99"}}, f"release.status: '99' is none of {STATUSES}"),
        # yes or no
        ({"release": {"halted": "true"}}, "release.halted: give true or false, not 'true'"),
        ({"release": {"halted": 1}}, "release.halted: give true or false, not 1"),
        # texts
        ({"service_key": ["a"]}, "service_key: give text, not a list"),
        ({"service_key": {}}, "service_key: give text, not a mapping"),
        ({"service_key": b"a"}, "service_key: give text, not bytes"),
        ({"service_key": "\ud800"}, r"service_key: give text, not '\ud800'"),
        (
            {"identity": {"attribute_headers": {"\ud800": "x"}}},
            r"identity.attribute_headers: give text as name, not '\ud800'",
        ),
        # numbers
        ({"revision": True}, "revision: give a number, not True"),
        ({"revision": "7"}, "revision: give a whole number, not '7'"),
        ({"revision": 7.0}, "revision: give a whole number, not 7.0"),
        (
            {"revision": 2**63},
            "revision: 9223372036854775808 is out of range, "
            "-9223372036854775808 to 9223372036854775807",
        ),
        (
            {"versions": [{"backend": {"port": -1}}]},
            "versions[0].backend.port: -1 is out of range, 0 to 4294967295",
        ),
        ({"release": {"percentage": "5"}}, "release.percentage: give a number, not '5'"),
        ({"release": {"percentage": True}}, "release.percentage: give a number, not True"),
        ({"release": {"percentage": []}}, "release.percentage: give a number, not a list"),
        ({"release": {"percentage": 10**400}}, "release.percentage: the number is out of range"),
        # times
        *[
            (
                {"release": {"ended_at": value}},
                f"release.ended_at: {value!r} is no time; write it like 2026-01-31T12:00:00Z",
            )
            for value in NO_TIMES
        ],
    ],
)
def test_each_fault_has_its_complaint(document: Any, complaint: str) -> None:
    assert complaints(document) == [complaint]


def test_every_complaint_comes_at_once() -> None:
    document = {
        "revision": "x",
        "release": {"status": "y", "percent": 5, "started_at": "z"},
        "rules": [{"exact": []}, 5],
    }
    found = complaints(document)
    assert [complaint.split(":")[0] for complaint in found] == [
        "revision",
        "release.status",
        "release.percent",
        "release.started_at",
        "rules[0].exact",
        "rules[1]",
    ]
    with pytest.raises(DocumentError) as caught:
        to_message(document, pb.Policy)
    assert str(caught.value) == "; ".join(found)


def test_a_field_name_of_10_mb_is_refused_in_a_few_words() -> None:
    [complaint] = complaints({"x" * 10_000_000: 1})
    assert len(complaint) < 250


# Fields that a newer proto has


def test_a_message_of_this_proto_has_no_unknown_fields() -> None:
    message = to_message({"rules": [{"name": "r"}], "release": {"id": "r"}}, pb.Policy)
    assert list(unknown_fields(message)) == []


def test_an_unknown_field_is_named_by_its_number() -> None:
    message = pb.Policy.FromString(unknown(500))
    assert list(unknown_fields(message)) == ["message: unknown field number 500"]


def test_an_unknown_field_is_found_wherever_it_stands() -> None:
    policy = pb.Policy(versions=[pb.Version(version="v1"), pb.Version(version="v2")])
    policy.release.MergeFromString(unknown(501))
    policy.versions[1].backend.MergeFromString(unknown(502))
    policy.identity.attribute_headers["tier"] = "x-tier"
    policy.MergeFromString(unknown(503))
    assert list(unknown_fields(policy)) == [
        "message: unknown field number 503",
        "versions[1].backend: unknown field number 502",
        "release: unknown field number 501",
    ]


def test_mappings_by_number_and_to_numbers_are_read_as_they_are_written() -> None:
    snapshot = {"errors": {"by_type": {404: 7, "500": 1}}, "custom": {"carts": 2}}
    message = to_message(snapshot, record_pb2.MetricSnapshot)
    assert dict(message.errors.by_type) == {404: 7, 500: 1}
    assert to_document(message)["custom"] == {"carts": 2.0}
    wrong = {"errors": {"by_type": {"x": 1, -1: 1, 4: "many"}}, "custom": {"carts": True}}
    with pytest.raises(DocumentError) as caught:
        to_message(wrong, record_pb2.MetricSnapshot)
    assert caught.value.complaints == [
        "errors.by_type: give a whole number as name, not 'x'",
        "errors.by_type: give a whole number as name, not -1",
        "errors.by_type.4: give a whole number, not 'many'",
        "custom.carts: give a number, not True",
    ]
