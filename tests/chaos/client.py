"""One request as a client makes it, recorded: the line before it is sent, and the line with what came of it.

Every request is sent at most once. What arrives after `PATIENCE_S` is not waited for: that is long after any deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import aiohttp
import msgspec

from tests.chaos.cast import ATTENDING, GATEWAY, Cast
from tests.chaos.history import Completed, Invoked, Kind, Recorder, Trouble, now_ns, wall_ms

PATIENCE_S = 10.0
LIST_MAX = 500
"""More than any author or event of a run has, so that a list is one page."""

# Below the services' own, so that a connection is not used at the moment at which they close it.
KEEP_ALIVE_S = 2.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request: what is asked for, about whom, and its JSON."""

    kind: Kind
    author: UUID | None = None
    event: UUID | None = None
    operation: UUID | None = None
    capacity: int | None = None
    body: Mapping[str, Any] | None = None

    def asked(self, cast: Cast) -> tuple[str, str, str]:
        """Of which service, by which method, at which path."""
        name, author, event = cast.relationship.name, f"/{cast.author.entity}", f"/{cast.event.entity}"
        one_author, one_event = f"{author}/{self.author}", f"{event}/{self.event}"
        pair, listed = f"{one_event}/{name}/{self.author}", f"{name}?{urlencode({'limit': LIST_MAX})}"
        match self.kind:
            case Kind.MAKE_AUTHOR:
                return cast.author.service, "POST", author
            case Kind.MAKE_EVENT:
                return cast.event.service, "POST", event
            case Kind.DELETE_AUTHOR:
                return cast.author.service, "DELETE", one_author
            case Kind.DELETE_EVENT:
                return cast.event.service, "DELETE", one_event
            case Kind.CREATE:
                return GATEWAY, "POST", pair
            case Kind.CANCEL:
                return GATEWAY, "DELETE", pair
            case Kind.GET:
                return GATEWAY, "GET", pair
            case Kind.LIST_BY_EVENT:
                return GATEWAY, "GET", f"{one_event}/{listed}"
            case Kind.LIST_BY_AUTHOR:
                return GATEWAY, "GET", f"{one_author}/{listed}"
            case Kind.STATUS:
                return GATEWAY, "GET", f"/operation/{self.operation}"
            case Kind.INTRUDE | Kind.GARBLE:
                raise ValueError(f"{self.kind} is for guests, not for clients")


def new_session() -> aiohttp.ClientSession:
    """A session that never sends anything twice."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
    )
    # aiohttp repeats a DELETE whose connection broke, and shows the second answer only: 404 for what the first did.
    session._retry_connection = False
    return session


class Client:
    """Asks and records. `number` is the client's in the history."""

    def __init__(
        self,
        number: int,
        urls: dict[str, str],
        session: aiohttp.ClientSession,
        recorder: Recorder,
        cast: Cast = ATTENDING,
    ) -> None:
        self.number = number
        self.cast = cast
        self._urls = urls
        self._session = session
        self._recorder = recorder

    async def ask(self, wanted: Wanted) -> Completed:
        number = self._recorder.number()
        target, method, path = wanted.asked(self.cast)
        self._recorder.write(
            Invoked(
                number,
                now_ns(),
                wall_ms(),
                self.number,
                target,
                wanted.kind,
                wanted.author,
                wanted.event,
                wanted.operation,
                wanted.capacity,
            )
        )
        completed = await self._completed(number, wanted, method, self._urls[target] + path)
        self._recorder.write(completed)
        return completed

    async def _completed(self, number: int, wanted: Wanted, method: str, url: str) -> Completed:
        try:
            async with self._session.request(method, url, json=wanted.body) as answer:
                content = await answer.read()
        except aiohttp.ClientConnectorError as error:
            return Completed(number, now_ns(), trouble=Trouble.UNSENT, reason=str(error))
        except TimeoutError:
            return Completed(number, now_ns(), trouble=Trouble.TIMEOUT, reason=f"no answer in {PATIENCE_S:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Completed(number, now_ns(), trouble=Trouble.LOST, reason=f"{type(error).__name__}: {error}")
        return _digested(number, wanted, self.cast, answer.status, answer.content_type, content)


def _digested(number: int, wanted: Wanted, cast: Cast, status: int, media: str, content: bytes) -> Completed:
    """The essentials of an answer. One that is not JSON keeps its beginning as the reason."""
    at_ns = now_ns()
    try:
        body = msgspec.json.decode(content) if content else {}
    except msgspec.DecodeError:
        return Completed(number, at_ns, status, media, reason=content[:200].decode(errors="replace"))
    if status >= 300:
        return Completed(
            number, at_ns, status, media, body.get("code"), _uuid(body.get("operation")), reason=body.get("detail")
        )
    match wanted.kind:
        case Kind.CREATE | Kind.GET:
            return Completed(number, at_ns, status, media, operation=_uuid(body.get("operation")))
        case Kind.LIST_BY_AUTHOR | Kind.LIST_BY_EVENT:
            listed = cast.event if wanted.kind is Kind.LIST_BY_AUTHOR else cast.author
            shown = [(UUID(item["operation"]), UUID(item["id"])) for item in body[listed.plural]]
            whole = bool(body["complete"]) and body["next"] is None
            return Completed(number, at_ns, status, media, shown=shown, complete=whole)
        case Kind.STATUS:
            whole = "unreachable" not in body["halves"].values()
            return Completed(number, at_ns, status, media, state=body.get("state"), complete=whole)
        case Kind.MAKE_AUTHOR | Kind.MAKE_EVENT:
            return Completed(number, at_ns, status, media, made=_uuid(body.get("id")))
        case _:
            return Completed(number, at_ns, status, media)


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)
