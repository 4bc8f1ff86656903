"""What a person may do from the page: only where `ui` is `full`, and only by the page itself.

A browser sends requests for whoever asks it, so each action asks for proof that our own page did: a header that no
other site may set without a preflight (nobody here answers one), an `Origin` that is ours, and a host that is an
address or localhost, because any other name can be made to point at us (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.admin import Force
from tally.chassis.body import json_body
from tally.chassis.calls import Calls
from tally.chassis.faults import Faults, FaultSet
from tally.chassis.http import Handler, Route, json_response, path_uuid
from tally.chassis.problems import Problem
from tally.gateway.ui.lookout import Unreached, Visitor

HEADER: Final = "X-Tally-UI"
_COLLECTION: Final = re.compile(r"[a-z]{1,40}")

#: Tries a deferred operation now.
Retry = Callable[[UUID], Awaitable[Response]]


class Actions:
    """The actions. ``urls`` is where the walkthrough's services are; None: the page can only be read."""

    def __init__(
        self, urls: Mapping[str, str] | None, visitor: Visitor, calls: Calls, faults: Faults | None, retry: Retry
    ) -> None:
        self._allowed = urls is not None
        self._urls = dict(urls or {})
        self._visitor = visitor
        self._calls = calls
        self._faults = faults
        self._retry = retry

    def routes(self) -> list[Route]:
        return [
            self._action("/ui/demo/{service}/{collection}", self._visit, "One request of the walkthrough."),
            self._action("/ui/operations/{operation}/retry", self._retried, "Try a deferred operation now."),
            self._action("/ui/faults", self._switch, "Replace the faults of this process."),
            self._action("/ui/breakers/{peer}/{kind}", self._force, "Hold a breaker in a state, or free it."),
        ]

    async def _visit(self, request: Request) -> Response:
        """Creates something at a service that owns it, with nobody's token; its answer is told as it came."""
        service, collection = request.path_params["service"], request.path_params["collection"]
        if service not in self._urls or not _COLLECTION.fullmatch(collection):
            raise Problem("not-found", "The walkthrough does not go there.")
        url = f"{self._urls[service].rstrip('/')}/{collection}"
        try:
            return json_response(await self._visitor.ask("POST", url, await request.body()))
        except Unreached as error:
            detail = f"The {service} service can't be reached: {error}."
            raise Problem("service-unavailable", detail, service=service) from error

    async def _retried(self, request: Request) -> Response:
        return await self._retry(path_uuid(request, "operation"))

    async def _switch(self, request: Request) -> Response:
        if self._faults is None:
            raise Problem("not-found", "Faults are off here: start the service with TALLY_FAULTS=on.")
        self._faults.set(await json_body(request, FaultSet))
        return json_response({"items": self._faults.active()})

    async def _force(self, request: Request) -> Response:
        peer, kind = request.path_params["peer"], request.path_params["kind"]
        wanted = await json_body(request, Force)
        if not self._calls.force(peer, kind, wanted.mode):
            raise Problem("not-found", f"There is no breaker for calls of kind {kind} to {peer}.")
        return json_response({"mode": wanted.mode})

    def _action(self, path: str, handler: Handler, summary: str) -> Route:
        async def checked(request: Request) -> Response:
            if not self._allowed:
                raise Problem("not-allowed-here", "This page can only be read: with TALLY_UI=full it may act.")
            check_origin(request)
            return await handler(request)

        return Route("POST", path, checked, summary)


def check_origin(request: Request) -> None:
    """Problem unless our own page asks."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin", "")
    if not _is_ours(host):
        detail = "To act, open the page by an address or as localhost: another name may belong to somebody else."
        raise Problem("not-allowed-here", detail)
    site = request.headers.get("sec-fetch-site", "same-origin")
    if HEADER.lower() not in request.headers or urlsplit(origin).netloc != host or site != "same-origin":
        raise Problem("not-allowed-here", f"Only this service's own page may ask for that (Origin, {HEADER}).")


def _is_ours(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
