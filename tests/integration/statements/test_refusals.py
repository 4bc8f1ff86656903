"""Statement 1: who does not exist cannot attend, and the attempt leaves nothing behind."""

from uuid import uuid4

import pytest

from tests.integration.statements.stage import Stage, pair


@pytest.fixture(scope="module")
def nobody(stage: Stage) -> dict[str, tuple[str, str]]:
    """Pairs of event and author by who of them is unknown."""
    return {
        "author": (stage.event(), str(uuid4())),
        "event": (str(uuid4()), stage.author()),
        "both": (str(uuid4()), str(uuid4())),
    }


@pytest.fixture(scope="module")
def refused(stage: Stage, nobody: dict[str, tuple[str, str]]) -> Stage:
    """Each was tried with both methods, nothing was live at once, and the next settlement has been."""
    for event, author in nobody.values():
        for method in ("POST", "PUT"):
            stage.ask(method, pair(event, author))
            assert stage.live(event, author) == {"author": [], "conference": []}
    stage.next_settlement()
    return stage


@pytest.mark.parametrize("unknown", ["author", "event", "both"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_attendance_of_somebody_unknown_is_404_that_names_who(
    stage: Stage, nobody: dict[str, tuple[str, str]], unknown: str, method: str
) -> None:
    event, author = nobody[unknown]
    answer = stage.ask(method, pair(event, author))
    assert (answer.status, answer.body["code"]) == (404, f"{unknown}-not-found")
    assert answer.headers["content-type"] == "application/problem+json"
    named = {"author": [author], "event": [event], "both": [author, event]}[unknown]
    assert all(id in answer.body["detail"] for id in named)


@pytest.mark.parametrize("unknown", ["author", "event", "both"])
def test_no_half_of_it_is_live_at_once_or_after_the_next_settlement(
    refused: Stage, nobody: dict[str, tuple[str, str]], unknown: str
) -> None:
    event, author = nobody[unknown]
    assert refused.live(event, author) == {"author": [], "conference": []}
    assert refused.ask("GET", pair(event, author)).status == 404


def test_the_existing_one_of_the_two_shows_nothing(refused: Stage, nobody: dict[str, tuple[str, str]]) -> None:
    event, _ = nobody["author"]
    assert refused.ask("GET", f"/event/{event}/attendance").body["attendees"] == []
    _, author = nobody["event"]
    assert refused.ask("GET", f"/author/{author}/attendance").body["events"] == []
