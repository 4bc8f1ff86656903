"""The read view's queries, against a small world that is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from tests.integration.directory.running import Running, eventually
from tests.integration.directory.telling import BEGIN, Telling


class World:
    """Three authors and three events of two conferences: Ada attends all, Alan two, Grace one."""

    def __init__(self) -> None:
        self.telling = telling = Telling()
        self.ada, self.alan, self.grace = (
            telling.author(name) for name in ("Ada Lovelace", "Alan Turing", "Grace Hopper")
        )
        self.swat, self.soda = telling.conference("SWAT", "Algorithm Theory"), telling.conference("SODA")
        self.first = telling.event(self.swat, 1, title="Opening", starts_at=datetime(2026, 6, 1, tzinfo=UTC))
        self.second = telling.event(self.swat, 2, starts_at=datetime(2026, 6, 2, tzinfo=UTC))
        self.third = telling.event(self.soda, 1)
        pairs = [
            (self.ada, self.first), (self.ada, self.second), (self.ada, self.third),
            (self.alan, self.first), (self.alan, self.second), (self.grace, self.first),
        ]  # fmt: skip
        self.operations = [
            telling.attend(author, event, since=BEGIN + timedelta(hours=hour))
            for hour, (author, event) in enumerate(pairs)
        ]


@pytest.fixture
async def world(here: Running) -> World:
    world = World()
    await here.told(world.telling.events)
    return world


def ids(items: list[dict[str, str]]) -> list[UUID]:
    return [UUID(item["id"]) for item in items]


async def test_authors_are_found_by_the_words_of_their_names(here: Running, world: World) -> None:
    assert ids(await here.items("/author?name=turing")) == [world.alan]
    assert ids(await here.items("/author?name=a+-alan")) == []
    assert ids(await here.items("/author?name=ada+or+hopper&sort=name")) == [world.ada, world.grace]


async def test_authors_are_sorted_and_paged_in_each_order(here: Running, world: World) -> None:
    everybody = [world.ada, world.alan, world.grace]
    for sort, expected in (("name", everybody), ("attendances", everybody), ("id", sorted(everybody))):
        pages = await here.pages(f"/author?sort={sort}", 1)
        assert [ids(page) for page in pages] == [[author] for author in expected], sort
    found = await here.items("/author?sort=attendances")
    assert [author["attendances"] for author in found] == [3, 2, 1]
    assert all("email" not in author for author in found)


async def test_an_author_attends_events_with_their_conference(here: Running, world: World) -> None:
    path = f"/author/{world.ada}/attendance"
    assert [ids(page) for page in await here.pages(path, 2)] == [[world.first, world.second], [world.third]]
    first = (await here.items(path))[0]
    assert first["conference"] == {"id": str(world.swat), "acronym": "SWAT", "name": "Algorithm Theory"}
    assert (first["operation"], first["title"], first["attendees"]) == (str(world.operations[0]), "Opening", 3)
    assert ids(await here.items(f"{path}?conference_id={world.soda}")) == [world.third]
    assert ids(await here.items(f"{path}?from=2026-06-02T00:00:00Z")) == [world.second]
    assert ids(await here.items(f"{path}?to=2026-06-02T00:00:00Z")) == [world.first]
    starts = await here.pages(f"{path}?sort=starts_at", 1)
    assert [ids(page) for page in starts] == [[world.first], [world.second], [world.third]]


async def test_whom_an_author_met_comes_with_how_often(here: Running, world: World) -> None:
    pages = await here.pages(f"/author/{world.ada}/co-attendee", 1)
    assert [(UUID(one["id"]), one["together"]) for page in pages for one in page] == [(world.alan, 2), (world.grace, 1)]


async def test_the_top_events_come_first(here: Running, world: World) -> None:
    top = await here.pages("/event?sort=attendees", 1)
    assert [ids(page) for page in top] == [[world.first], [world.second], [world.third]]
    by_conference = await here.items(f"/event?conference_id={world.swat}&sort=starts_at")
    assert ids(by_conference) == [world.first, world.second]
    by_time = await here.pages("/event?sort=starts_at", 1)
    assert [ids(page) for page in by_time] == [[world.first], [world.second], [world.third]]
    assert ids(await here.items("/event?from=2026-06-01T12:00:00Z&to=2026-07-01T00:00:00Z")) == [world.second]
    before_all, after_all = "0001-01-01T00:00:00%2B21:40", "9999-12-31T23:59:59-21:40"  # outside of the years in UTC
    assert await here.items(f"/event?to={before_all}") == await here.items(f"/event?from={after_all}") == []
    whenever = await here.items(f"/event?from={before_all}&to={after_all}&sort=starts_at")
    assert ids(whenever) == [world.first, world.second]


async def test_an_event_lists_who_attends(here: Running, world: World) -> None:
    path = f"/event/{world.first}/attendance"
    assert [one["full_name"] for one in await here.items(path)] == ["Ada Lovelace", "Alan Turing", "Grace Hopper"]
    pages = await here.pages(f"{path}?sort=name", 2)
    assert [len(page) for page in pages] == [2, 1]
    assert (await here.get(f"/event/{world.first}")).body["attendees"] == 3


async def test_a_conference_lists_each_attendee_once(here: Running, world: World) -> None:
    path = f"/conference/{world.swat}/attendee"
    everybody = sorted([world.ada, world.alan, world.grace])
    assert [ids(page) for page in await here.pages(path, 1)] == [[author] for author in everybody]
    assert {UUID(one["id"]): one["events"] for one in await here.items(path)} == {
        world.ada: 2, world.alan: 2, world.grace: 1,
    }  # fmt: skip
    assert (await here.get(f"/conference/{world.swat}")).body["events"] == 2
    assert [ids(page) for page in await here.pages("/conference?sort=acronym", 1)] == [[world.soda], [world.swat]]


async def test_attendance_over_time_is_counted_in_buckets(here: Running, world: World) -> None:
    world.telling.cancel(world.operations[0])
    await here.told(world.telling.events[-1:])
    day = "from=2026-03-01T00:00:00Z&to=2026-03-02T00:00:00Z"
    whole = await here.items(f"/statistics/attendance?bucket=day&{day}")
    assert [(one["made"], one["cancelled"]) for one in whole] == [(6, 1)]
    hours = await here.pages(f"/statistics/attendance?bucket=hour&{day}", 2)
    assert [[one["made"] for one in page] for page in hours] == [[1, 1], [1, 1], [1, 1]]
    assert sum(one["cancelled"] for page in hours for one in page) == 1


async def test_what_was_cancelled_or_deleted_is_not_shown(here: Running, world: World) -> None:
    told = len(world.telling.events)
    world.telling.cancel(world.operations[0])
    world.telling.deleted("author", world.grace)
    world.telling.deleted("event", world.third)
    world.telling.rename(world.alan, "Alan M. Turing")
    await here.told(world.telling.events[told:])
    assert [one["full_name"] for one in await here.items(f"/event/{world.first}/attendance")] == ["Alan M. Turing"]
    assert ids(await here.items(f"/author/{world.ada}/attendance")) == [world.second]
    assert (await here.get(f"/author/{world.grace}")).status == 404
    assert (await here.get(f"/event/{world.third}/attendance")).body["code"] == "event-not-found"


async def test_answers_say_how_fresh_they_are(here: Running, world: World) -> None:
    async def fresh() -> bool:
        return bool((await here.get("/author")).body["lag_s"] < 5)

    await eventually(fresh, "the broker was asked whether anything is left")
    for path in ("/author", f"/author/{world.ada}", "/statistics/attendance"):
        body = (await here.get(path)).body
        assert 0 <= body["lag_s"] < 5, path
        assert datetime.fromisoformat(body["as_of"]).tzinfo is not None


@pytest.mark.parametrize(
    ("path", "code", "field"),
    [
        ("/author/1", "not-a-uuid", "id"),
        (f"/author/{uuid4()}", "author-not-found", None),
        (f"/author/{uuid4()}/co-attendee", "author-not-found", None),
        (f"/conference/{uuid4()}/attendee", "conference-not-found", None),
        ("/author?limit=0", "invalid-query", "limit"),
        ("/author?after=x", "invalid-query", "after"),
        ("/author?sort=age", "invalid-query", "sort"),
        ("/event?from=yesterday", "invalid-query", "from"),
        ("/event?conference_id=1", "invalid-query", "conference_id"),
        ("/statistics/attendance?bucket=week", "invalid-query", "bucket"),
        ("/author?operation=7", "invalid-query", "operation"),
        ("/operation?state=lost", "invalid-query", "state"),
        ("/operation?older_than=long", "invalid-query", "older_than"),
    ],
)
async def test_what_is_asked_wrongly_is_a_problem(here: Running, path: str, code: str, field: str | None) -> None:
    answer = await here.get(path)
    assert (answer.body["code"], answer.body.get("field")) == (code, field)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_cursor_of_nothing_ends_the_list(here: Running, world: World) -> None:
    assert await here.items("/author?sort=name&after=" + "B" * 21 + "A") == []
