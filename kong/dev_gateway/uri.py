"""Kong's way with paths and query strings: normalise before routing, escape before forwarding."""

import re
from urllib.parse import unquote_to_bytes

from dev_gateway.lua import raw, text

RESERVED = frozenset(b"!*'();:@&=+$,/?%#[]")
MAX_QUERY_ARGS = 100

QueryValue = str | bool | list[str | bool]

_TRIPLET = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNSAFE = re.compile(rb"[^!#$&'()*+,/:;=?@\[\]A-Za-z\d\-_.~%]")


def normalize(path: str) -> str:
    """Decode what is not reserved, drop dot segments, merge slashes."""
    if "%" in path:
        path = text(_TRIPLET.sub(_decode_triplet, raw(path)))
    if "." not in path and "//" not in path:
        return path
    return _drop_dots(path)


def _decode_triplet(match: re.Match[bytes]) -> bytes:
    number = int(match[1], 16)
    return match[0].upper() if number in RESERVED else bytes([number])


def _drop_dots(path: str) -> str:
    segments = path.split("/")
    kept: list[str] = []
    for segment in segments[1:]:
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    is_directory = segments[-1] in ("", ".", "..") and bool(kept)
    return "/" + "/".join(kept) + ("/" if is_directory else "")


def escape(path: str) -> str:
    """Make a normalised path safe to send."""
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], raw(path)).decode("ascii")


def parse_query(query: str, limit: int = MAX_QUERY_ARGS) -> dict[str, QueryValue]:
    """Arguments as ngx.req.get_uri_args gives them: no "=" is true, repeated ones are lists."""
    args: dict[str, QueryValue] = {}
    for part in query.split("&")[:limit] if query else ():
        name, equals, value = part.partition("=")
        key = _unescape(name)
        if not key:
            continue
        _append(args, key, _unescape(value) if equals else True)
    return args


def _append(args: dict[str, QueryValue], key: str, value: str | bool) -> None:
    known = args.get(key)
    if known is None:
        args[key] = value
    elif isinstance(known, list):
        known.append(value)
    else:
        args[key] = [known, value]


def _unescape(value: str) -> str:
    if "%" not in value and "+" not in value:
        return value
    return text(unquote_to_bytes(raw(value.replace("+", " "))))
