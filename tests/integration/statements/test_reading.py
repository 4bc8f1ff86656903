"""Reads over HTTP: pages in both directions, one attendance, operations, and what happens to a deleted entity's."""

from __future__ import annotations

import uuid

from tally.local.ask import ask
from tests.integration.statements.stage import Stage


def _pages(stage: Stage, path: str, items: str, limit: int) -> list[list[str]]:
    """The operations on each page, following ``next``."""
    pages, after = [], ""
    while True:
        answer = stage.ask("GET", f"{path}?limit={limit}{after}")
        assert answer.status == 200, answer.says()
        pages.append([item["operation"] for item in answer.body[items]])
        if answer.body["next"] is None:
            assert "link" not in answer.headers
            return pages
        assert answer.headers["link"].endswith('rel="next"') and answer.body["next"] in answer.headers["link"]
        after = f"&after={answer.body['next']}"


def test_pages_show_every_attendance_once_in_the_order_of_their_operations(stage: Stage) -> None:
    event, authors = stage.event(), stage.authors(7)
    made = [stage.created(event, author) for author in authors]
    assert _pages(stage, f"/event/{event}/attendance", "attendees", 3) == [made[:3], made[3:6], made[6:]]
    assert _pages(stage, f"/event/{event}/attendance", "attendees", 7) == [made]


def test_an_author_pages_through_events_with_their_conference(stage: Stage) -> None:
    author, events = stage.author(), [stage.event() for _ in range(3)]
    made = [stage.created(event, author) for event in events]
    assert _pages(stage, f"/author/{author}/attendance", "events", 2) == [made[:2], made[2:]]
    first = stage.ask("GET", f"/author/{author}/attendance").body["events"][0]
    assert (first["id"], first["conference"]["acronym"]) == (events[0], "SWAT")


def test_one_attendance_is_read_at_the_address_that_created_it(stage: Stage) -> None:
    event, author = stage.event(), stage.author()
    created = stage.create(event, author)
    read = stage.ask("GET", created.headers["location"])
    assert (read.status, read.body) == (200, created.body)


def test_an_operation_tells_what_became_of_it(stage: Stage) -> None:
    event, author = stage.event(), stage.author()
    operation = stage.created(event, author)
    told = stage.ask("GET", f"/operation/{operation}")
    assert told.body["state"] == "done" and told.body["halves"] == {"author": "live", "conference": "live"}
    stage.cancel(event, author)
    assert stage.ask("GET", f"/operation/{operation}").body["state"] == "cancelled"


def test_an_id_that_no_operation_can_have_is_not_found(stage: Stage) -> None:
    answer = stage.ask("GET", f"/operation/{uuid.uuid4()}")
    assert (answer.status, answer.body["code"]) == (404, "operation-not-found")


def test_deleting_an_author_ends_its_attendances_at_once_and_frees_the_seat(stage: Stage) -> None:
    event, author, other = stage.event(capacity=1), stage.author(), stage.author()
    stage.created(event, author)
    deleted = stage.ask("DELETE", f"/author/{author}", gateway=stage.stack.urls["author"])
    assert deleted.status == 204
    page = stage.ask("GET", f"/event/{event}/attendance")
    assert page.body["attendees"] == [] and page.body["complete"]
    stage.next_settlement()
    assert stage.seats(event) == (0, 0)
    assert stage.create(event, other).status == 201


def test_deleting_an_event_ends_its_attendances(stage: Stage) -> None:
    event, author = stage.event(), stage.author()
    stage.created(event, author)
    assert stage.ask("DELETE", f"/event/{event}", gateway=stage.stack.urls["conference"]).status == 204
    assert stage.ask("GET", f"/author/{author}/attendance").body["events"] == []
    stage.next_settlement()
    assert stage.live(event, author) == {"author": [], "conference": []}


def test_a_conference_with_events_is_deleted_only_on_purpose(stage: Stage) -> None:
    conference_url = stage.stack.urls["conference"]
    event, author = stage.event(), stage.author()
    stage.created(event, author)
    conference = stage.ask("GET", f"/event/{event}", gateway=conference_url).body["conference_id"]
    refused = stage.ask("DELETE", f"/conference/{conference}", gateway=conference_url)
    assert (refused.status, refused.body["code"]) == (409, "has-dependents")
    # Other tests share the stage's conference: the cascade runs on one of its own.
    stage._conference = None
    event, author = stage.event(), stage.author()
    stage.created(event, author)
    conference = stage.ask("GET", f"/event/{event}", gateway=conference_url).body["conference_id"]
    assert stage.ask("DELETE", f"/conference/{conference}?cascade=true", gateway=conference_url).status == 204
    stage._conference = None
    assert stage.ask("GET", f"/author/{author}/attendance").body["events"] == []


def test_a_capacity_below_the_seats_taken_is_refused(stage: Stage) -> None:
    event = stage.event(capacity=2)
    for author in stage.authors(2):
        stage.created(event, author)
    url = f"{stage.stack.urls['conference']}/event/{event}"
    refused = ask("PATCH", url, {"capacity": 1})
    assert (refused.status, refused.body["code"], refused.body["field"]) == (409, "capacity-below-taken", "capacity")
    assert ask("PATCH", url, {"capacity": None}).status == 200
    assert stage.create(event, stage.author()).status == 201
    assert ask("PATCH", url, {"capacity": 3}).body["seats_taken"] == 3
    full = stage.create(event, stage.author())
    assert (full.status, full.body["code"]) == (409, "event-full")
