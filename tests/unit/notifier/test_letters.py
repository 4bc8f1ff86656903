"""What the mails say, and that nothing in a name or a title can break out of its place."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from uuid import UUID

import pytest

from services.notifier.letters import LETTERS, letter, message_id
from services.notifier.news import KINDS, mail_id

OPERATION = UUID("019a0000-0000-7000-8000-000000000001")
SENDER = "Tally <tally@example.net>"


def row(kind: str = "confirmed", **more: Any) -> dict[str, Any]:
    return {
        "operation": OPERATION,
        "kind": kind,
        "of": "",
        "id": mail_id(OPERATION, kind, ""),
        "data": {},
        "at": datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC),
        "full_name": "Ada Lovelace",
        "email": "ada@example.org",
        "acronym": "SWAT",
        "seq": 1,
        "title": "Opening",
        "starts_at": datetime(2027, 1, 1, 9, tzinfo=UTC),
        **more,
    }


def sent(**more: Any) -> EmailMessage:
    """The mail as a receiver reads it."""
    return message_from_bytes(letter(row(**more), SENDER).content, policy=policy.default)


def body(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_every_kind_of_mail_has_its_words() -> None:
    assert set(LETTERS) == set(KINDS)
    was = {"title": "Before", "starts_at": "2027-01-01T08:00:00Z"}
    for kind in KINDS:
        mail = sent(kind=kind, data={**was, "code": "event-full", "detail": "x", "reason": "deleted"})
        for form in ("plain", "html"):
            assert "Dear Ada Lovelace" in body(mail, form)
            assert "SWAT #1 “Opening”" in body(mail, form)
            assert "$" not in body(mail, form)


def test_the_same_mail_has_the_same_id_and_date_for_ever() -> None:
    first, second = sent(), sent()
    assert first["Message-ID"] == second["Message-ID"] == f"<{OPERATION}.confirmed@example.net>"
    assert first["Date"] == second["Date"] == "Mon, 23 Nov 2026 01:02:03 +0000"
    assert first["X-Tally-Operation"] == str(OPERATION)
    assert (
        mail_id(OPERATION, "changed", "2") == mail_id(OPERATION, "changed", "2") != mail_id(OPERATION, "changed", "3")
    )
    assert message_id(row("changed", of="2"), SENDER) != message_id(row("changed", of="3"), SENDER)


def test_names_and_titles_are_escaped_in_html_and_as_they_are_in_text() -> None:
    mail = sent(full_name="<b>Ada</b> & $name", title="<script>alert(1)</script>")
    assert "<script>" not in body(mail, "html")
    assert "&lt;b&gt;Ada&lt;/b&gt; &amp; $name" in body(mail, "html")
    assert "<script>alert(1)</script>" in body(mail, "plain")


def test_a_name_cannot_add_a_header() -> None:
    mail = sent(full_name="Ada\r\nBcc: everybody@example.org", title="x\nX-Evil: 1")
    assert mail["Bcc"] is None
    assert mail["X-Evil"] is None
    assert [address.addr_spec for address in mail["To"].addresses] == ["ada@example.org"]


@pytest.mark.parametrize("name", ["Zoë, the “first”", "漢字 かな", '"quoted" \\ back'])
def test_names_of_any_script_arrive_as_they_are(name: str) -> None:
    [to] = sent(full_name=name)["To"].addresses
    assert (to.display_name, to.addr_spec) == (name, "ada@example.org")


def test_a_domain_of_any_script_is_written_in_ascii() -> None:
    assert sent(email="ada@bücher.example")["To"].addresses[0].domain == "xn--bcher-kva.example"


@pytest.mark.parametrize("email", ["a,b@example.org", "<a@example.org", "a@exa mple.org", "@", "a@b@c"])
def test_an_address_that_cannot_be_written_to_adds_no_recipient(email: str) -> None:
    try:
        [only] = sent(email=email)["To"].addresses
    except Exception:  # it can't be written: the mailer marks the mail as failed
        return
    assert only.addr_spec.count("@") == 1 or '"' in only.addr_spec
