"""The report tells what the history holds, in Markdown and in HTML, and its picture is well-formed."""

from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree

import pytest

from tests.chaos.checker import check
from tests.chaos.cluster.__main__ import BEGIN, END, KEPT, _between
from tests.chaos.cluster.measure import End, end_of, measured
from tests.chaos.cluster.page import Block, Picture, as_html, as_markdown, blocks
from tests.chaos.history import History, Kind, Phase, Trouble
from tests.chaos.tape import OTHER_AUTHOR, OTHER_EVENT, WALL_MS, Tape

BREAKS = {"gateway-pod-killed": "One of the gateway's pods is gone."}


def a_run() -> History:
    """Half a minute: a create, a fault that costs a 503 and a connection, and a create again."""
    tape = Tape()
    tape.records.append(Phase("preloaded", 1_000_000, WALL_MS))
    tape.holds(tape.create((10, 40)))
    tape.fault((10_000, 20_000), fault="gateway-pod-killed")
    tape.fault((10_000, 20_000), target="conference", fault="gateway-pod-killed")
    tape.refused((11_000, 11_010), "service-unavailable")
    tape.request(Kind.CANCEL, (12_000, 12_100), trouble=Trouble.LOST, reason="reset", names=_other())
    tape.lists((30_000, 30_020), shown=[])
    tape.records.append(Phase("load-ended", 31_000_000_000, WALL_MS + 31_000))
    return tape.ends()


def _other() -> dict[str, UUID]:
    return {"author": OTHER_AUTHOR, "event": OTHER_EVENT}


@pytest.fixture
def page() -> list[Block]:
    history = a_run()
    return blocks(history, check(history), BREAKS)


def test_a_request_counts_for_the_fault_in_which_it_began() -> None:
    run = measured(a_run())
    [strike] = run.strikes
    assert (strike.name, strike.targets) == ("gateway-pod-killed", ["gateway", "conference"])
    assert strike.crowd.ends == {End.UNAVAILABLE: 1, End.NO_ANSWER: 1}
    assert strike.crowd.available == 0.0
    assert run.calm.available == 1.0
    assert strike.crowd.lost == 1


def test_what_became_of_a_request_follows_from_its_answer() -> None:
    ends = [end_of(request) for request in a_run().requests if request.start.kind in (Kind.CREATE, Kind.CANCEL)]
    assert ends == [End.DONE, End.UNAVAILABLE, End.NO_ANSWER]


def test_markdown_names_faults_verdicts_and_what_breaks(page: list[Block]) -> None:
    kept: list[str] = []
    text = as_markdown(page, lambda svg: kept.append(svg) or "picture.svg")  # type: ignore[func-returns-value]
    assert "| gateway-pod-killed | 1 | One of the gateway's pods is gone. |" in text
    assert "acknowledged-stays" in text and "(picture.svg)" in text
    assert len(kept) == 1


def test_the_picture_is_well_formed_and_shows_the_fault(page: list[Block]) -> None:
    [picture] = [block for block in page if isinstance(block, Picture)]
    root = ElementTree.fromstring(picture.svg)
    assert any("gateway-pod-killed" in (element.text or "") for element in root.iter())


def test_html_is_one_file_with_its_tags_closed(page: list[Block]) -> None:
    class Open(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                self.tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.tags.pop() == tag

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

    parser = Open()
    text = as_html("A & B", page)
    parser.feed(text)
    assert parser.tags == []
    assert "A &amp; B" in text and "http://www.w3.org/2000/svg" in text and "<script" not in text


def test_a_run_without_requests_has_a_report_too() -> None:
    history = Tape().history
    assert as_html("empty", blocks(history, check(history), {}))


def test_the_page_that_is_kept_has_a_place_for_the_figures(tmp_path: Path) -> None:
    text = KEPT.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert _between(f"before {BEGIN} old {END} after", "new") == f"before {BEGIN}\n\nnew\n{END} after"
