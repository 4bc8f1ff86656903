"""Statement 3: the conference service is paused in the middle of creates; every answer is in time, and stays true."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from tally.local.ask import Answer
from tests.integration.statements.stage import DEADLINE_S, GRACE_S, Stage, at_once, until

CREATES = 24
#: The creates begin one after the other over this time.
STAGGERED_S = 0.06
#: How many have begun at the pause: of these some are done then, some under way, and the others are to come.
BEGUN = (1, CREATES // 2)
AGREE_WITHIN_S = 5.0


@pytest.fixture(autouse=True)
def _put_right(stage: Stage) -> Iterator[None]:
    yield
    stage.recovered()


@pytest.mark.parametrize("begun", BEGUN)
def test_a_create_during_a_pause_is_answered_in_time_and_truly(stage: Stage, begun: int) -> None:
    event = stage.event()
    authors = stage.authors(CREATES)
    spans: dict[str, list[float]] = {}

    def create(number: int, author: str) -> Answer:
        time.sleep(number * STAGGERED_S / CREATES)
        spans[author] = [time.monotonic()]
        answer = stage.create(event, author)
        spans[author].append(time.monotonic())
        return answer

    pool, answers = at_once([partial(create, number, author) for number, author in enumerate(authors)])
    while len(spans) < begun:
        time.sleep(0.001)
    with stage.paused("conference"):
        paused_s = time.monotonic()
        results = [answer.result()[0] for answer in answers]
    pool.shutdown()
    told = [(answer, spans[author][1] - spans[author][0]) for author, answer in zip(authors, results, strict=True)]
    assert any(answer.status != 201 for answer in results), "nobody felt the pause"
    assert any(began_s < paused_s < ended_s for began_s, ended_s in spans.values()), "nothing was under way"
    for answer, took_s in told:
        assert took_s <= DEADLINE_S + GRACE_S, f"{took_s:.3f} s: {answer.says()}"
        assert answer.status in (201, 503, 504), answer.says()
    # A write that was on its way arrives now, and must change nothing of what was said.
    until(lambda: both_directions_agree(stage, event, authors), "both directions agree", AGREE_WITHIN_S)
    for author, (answer, _) in zip(authors, told, strict=True):
        assert_true(stage, event, author, answer)
    stage.next_settlement()
    for author, (answer, _) in zip(authors, told, strict=True):
        assert_true(stage, event, author, answer)
        here, there = stage.live(event, author).values()
        assert here == there


def test_reposting_during_a_pause_is_not_called_a_conflict_and_harms_nothing(stage: Stage) -> None:
    event, author = stage.event(), stage.author()
    operation = stage.created(event, author)
    with stage.paused("conference"):
        pool, answers = at_once([partial(stage.create, event, author) for _ in range(6)])
        told = [answer.result() for answer in answers]
        pool.shutdown()
    for answer, took_s in told:
        assert took_s <= DEADLINE_S + GRACE_S
        assert answer.status in (503, 504), answer.says()
    until(lambda: both_directions_agree(stage, event, [author]), "both directions agree", AGREE_WITHIN_S)
    stage.next_settlement()
    assert stage.shown(event, author) == ([operation], [operation])


def test_a_second_create_of_a_pair_during_a_pause_says_that_nothing_was_recorded_of_it(stage: Stage) -> None:
    event, author = stage.event(), stage.author()
    with stage.paused("conference"):
        pool, [first] = at_once([partial(stage.create, event, author)])
        until(lambda: bool(stage.live(event, author)["author"]), "the first one's half at the author's", AGREE_WITHIN_S)
        second = stage.create(event, author)
        answer, _ = first.result()
        pool.shutdown()
    assert (second.status, second.body["code"]) == (503, "service-unavailable")
    assert answer.status == 504, answer.says()
    until(lambda: both_directions_agree(stage, event, [author]), "both directions agree", AGREE_WITHIN_S)
    stage.next_settlement()
    assert_true(stage, event, author, answer)


def test_a_half_that_a_pause_left_alone_is_voided_by_the_settler_and_logged(stage: Stage) -> None:
    event, author = stage.event(), stage.author()
    stage.stack.pause("conference")
    try:
        answer = stage.create(event, author)
        held = stage.live(event, author)
    finally:
        stage.stack.kill("conference")  # what is on its way to it is lost with it
        stage.stack.start_service("conference")
    assert answer.status == 504, answer.says()
    operation = answer.body["operation"]
    assert held == {"author": [operation], "conference": []}
    stage.next_settlement()
    assert stage.live(event, author) == {"author": [], "conference": []}
    assert stage.ask("GET", answer.body["operation_url"]).body["state"] == "refused"
    assert_true(stage, event, author, answer)
    lines = stage.stack.log("conference").read_text().splitlines()
    assert [line for line in lines if "voided lone halves" in line and operation in line]


def both_directions_agree(stage: Stage, event: str, authors: Sequence[str]) -> bool:
    """Whether both can be read, wholly, and show the same operations."""
    by_event = stage.ask("GET", f"/event/{event}/attendance?limit=500")
    by_author = [stage.ask("GET", f"/author/{author}/attendance") for author in authors]
    if any(answer.status != 200 or not answer.body["complete"] for answer in (by_event, *by_author)):
        return False
    here = {(item["id"], item["operation"]) for item in by_event.body["attendees"]}
    there = {
        (author, item["operation"])
        for author, answer in zip(authors, by_author, strict=True)
        for item in answer.body["events"]
        if item["id"] == event
    }
    return here == there


def assert_true(stage: Stage, event: str, author: str, answer: Answer) -> None:
    """What was answered is what is shown; of an unknown outcome its address tells."""
    shown = stage.shown(event, author)
    match answer.status:
        case 201:
            assert shown == ([answer.body["operation"]], [answer.body["operation"]])
        case 503:
            assert shown == ([], [])
        case _:
            assert answer.body["code"] == "outcome-unknown"
            operation = stage.ask("GET", answer.body["operation_url"])
            assert operation.status == 200, operation.says()
            exists = [answer.body["operation"]] if operation.body["state"] == "done" else []
            assert operation.body["state"] in ("done", "refused", "undecided")
            assert shown == (exists, exists)
