"""The local mail inbox: what it keeps, and that a mail can do nothing to who reads it."""

from __future__ import annotations

import asyncio
import json
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from starlette.applications import Starlette

from tally.local.mailbox import Mails, Pages


def mail(subject: str, html: str = "<p>hello</p>") -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", subject
    message["Message-ID"], message["X-Tally-Operation"] = "<1@example.org>", "op"
    message.set_content("hello\n")
    message.add_alternative(html, subtype="html")
    return bytes(message)


@pytest.fixture
def mails(tmp_path: Path) -> Mails:
    return Mails(tmp_path / "mail", kept_max=3)


class Answer:
    """What an application answered."""

    def __init__(self) -> None:
        self.status_code = 0
        self.headers: dict[str, str] = {}
        self.content = b""

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


class Browser:
    """Asks an application without a network."""

    def __init__(self, application: Starlette) -> None:
        self._application = application

    def get(self, address: str) -> Answer:
        return asyncio.run(self._get(*address.partition("?")[::2]))

    async def _get(self, path: str, query: str) -> Answer:
        answer = Answer()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status_code = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            answer.content += message.get("body", b"")

        scope = {
            "type": "http",
            "method": "GET",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [],
        }
        await self._application(scope, receive, send)
        return answer


@pytest.fixture
def browser(mails: Mails) -> Browser:
    return Browser(Pages(mails).application())


def test_mails_are_listed_newest_first_and_the_oldest_make_room(mails: Mails, browser: Browser) -> None:
    for number in range(5):
        mails.keep(mail(f"number {number}"))
    items = browser.get("/mail").json()["items"]
    assert [item["subject"] for item in items] == ["number 4", "number 3", "number 2"]
    assert (items[0]["message_id"], items[0]["operation"]) == ("<1@example.org>", "op")


def test_mails_outlive_the_process(mails: Mails, tmp_path: Path) -> None:
    id = mails.keep(mail("kept"))
    again = Mails(tmp_path / "mail").get(id)
    assert again is not None
    assert again["Subject"] == "kept"


def test_a_mail_can_be_read_as_text_as_html_and_as_it_came(mails: Mails, browser: Browser) -> None:
    id = mails.keep(mail("one"))
    told = browser.get(f"/mail/{id}").json()
    assert (told["text"].strip(), told["html"].strip()) == ("hello", "<p>hello</p>")
    assert browser.get(f"/mail/{id}/raw").content == mails.raw(id)
    assert browser.get("/mail/00000000000000000000").status_code == 404
    assert browser.get("/mail/..%2f..%2fetc%2fpasswd").status_code == 404


def test_the_html_of_a_mail_may_run_and_load_nothing(mails: Mails, browser: Browser) -> None:
    id = mails.keep(mail("evil", "<script>alert(1)</script><img src='http://tracker.example/x'>"))
    policy = browser.get(f"/mail/{id}/html").headers["content-security-policy"]
    assert policy.startswith("sandbox;")
    assert "default-src 'none'" in policy
    page = browser.get(f"/?id={id}")
    assert "<iframe sandbox " in page.text
    assert "<script>" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_subject_is_shown_and_not_obeyed(mails: Mails, browser: Browser) -> None:
    mails.keep(mail("<img src=x onerror=alert(1)>"))
    assert "&lt;img src=x onerror=alert(1)&gt;" in browser.get("/").text
    assert "<img" not in browser.get("/").text


def test_without_mails_the_page_says_so(browser: Browser) -> None:
    assert "No mail yet." in browser.get("/").text
    assert browser.get("/readyz").status_code == 200


def test_the_newest_can_be_asked_for_alone(mails: Mails, browser: Browser) -> None:
    for subject in ("first", "second", "third"):
        mails.keep(mail(subject))
    assert [one["subject"] for one in browser.get("/mail?limit=2").json()["items"]] == ["third", "second"]
    assert len(browser.get("/mail?limit=nonsense").json()["items"]) == 3
