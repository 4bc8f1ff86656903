"""The walkthrough of the README: as lines to paste, and as a demonstration that runs it and checks every answer.

Assumes a running stack; a service that is not there, or an answer that is not the right one, ends it with one sentence.
"""

import http.client
import json
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from tally.local.ask import Answer, ask
from tally.local.failure import LocalError
from tally.local.services import Place, Places

Say = Callable[[str], None]
Outage = Callable[[str], AbstractContextManager[None]]
#: How long the end of an operation, or its mail, may take to come.
_PATIENCE_S = 60.0
_LOOK_S = 0.2

# Every answer to a POST begins with the id. Not jq: it is often missing.
_ID = """| cut -d'"' -f4"""
#: What the walkthrough asks.
NEEDED = ("author", "conference", "gateway", "directory", "mail")


def lines_to_paste(places: Places) -> str:
    """The walkthrough for a shell with curl; pasted as a whole or line by line, every line works. (No comment is among
    them: an interactive zsh takes it for words of the command.)"""
    author, conference, gateway, directory = (_typed(places[name]) for name in NEEDED[:-1])
    mail = replace(places["mail"], port=places["mail"].admin_port).shown
    return f"""\
AUTHOR=$(curl -s {author}/author -d '{{"full_name":"Alan Turing","email":"alan@example.org"}}' {_ID})
OTHER=$(curl -s {author}/author -d '{{"full_name":"Joan Clarke"}}' {_ID})
CONFERENCE=$(curl -s {conference}/conference -d '{{"acronym":"SWAT"}}' {_ID})
EVENT=$(curl -s {conference}/event -d '{{"conference_id":"'$CONFERENCE'","seq":1}}' {_ID})
curl -i -X POST {gateway}/event/$EVENT/attendance/$AUTHOR; echo
curl -i -X POST {gateway}/event/$EVENT/attendance/$OTHER; echo
curl {gateway}/event/$EVENT/attendance; echo
curl {gateway}/author/$AUTHOR/attendance; echo
sleep 4
curl {directory}/author/$AUTHOR/co-attendee; echo
curl {mail}/mail; echo"""


def _typed(here: Place) -> str:
    return f"-k {here.shown}" if here.scheme == "https" else here.shown


def asked(
    service: str, here: Place, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """The answer; nobody answering is a sentence."""
    try:
        return ask(method, f"{here.url}{path}", body, headers=headers)
    except TimeoutError:
        raise LocalError(
            f"The {service} service at {here.url} does not answer: `tally status` says what is up."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise LocalError(
            f"The {service} service is not there at {here.url} ({error}): start Tally with `make run` in another "
            "terminal and try again."
        ) from error


class Demonstration:
    """Runs the walkthrough; every step shows the line that a person would type, and the answer."""

    def __init__(self, places: Places, say: Say, *, colour: bool = False, outage: Outage | None = None) -> None:
        """With `outage`, which stops a service for a block, it shows what happens while one is down."""
        self._places = places
        self._outage = outage
        self._say = say
        self._bold, self._dim, self._plain = ("\033[1m", "\033[2m", "\033[0m") if colour else ("", "", "")
        self._steps = 0

    def run(self) -> None:
        author = self._id(self._step("An author, in the author service's database.", "author", "POST", "/author", 201,
                                     {"full_name": "Alan Turing"}))  # fmt: skip
        conference = self._id(self._step("A conference, in the conference service's.", "conference", "POST",
                                         "/conference", 201, {"acronym": "SWAT"}))  # fmt: skip
        event = self._id(self._step("Its first event.", "conference", "POST", "/event", 201,
                                    {"conference_id": conference, "seq": 1}))  # fmt: skip
        pair = f"/event/{event}/attendance/{author}"

        self._step("The author attends the event: one half in each database.", "gateway", "POST", pair, 201)
        self._reads(event, author, attends=True)
        self._step("Once more: nothing new, and no harm.", "gateway", "POST", pair, 200)

        if "directory" in self._places:
            self._meets(event, author)

        nobody = str(uuid.uuid4())
        refused = self._step("An author who does not exist: refused, and it says who.", "gateway", "POST",
                             f"/event/{event}/attendance/{nobody}", 404)  # fmt: skip
        self._check(refused, refused.body.get("code") == "author-not-found", "the code should be author-not-found")
        self._check(refused, nobody in json.dumps(refused.body), f"the answer should name the author {nobody}")

        self._step("Cancel.", "gateway", "DELETE", pair, 204)
        self._reads(event, author, attends=False)
        self._step("It is gone on both sides.", "gateway", "GET", pair, 404)
        if self._outage is not None:
            self._survives(self._outage)
        self._say(f"\n{self._bold}All {self._steps} steps answered as they should.{self._plain}")

    def _meets(self, event: str, author: str) -> None:
        """What only the directory answers, of what is settled."""
        other = self._id(self._step("Another author.", "author", "POST", "/author", 201,
                                    {"full_name": "Joan Clarke"}))  # fmt: skip
        pair = f"/event/{event}/attendance/{other}"
        self._step("She attends the event, too.", "gateway", "POST", pair, 201)
        self._say("   (waiting until the directory knows: it is told of an attendance when it is settled)")
        path = f"/author/{author}/co-attendee"
        self._until(lambda: bool(self._asked(path, "directory").body.get("items")), "has nobody who attends, too")
        met = self._step("Whom does the first one meet? The directory tells.", "directory", "GET", path, 200)
        found = [one.get("id") for one in met.body["items"]]
        self._check(met, found == [other], "the other author should be there, and nobody else")
        self._step("She has changed her mind.", "gateway", "DELETE", pair, 204)

    def _survives(self, outage: Outage) -> None:
        """A request while a service is down: taken, carried out when it is back, and told of by mail."""
        author = self._id(self._step("Another author, with an address.", "author", "POST", "/author", 201,
                                     {"full_name": "Grace Hopper", "email": "grace@example.org"}))  # fmt: skip
        conference = self._id(self._step("Another conference.", "conference", "POST", "/conference", 201,
                                         {"acronym": "COBOL"}))  # fmt: skip
        event = self._id(self._step("Its event.", "conference", "POST", "/event", 201,
                                    {"conference_id": conference, "seq": 1, "title": "Keynote"}))  # fmt: skip
        pair = f"/event/{event}/attendance/{author}"
        self._happens("The conference service is stopped.", "tally stop conference")
        with outage("conference"):
            taken = self._step("The author wants to attend, and need not wait for it.", "gateway", "POST", pair, 202,
                               headers={"Prefer": "respond-async"})  # fmt: skip
            operation = self._id(taken)
            waits = self._step("How does it stand? It waits.", "gateway", "GET", f"/operation/{operation}", 200)
            self._check(waits, waits.body.get("state") == "deferred", "the state should be deferred")
            self._happens("The conference service is started.", "tally start conference")
        self._say("   (waiting until the operation has ended)")
        self._until(lambda: self._asked(f"/operation/{operation}").body.get("state") != "deferred", "is not decided")
        ended = self._step("It has been carried out.", "gateway", "GET", f"/operation/{operation}", 200)
        self._check(ended, ended.body.get("state") == "confirmed", "the state should be confirmed")
        self._step("The author attends.", "gateway", "GET", pair, 200)
        self._mail(str(ended.body["attempt"]))

    def _mail(self, attempt: str) -> None:
        self._say("   (waiting for the mail: an attendance is told of when it is settled, after 2 to 3 seconds)")
        page = self._places["mail"].admin_url

        def arrived() -> list[Any]:
            return [mail for mail in ask("GET", f"{page}/mail").body["items"] if mail["operation"] == attempt]

        self._until(lambda: bool(arrived()), "has no mail")
        [mail] = arrived()
        self._steps += 1
        self._say(f"\n{self._bold}{self._steps}. The mail has come, once.{self._plain}")
        self._say(f"   To: {mail['to']}\n   Subject: {mail['subject']}\n   Read it: {page}/?id={mail['id']}")

    def _happens(self, title: str, command: str) -> None:
        self._steps += 1
        self._say(f"\n{self._bold}{self._steps}. {title}{self._plain}\n   $ {command}")

    def _asked(self, path: str, service: str = "gateway") -> Answer:
        return asked(service, self._places[service], "GET", path)

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        give_up_s = time.monotonic() + _PATIENCE_S
        while not holds():
            if time.monotonic() > give_up_s:
                raise LocalError(f"Step {self._steps} is not as it should be: after {_PATIENCE_S:g} s it {what}.")
            time.sleep(_LOOK_S)

    def _reads(self, event: str, author: str, *, attends: bool) -> None:
        ending = "" if attends else ": nobody any more"
        read = self._step(f"Who attends the event{ending}?", "gateway", "GET", f"/event/{event}/attendance", 200)
        found = [one.get("id") for one in read.body.get("attendees", [])]
        self._check(read, found == [author] * attends, "the author should be there" if attends else "nobody should be")
        ending = "" if attends else ": none any more"
        read = self._step(
            f"What does the author attend{ending}?", "gateway", "GET", f"/author/{author}/attendance", 200
        )
        found = [one.get("id") for one in read.body.get("events", [])]
        self._check(read, found == [event] * attends, "the event should be there" if attends else "nothing should be")

    def _step(
        self,
        title: str,
        service: str,
        method: str,
        path: str,
        status: int,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        self._steps += 1
        here = self._places[service]
        line = _curl(here, method, path, body, headers or {})
        self._say(f"\n{self._bold}{self._steps}. {title}{self._plain}\n   $ {line}")
        answer = asked(service, here, method, path, body, headers)
        self._say(f"   {answer.status} {answer.reason}")
        if location := answer.headers.get("location"):
            self._say(f"   Location: {location}")
        if answer.body is not None:
            pretty = json.dumps(answer.body, indent=2, ensure_ascii=False)
            self._say(self._dim + "\n".join(f"   {line}" for line in pretty.splitlines()) + self._plain)
        self._check(answer, answer.status == status, f"{status} was expected")
        return answer

    def _check(self, answer: Answer, holds: bool, sentence: str) -> None:
        if not holds:
            raise LocalError(
                f"Step {self._steps} is not as it should be: {sentence}, and the answer was {answer.says()}"
            )

    def _id(self, answer: Answer) -> str:
        return str(answer.body["id"])


def _curl(here: Place, method: str, path: str, body: Any, headers: Mapping[str, str]) -> str:
    insecure = "-k " if here.scheme == "https" else ""
    # curl's own choice: GET, or POST when there is a body.
    verb = "" if method == "GET" or (method == "POST" and body is not None) else f"-X {method} "
    data = "" if body is None else f" -d '{json.dumps(body, separators=(',', ':'))}'"
    shown = "".join(f"-H '{name}: {value}' " for name, value in headers.items())
    return f"curl -i {insecure}{verb}{shown}{here.shown}{path}{data}"
