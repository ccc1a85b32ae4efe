"""Messages as plain documents and back: the one JSON form of everything the protos say.

A document holds str, int, float, bool, lists and dictionaries. Field names are the
protos'; unset fields are absent; an enum value is its word in lower case with dashes and
without the enum's prefix ("in-progress"); a Timestamp is an RFC 3339 string in UTC.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

__all__ = ["DocumentError", "to_document", "to_message", "unknown_fields"]

M = TypeVar("M", bound=Message)

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_MAX_SHOWN = 128
_HALF = re.compile("[\ud800-\udfff]")
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


class DocumentError(ValueError):
    """A document does not fit its message; ``complaints`` holds "path: what to do" lines."""

    def __init__(self, complaints: list[str]) -> None:
        self.complaints = complaints
        super().__init__("; ".join(complaints))


def to_document(message: Message) -> dict[str, Any]:
    """``message`` as a plain dictionary; fields that are not set are left out."""
    return {field.name: _field_out(field, value) for field, value in message.ListFields()}


def to_message(document: Mapping[str, Any], cls: type[M]) -> M:
    """``document`` as a message of ``cls``. Raises DocumentError with every complaint."""
    message = cls()
    complaints: list[str] = []
    _fill(message, document, "", complaints)
    if complaints:
        raise DocumentError(complaints)
    return message


def unknown_fields(message: Message, path: str = "") -> Iterator[str]:
    """Paths and numbers of fields in ``message`` that its proto does not know."""
    unknowns = cast(Iterable[Any], UnknownFieldSet(message))
    for unknown in unknowns:
        yield f"{path or 'message'}: unknown field number {unknown.field_number}"
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        where = f"{path}.{field.name}" if path else field.name
        if field.is_repeated:
            for index, item in enumerate(value):
                yield from unknown_fields(item, f"{where}[{index}]")
        else:
            yield from unknown_fields(value, where)


def enum_word(enum: EnumDescriptor, number: int) -> str:
    """The word for an enum value; its number as text if the enum does not know it."""
    value = enum.values_by_number.get(number)
    return str(number) if value is None else _word(enum, value.name)


def _word(enum: EnumDescriptor, name: str) -> str:
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.name).lstrip("_") + "_"
    return name.removeprefix(prefix).lower().replace("_", "-")


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _field_out(field: FieldDescriptor, value: Any) -> Any:
    if _is_map(field):
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_value_out(field, item) for item in value]
    return _value_out(field, value)


def _value_out(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return to_document(value)
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    return value


def _fill(message: Message, document: Any, path: str, complaints: list[str]) -> None:
    if not isinstance(document, Mapping):
        complaints.append(f"{path or 'document'}: give a mapping, not {_kind(document)}")
        return
    known = cast(Mapping[str, FieldDescriptor], message.DESCRIPTOR.fields_by_name)
    for name, value in document.items():
        shown = str(name)[:_MAX_SHOWN]
        where = f"{path}.{shown}" if path else shown
        field = known.get(name) if isinstance(name, str) else None
        if field is None:
            near = difflib.get_close_matches(shown, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            complaints.append(f"{where}: unknown field{hint}")
        elif value is not None:
            _set(message, field, value, where, complaints)


def _set(
    message: Message, field: FieldDescriptor, value: Any, where: str, complaints: list[str]
) -> None:
    if _is_map(field):
        _set_map(getattr(message, field.name), field, value, where, complaints)
    elif field.is_repeated:
        if not isinstance(value, list | tuple):
            complaints.append(f"{where}: give a list, not {_kind(value)}")
            return
        target = getattr(message, field.name)
        for index, item in enumerate(value):
            at = f"{where}[{index}]"
            if field.message_type is not None:
                _fill(target.add(), item, at, complaints)
            else:
                scalar = _scalar(field, item, at, complaints)
                if scalar is not None:
                    target.append(scalar)
    elif field.message_type is not None:
        _set_message(getattr(message, field.name), value, where, complaints)
    else:
        scalar = _scalar(field, value, where, complaints)
        if scalar is not None:
            setattr(message, field.name, scalar)


def _set_message(target: Message, value: Any, where: str, complaints: list[str]) -> None:
    if not isinstance(target, Timestamp):
        target.SetInParent()
        _fill(target, value, where, complaints)
        return
    try:
        # YAML reads a bare time as a datetime, JSON leaves it a string: both are meant.
        target.FromJsonString(value) if isinstance(value, str) else target.FromDatetime(value)
    except (ValueError, AttributeError, TypeError):
        complaints.append(f"{where}: {value!r} is no time; write it like 2026-01-31T12:00:00Z")


def _set_map(
    target: Any, field: FieldDescriptor, value: Any, where: str, complaints: list[str]
) -> None:
    if not isinstance(value, Mapping):
        complaints.append(f"{where}: give a mapping, not {_kind(value)}")
        return
    assert field.message_type is not None, "only mappings come here"
    named, holds = field.message_type.fields
    for key, item in value.items():
        name = _key(named, key)
        if name is None:
            what = "text" if named.cpp_type == FieldDescriptor.CPPTYPE_STRING else "a whole number"
            complaints.append(f"{where}: give {what} as name, not {_kind(key)}")
        elif (found := _scalar(holds, item, f"{where}.{key}", complaints)) is not None:
            target[name] = found


def _key(field: FieldDescriptor, key: Any) -> Any:
    """What names an entry; None if it cannot. JSON writes numbers as text."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _text(key) if isinstance(key, str) else None
    if isinstance(key, str) and key.isascii() and key.isdigit():
        key = int(key)
    low, high = _INTEGERS[field.cpp_type]
    is_one = isinstance(key, int) and not isinstance(key, bool) and low <= key <= high
    return key if is_one else None


def _scalar(field: FieldDescriptor, value: Any, where: str, complaints: list[str]) -> Any:
    if field.enum_type is not None:
        words = {_word(field.enum_type, v.name): v.number for v in field.enum_type.values}
        if not isinstance(value, str) or value not in words:
            complaints.append(f"{where}: {value!r} is none of {', '.join(list(words)[1:])}")
            return None
        return words[value]
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _of_type(value, bool, "true or false", where, complaints)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = _text(value)
        if text is None:
            complaints.append(f"{where}: give text, not {_kind(value)}")
        return text
    if isinstance(value, bool):
        complaints.append(f"{where}: give a number, not {_kind(value)}")
        return None
    if field.cpp_type in _FLOATS:
        return _float(value, where, complaints)
    low, high = _INTEGERS[field.cpp_type]
    if isinstance(value, int) and not low <= value <= high:
        complaints.append(f"{where}: {value} is out of range, {low} to {high}")
        return None
    return _of_type(value, int, "a whole number", where, complaints)


def _float(value: Any, where: str, complaints: list[str]) -> float | None:
    try:
        number: float | None = _of_type(value, int | float, "a number", where, complaints)
        return None if number is None else float(number)
    except OverflowError:
        complaints.append(f"{where}: the number is out of range")
        return None


def _of_type(value: Any, kind: Any, what: str, where: str, complaints: list[str]) -> Any:
    if isinstance(value, kind):
        return value
    complaints.append(f"{where}: give {what}, not {_kind(value)}")
    return None


def _text(value: Any) -> str | None:
    """YAML turns ``true`` and ``1`` into other things than the text a person wrote."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, int | float | str):
        return None
    text = str(value)
    # JSON can name half a surrogate pair; a message is UTF-8 and cannot carry it.
    return None if _HALF.search(text) else text


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__
