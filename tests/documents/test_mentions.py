"""What a page mentions in passing is there, too: files and headings that it links to, targets of make, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents.command_line import is_command

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("docs", "charts", "k8s")
PAGES = sorted([ROOT / "README.md", *(file for room in ROOMS for file in (ROOT / room).rglob("*.md"))])

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def mentioned(text: str, program: str) -> Iterator[str]:
    """What is written after a program's name, between backticks or on an indented line."""
    for line in re.findall(rf"`{program} ([^`]+)`|^    {program} (.+)$", text, re.MULTILINE):
        yield re.sub(r"\s+#.*$", "", " ".join("".join(line).split()))


def headings(page: Path) -> set[str]:
    """The page's headings as the anchors that they become."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_what_is_linked_to_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_a_command_that_is_mentioned_is_one(page: Path) -> None:
    for line in mentioned(page.read_text(), "tally"):
        assert is_command(line), f"tally {line}"


def test_a_target_that_is_mentioned_is_one(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in mentioned(page.read_text(), "make"):
        target = line.split()[0]
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {line}"
        for variable in re.findall(r"\b([A-Z_]+)=", line):
            assert variable in makefile or variable == "OBSERVE", f"make {line}: {variable} is nobody's"
