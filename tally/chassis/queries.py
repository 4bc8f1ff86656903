"""SQL by name: the queries of `.sql` files, each with a name and a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

_HEADER: Final = re.compile(r"^--[ \t]*name:[ \t]*(\S+)[ \t]*$", re.MULTILINE)
_PLACEHOLDER: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class Queries:
    """The queries of a folder or file, as attributes: `queries.record` is the SQL text."""

    def __init__(self, source: str, texts: Mapping[str, str]) -> None:
        self._source = source
        self._texts = dict(texts)

    def __getattr__(self, name: str) -> str:
        try:
            return self._texts[name]
        except KeyError:
            known = ", ".join(sorted(self._texts))
            raise AttributeError(f"there is no query {name!r} in {self._source}, only {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __repr__(self) -> str:
        return f"<Queries {self._source}: {', '.join(self._texts)}>"


def load_queries(source: Path | Traversable, **substitutions: str) -> Queries:
    """Reads the `.sql` file, or all of the folder, that `source` is (a path, or `importlib.resources.files(…)`).

        -- name: live_halves
        -- The live halves of some epochs, in the order of their operations.
        SELECT … FROM {{relationship}}_half WHERE …;

    Each query has a name and a sentence. `{{x}}` is replaced by the substitution `x`: text of the developer's, as a
    table's name; a value always goes in as a parameter. The name stays in the SQL as a comment, for
    pg_stat_statements and the server's log.
    """
    files = (
        sorted((f for f in source.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
        if source.is_dir()
        else [source]
    )
    texts: dict[str, str] = {}
    for file in files:
        for name, text in _blocks(file.name, file.read_text(encoding="utf-8")):
            if name in texts:
                raise ValueError(f"{file.name}: there is another query named {name!r}")
            texts[name] = f"/* {name} */ " + substituted(text, f"{file.name}: {name}", substitutions)
    return Queries(source.name, texts)


def substituted(text: str, place: str, substitutions: Mapping[str, str]) -> str:
    """`text` with every `{{x}}` replaced; ValueError names `place` where there is no substitution for one."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in substitutions:
            raise ValueError(f"{place}: nothing was given for {{{{{match[1]}}}}}")
        return substitutions[match[1]]

    return _PLACEHOLDER.sub(value, text)


def _blocks(file: str, text: str) -> Iterator[tuple[str, str]]:
    """Name and SQL of each block, without its sentence and the final semicolon."""
    before, *parts = _HEADER.split(text)
    if any(line.strip() and not line.startswith("--") for line in before.splitlines()):
        raise ValueError(f"{file}: there is SQL before the first `-- name:`")
    for name, block in zip(parts[::2], parts[1::2], strict=True):
        if not name.isidentifier():
            raise ValueError(f"{file}: {name!r} cannot be the name of a query")
        lines = block.strip().splitlines()
        if not lines or not lines[0].startswith("--"):
            raise ValueError(f"{file}: {name} has no sentence that says what it is for")
        while lines and lines[0].startswith("--"):
            del lines[0]
        if not (sql := "\n".join(lines).strip().rstrip(";").rstrip()):
            raise ValueError(f"{file}: {name} has no SQL")
        yield name, sql
