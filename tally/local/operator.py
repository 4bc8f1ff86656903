"""What an operator does to running services, on their admin ports.

Those of the local stack, for which the operator signs tokens with the key in its folder, as the services do; or others,
by what the environment says:

    TALLY_OPERATOR_TOKEN=…              a token made elsewhere: `kubectl create token RELEASE-operator --audience …`
    TALLY_GATEWAY_ADMIN_URL=http://…    where a service's admin port is, if not where the local stack has it
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit
from uuid import UUID

from tally.chassis.clock import SystemClock
from tally.chassis.keys import AuthError
from tally.chassis.tokens import MintedTokens
from tally.local.ask import Answer, ask
from tally.local.failure import LocalError
from tally.local.keys import token_variables
from tally.local.services import Places

#: How often a rebuild is asked how far it is.
_LOOK_S = 0.2
#: Where a forwarded port is: no certificate's name can match there.
_HERE = ("localhost", "127.0.0.1", "::1")


TOKEN = "TALLY_OPERATOR_TOKEN"


def admin_variable(service: str) -> str:
    """The environment variable with the address of a service's admin port."""
    return f"TALLY_{service.upper().replace('-', '_')}_ADMIN_URL"


class Operator:
    """Asks the services of ``places``, or those that ``environ`` leads to, as ``operator``."""

    def __init__(self, places: Places, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self._places = places
        self._environ = environ or {}
        self._tokens = self._given_token() or _made_tokens(folder)

    def breakers(self, service: str) -> list[dict[str, Any]]:
        """How the service's breakers stand."""
        return self._items(self._asked(service, "GET", "/admin/breakers"))

    def force(self, service: str, peer: str, kind: str, mode: str) -> None:
        """Hold a breaker in a mode; auto frees it."""
        self._asked(service, "PUT", _path("admin", "breakers", peer, kind), {"mode": mode})

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
        return dict(self._asked(service, "POST", _path("admin", "parked", consumer, sequence, "retry")))

    def drop_parked(self, service: str, consumer: str, sequence: int) -> None:
        """Give a parked message up."""
        self._asked(service, "DELETE", _path("admin", "parked", consumer, sequence))

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
        return dict(self._asked("gateway", "POST", _path("admin", "operations", operation, order)))

    def token(self, service: str) -> str:
        """A token for the service, as the operator."""
        if service not in self._places:
            raise LocalError(f"There is no service {service}: the names are {', '.join(self._places)}.")
        return self._tokens(service)

    def ask(self, service: str, method: str, path: str, body: Any = None) -> Answer:
        """The answer of a service's admin port, whatever it is."""
        url, verified = self._admin(service)
        headers = {"Authorization": f"Bearer {self._tokens(service)}"}
        try:
            return ask(method, f"{url}{path}", body, headers=headers, verified=verified)
        except (OSError, http.client.HTTPException) as error:
            raise LocalError(f"The {service} service does not answer at {url} ({error}).") from error

    def restore(self, service: str) -> dict[str, Any]:
        """Whether the service's database is being restored, and the reports of the latest restores."""
        return dict(self._asked(service, "GET", "/admin/restore"))

    def begin_restore(self, service: str, reason: str) -> None:
        """Tell the service that its database is an old copy."""
        self._asked(service, "POST", "/admin/restore", {"reason": reason})

    def skip_in_restore(self, service: str, what: str) -> None:
        """Let a restore go on without the stream or without the peer."""
        self._asked(service, "POST", "/admin/restore/skip", {"what": what})

    def _admin(self, service: str) -> tuple[str, bool]:
        """The address of a service's admin port, and whether its certificate is to be checked."""
        if given := self._environ.get(admin_variable(service)):
            parts = _parts(given)
            if parts is None:
                raise LocalError(f"{admin_variable(service)} is {given!r}: it must be as http://localhost:9443.")
            return f"{parts.scheme}://{parts.netloc}", parts.hostname not in _HERE
        here = self._places.get(service)
        if here is None:
            raise LocalError(
                f"There is no service {service}: the names are {', '.join(self._places)}. (Of one elsewhere, "
                f"{admin_variable(service)}=… says where it is.)"
            )
        return here.admin_url, False

    def _given_token(self) -> Callable[[str], str] | None:
        token = self._environ.get(TOKEN, "").strip()
        if not token:
            return None
        if not token.isascii() or not token.isprintable() or " " in token:
            raise LocalError(f"{TOKEN} is no token: it must be one word, as `kubectl create token` prints it.")
        return lambda _: token

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


def _made_tokens(folder: Path) -> Callable[[str], str]:
    if not (folder / "keys").is_dir():  # a key of our own nobody would trust
        raise LocalError(
            f"No Tally was ever started in {folder}: start one with `make run`, or say where it is with "
            "TALLY_LOCAL_FOLDER=…."
        )
    try:
        key = token_variables(folder)["TALLY_TOKEN_KEY_FILE"]
        return MintedTokens(key, "operator", "tally", SystemClock())
    except (AuthError, OSError) as error:
        raise LocalError(f"The key in {folder} can't be used ({error}).") from error


def _parts(url: str) -> SplitResult | None:
    """An address without a path, or None if it is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if usable and parts.path in ("", "/") and not parts.query else None


def _path(*parts: object) -> str:
    """Of an address; what was typed may be anything."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)
