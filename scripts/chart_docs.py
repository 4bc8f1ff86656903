"""Makes the chart's README.md and values.schema.json from values.yaml, so that none of them can say something else.

    python scripts/chart_docs.py            writes both

In values.yaml a line `# -- …` (and the comment lines after it) describes the key below it, and `# @schema {…}` adds to
what follows from its default: type, and for a map the keys, no others. `defaults` describes what a block of `services`
may hold. A key without a description ends with a sentence.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[1] / "charts" / "tally"
_KEY = re.compile(r"( *)([A-Za-z0-9_.-]+):(?: |$)")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
Path_ = tuple[str, ...]
# What is handed on to Kubernetes as it is: the keys that it knows, since it leaves out what it does not.
_HANDED_ON = {
    "affinity": ("nodeAffinity", "podAffinity", "podAntiAffinity"),
    "egress": ("ports", "to"),
    "parent": ("group", "kind", "name", "namespace", "port", "sectionName"),
    "peer": ("ipBlock", "namespaceSelector", "podSelector"),
    "resources": ("claims", "limits", "requests"),
    # (Without `labelSelector`, which the chart fills in.)
    "spread": (
        "matchLabelKeys",
        "maxSkew",
        "minDomains",
        "nodeAffinityPolicy",
        "nodeTaintsPolicy",
        "topologyKey",
        "whenUnsatisfiable",
    ),
    "toleration": ("effect", "key", "operator", "tolerationSeconds", "value"),
}


class Undocumented(Exception):
    """A key that says nothing of itself."""


@dataclass(frozen=True)
class Said:
    """What the comments above a key say."""

    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)


def comments(text: str) -> dict[Path_, Said]:
    """What is said of each key, by its path."""
    said: dict[Path_, Said] = {}
    path: list[tuple[int, str]] = []
    block: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            block.append(stripped.removeprefix("#").strip())
            continue
        if match := _KEY.match(line):
            indent = len(match[1])
            path = [*((depth, name) for depth, name in path if depth < indent), (indent, match[2])]
            said[tuple(name for _, name in path)] = _said(block)
        block = []
    return said


def _said(block: list[str]) -> Said:
    schema: dict[str, Any] = {}
    words: list[str] = []
    for line in block:
        if line.startswith("@schema "):
            schema = json.loads(line.removeprefix("@schema "))
        elif line.startswith("-- ") or words:
            words.append(line.removeprefix("-- "))
    return Said(" ".join(words), schema)


def schema(values: Mapping[str, Any], said: Mapping[Path_, Said]) -> dict[str, Any]:
    """The JSON schema of the values."""
    service = {**_schema_of(values["defaults"], ("defaults",), said), "required": ["port"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart tally",
        **_schema_of(values, (), said),
        "$defs": {
            "service": _without_defaults(service),
            **{
                name: {"type": "object", "properties": dict.fromkeys(keys, True), "additionalProperties": False}
                for name, keys in _HANDED_ON.items()
            },
        },
    }


def _schema_of(value: Any, path: Path_, said: Mapping[Path_, Said]) -> dict[str, Any]:
    here = said.get(path, Said())
    made: dict[str, Any] = {"type": _TYPES[type(value)]}
    if here.description:
        made["description"] = here.description
    if isinstance(value, dict) and "type" not in here.schema:
        made["properties"] = {name: _schema_of(inner, (*path, name), said) for name, inner in value.items()}
        made["additionalProperties"] = False
    if not isinstance(value, dict | list):
        made["default"] = value
    return {**made, **here.schema}


def _without_defaults(schema: Any) -> Any:
    """For a service's own block, in which nothing has a default of its own."""
    if isinstance(schema, dict):
        return {name: _without_defaults(inner) for name, inner in schema.items() if name != "default"}
    return schema


def rows(values: Mapping[str, Any], said: Mapping[Path_, Said], path: Path_ = ()) -> Iterator[tuple[str, str, str]]:
    """(key, default, description) of each value. Raises `Undocumented`."""
    for name, value in values.items():
        here, about = (*path, name), said.get((*path, name), Said())
        if isinstance(value, dict) and "type" not in about.schema:
            yield from rows(value, said, here)
        elif not about.description:
            raise Undocumented(f"{'.'.join(here)} has no description: a comment `# -- …` above it.")
        else:
            yield ".".join(here), _shown(value), _of(about)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= 60 else "see values.yaml"


def _of(about: Said) -> str:
    return about.description.replace("|", "\\|")


def readme(values: Mapping[str, Any], said: Mapping[Path_, Said], head: str) -> str:
    """The README: `head`, which is written by hand, and the table of the values."""
    lines = [head.rstrip(), "", "## Values", "", "| key | default | |", "|---|---|---|"]
    lines += [f"| `{key}` | {default} | {description} |" for key, default, description in rows(values, said)]
    return "\n".join(lines) + "\n"


def generated(chart: Path = CHART) -> dict[str, str]:
    """The content of each file that is made, by its name in the chart."""
    text = (chart / "values.yaml").read_text()
    values, said = yaml.safe_load(text), comments(text)
    head = (chart / "README.md").read_text().split("\n## Values\n")[0]
    return {
        "README.md": readme(values, said, head),
        "values.schema.json": json.dumps(schema(values, said), indent=2) + "\n",
    }


if __name__ == "__main__":
    try:
        for name, content in generated().items():
            (CHART / name).write_text(content)
    except Undocumented as error:
        sys.exit(str(error))
