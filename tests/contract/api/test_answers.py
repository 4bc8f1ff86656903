"""Each successful answer that a document promises is met once, of entities that exist, and is what the document says.

schemathesis, beside this, asks for ids that it makes up, so it sees refusals and hardly ever an answer with something
in it. Here the schemas are taken at their word: what they don't mention must not be there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import jsonschema  # type: ignore[import-untyped]
import pytest

from tally.chassis.clock import SystemClock
from tally.chassis.tokens import MintedTokens
from tally.local.ask import Answer, ask
from tally.local.keys import token_variables
from tally.local.stack import LocalStack

SERVICES = ("author", "conference", "gateway", "directory", "notifier")
PATIENCE_S = 30.0
PAIR = "/event/{event}/attendance/{author}"
LATER = {"Prefer": "respond-async"}

Met = tuple[str, str, str, str]


@dataclass
class Api:
    """Asks the services, checks each answer by the document that the service serves, and remembers what was met."""

    stack: LocalStack
    documents: dict[str, Any] = field(init=False)
    token: Callable[[str], str] = field(init=False)
    met: set[Met] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.documents = {name: closed(self._asked(name, "GET", "/openapi.json").body) for name in SERVICES}
        key = token_variables(self.stack.folder)["TALLY_TOKEN_KEY_FILE"]
        self.token = MintedTokens(key, "operator", "tally", SystemClock())

    def promised(self) -> set[Met]:
        """Every success with a body."""
        return {
            (service, method.upper(), path, status)
            for service, document in self.documents.items()
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            for status, response in operation["responses"].items()
            if status.startswith("2") and "application/json" in response.get("content", {})
        }

    def ok(
        self,
        service: str,
        method: str,
        path: str,
        status: int = 200,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        **ids: str,
    ) -> Any:
        """The body of an answer that must have this status and be what the document says."""
        target = path.format(**ids) + (f"?{urlencode(query)}" if query else "")
        answer = self._asked(service, method, target, body, headers)
        assert answer.status == status, f"{method} {service}{target}: {answer.says()}"
        self._check(service, method, path, answer)
        return answer.body

    def filled(self, service: str, path: str, *, query: Mapping[str, str] | None = None, **ids: str) -> Any:
        """The body of a list once there is something in it, or of a thing once it is there: views come after."""
        give_up_s = time.monotonic() + PATIENCE_S
        target = path.format(**ids) + (f"?{urlencode(query)}" if query else "")
        while (answer := self._asked(service, "GET", target)).status != 200 or not has_items(answer.body):
            assert time.monotonic() < give_up_s, f"{service}{target}: {answer.says()}"
            time.sleep(0.1)
        self._check(service, "GET", path, answer)
        return answer.body

    def _check(self, service: str, method: str, path: str, answer: Answer) -> None:
        document = self.documents[service]
        response = document["paths"][path][method.lower()]["responses"][str(answer.status)]
        if "content" not in response:
            return  # nothing is promised: what the gateway passes on from the directory, and empty answers
        schema = {**response["content"]["application/json"]["schema"], "components": document["components"]}
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(answer.body)
        self.met.add((service, method, path, str(answer.status)))

    def _asked(
        self, service: str, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        bearer = {"Authorization": f"Bearer {self.token(service)}"} if hasattr(self, "token") else {}
        return ask(method, self.stack.urls[service] + target, body, headers={**bearer, **(headers or {})})


def closed(document: Any) -> Any:
    """The document, whose objects have no other properties than those it mentions."""
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return document


def has_items(body: Any) -> bool:
    """Whether every list in it has something in it."""
    return all(value for value in body.values() if isinstance(value, list))


@pytest.mark.timeout(240)
def test_every_success_that_is_promised_is_met_and_is_what_was_promised(stack: LocalStack) -> None:
    api = Api(stack)
    author = _owned(api, "author", "/author", {"full_name": "Ada", "email": "ada@example.org"}, {"full_name": "Ada L."})
    friend = api.ok("author", "POST", "/author", 201, {"full_name": "Charles"})["id"]
    conference = _owned(api, "conference", "/conference", {"acronym": "SWAT"}, {"name": "Algorithms"})
    body = {"conference_id": conference, "seq": 1, "title": "Keynote", "starts_at": "2027-01-02T09:00:00Z"}
    event = _owned(api, "conference", "/event", body, {"capacity": 50})
    pair = {"event": event, "author": author}

    operation = api.ok("gateway", "POST", PAIR, 201, **pair)["operation"]
    api.ok("gateway", "POST", PAIR, 200, **pair)
    api.ok("gateway", "PUT", PAIR, 201, event=event, author=friend)
    api.ok("gateway", "PUT", PAIR, 200, event=event, author=friend)
    api.ok("gateway", "GET", PAIR, **pair)
    api.ok("gateway", "GET", "/operation/{operation}", operation=operation)
    api.filled("gateway", "/event/{event}/attendance", event=event)
    api.filled("gateway", "/event/{event}/attendance", event=event, query={"limit": "1"})
    api.filled("gateway", "/author/{author}/attendance", author=author)

    for path, id in (("/author", author), ("/event", event), ("/conference", conference)):
        api.filled("directory", path)
        api.filled("directory", f"{path}/{{id}}", id=id)
    api.filled("directory", "/author/{id}/attendance", id=author)
    api.filled("directory", "/author/{id}/co-attendee", id=author)
    api.filled("directory", "/event/{id}/attendance", id=event)
    api.filled("directory", "/conference/{id}/attendee", id=conference)
    api.filled("directory", "/statistics/attendance")
    api.filled("directory", "/operation/{id}", id=operation)
    api.filled("directory", "/audit")
    api.filled("notifier", "/mail")

    later = api.ok("conference", "POST", "/event", 201, {"conference_id": conference, "seq": 2})["id"]
    stack.stop_service("conference")
    try:
        for method, one in (("POST", author), ("PUT", friend)):
            api.ok("gateway", method, PAIR, 202, headers=LATER, event=later, author=one)
        for service in ("gateway", "directory"):
            api.filled(service, "/operation", query={"older_than": "0s"})
    finally:
        stack.start_service("conference")

    assert api.promised() - api.met == set()


def _owned(api: Api, service: str, path: str, new: dict[str, Any], change: dict[str, Any]) -> str:
    """An entity that was made, read, changed, and listed."""
    made = api.ok(service, "POST", path, 201, new)
    api.ok(service, "GET", f"{path}/{{id}}", id=made["id"])
    api.ok(service, "PATCH", f"{path}/{{id}}", 200, change, id=made["id"])
    api.filled(service, path)
    return str(made["id"])
