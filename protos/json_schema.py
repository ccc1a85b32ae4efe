"""Makes the JSON Schemas of policy and plan files from the protos and their comments.

Usage: python protos/json_schema.py [OUT], run by generate.sh. Without OUT they are written to
docs/schema, and to the data of canaryctl, which prints them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc_tools
from canary_documents import enum_word
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PUBLISHED = (
    HERE.parent / "docs" / "schema",
    HERE.parent / "decision-svc" / "canaryctl" / "data",
)
SOURCE = "canary/policy/v1/policy.proto"
FILES = {"canary-policy": "Policy", "canary-plan": "Plan"}
REQUIRED = {
    "Policy": ["service_key"], "Version": ["version"], "Release": ["version"],
    "Rule": ["name", "source", "variant"], "Segment": ["name"], "Flag": ["name"],
    "CompatibilityRule": ["from", "to"], "ApiVersion": ["version"],
    "Freeze": ["name", "start", "end", "time_zone"], "HashKey": ["source"],
    "Plan": ["steps"], "PlanStep": ["weight"], "Gate": ["kind"], "Limit": ["metric"],
    "Window": ["time_zone", "start", "end"], "ChecklistItem": ["name"],
    "Webhook": ["name", "url", "occasions"], "Query": ["metric", "promql"],
}  # fmt: skip
PERCENTAGES = frozenset({"percentage", "above", "weight", "max_weight", "control"})
# YAML reads unquoted text as other things; the text is meant as it stands there.
TEXT = {"type": ["string", "number", "boolean"]}
MOMENT = {"type": "string", "format": "date-time"}
Comments = Mapping[str, str]


def main(out: Path) -> None:
    """Write the schemas into a folder."""
    files = described()
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    source = next(file for file in files.file if file.name == SOURCE)
    comments = dict(commented(source))
    out.mkdir(parents=True, exist_ok=True)
    for name, message in FILES.items():
        root = pool.FindMessageTypeByName(f"canary.policy.v1.{message}")
        text = json.dumps(schema(root, comments), indent=2, ensure_ascii=False)
        (out / f"{name}.schema.json").write_text(text + "\n", encoding="utf-8")


def described() -> FileDescriptorSet:
    """The protos as descriptors, their comments included."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "descriptors"
        options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={found}"]
        if protoc.main(["protoc", f"-I{HERE}", f"-I{well_known}", *options, SOURCE]):
            raise SystemExit(f"protoc refused {SOURCE}")
        return FileDescriptorSet.FromString(found.read_bytes())


def commented(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """The comments of a file by what they are about: "Message", "Message.field", "Enum.VALUE"."""
    for location in file.source_code_info.location:
        text = " ".join(location.leading_comments.split())
        match list(location.path):
            case [4, message]:
                yield file.message_type[message].name, text
            case [4, message, 2, field]:
                owner = file.message_type[message]
                yield f"{owner.name}.{owner.field[field].name}", text
            case [5, enum, 2, value]:
                words = file.enum_type[enum]
                yield f"{words.name}.{words.value[value].name}", text


def schema(root: Descriptor, comments: Comments) -> dict[str, Any]:
    """The schema of a file that holds ``root``."""
    definitions: dict[str, Any] = {}
    _define(root, comments, definitions)
    top = definitions.pop(root.name)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": f"urn:canary-release:schema:{root.name.lower()}",
        "title": f"Canary {root.name.lower()}",
        **top,
        "definitions": dict(sorted(definitions.items())),
    }


def _define(message: Descriptor, comments: Comments, definitions: dict[str, Any]) -> None:
    if message.name in definitions:
        return
    definitions[message.name] = {}  # it may hold itself
    properties = {}
    for field in message.fields:
        said = comments.get(f"{message.name}.{field.name}", "")
        properties[field.name] = {"description": said, **_field(field, comments, definitions)}
    definitions[message.name] = {
        "description": comments.get(message.name, ""),
        "type": "object",
        "additionalProperties": False,
        **({"required": REQUIRED[message.name]} if message.name in REQUIRED else {}),
        "properties": properties,
    }


def _field(field: FieldDescriptor, comments: Comments, definitions: dict[str, Any]) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": TEXT}
    one = _value(field, comments, definitions)
    return {"type": "array", "items": one} if field.is_repeated else one


def _value(field: FieldDescriptor, comments: Comments, definitions: dict[str, Any]) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return MOMENT
        _define(field.message_type, comments, definitions)
        return {"allOf": [{"$ref": f"#/definitions/{field.message_type.name}"}]}
    if field.enum_type is not None:
        return _words(field.enum_type, comments)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return TEXT
        case FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        case FieldDescriptor.CPPTYPE_DOUBLE:
            bounds = {"minimum": 0, "maximum": 100} if field.name in PERCENTAGES else {}
            return {"type": "number", **bounds}
        case _:
            return {"type": "integer", "minimum": 0}


def _words(enum: EnumDescriptor, comments: Comments) -> Any:
    values = [value for value in enum.values if value.number]
    return {
        "enum": [enum_word(enum, value.number) for value in values],
        # Editors that know it show these beside the words.
        "enumDescriptions": [comments.get(f"{enum.name}.{v.name}", "") for v in values],
    }


if __name__ == "__main__":
    for folder in [Path(sys.argv[1])] if len(sys.argv) > 1 else PUBLISHED:
        main(folder)
