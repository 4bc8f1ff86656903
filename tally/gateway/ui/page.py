"""The page's files and its routes: `/ui` for people, `/ui/feed` for the page, and what it may do.

Its Content-Security-Policy lets it load its own three files and talk to the service that it came from, and nothing
else: no inline script or style, no frame around it. Every address in it is relative, so that it also works behind a
path prefix. None of this is in the OpenAPI document: it is no API.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from tally.chassis.calls import Calls
from tally.chassis.client import Client
from tally.chassis.clock import Clock
from tally.chassis.faults import Faults
from tally.chassis.faults import Kind as FaultKind
from tally.chassis.http import Route, json_response
from tally.chassis.problems import Problem
from tally.chassis.signals import Signals
from tally.gateway.history import PEER
from tally.gateway.observer import Observed
from tally.gateway.ui.actions import Actions, Retry
from tally.gateway.ui.feed import Feed
from tally.gateway.ui.lookout import Lookout, Visitor
from tally.gateway.ui.snapshot import Snapshots
from tally.messaging.stream import Stream
from tally.protocol.relationship import Relationship, Side

Mode = Literal["read", "full"]

_FOLDER: Final = Path(__file__).parent / "assets"
_ASSETS: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
#: Where the operation log is, if it is anywhere.


class Place(Struct, frozen=True):
    """One end of the relationship."""

    service: str
    entity: str
    plural: str


class About(Struct, frozen=True):
    """What does not change while the process lives. ``urls`` is empty where the page may not act."""

    relationship: str
    left: Place
    right: Place
    mode: Mode
    urls: dict[str, str]
    fault_kinds: list[str]


class Page:
    """The page of one gateway. Enter it before it is asked."""

    def __init__(
        self,
        relationship: Relationship,
        mode: Mode,
        urls: Mapping[str, str],
        client: Client,
        calls: Calls,
        observed: Observed,
        stream: Stream,
        retry: Retry,
        faults: Faults | None,
        signals: Signals,
        clock: Clock,
        *,
        mail_url: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """``urls``: the services of both ends, and any others, by name."""
        ends = {side: relationship.end(side) for side in Side}
        owners = {end.service for end in ends.values()}
        others = {name: url for name, url in urls.items() if name not in owners}
        left, right = (Place(end.service, end.entity, end.plural) for end in ends.values())
        self._about = About(
            relationship.name,
            left,
            right,
            mode,
            {name: urls[name] for name in sorted(owners)} if mode == "full" else {},
            [] if faults is None else [kind.value for kind in FaultKind],
        )
        self._visitor = Visitor(ca_file)
        snapshots = Snapshots(
            relationship,
            Lookout(relationship, client, self._visitor, others, clock),
            self._visitor,
            calls,
            observed,
            stream,
            faults,
            signals,
            clock,
            directory_url=urls.get(PEER),
            mail_url=mail_url,
        )
        self._feed = Feed(snapshots.take, clock)
        acting = {name: urls[name] for name in owners} if mode == "full" else None
        self._actions = Actions(acting, self._visitor, calls, faults, retry)

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/ui", self._shell, "The gateway's page."),
            Route("GET", "/ui/feed", self._feed.answer, "What it shows, as server-sent events."),
            Route("GET", "/ui/about", self._told, "What does not change."),
            *self._actions.routes(),
            Route("GET", "/ui/{asset}", _asset, "A file of the page."),
        ]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with self._visitor:
            yield

    def close(self) -> None:
        """Ends what is being told: the service stops."""
        self._feed.close()

    async def _shell(self, request: Request) -> Response:
        return FileResponse(_FOLDER / "page.html", media_type="text/html", headers=_HEADERS)

    async def _told(self, request: Request) -> Response:
        return json_response(self._about, headers={"Cache-Control": "no-store"})


async def _asset(request: Request) -> Response:
    # Looked up in a table: a name from outside never becomes a path.
    name = request.path_params["asset"]
    if name not in _ASSETS:
        raise Problem("no-such-path", "The page has no such file.")
    return FileResponse(_FOLDER / name, media_type=_ASSETS[name], headers=_HEADERS)
