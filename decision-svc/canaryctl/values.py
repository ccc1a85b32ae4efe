"""What options and arguments may hold: shares, moments, words, and names with values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from ipaddress import ip_address
from typing import Any, ClassVar

import click
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from canaryctl.render import words_by_value

LONGEST_WAIT_S = 86_400


class Percentage(click.ParamType[float]):
    """0 to 100 in steps of 0.001, with or without a percent sign."""

    name = "percentage"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            share = Decimal(str(value).strip().removesuffix("%").strip())
        except InvalidOperation:
            self.fail(f"{value!r} is not a number; write e.g. 5 or 0.25", param, ctx)
        if not share.is_finite() or not 0 <= share <= 100:
            self.fail(f"{value} is not from 0 to 100", param, ctx)
        if share != round(share, 3):
            self.fail(f"{value} is finer than the smallest step, 0.001", param, ctx)
        return float(share)


class Moment(click.ParamType[Timestamp]):
    """A time in RFC 3339, its offset included."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Timestamp:
        try:
            when = datetime.fromisoformat(str(value))
            in_utc = when.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time; write e.g. 2026-01-31T12:00:00Z", param, ctx)
        if when.tzinfo is None:
            self.fail(f"{value} has no offset; write e.g. 2026-01-31T12:00:00Z", param, ctx)
        stamp = Timestamp()
        stamp.FromDatetime(in_utc)
        return stamp


class Named(click.ParamType[tuple[str, str]]):
    """A name and a value, apart by ``mark``."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.name = f"name{mark}value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, mark, content = str(value).partition(self.mark)
        if not mark or not name.strip():
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return name.strip(), content.strip()


class Seconds(click.ParamType[float]):
    """A time to wait, above zero."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        if not 0 < seconds <= LONGEST_WAIT_S:
            self.fail(f"{value} is not above 0 and up to {LONGEST_WAIT_S}", param, ctx)
        return seconds


class Duration(click.ParamType[int]):
    """A length of time in whole seconds, written with its unit."""

    name = "duration"
    units: ClassVar = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        number, unit = text[:-1], self.units.get(text[-1:])
        if (
            unit is None
            or not (number.isascii() and number.isdigit())
            or not 0 < int(number) < 10**9
        ):
            self.fail(f"{value!r} is no length of time; write e.g. 90m, 12h or 7d", param, ctx)
        return int(number) * unit


class Address(click.ParamType[str]):
    """An IPv4 or IPv6 address; "" for none."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        try:
            return str(ip_address(text)) if text else ""
        except ValueError:
            self.fail(f"{text!r} is no address; write e.g. 203.0.113.7 or 2001:db8::7", param, ctx)


EXPECTED_REVISION = click.IntRange(0, 2**63 - 1)
REVISION = click.IntRange(1, 2**63 - 1)
POSITION = click.IntRange(0, 2**32 - 1)
DAYS = click.IntRange(1, 2**32 - 1)
PERCENTAGE = Percentage()
MOMENT = Moment()
SECONDS = Seconds()
DURATION = Duration()
ADDRESS = Address()
HEADER = Named(":")
SETTING = Named("=")


def choice(enum: EnumDescriptor) -> click.Choice[str]:
    """The words of an enum to choose from."""
    return click.Choice(list(words_by_value(enum).values()))


def value_of(enum: EnumDescriptor, chosen: str | None) -> Any:
    """The enum value of a word; unspecified for None."""
    values = {word: value for value, word in words_by_value(enum).items()}
    return values[chosen] if chosen else 0


def joined(named: Iterable[tuple[str, str]], name: Callable[[str], str] = str) -> dict[str, str]:
    """Pairs as a mapping; what is given again is joined by commas, as gateways do."""
    found: dict[str, str] = {}
    for key, value in ((name(key), value) for key, value in named):
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found
