"""What an operator does to a running local stack, on its admin ports.

Assumes the key in the stack's folder: the operator signs tokens with it, as the services do.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from tally.chassis.auth import AuthError, MintedTokens
from tally.chassis.clock import SystemClock
from tally.local.ask import Answer, ask
from tally.local.failure import LocalError
from tally.local.keys import token_variables
from tally.local.services import Places

#: How often a rebuild is asked how far it is.
_LOOK_S = 0.2


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

    def republish(self, service: str, since: datetime) -> Iterator[int]:
        """Publish the service's events once more, those written since a moment: how many, part by part."""
        asked = {"since": since.isoformat()}
        while True:
            answer = self._asked(service, "POST", "/admin/outbox/republish", asked)
            yield int(answer["events"])
            if answer["complete"]:
                return
            asked["before"] = answer["before"]

    def rebuild(self) -> Iterator[dict[str, Any]]:
        """Rebuild the directory's view, or watch the rebuild that is under way: how it stands, until it is over."""
        self._asked("directory", "POST", "/admin/rebuild")
        while True:
            standing = dict(self._asked("directory", "GET", "/admin/rebuild"))
            yield standing
            if standing["state"] == "done" and standing["equal"] is not None:
                return
            time.sleep(_LOOK_S)

    def digest(self) -> dict[str, dict[str, Any]]:
        """What the directory's view holds: per table, how many rows, and their digest."""
        return dict(self._asked("directory", "GET", "/admin/digest")["tables"])

    def verify_audit(self) -> Iterator[dict[str, Any]]:
        """Walk the audit trail's chain, part by part, to its end or to where it is broken."""
        seq = 0
        while True:
            verified = dict(self._asked("directory", "GET", f"/admin/audit/verify?after={seq}"))
            yield verified
            if verified["complete"] or verified["broken"]:
                return
            seq = verified["seq"]

    def audit(self, entity: str, subject: UUID) -> Iterator[dict[str, Any]]:
        """What was done to one entity, in order."""
        after: str | None = ""
        while after is not None:
            query = urlencode({"entity": entity, "subject": subject, **({"after": after} if after else {})})
            page = self._asked("directory", "GET", f"/audit?{query}")
            yield from page["items"]
            after = page["next"]

    def order(self, operation: UUID | str, order: str) -> dict[str, Any]:
        """Have a deferred operation tried now (`retry`), or given up (`abandon`)."""
        return dict(self._asked("gateway", "POST", f"/admin/operations/{operation}/{order}"))

    def token(self, service: str) -> str:
        """A token for the service, as the operator."""
        if service not in self._places:
            raise LocalError(f"There is no service {service}: the names are {', '.join(self._places)}.")
        return self._tokens(service)

    def ask(self, service: str, method: str, path: str, body: Any = None) -> Answer:
        """The answer of a service's admin port, whatever it is."""
        headers = {"Authorization": f"Bearer {self.token(service)}"}
        here = self._places[service]
        try:
            return ask(method, f"{here.admin_url}{path}", body, headers=headers)
        except (OSError, http.client.HTTPException) as error:
            raise LocalError(f"The {service} service does not answer at {here.admin_url} ({error}).") from error

    def restore(self, service: str) -> dict[str, Any]:
        """Whether the service's database is being restored, and the reports of the latest restores."""
        return dict(self._asked(service, "GET", "/admin/restore"))

    def begin_restore(self, service: str, reason: str) -> None:
        """Tell the service that its database is an old copy."""
        self._asked(service, "POST", "/admin/restore", {"reason": reason})

    def skip_in_restore(self, service: str, what: str) -> None:
        """Let a restore go on without the stream or without the peer."""
        self._asked(service, "POST", "/admin/restore/skip", {"what": what})

    def _asked(self, service: str, method: str, path: str, body: Any = None) -> Any:
        answer = self.ask(service, method, path, body)
        if answer.status == HTTPStatus.NOT_FOUND and path == "/admin/faults":
            raise LocalError(f"Faults are off in the {service} service: start it with TALLY_FAULTS=on.")
        if answer.status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT):
            raise LocalError(f"The {service} service refused: {answer.says()}")
        return answer.body

    @staticmethod
    def _items(body: Any) -> list[dict[str, Any]]:
        return list(body["items"])
