"""A relationship that only the tests declare, as real processes: nothing about it is known beforehand but its
declaration, and its public API is what the attendance's is, in its own words.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tally.local.ask import Answer, ask
from tally.local.stack import LocalStack, free_ports
from tests.support.folders import scratch_folder
from tests.support.talks import TALKS

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with (
        scratch_folder() as folder,
        LocalStack(folder / ".tally", programs=TALKS, ports=free_ports(TALKS), durable=False) as running,
    ):
        yield running


@pytest.fixture
def speaker(stack: LocalStack) -> str:
    return _made(ask("POST", f"{stack.urls['speakers']}/speaker", {"full_name": "Grace Hopper"}))


@pytest.fixture
def session(stack: LocalStack) -> str:
    return _made(ask("POST", f"{stack.urls['programme']}/session", {"title": "Compilers"}))


def _made(answer: Answer) -> str:
    assert answer.status == 201, answer.says()
    return str(answer.body["id"])


def test_a_talk_is_created_read_in_both_directions_and_cancelled(stack: LocalStack, speaker: str, session: str) -> None:
    gateway = stack.urls["gateway"]
    path = f"/session/{session}/talk/{speaker}"
    created = ask("POST", gateway + path)
    assert (created.status, created.headers["location"]) == (201, path), created.says()
    assert ask("POST", gateway + path).status == 200
    by_session = ask("GET", f"{gateway}/session/{session}/talk").body
    assert [(one["id"], one["full_name"]) for one in by_session["speakers"]] == [(speaker, "Grace Hopper")]
    by_speaker = ask("GET", f"{gateway}/speaker/{speaker}/talk").body
    assert [(one["id"], one["title"]) for one in by_speaker["sessions"]] == [(session, "Compilers")]
    assert ask("DELETE", gateway + path).status == 204
    gone = ask("GET", gateway + path)
    assert (gone.status, gone.body["code"]) == (404, "talk-not-found")


@pytest.mark.parametrize("unknown", ["speaker", "session", "both"])
def test_who_is_unknown_is_named_in_the_relationships_own_words(
    stack: LocalStack, speaker: str, session: str, unknown: str
) -> None:
    one = speaker if unknown == "session" else uuid.uuid4()
    other = session if unknown == "speaker" else uuid.uuid4()
    answer = ask("POST", f"{stack.urls['gateway']}/session/{other}/talk/{one}")
    assert (answer.status, answer.body["code"]) == (404, f"{unknown}-not-found")


def test_a_deleted_speaker_takes_the_talks_along(stack: LocalStack, speaker: str, session: str) -> None:
    gateway, own = stack.urls["gateway"], f"{stack.urls['speakers']}/speaker/{speaker}"
    assert ask("POST", f"{gateway}/session/{session}/talk/{speaker}").status == 201
    assert ask("DELETE", own).status == 204
    assert (ask("GET", own).status, ask("GET", own).body["code"]) == (404, "speaker-not-found")
    assert ask("GET", f"{gateway}/session/{session}/talk").body["speakers"] == []


def test_the_gateways_document_describes_the_talk(stack: LocalStack) -> None:
    document = ask("GET", f"{stack.urls['gateway']}/openapi.json").body
    assert {"/session/{session}/talk/{speaker}", "/session/{session}/talk", "/speaker/{speaker}/talk"} <= set(
        document["paths"]
    )
    problems = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert {"speaker-not-found", "session-not-found", "talk-not-found"} <= set(problems)
    assert "session-full" not in problems
