"""Header tables: kept as received, shown as OpenResty shows them."""

from collections.abc import Iterable

from multidict import CIMultiDict

from dev_gateway.lua import to_string

DEFAULT_LIMIT = 100

HeaderValue = str | list[str]
Headers = CIMultiDict[str]


def set_header(headers: Headers, name: str, value: str | bool | float | list[str]) -> None:
    """Replace every header of that name; Kong turns an empty value into a space."""
    if isinstance(value, list):
        headers.popall(name, None)
        for item in value:
            headers.add(name, _one_line(item) or " ")
    else:
        headers[name] = _one_line(to_string(value)) or " "


def _one_line(value: str) -> str:
    """OpenResty escapes what would end the header."""
    return value.replace("\r", "%0D").replace("\n", "%0A")


def as_table(
    pairs: Iterable[tuple[str, str]], limit: int = DEFAULT_LIMIT
) -> dict[str, HeaderValue]:
    """Lower-case names; a name that repeats holds a list. Lines beyond the limit are cut off."""
    table: dict[str, HeaderValue] = {}
    for index, (name, value) in enumerate(pairs):
        if index == limit:
            break
        key = name.lower()
        known = table.get(key)
        if known is None:
            table[key] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            table[key] = [known, value]
    return table


def tokens(values: Iterable[str]) -> set[str]:
    """The names that Connection headers list, lower-case."""
    return {part.strip().lower() for value in values for part in value.split(",")} - {""}
