"""An entity from its declaration, over HTTP and on a real PostgreSQL: what a client sees, and what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from msgspec import UNSET, Meta, Struct, UnsetType

from tally.chassis import context, openapi
from tally.chassis.app import Service, running
from tally.chassis.body import NO_NUL, VISIBLE
from tally.chassis.database import Database
from tally.chassis.http import QueryParameter
from tally.chassis.queries import Queries
from tally.chassis.resource import Resource, Violation
from tally.chassis.settings import ServiceSettings
from tally.chassis.signals import Signals
from tests.support.postgres import Databases

Acronym = Annotated[str, Meta(min_length=1, max_length=50, pattern=VISIBLE)]
Text = Annotated[str, Meta(max_length=200, pattern=NO_NUL)]
Number = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Capacity = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Moment = Annotated[datetime, Meta(tz=True)]


class NewConference(Struct):
    acronym: Acronym
    name: Text | None = None


class ConferencePatch(Struct):
    acronym: Acronym | UnsetType = UNSET
    name: Text | UnsetType | None = UNSET


class Conference(Struct):
    id: UUID
    acronym: str
    name: str | None
    version: int


class NewEvent(Struct):
    conference_id: UUID
    seq: Number
    starts_at: Moment | None = None
    capacity: Capacity | None = None


class EventPatch(Struct):
    capacity: Capacity | UnsetType | None = UNSET


class Event(Struct):
    id: UUID
    conference_id: UUID
    seq: int
    starts_at: datetime | None
    capacity: int | None
    seats_taken: int
    version: int


SCHEMA = """
CREATE TABLE conference (
    id uuid PRIMARY KEY, acronym text NOT NULL, name text, version integer NOT NULL DEFAULT 1,
    secret text NOT NULL DEFAULT 'not for the view'
);
CREATE TABLE event (
    id uuid PRIMARY KEY, seq integer NOT NULL, starts_at timestamptz, capacity integer,
    conference_id uuid NOT NULL CONSTRAINT event_conference REFERENCES conference,
    seats_taken integer NOT NULL DEFAULT 0, version integer NOT NULL DEFAULT 1,
    CONSTRAINT event_seq UNIQUE (conference_id, seq), CONSTRAINT event_seats CHECK (seats_taken <= capacity)
);
CREATE TABLE half (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), event uuid CONSTRAINT half_event REFERENCES event);
CREATE TABLE asked (actor text);
CREATE SEQUENCE tries;
"""
CONFERENCE = Resource(
    name="conference",
    create=NewConference,
    patch=ConferencePatch,
    view=Conference,
    not_found="conference-not-found",
    cascade=True,
    constraints={"event_conference": Violation("has-dependents", "It has events; ?cascade=true deletes them too.")},
    queries=Queries(
        "conference",
        {
            "insert": "INSERT INTO conference (id, acronym, name) VALUES ($1, $2, $3) RETURNING *",
            "get": "SELECT * FROM conference WHERE id = $1",
            "lock": "SELECT * FROM conference WHERE id = $1 FOR NO KEY UPDATE",
            "page": "SELECT * FROM conference WHERE id > $1 ORDER BY id LIMIT $2",
            "update": "UPDATE conference SET acronym = $2, name = $3, version = version + 1 WHERE id = $1 RETURNING *",
            "delete": "WITH gone AS (DELETE FROM event WHERE conference_id = $1 AND $2) "
            "DELETE FROM conference WHERE id = $1",
        },
    ),
)
EVENT = Resource(
    name="event",
    create=NewEvent,
    patch=EventPatch,
    view=Event,
    not_found="event-not-found",
    volatile=("seats_taken",),
    filters=(QueryParameter("conference_id", "Only of this conference.", UUID),),
    constraints={
        "event_conference": Violation("conference-not-found", "There is no such conference.", "conference_id"),
        "event_seq": Violation("already-exists", "The conference has an event with this number.", "seq"),
        "event_seats": Violation("capacity-below-taken", "More seats are taken.", "capacity"),
    },
    queries=Queries(
        "event",
        {
            "insert": "INSERT INTO event (id, conference_id, seq, starts_at, capacity) VALUES ($1, $2, $3, $4, $5) "
            "RETURNING *",
            "get": "SELECT * FROM event WHERE id = $1",
            "lock": "SELECT * FROM event WHERE id = $1 FOR NO KEY UPDATE",
            "page": "SELECT * FROM event WHERE id > $1 AND ($3::uuid IS NULL OR conference_id = $3) "
            "ORDER BY id LIMIT $2",
            "update": "UPDATE event SET capacity = $2, version = version + 1 WHERE id = $1 RETURNING *",
            "delete": "DELETE FROM event WHERE id = $1",
        },
    ),
)


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """No test here is about deadlines, so a slow machine shall not run into one."""

    port: int = 0
    request_deadline_s: float = 30.0


def create_schema(url: str) -> None:
    async def create() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        await connection.execute(files("tally.chassis").joinpath("migrations/0001_idempotency.sql").read_text())
        await connection.close()

    asyncio.run(create())


class Served:
    """A running service with its resources, a client for it, and a look into its database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http: httpx.AsyncClient
        self._stack = contextlib.AsyncExitStack()

    async def start(self, *resources: Resource, **settings: Any) -> None:
        """Serves `resources`; `settings` are those of the Database."""
        database = Database(self.url, "test", **({"statement_timeout_s": 20, "pool_wait_s": 20} | settings))
        self._stack.push_async_callback(database.close)
        service = Service(
            name="test",
            settings=Settings(),
            signals=Signals("test"),
            routes=[route for resource in resources for route in resource.routes(database)],
        )
        addresses = await self._stack.enter_async_context(running(service))
        self.http = await self._stack.enter_async_context(
            httpx.AsyncClient(base_url=addresses.url, timeout=20, verify=False)
        )

    async def stop(self) -> None:
        await self._stack.aclose()

    async def made(self, path: str, **body: Any) -> dict[str, Any]:
        response = await self.http.post(path, json=body)
        assert response.status_code == 201, response.text
        content: dict[str, Any] = response.json()
        return content

    async def sql(self, query: str, *args: object) -> Any:
        """The first value of the query's answer, over a connection of its own."""
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(query, *args)
        finally:
            await connection.close()

    async def count(self, table: str) -> int:
        found: int = await self.sql(f"SELECT count(*) FROM {table}")
        return found

    async def at_each(self, moment: str, body: str) -> None:
        """Has the database do something at a conference's writes, of which it counts the tries: `body` is PL/pgSQL,
        where `try` is 1 at the first. (A sequence keeps its value when a transaction rolls back.)"""
        await self.sql(
            "CREATE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"DECLARE try bigint := nextval('tries'); BEGIN {body} RETURN coalesce(NEW, OLD); END $$"
        )
        await self.sql(f"CREATE TRIGGER interfere {moment} ON conference FOR EACH ROW EXECUTE FUNCTION interfere()")

    async def tries(self) -> int:
        found: int = await self.sql("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries")
        return found

    async def somebody_waits(self) -> None:
        """Until a statement waits for a lock."""
        async with asyncio.timeout(10):
            while not await self.sql("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def served(dsn: Databases) -> AsyncIterator[Served]:
    """Not started: the test says which resources."""
    served = Served(await asyncio.to_thread(dsn, "resource", create_schema))
    yield served
    await served.stop()


@pytest.fixture
async def both(served: Served) -> Served:
    await served.start(CONFERENCE, EVENT)
    return served


def problem_of(response: httpx.Response) -> tuple[int, str, str | None]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    content = response.json()
    return response.status_code, content["code"], content.get("field")


# --- create and read ----------------------------------------------------------------------------------------


async def test_a_created_entity_is_answered_with_its_address_and_version(both: Served) -> None:
    response = await both.http.post("/conference", content=b'{"acronym": "SWAT", "id": "x", "version": 9}')
    content = response.json()
    assert response.status_code == 201
    assert content == {"id": content["id"], "acronym": "SWAT", "name": None, "version": 1}
    assert UUID(content["id"]).version == 7
    assert response.headers["location"] == f"/conference/{content['id']}"
    assert response.headers["etag"] == '"1"'
    read = await both.http.get(response.headers["location"])
    assert (read.status_code, read.json(), read.headers["etag"]) == (200, content, '"1"')


async def test_a_columns_type_survives(both: Served) -> None:
    conference = await both.made("/conference", acronym="SWAT")
    event = await both.made(
        "/event", conference_id=conference["id"], seq=1, starts_at="2026-05-01T10:00:00+02:00", capacity=3
    )
    assert event["starts_at"] == "2026-05-01T08:00:00Z"
    assert (event["conference_id"], event["capacity"], event["seats_taken"]) == (conference["id"], 3, 0)


async def test_the_id_factory_is_an_argument(served: Served) -> None:
    id = uuid4()
    await served.start(replace(CONFERENCE, new_id=lambda: id))
    assert (await served.made("/conference", acronym="SWAT"))["id"] == str(id)


async def test_an_unknown_id_is_not_found(both: Served, subtests: pytest.Subtests) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        with subtests.test(method=method):
            response = await both.http.request(method, f"/conference/{uuid4()}", content=b"{}")
            assert problem_of(response) == (404, "conference-not-found", None)


async def test_an_id_that_is_no_uuid_is_named(both: Served, subtests: pytest.Subtests) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        with subtests.test(method=method):
            response = await both.http.request(method, "/conference/abc", content=b"{}")
            assert problem_of(response) == (400, "not-a-uuid", "id")


async def test_what_has_not_changed_is_not_sent_again(both: Served) -> None:
    path = f"/conference/{(await both.made('/conference', acronym='SWAT'))['id']}"
    for tag in ('"1"', 'W/"1"', '"0", "1"', "*", "1"):
        response = await both.http.get(path, headers={"If-None-Match": tag})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", '"1"'), tag
    for tag in ('"2"', "", "garbage", '"11"'):
        assert (await both.http.get(path, headers={"If-None-Match": tag})).status_code == 200, tag


async def test_what_changes_without_a_version_changes_the_tag(both: Served) -> None:
    conference = await both.made("/conference", acronym="SWAT")
    event = await both.made("/event", conference_id=conference["id"], seq=1)
    path = f"/event/{event['id']}"
    tag = (await both.http.get(path)).headers["etag"]
    await both.sql("UPDATE event SET seats_taken = 1")
    response = await both.http.get(path, headers={"If-None-Match": tag})
    assert (response.status_code, response.json()["seats_taken"]) == (200, 1)
    # But a writer that has seen the version before that has missed nothing it could overwrite.
    assert (await both.http.patch(path, content=b"{}", headers={"If-Match": tag})).status_code == 200


# --- bad input: each a problem that names the field, and nothing stored --------------------------------------

BAD_CONFERENCES: list[tuple[bytes, int, str, str | None]] = [
    (b"", 400, "not-json", None),
    (b"acronym=SWAT", 400, "not-json", None),
    (b"{", 400, "not-json", None),
    (b"\xff\xfe", 400, "not-json", None),
    (b"NaN", 400, "not-json", None),
    (b"[]", 400, "not-an-object", None),
    (b"null", 400, "not-an-object", None),
    (b"{}", 400, "missing-field", "acronym"),
    (b'{"Acronym": "SWAT"}', 400, "missing-field", "acronym"),
    (b'{"acronym": null}', 400, "invalid-field", "acronym"),
    (b'{"acronym": 1}', 400, "invalid-field", "acronym"),
    (b'{"acronym": ["SWAT"]}', 400, "invalid-field", "acronym"),
    (b'{"acronym": ""}', 400, "invalid-field", "acronym"),
    (b'{"acronym": " \\t "}', 400, "invalid-field", "acronym"),
    (b'{"acronym": "' + b"x" * 51 + b'"}', 400, "invalid-field", "acronym"),
    (b'{"acronym": "a\\u0000"}', 400, "invalid-field", "acronym"),
    (b'{"acronym": "a\\ud800"}', 400, "invalid-field", "acronym"),
    (b'{"acronym": "a", "name": "\\u0000"}', 400, "invalid-field", "name"),
    (b'{"acronym": "a", "name": "\\udfff"}', 400, "invalid-field", "name"),
    (b'{"acronym": "a", "name": "' + b"x" * 201 + b'"}', 400, "invalid-field", "name"),
    (b'{"acronym": "a", "name": {}}', 400, "invalid-field", "name"),
    (b'{"acronym": "a", "acronym": "b"}', 400, "invalid-field", "acronym"),
    (b'{"acronym": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "body-too-deep", None),
    (b"[" * 15_000, 400, "body-too-deep", None),
    (b'{"acronym": "' + b"x" * 10_485_760 + b'"}', 413, "body-too-large", None),
]


async def test_a_bad_conference_is_refused_and_not_stored(both: Served, subtests: pytest.Subtests) -> None:
    for raw, status, code, field in BAD_CONFERENCES:
        with subtests.test(raw=raw[:60]):
            assert problem_of(await both.http.post("/conference", content=raw)) == (status, code, field)
            assert await both.count("conference") == 0


BAD_EVENTS = [
    ("conference_id", '"abc"'),
    ("conference_id", "1"),
    ("conference_id", "null"),
    ("seq", "0"),
    ("seq", "-1"),
    ("seq", '"1"'),
    ("seq", "1.5"),
    ("seq", "true"),
    ("seq", str(2**31)),
    ("seq", str(2**63)),
    ("seq", "9" * 5000),
    ("seq", "1e400"),
    ("capacity", "-1"),
    ("capacity", str(2**64)),
    ("starts_at", '"tomorrow"'),
    ("starts_at", '"2026-05-01T10:00:00"'),
    ("starts_at", '"0001-01-01T00:00:00+14:00"'),
    ("starts_at", '"0001-01-01T00:00:00Z"'),
    ("starts_at", '"9999-12-31T23:59:59.999999Z"'),
]


async def test_a_bad_event_is_refused_by_its_field_and_not_stored(both: Served, subtests: pytest.Subtests) -> None:
    for field, value in BAD_EVENTS:
        with subtests.test(field=field, value=value[:40]):
            fields = {"conference_id": f'"{uuid4()}"', "seq": "1"} | {field: value}
            raw = "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"
            assert problem_of(await both.http.post("/event", content=raw)) == (400, "invalid-field", field)
            assert await both.count("event") == 0


async def test_the_extremes_of_what_is_allowed_are_stored(both: Served) -> None:
    conference = await both.made("/conference", acronym="x" * 50, name="")
    for seq, moment in enumerate(("0001-01-01T00:00:01Z", "9999-12-31T23:59:59.999998Z"), 2**31 - 2):
        event = await both.made("/event", conference_id=conference["id"], seq=seq, capacity=2**31 - 1, starts_at=moment)
        assert (event["seq"], event["starts_at"]) == (seq, moment)


async def test_what_the_declaration_forgot_to_bound_is_still_no_bug(served: Served) -> None:
    class Unbounded(Struct):
        conference_id: UUID
        seq: int
        starts_at: datetime | None = None
        capacity: int | None = None

    await served.start(replace(EVENT, create=Unbounded))
    body = {"conference_id": str(uuid4()), "seq": 2**40}
    assert problem_of(await served.http.post("/event", json=body)) == (400, "invalid-field", None)


async def test_a_wrong_method_is_told_the_right_ones(both: Served) -> None:
    for method, path, allow in (
        ("PUT", "/conference", "GET, HEAD, POST"),
        ("POST", "/conference/x", "DELETE, GET, HEAD, PATCH"),
    ):
        response = await both.http.request(method, path)
        assert problem_of(response) == (405, "method-not-allowed", None)
        assert response.headers["allow"] == allow


# --- constraints --------------------------------------------------------------------------------------------


async def test_a_violated_constraint_is_the_problem_that_it_means(both: Served) -> None:
    conference = await both.made("/conference", acronym="SWAT")
    event = await both.made("/event", conference_id=conference["id"], seq=1, capacity=5)
    again = await both.http.post("/event", json={"conference_id": conference["id"], "seq": 1})
    assert problem_of(again) == (409, "already-exists", "seq")
    lost = await both.http.post("/event", json={"conference_id": str(uuid4()), "seq": 1})
    assert problem_of(lost) == (404, "conference-not-found", "conference_id")
    await both.sql("UPDATE event SET seats_taken = 4")
    lowered = await both.http.patch(f"/event/{event['id']}", json={"capacity": 3})
    assert problem_of(lowered) == (409, "capacity-below-taken", "capacity")
    assert await both.sql("SELECT capacity FROM event") == 5


async def test_a_constraint_that_nobody_foresaw_is_internal_and_untold(served: Served) -> None:
    await served.start(CONFERENCE, replace(EVENT, constraints={}))
    response = await served.http.post("/event", json={"conference_id": str(uuid4()), "seq": 1})
    assert problem_of(response) == (500, "internal", None)
    assert "event_conference" not in response.text


# --- list ---------------------------------------------------------------------------------------------------


async def pages(http: httpx.AsyncClient, path: str) -> list[list[dict[str, Any]]]:
    """All pages, by following Link as a client would."""
    found = []
    while path:
        response = await http.get(path)
        assert response.status_code == 200, response.text
        content = response.json()
        found.append(content["items"])
        link = response.links.get("next", {}).get("url", "")
        assert parse_qs(urlsplit(link).query).get("after", [None]) == [content["next"]]
        path = link
    return found


async def test_pages_hold_everything_once_and_in_order(both: Served) -> None:
    made = [await both.made("/conference", acronym=f"C{number}") for number in range(5)]
    for limit, sizes in ((1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (500, [5])):
        found = await pages(both.http, f"/conference?limit={limit}")
        assert [len(page) for page in found] == sizes
        assert [item for page in found for item in page] == made


async def test_an_empty_list_is_one_empty_page(both: Served) -> None:
    response = await both.http.get("/conference")
    assert (response.json(), "link" in response.headers) == ({"items": [], "next": None}, False)


async def test_fifty_items_are_shown_unless_told_otherwise(both: Served) -> None:
    await both.sql("INSERT INTO conference (id, acronym) SELECT gen_random_uuid(), n FROM generate_series(1, 60) n")
    assert [len(page) for page in await pages(both.http, "/conference")] == [50, 10]


async def test_a_deleted_item_does_not_upset_the_next_page(both: Served) -> None:
    made = [await both.made("/conference", acronym=f"C{number}") for number in range(4)]
    first = await both.http.get("/conference?limit=2")
    await both.http.delete(f"/conference/{made[1]['id']}")
    assert (await both.http.get(first.links["next"]["url"])).json()["items"] == made[2:]


async def test_a_filter_is_kept_on_the_next_page(both: Served) -> None:
    one, other = [await both.made("/conference", acronym=name) for name in ("SWAT", "EKAW")]
    for seq in range(1, 4):
        for conference in (one, other):
            await both.made("/event", conference_id=conference["id"], seq=seq)
    found = await pages(both.http, f"/event?conference_id={one['id']}&limit=2&utm=1")
    assert [[event["seq"] for event in page] for page in found] == [[1, 2], [3]]
    assert {event["conference_id"] for page in found for event in page} == {one["id"]}


async def test_a_bad_query_is_named(both: Served) -> None:
    for query, field in (("limit=0", "limit"), ("after=x", "after"), ("conference_id=x", "conference_id")):
        assert problem_of(await both.http.get(f"/event?{query}")) == (400, "invalid-query", field)


# --- update -------------------------------------------------------------------------------------------------


async def test_a_patch_changes_what_it_names_and_the_version(both: Served) -> None:
    made = await both.made("/conference", acronym="SWAT", name="Semantic Web")
    path = f"/conference/{made['id']}"
    response = await both.http.patch(path, json={"acronym": "SWAP", "id": str(uuid4()), "version": 7})
    assert (response.status_code, response.headers["etag"]) == (200, '"2"')
    assert response.json() == made | {"acronym": "SWAP", "version": 2}
    assert (await both.http.get(path)).json() == response.json()
    cleared = await both.http.patch(path, json={"name": None})
    assert cleared.json() == made | {"acronym": "SWAP", "name": None, "version": 3}


async def test_a_patch_that_changes_nothing_makes_no_version(both: Served) -> None:
    made = await both.made("/conference", acronym="SWAT")
    for body in ({}, {"acronym": "SWAT"}, {"name": None}, {"colour": "red"}):
        response = await both.http.patch(f"/conference/{made['id']}", json=body)
        assert (response.status_code, response.json()) == (200, made), body


BAD_PATCHES: list[tuple[bytes, str, str | None]] = [
    (b"", "not-json", None),
    (b"[]", "not-an-object", None),
    (b'{"acronym": null}', "invalid-field", "acronym"),
    (b'{"acronym": " "}', "invalid-field", "acronym"),
    (b'{"name": 1}', "invalid-field", "name"),
]


async def test_a_bad_patch_changes_nothing(both: Served, subtests: pytest.Subtests) -> None:
    made = await both.made("/conference", acronym="SWAT")
    path = f"/conference/{made['id']}"
    for raw, code, field in BAD_PATCHES:
        with subtests.test(raw=raw):
            assert problem_of(await both.http.patch(path, content=raw)) == (400, code, field)
            assert (await both.http.get(path)).json() == made


async def test_a_tag_that_matches_lets_write_and_delete(both: Served, subtests: pytest.Subtests) -> None:
    for tag in ('"1"', 'W/"1"', '"7", "1"', "*", "1", '"1.5"'):
        with subtests.test(tag=tag):
            path = f"/conference/{(await both.made('/conference', acronym='SWAT'))['id']}"
            assert (await both.http.patch(path, json={}, headers={"If-Match": tag})).status_code == 200
            assert (await both.http.delete(path, headers={"If-Match": tag})).status_code == 204


async def test_a_tag_that_does_not_match_lets_nothing(both: Served, subtests: pytest.Subtests) -> None:
    made = await both.made("/conference", acronym="SWAT")
    path = f"/conference/{made['id']}"
    for tag in ('"2"', 'W/"0"', '""', "", "garbage", '"11"'):
        with subtests.test(tag=tag):
            patched = await both.http.patch(path, json={"acronym": "X"}, headers={"If-Match": tag})
            assert problem_of(patched) == (412, "version-mismatch", "If-Match")
            deleted = await both.http.delete(path, headers={"If-Match": tag})
            assert problem_of(deleted) == (412, "version-mismatch", "If-Match")
            assert (await both.http.get(path)).json() == made


async def test_of_two_writers_with_one_tag_one_is_told(both: Served) -> None:
    made = await both.made("/conference", acronym="SWAT")
    responses = await asyncio.gather(
        *(
            both.http.patch(f"/conference/{made['id']}", json={"acronym": name}, headers={"If-Match": '"1"'})
            for name in ("A", "B", "C", "D")
        )
    )
    assert sorted(response.status_code for response in responses) == [200, 412, 412, 412]


async def test_concurrent_patches_of_different_fields_are_both_kept(both: Served) -> None:
    made = await both.made("/conference", acronym="SWAT")
    path = f"/conference/{made['id']}"
    await asyncio.gather(both.http.patch(path, json={"acronym": "A"}), both.http.patch(path, json={"name": "N"}))
    assert (await both.http.get(path)).json() == made | {"acronym": "A", "name": "N", "version": 3}


# --- delete -------------------------------------------------------------------------------------------------


async def test_a_deleted_entity_is_gone(both: Served) -> None:
    path = f"/conference/{(await both.made('/conference', acronym='SWAT'))['id']}"
    response = await both.http.delete(path)
    assert (response.status_code, response.content) == (204, b"")
    assert problem_of(await both.http.get(path)) == (404, "conference-not-found", None)
    assert problem_of(await both.http.delete(path)) == (404, "conference-not-found", None)


async def test_what_others_depend_on_is_deleted_only_with_them(both: Served) -> None:
    conference = await both.made("/conference", acronym="SWAT")
    await both.made("/event", conference_id=conference["id"], seq=1)
    path = f"/conference/{conference['id']}"
    for query in ("", "?cascade=false"):
        assert problem_of(await both.http.delete(path + query)) == (409, "has-dependents", None)
    assert problem_of(await both.http.delete(path + "?cascade=yes")) == (400, "invalid-query", "cascade")
    assert await both.count("event") == 1
    assert (await both.http.delete(path + "?cascade=true")).status_code == 204
    assert await both.count("event") == 0


@pytest.mark.parametrize(("clears_from", "tries", "deleted"), [(1, 1, True), (2, 2, True), (3, 3, True), (4, 3, False)])
async def test_a_delete_overtaken_by_a_dependent_is_done_again(
    served: Served, clears_from: int, tries: int, deleted: bool
) -> None:
    """From some try on it takes the half along that refers to the event; before that, the half has slipped through."""
    delete = (
        f"WITH taken_along AS (DELETE FROM half WHERE event = $1 AND nextval('tries') >= {clears_from}) "
        "DELETE FROM event WHERE id = $1"
    )
    texts = {name: getattr(EVENT.queries, name) for name in EVENT.queries}
    await served.start(CONFERENCE, replace(EVENT, queries=Queries("event", texts | {"delete": delete})))
    conference = await served.made("/conference", acronym="SWAT")
    event = await served.made("/event", conference_id=conference["id"], seq=1)
    await served.sql("INSERT INTO half (event) VALUES ($1)", UUID(event["id"]))
    response = await served.http.delete(f"/event/{event['id']}")
    assert await served.tries() == tries
    if deleted:
        assert response.status_code == 204
    else:
        assert problem_of(response) == (409, "contended", None)
        assert response.headers["retry-after"] == "1"
    assert await served.count("event") == await served.count("half") == (0 if deleted else 1)


async def test_a_cascade_overtaken_by_a_new_dependent_takes_it_along(both: Served) -> None:
    """Between the cascade's look and its delete another event appears; the foreign key notices."""
    slip_in = "INSERT INTO event (id, conference_id, seq) VALUES (gen_random_uuid(), OLD.id, 9);"
    await both.at_each("BEFORE DELETE", f"IF try = 1 THEN {slip_in} END IF;")
    conference = await both.made("/conference", acronym="SWAT")
    await both.made("/event", conference_id=conference["id"], seq=1)
    response = await both.http.delete(f"/conference/{conference['id']}?cascade=true")
    assert (response.status_code, await both.tries()) == (204, 2)


# --- who asked ----------------------------------------------------------------------------------------------


async def test_a_write_tells_the_database_who_asked(served: Served) -> None:
    database = Database(served.url, "test")
    [create, *_] = CONFERENCE.routes(database)

    async def as_alan(request: Any) -> Any:
        here = context.current()
        assert here is not None
        with context.use(here.with_actor("alan")):
            return await create.handler(request)

    await served.at_each("AFTER INSERT", "INSERT INTO asked VALUES (current_setting('tally.actor', true));")
    service = Service(
        name="test", settings=Settings(), signals=Signals("test"), routes=[replace(create, handler=as_alan)]
    )
    async with running(service) as addresses, httpx.AsyncClient(base_url=addresses.url, verify=False) as http:
        assert (await http.post("/conference", json={"acronym": "SWAT"})).status_code == 201
    await database.close()
    assert await served.sql("SELECT array_agg(actor) FROM asked") == ["alan"]


# --- contention and faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
@pytest.mark.parametrize(("failures", "status"), [(1, 201), (2, 201), (3, 409)])
async def test_a_write_that_lost_is_done_again_up_to_three_times(
    both: Served, sqlstate: str, failures: int, status: int
) -> None:
    lose = f"RAISE EXCEPTION 'lost' USING ERRCODE = '{sqlstate}';"
    await both.at_each("AFTER INSERT", f"IF try <= {failures} THEN {lose} END IF;")
    response = await both.http.post("/conference", json={"acronym": "SWAT"}, headers={"Idempotency-Key": "k"})
    assert response.status_code == status
    assert await both.tries() == min(failures + 1, 3)
    stored = 1 if status == 201 else 0
    assert [await both.count(table) for table in ("conference", "idempotency")] == [stored] * 2
    if not stored:
        assert problem_of(response) == (409, "contended", None)
        assert response.json()["retryable"] is True


async def test_two_deletes_in_opposite_order_both_end(both: Served) -> None:
    """A real deadlock: each has deleted its own, then wants the other's."""
    ids = [UUID((await both.made("/conference", acronym=name))["id"]) for name in ("A", "B")]
    arrived = "EXIT WHEN (SELECT last_value FROM tries) >= 2; PERFORM pg_sleep(0.01);"
    cross = "UPDATE conference SET name = 'x' WHERE id <> OLD.id;"
    await both.at_each("AFTER DELETE", f"IF try <= 2 THEN LOOP {arrived} END LOOP; {cross} END IF;")
    responses = await asyncio.gather(*(both.http.delete(f"/conference/{id}") for id in ids))
    assert [response.status_code for response in responses] == [204, 204]
    assert await both.tries() == 3
    assert await both.count("conference") == 0


async def test_without_a_database_every_request_is_refused_with_a_time_to_come_back(served: Served) -> None:
    served.url = "postgresql://tally@127.0.0.1:1/nothing"
    await served.start(CONFERENCE)
    for method, path in (
        ("POST", "/conference"),
        ("GET", "/conference"),
        ("GET", f"/conference/{uuid4()}"),
        ("PATCH", f"/conference/{uuid4()}"),
        ("DELETE", f"/conference/{uuid4()}"),
    ):
        response = await served.http.request(method, path, content=b'{"acronym": "SWAT"}')
        assert problem_of(response) == (503, "service-unavailable", None), method
        assert response.headers["retry-after"] == "1"


async def test_a_connection_that_breaks_before_the_commit_means_refused(both: Served) -> None:
    await both.at_each("AFTER INSERT", "PERFORM pg_terminate_backend(pg_backend_pid());")
    response = await both.http.post("/conference", json={"acronym": "SWAT"})
    assert problem_of(response) == (503, "service-unavailable", None)
    assert await both.count("conference") == 0


async def test_a_declaration_that_lacks_a_query_fails_at_the_start(served: Served) -> None:
    queries = Queries("conference", {"insert": "SELECT 1"})
    with pytest.raises(AttributeError, match="no query 'get' in conference"):
        replace(CONFERENCE, queries=queries).routes(Database(served.url, "test"))


# --- Idempotency-Key ----------------------------------------------------------------------------------------


def post(served: Served, key: str, path: str = "/conference", **body: Any) -> Awaitable[httpx.Response]:
    return served.http.post(path, json=body or {"acronym": "SWAT"}, headers={"Idempotency-Key": key})


async def test_a_request_sent_again_answers_with_what_it_made(both: Served) -> None:
    first, again = await post(both, "k"), await post(both, "k")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert await both.count("conference") == 1


async def test_the_same_body_in_another_spelling_is_the_same_request(both: Served) -> None:
    bodies = (b'{"acronym":"SWAT"}', b'{ "name": null, "acronym": "SW\\u0041T", "unknown": 1 }')
    found = [await both.http.post("/conference", content=raw, headers={"Idempotency-Key": "k"}) for raw in bodies]
    assert found[0].json()["id"] == found[1].json()["id"]


async def test_a_key_used_for_another_body_is_refused(both: Served) -> None:
    await post(both, "k")
    response = await post(both, "k", acronym="EKAW")
    assert problem_of(response) == (422, "idempotency-key-reused", "Idempotency-Key")
    assert await both.count("conference") == 1


async def test_a_key_used_on_another_route_is_refused(both: Served) -> None:
    conference = (await post(both, "k")).json()
    response = await post(both, "k", "/event", conference_id=conference["id"], seq=1)
    assert problem_of(response) == (422, "idempotency-key-reused", "Idempotency-Key")


async def test_other_keys_and_no_key_make_others(both: Served) -> None:
    ids = {(await post(both, key)).json()["id"] for key in ("a", "b", "!" * 255, "~")}
    ids |= {(await both.made("/conference", acronym="SWAT"))["id"] for _ in range(2)}
    assert len(ids) == 6


async def test_a_bad_key_is_refused(both: Served) -> None:
    for key in ("", "x" * 256, "a b", "\u00e9"):
        headers = [(b"Idempotency-Key", key.encode("latin-1"))]
        response = await both.http.post("/conference", json={"acronym": "SWAT"}, headers=headers)
        assert problem_of(response) == (400, "invalid-header", "Idempotency-Key"), key
    assert await both.count("conference") == 0


async def test_a_request_that_was_refused_leaves_its_key_free(both: Served) -> None:
    conference = await both.made("/conference", acronym="SWAT")
    body = {"conference_id": conference["id"], "seq": 1}
    await both.made("/event", **body)
    assert problem_of(await post(both, "k", "/event", **body)) == (409, "already-exists", "seq")
    assert (await post(both, "k", "/event", **(body | {"seq": 2}))).status_code == 201


async def test_what_was_deleted_since_is_not_made_again(both: Served) -> None:
    made = (await post(both, "k")).json()
    await both.http.delete(f"/conference/{made['id']}")
    assert problem_of(await post(both, "k")) == (404, "conference-not-found", None)
    assert await both.count("conference") == 0


async def test_the_answer_is_what_the_entity_is_now(both: Served) -> None:
    made = (await post(both, "k")).json()
    await both.http.patch(f"/conference/{made['id']}", json={"acronym": "EKAW"})
    again = await post(both, "k")
    assert again.json() == made | {"acronym": "EKAW", "version": 2}
    assert again.headers["etag"] == '"2"'


@contextlib.asynccontextmanager
async def held(served: Served, then: str = "") -> AsyncIterator[None]:
    """The first request waits in its transaction, before its commit, until the block is left; `then` is PL/pgSQL."""
    wait = "LOOP EXIT WHEN pg_try_advisory_xact_lock(1); PERFORM pg_sleep(0.01); END LOOP;"
    await served.at_each("AFTER INSERT", f"IF try = 1 THEN {wait} {then} END IF;")
    connection = await asyncpg.connect(served.url)
    await connection.execute("SELECT pg_advisory_lock(1)")
    try:
        yield
    finally:
        await connection.close()


async def begun(served: Served) -> asyncio.Future[httpx.Response]:
    """A request that `held` holds by now."""
    first = asyncio.ensure_future(post(served, "k"))
    async with asyncio.timeout(10):
        while not await served.tries():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return first


@pytest.mark.parametrize("fails_first", [False, True])
async def test_two_at_once_with_one_key_make_one_entity(both: Served, fails_first: bool) -> None:
    fail = "RAISE EXCEPTION 'bad value' USING ERRCODE = 'data_exception';"
    async with held(both, fail if fails_first else ""):
        first = await begun(both)
        second = asyncio.ensure_future(post(both, "k"))
        await both.somebody_waits()
        assert not second.done()
    responses = [await first, await second]
    assert [response.status_code for response in responses] == [400 if fails_first else 201, 201]
    assert fails_first or responses[0].json() == responses[1].json()
    assert await both.count("conference") == 1


async def test_many_at_once_with_one_key_make_one_entity(both: Served) -> None:
    responses = await asyncio.gather(*(post(both, "k") for _ in range(20)))
    assert {response.status_code for response in responses} == {201}
    assert len({response.json()["id"] for response in responses}) == 1


async def test_a_wait_for_a_request_in_flight_is_bounded(served: Served) -> None:
    # PostgreSQL ends the held statement after the statement timeout, the wait for it after half of that.
    await served.start(CONFERENCE, statement_timeout_s=4.0)
    async with held(served):
        first = await begun(served)
        response = await post(served, "k")
    assert problem_of(response) == (409, "idempotency-in-flight", None)
    assert (response.headers["retry-after"], response.json()["retryable"]) == ("1", True)
    await first


async def test_a_key_is_forgotten_after_a_day(both: Served) -> None:
    made = (await post(both, "k")).json()
    await both.sql("UPDATE idempotency SET created_at = now() - interval '23 hours 59 minutes'")
    assert (await post(both, "k")).json()["id"] == made["id"]
    await both.sql("UPDATE idempotency SET created_at = now() - interval '24 hours 1 minute'")
    again = await post(both, "k", acronym="EKAW")
    assert (again.status_code, again.json()["acronym"]) == (201, "EKAW")
    assert (await post(both, "k", acronym="EKAW")).json() == again.json()


async def test_expired_keys_are_removed_a_few_at_a_time(both: Served) -> None:
    await both.sql(
        "INSERT INTO idempotency (key, route, fingerprint, entity, created_at) "
        "SELECT 'old' || n, '', '', gen_random_uuid(), now() - interval '25 hours' FROM generate_series(1, 12) n"
    )
    left = []
    for number in range(4):
        await post(both, f"k{number}")
        left.append(await both.sql("SELECT count(*) FROM idempotency WHERE key LIKE 'old%'"))
    assert left == [7, 2, 0, 0]


async def test_expired_keys_that_somebody_holds_are_not_waited_for(both: Served) -> None:
    await both.sql(
        "INSERT INTO idempotency (key, route, fingerprint, entity, created_at) "
        "VALUES ('old', '', '', gen_random_uuid(), now() - interval '25 hours')"
    )
    connection = await asyncpg.connect(both.url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT * FROM idempotency FOR UPDATE")
            assert (await post(both, "k")).status_code == 201
    finally:
        await connection.close()


# --- the document -------------------------------------------------------------------------------------------


def test_the_document_of_a_resource_tells_all_of_it() -> None:
    database = Database("postgresql://nowhere/x", "test")
    routes = [*CONFERENCE.routes(database), *EVENT.routes(database)]
    document = openapi.document("test", "1", routes)
    assert set(document["paths"]) == {"/conference", "/conference/{id}", "/event", "/event/{id}"}
    create = document["paths"]["/event"]["post"]
    assert {"201", "400", "404", "405", "409", "413", "422", "503", "504"} <= set(create["responses"])
    delete = document["paths"]["/conference/{id}"]["delete"]
    assert [parameter["name"] for parameter in delete["parameters"]] == ["id", "cascade", "If-Match"]
    text = json.dumps(document)
    assert "has-dependents" in json.dumps(delete)
    assert "has-dependents" not in json.dumps(create["responses"])
    assert "ConferencePage" in text
    assert "secret" not in text
    assert document["paths"]["/event"]["post"]["summary"] == "Create an event"
