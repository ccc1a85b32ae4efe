"""YAML and JSON files as messages: text stays as it was written, every mistake has its path."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from canary.policy.v1 import policy_pb2
from canary_documents import DocumentError, to_message
from google.protobuf.message import Message

from canaryctl.errors import Misuse

M = TypeVar("M", bound=Message)

STDIN = "-"
SUFFIXES = (".json", ".yaml", ".yml")
SHOWN_WITH = frozenset({"service_key", "revision"})
"""What ``show --output json`` says beside the thing itself, so that it can be set again."""


class WrittenInt(int):
    """A number that is text again, exactly as written, where text is wanted."""

    text: str

    def __str__(self) -> str:
        return self.text


class WrittenFloat(float):
    """Likewise: a version named 1.10 is not 1.1."""

    text: str

    def __str__(self) -> str:
        return self.text


class Loader(yaml.SafeLoader):
    """YAML without its traps: yes and on are text, times are text, no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self._refuse_twice(node)
        self.flatten_mapping(node)
        return {
            self._key(key): self.construct_object(value, deep=True) for key, value in node.value
        }

    def _refuse_twice(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            name = self._key(key)
            if name in seen:
                problem = f"{name} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)

    def _key(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        raise yaml.constructor.ConstructorError(None, None, "a key is text", node.start_mark)

    def construct_written_int(self, node: yaml.ScalarNode) -> WrittenInt:
        value = WrittenInt(self.construct_yaml_int(node))
        value.text = node.value
        return value

    def construct_written_float(self, node: yaml.ScalarNode) -> WrittenFloat:
        value = WrittenFloat(self.construct_yaml_float(node))
        value.text = node.value
        return value


_KEPT_AS_TEXT = {"tag:yaml.org,2002:timestamp"}
_BOOLEANS = frozenset({"true", "false"})
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _KEPT_AS_TEXT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _construct_bool(loader: Loader, node: yaml.ScalarNode) -> bool | str:
    text: str = node.value
    return text.lower() == "true" if text.lower() in _BOOLEANS else text


Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_written_int)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_written_float)


def text_of(path: str) -> str:
    """The text of a file, or of stdin. Raises Misuse."""
    try:
        if path == STDIN:
            return sys.stdin.buffer.read().decode("utf-8")
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Misuse(
            f"{path}: {error.strerror or error}", next_step="name a file that can be read"
        ) from error
    except UnicodeDecodeError as error:
        raise Misuse(f"{path}: it is not UTF-8 text") from error


def parsed(text: str, path: str) -> Any:
    """A document from YAML or JSON text. Raises Misuse."""
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise Misuse(f"{path}: {_where(error)}") from error
    except RecursionError as error:
        raise Misuse(f"{path}: it is nested too deeply") from error


def parsed_all(text: str, path: str) -> list[Any]:
    """Every document of a YAML text that says something. Raises Misuse."""
    try:
        return [found for found in yaml.load_all(text, Loader) if found is not None]
    except (yaml.YAMLError, ValueError) as error:
        raise Misuse(f"{path}: {_where(error)}") from error
    except RecursionError as error:
        raise Misuse(f"{path}: it is nested too deeply") from error


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def read_one(path: str, noun: str, message_class: type[M]) -> M:
    """The one message in a file, alone or under its noun. Raises Misuse."""
    return as_message(_unwrapped(parsed(text_of(path), path), noun), message_class, "")


def read_many(path: str, noun: str, message_class: type[M]) -> list[M]:
    """The messages in a file: a list, alone or under ``noun``, or a single one."""
    found = _unwrapped(parsed(text_of(path), path), noun)
    if isinstance(found, Mapping):
        return [as_message(found, message_class, "")]
    if not isinstance(found, list):
        raise Misuse(f"{path}: give a list of {noun}, or a mapping with {noun}")
    return _all_as_messages(found, noun, message_class)


def _all_as_messages(found: list[Any], noun: str, message_class: type[M]) -> list[M]:
    messages: list[M] = []
    complaints: list[str] = []
    for index, item in enumerate(found):
        try:
            messages.append(as_message(item, message_class, f"{noun}[{index}]"))
        except Misuse as misuse:
            complaints.extend(misuse.message.splitlines())
    if complaints:
        raise Misuse(*complaints)
    return messages


def as_message(found: Any, message_class: type[M], path: str = "") -> M:
    """A document as a message. Raises Misuse, each complaint under ``path``."""
    try:
        return to_message(found, message_class)
    except DocumentError as error:
        raise Misuse(*(_under(path, complaint) for complaint in error.complaints)) from error


def _under(path: str, complaint: str) -> str:
    if not path:
        return complaint
    return (
        f"{path}{complaint.removeprefix('document')}"
        if _is_whole(complaint)
        else (f"{path}.{complaint}")
    )


def _is_whole(complaint: str) -> bool:
    return complaint.startswith("document:")


def _unwrapped(found: Any, noun: str) -> Any:
    if not isinstance(found, Mapping) or not isinstance(found.get(noun), Mapping | list):
        return found
    return found[noun] if set(found) <= SHOWN_WITH | {noun} else found


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """One document of a file: a policy, or the part of one that the file has."""

    where: str
    policy: policy_pb2.Policy
    fields: tuple[str, ...]
    """The fields that it has; of the release, as release.FIELD, those of that too."""


def read_policies(paths: Iterable[str]) -> list[PolicyFile]:
    """The policies in files and in the files of directories. Raises Misuse with all complaints."""
    found: list[PolicyFile] = []
    complaints: list[str] = []
    for path in expanded(paths):
        documents = parsed_all(text_of(path), path)
        if not documents:
            complaints.append(f"{path}: it holds no policy")
        for number, document in enumerate(documents, 1):
            where = path if len(documents) == 1 else f"{path} (document {number})"
            try:
                found.append(_policy_file(document, where))
            except Misuse as misuse:
                complaints += [f"{where}: {line}" for line in misuse.message.splitlines()]
    if complaints:
        raise Misuse(*complaints)
    return found


def _policy_file(document: Any, where: str) -> PolicyFile:
    policy = as_message(document, policy_pb2.Policy, "")
    if not policy.service_key:
        raise Misuse("service_key: say which service it is about")
    release = document.get("release") or {}
    fields = [
        *(name for name, value in document.items() if value is not None),
        *(f"release.{name}" for name, value in release.items() if value is not None),
    ]
    return PolicyFile(where=where, policy=policy, fields=tuple(fields))


def expanded(paths: Iterable[str]) -> Iterator[str]:
    """The files, and those in the directories, by name."""
    for path in paths:
        if path == STDIN or not Path(path).is_dir():
            yield path
            continue
        inside = sorted(p for p in Path(path).iterdir() if p.suffix in SUFFIXES and p.is_file())
        if not inside:
            raise Misuse(f"{path}: no file in it ends with {', '.join(SUFFIXES)}")
        yield from map(str, inside)


def users_of(arguments: tuple[str, ...], path: str | None) -> list[str]:
    """User ids from arguments and a file, one a line; ``-`` in either is stdin."""
    users: list[str] = []
    for argument in arguments:
        users.extend(_lines(STDIN) if argument == STDIN else [argument])
    if path is not None:
        users.extend(_lines(path))
    if not users:
        raise Misuse(
            "no users are given",
            next_step="name user ids, or a file with one a line: --file FILE, or - for stdin",
        )
    return users


def _lines(path: str) -> list[str]:
    return [user for line in text_of(path).splitlines() if (user := line.strip())]
