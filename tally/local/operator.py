"""What an operator does to a running local stack, on its admin ports: breakers, faults and parked messages.

Assumes the key in the stack's folder: the operator signs tokens with it, as the services do.
"""

from __future__ import annotations

import http.client
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tally.chassis.auth import AuthError, MintedTokens
from tally.chassis.clock import SystemClock
from tally.local.ask import ask
from tally.local.failure import LocalError
from tally.local.keys import token_variables
from tally.local.services import Places


class Operator:
    """Asks the services of ``places`` as ``operator``."""

    def __init__(self, places: Places, folder: Path) -> None:
        self._places = places
        try:
            key = token_variables(folder)["TALLY_TOKEN_KEY_FILE"]
            self._tokens = MintedTokens(key, "operator", "tally", SystemClock())
        except (AuthError, OSError) as error:
            raise LocalError(f"The key in {folder} can't be used ({error}).") from error

    def breakers(self, service: str) -> list[dict[str, Any]]:
        """How the service's breakers stand."""
        return self._items(self._asked(service, "GET", "/admin/breakers"))

    def force(self, service: str, peer: str, kind: str, mode: str) -> None:
        """Hold a breaker in a mode; auto frees it."""
        self._asked(service, "PUT", f"/admin/breakers/{peer}/{kind}", {"mode": mode})

    def faults(self, service: str) -> list[dict[str, Any]]:
        """The faults that are on."""
        return self._items(self._asked(service, "GET", "/admin/faults"))

    def set_faults(self, service: str, faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace the faults of a service."""
        return self._items(self._asked(service, "PUT", "/admin/faults", {"faults": faults}))

    def parked(self, service: str) -> list[dict[str, Any]]:
        """The messages that the service could not apply."""
        return self._items(self._asked(service, "GET", "/admin/parked"))

    def retry_parked(self, service: str, consumer: str, sequence: int) -> dict[str, Any]:
        """Apply a parked message and what waits behind it: how many were applied, how many wait, and why."""
        return dict(self._asked(service, "POST", f"/admin/parked/{consumer}/{sequence}/retry"))

    def drop_parked(self, service: str, consumer: str, sequence: int) -> None:
        """Give a parked message up."""
        self._asked(service, "DELETE", f"/admin/parked/{consumer}/{sequence}")

    def outbox(self, service: str) -> dict[str, Any]:
        """How the service's events are published, how many wait, and since when."""
        return dict(self._asked(service, "GET", "/admin/outbox"))

    def republish(self, service: str, since: datetime) -> int:
        """Publish the service's events once more, those written since a moment: how many."""
        return int(self._asked(service, "POST", "/admin/outbox/republish", {"since": since.isoformat()})["events"])

    def _asked(self, service: str, method: str, path: str, body: Any = None) -> Any:
        here = self._places.get(service)
        if here is None:
            raise LocalError(f"There is no service {service}: the names are {', '.join(self._places)}.")
        headers = {"Authorization": f"Bearer {self._tokens(service)}"}
        try:
            answer = ask(method, f"{here.admin_url}{path}", body, headers=headers)
        except (OSError, http.client.HTTPException) as error:
            raise LocalError(f"The {service} service does not answer at {here.admin_url} ({error}).") from error
        if answer.status == HTTPStatus.NOT_FOUND and path == "/admin/faults":
            raise LocalError(f"Faults are off in the {service} service: start it with TALLY_FAULTS=on.")
        if answer.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            raise LocalError(f"The {service} service refused: {answer.says()}")
        return answer.body

    @staticmethod
    def _items(body: Any) -> list[dict[str, Any]]:
        return list(body["items"])
