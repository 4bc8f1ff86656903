"""SIGTERM: what is in flight is finished and answered, nothing new is taken, and the process ends by itself."""

import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.integration.statements.stage import Stage, at_once, until

#: Longer than it takes to send the requests, shorter than anybody's patience.
HOLD_S = 0.3


@pytest.fixture(autouse=True)
def _put_right(stage: Stage) -> Iterator[None]:
    yield
    for service in ("gateway", "author"):
        if service not in stage.stack.running():
            stage.stack.start_service(service)
    stage.recovered()


def test_a_gateway_that_is_told_to_stop_answers_what_is_in_flight(stage: Stage) -> None:
    event, authors = stage.event(), stage.authors(10)
    # Conference holds them up, so that they are in flight when the signal comes.
    with stage.paused("conference"):
        pool, answers = at_once([partial(stage.create, event, author) for author in authors])
        time.sleep(HOLD_S)
        assert not any(answer.done() for answer in answers)
        stage.terminate("gateway")
    told = [answer.result()[0] for answer in answers]
    pool.shutdown()
    assert [answer.status for answer in told] == [201] * len(authors), [answer.says() for answer in told]
    until(lambda: "gateway" not in stage.stack.running(), "the gateway has ended", 12)
    with pytest.raises(OSError):
        stage.create(event, authors[0])


def test_an_author_service_that_is_told_to_stop_leaves_only_true_answers(stage: Stage) -> None:
    event, authors = stage.event(), stage.authors(30)
    pool, answers = at_once([partial(stage.create, event, author) for author in authors])
    time.sleep(0.01)
    stage.terminate("author")
    told = [answer.result()[0] for answer in answers]
    pool.shutdown()
    until(lambda: "author" not in stage.stack.running(), "the author service has ended", 12)
    stage.stack.start_service("author")
    stage.recovered()
    stage.next_settlement()
    for author, answer in zip(authors, told, strict=True):
        assert answer.status in (201, 503, 504), answer.says()
        here, there = stage.live(event, author).values()
        assert here == there
        assert answer.status == 504 or bool(here) == (answer.status == 201)
