"""What the mails say: a text and an HTML form of each kind, filled in from the replica.

Assumes nothing of names and titles: in HTML they are escaped, in headers they stay on one line.

The Message-ID follows from the operation and what the mail tells of it. So if a mail is sent twice (we stopped between
the server's acceptance and our note of it), both have the same id and date, and mail programs show one.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from datetime import UTC, datetime
from email.charset import QP, Charset
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import format_datetime, formataddr, parseaddr
from string import Template
from typing import Any, Final

from msgspec import Struct

_WIRE: Final = compat32.clone(linesep="\r\n")
_UTF_8: Final = Charset("utf-8")
_UTF_8.body_encoding = QP

_PAGE: Final = Template("""\
<!doctype html>
<html><body style="font-family: system-ui, sans-serif; line-height: 1.5; max-width: 36rem">
<p>Dear $name,</p>
$body
<p style="color: #666; font-size: .85rem">Operation $operation</p>
</body></html>
""")
_TEXT: Final = Template("""\
Dear $name,

$body

Operation $operation
""")


class Letter(Struct, frozen=True):
    """One kind of mail. `$event` is how the event is called, `$when` when it begins."""

    subject: str
    sentences: tuple[str, ...]


LETTERS: Final[Mapping[str, Letter]] = {
    "confirmed": Letter("You attend $event", ("Your attendance of $event is confirmed.", "It begins: $when.")),
    "cancelled": Letter("You no longer attend $event", ("Your attendance of $event has ended$because.",)),
    "rejected": Letter(
        "You cannot attend $event", ("Your request to attend $event could not be carried out.", "The reason: $detail")
    ),
    "changed": Letter(
        "$event has changed",
        ("An event that you attend has changed.", "It is now $event, and begins: $when.", "$before"),
    ),
}
#: Why an attendance ended, where that is not the author's own doing.
_BECAUSE: Final = {"deleted": ", because what it was about does not exist any more"}
_DETAIL: Final = {
    "event-full": "No seat is left.",
    "too-late": "It could not be carried out in time.",
    "author-not-found": "You are not registered any more.",
    "event-not-found": "The event does not exist any more.",
    "both-not-found": "The event does not exist any more.",
}


class Mail(Struct, frozen=True):
    """A mail as it goes over the wire."""

    sender: str
    recipient: str
    content: bytes


def letter(row: Mapping[str, Any], sender: str) -> Mail:
    """The mail that a claimed row stands for. ValueError if its address is none."""
    kind = LETTERS[row["kind"]]
    words = {"name": row["full_name"], "operation": str(row["operation"]), **_words(row)}
    recipient = _address(row["email"])
    # (The older interface of the email package: the newer one parses each header again, for three times the price;
    # and a boundary that is given need not be looked for.)
    message = MIMEMultipart("alternative", boundary=f"=_{row['id']}", policy=_WIRE)
    message["From"] = sender
    message["To"] = formataddr((_one_line(row["full_name"]), recipient))
    message["Subject"] = _one_line(Template(kind.subject).substitute(words))
    message["Date"] = format_datetime(row["at"].astimezone(UTC))
    message["Message-ID"] = message_id(row, sender)
    message["X-Tally-Operation"] = str(row["operation"])
    message["Auto-Submitted"] = "auto-generated"
    for form, text in (("plain", _text(kind, words)), ("html", _html(kind, words))):
        message.attach(MIMEText(text, form, _UTF_8, policy=_WIRE))  # type: ignore[arg-type]  # a Charset will do
    return Mail(parseaddr(sender)[1], recipient, message.as_bytes())


def message_id(row: Mapping[str, Any], sender: str) -> str:
    """``<operation.state@domain>``; a change is told apart by the event's version."""
    state = f"{row['kind']}.{row['of']}" if row["of"] else row["kind"]
    domain = sender.rpartition("@")[2].strip("<> ")
    return f"<{row['operation']}.{state}@{domain}>"


def _address(email: str) -> str:
    local, _, domain = email.rpartition("@")
    if not (local and domain) or any(character.isspace() or character in '<>",;' for character in email):
        raise ValueError("the address is none")
    if not local.isascii():
        raise ValueError("the address has letters that mail servers need not know")
    return f"{local}@{domain if domain.isascii() else domain.encode('idna').decode()}"


def _words(row: Mapping[str, Any]) -> dict[str, str]:
    data = row["data"]
    return {
        "event": _called(row["acronym"], row["seq"], row["title"]),
        "when": _when(row["starts_at"]),
        "because": _BECAUSE.get(str(data.get("reason")), ""),
        "detail": _DETAIL.get(str(data.get("code")), str(data.get("detail", ""))),
        "before": _before(row) if row["kind"] == "changed" else "",
    }


def _before(row: Mapping[str, Any]) -> str:
    was = row["data"]
    starts_at = None if was["starts_at"] is None else datetime.fromisoformat(was["starts_at"])
    return f"It was {_called(row['acronym'], row['seq'], was['title'])}, and began: {_when(starts_at)}."


def _called(acronym: str, seq: int, title: str | None) -> str:
    return f"{acronym} #{seq}" + (f" “{title}”" if title else "")


def _when(moment: datetime | None) -> str:
    return "the time is not set yet" if moment is None else f"{moment.astimezone(UTC):%A, %d %B %Y, %H:%M} UTC"


def _text(kind: Letter, words: Mapping[str, str]) -> str:
    body = "\n".join(Template(sentence).substitute(words) for sentence in kind.sentences)
    return _TEXT.substitute(words, body=body)


def _html(kind: Letter, words: Mapping[str, str]) -> str:
    safe = {name: html.escape(value) for name, value in words.items()}
    body = "\n".join(f"<p>{Template(sentence).substitute(safe)}</p>" for sentence in kind.sentences)
    return _PAGE.substitute(safe, body=body)


def _one_line(text: str) -> str:
    return " ".join(text.split())
