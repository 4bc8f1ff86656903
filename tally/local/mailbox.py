"""The mail inbox of `make run`: a mail server that keeps what it gets, and a page to read it. For a laptop only.

    python -m tally.local.mailbox HOST SMTP_PORT PAGE_PORT FOLDER

Whoever connects may leave a mail for anybody, and it goes nowhere: each is a file in FOLDER, on the disk before the
sender is told that it was accepted, so that a test may kill us at any moment and count afterwards. The newest
`KEPT_MAX` are kept.

    GET /           the page: the newest first, and one of them opened
    GET /mail       {"items": [{"id", "message_id", "from", "to", "subject", "date", "operation"}…]}, newest first;
                    with ?limit=N the newest N
    GET /mail/ID    the same with "text", "html" and "headers";  /html what the page frames,  /raw as it came
    GET /readyz     200

A mail's HTML is shown in a frame that runs no script, sends no form and loads nothing from anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.parser import BytesHeaderParser
from pathlib import Path
from string import Template
from typing import Any, Final

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

KEPT_MAX: Final = 20_000
MAIL_MAX_BYTES: Final = 10 * 1024 * 1024
_ID: Final = re.compile(r"[0-9]{20}")
#: What the page lists.
_SHOWN_MAX: Final = 200
_HEADERS: Final = {
    "message_id": "Message-ID",
    "from": "From",
    "to": "To",
    "subject": "Subject",
    "date": "Date",
    "operation": "X-Tally-Operation",
}
#: What the frame with a mail's HTML may do: show itself.
_FRAMED: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_PAGE: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'"


class Mails:
    """The mails in a folder, one file each; a mail's id is the moment of its arrival, so names sort by it."""

    def __init__(self, folder: Path, *, kept_max: int = KEPT_MAX) -> None:
        self._folder = folder
        self._kept_max = kept_max
        self._last = itertools.count(1)
        self._rows: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._ids = deque(sorted(path.stem for path in folder.glob("*.eml")))
        self._adding = threading.Lock()

    def keep(self, content: bytes) -> str:
        """On the disk when this returns."""
        id = f"{time.time_ns():019d}{next(self._last) % 10}"
        path = self._folder / f"{id}.eml"
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        _sync_folder(self._folder)
        with self._adding:
            self._ids.append(id)
            while len(self._ids) > self._kept_max:
                old = self._ids.popleft()
                (self._folder / f"{old}.eml").unlink(missing_ok=True)
                self._rows.pop(old, None)
        return id

    def ids(self) -> list[str]:
        """Newest first."""
        with self._adding:
            return sorted(self._ids, reverse=True)

    def raw(self, id: str) -> bytes | None:
        try:
            return (self._folder / f"{id}.eml").read_bytes() if _ID.fullmatch(id) else None
        except FileNotFoundError:
            return None

    def get(self, id: str) -> EmailMessage | None:
        content = self.raw(id)
        return None if content is None else message_from_bytes(content, policy=policy.default)

    def rows(self, most: int) -> list[dict[str, Any]]:
        """What a list shows of the newest mails."""
        return [row for id in self.ids()[:most] if (row := self.row(id)) is not None]

    def row(self, id: str) -> dict[str, Any] | None:
        if id not in self._rows:
            if (content := self.raw(id)) is None:
                return None
            self._rows[id] = _row(id, BytesHeaderParser().parsebytes(content))
        return self._rows[id]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Receiver:
    """What aiosmtpd asks when a mail has come."""

    def __init__(self, mails: Mails) -> None:
        self._mails = mails

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.original_content or b""
        try:
            id = await asyncio.to_thread(self._mails.keep, content)
        except OSError as error:
            return f"452 4.3.1 The mail cannot be stored: {error.strerror}"
        return f"250 2.0.0 Kept as {id}"


# --- the page -----------------------------------------------------------------------------------------------


class Pages:
    """What a browser and a test can ask for."""

    def __init__(self, mails: Mails) -> None:
        self._mails = mails

    def application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/mail", self._list),
                Route("/mail/{id}", self._one),
                Route("/mail/{id}/html", self._html),
                Route("/mail/{id}/raw", self._raw),
                Route("/readyz", self._ready),
            ]
        )

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"status": "ready"})

    async def _list(self, request: Request) -> Response:
        most = request.query_params.get("limit", "")
        rows = await asyncio.to_thread(self._mails.rows, int(most) if most.isdecimal() else KEPT_MAX)
        return JSONResponse({"items": rows})

    async def _one(self, request: Request) -> Response:
        id = request.path_params["id"]
        mail = self._there(id)
        headers = [[name, str(value)] for name, value in mail.items()]
        return JSONResponse(
            {**(self._mails.row(id) or {}), "text": _text(mail), "html": _html(mail), "headers": headers}
        )

    async def _html(self, request: Request) -> Response:
        mail = self._there(request.path_params["id"])
        shown = _html(mail) or f"<pre>{html.escape(_text(mail))}</pre>"
        return HTMLResponse(shown, headers={"Content-Security-Policy": _FRAMED})

    async def _raw(self, request: Request) -> Response:
        content = self._mails.raw(request.path_params["id"])
        if content is None:
            raise HTTPException(404)
        return PlainTextResponse(content, headers={"X-Content-Type-Options": "nosniff"})

    async def _page(self, request: Request) -> Response:
        rows, kept = await asyncio.to_thread(self._mails.rows, _SHOWN_MAX), len(self._mails.ids())
        opened = request.query_params.get("id", "")
        mail = self._mails.get(opened) if opened else None
        page = _SHELL.substitute(
            count=f"{kept} mail{'' if kept == 1 else 's'}",
            # An opened mail stays as it is; the list looks for new ones.
            refresh="" if mail else '<meta http-equiv="refresh" content="3">',
            rows="".join(_line(row, chosen=row["id"] == opened) for row in rows) or _EMPTY,
            mail="" if mail is None else _opened(self._mails.row(opened) or {}, _text(mail)),
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE, "Referrer-Policy": "no-referrer"})

    def _there(self, id: str) -> EmailMessage:
        if (mail := self._mails.get(id)) is None:
            raise HTTPException(404)
        return mail


def _row(id: str, mail: Message) -> dict[str, Any]:
    def said(name: str) -> str:
        return " ".join(str(make_header(decode_header(mail.get(name, "")))).split())

    row: dict[str, Any] = {name: said(header) for name, header in _HEADERS.items()}
    return {"id": id, **row, "operation": row["operation"] or None}


def _text(mail: EmailMessage) -> str:
    return _body(mail, "plain")


def _html(mail: EmailMessage) -> str:
    return _body(mail, "html")


def _body(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body((kind,))
    try:
        return str(part.get_content()) if part is not None else ""
    except (LookupError, ValueError):  # a charset that nobody knows
        return "(this part cannot be read)"


def _line(row: dict[str, Any], *, chosen: bool) -> str:
    mark = ' class="chosen"' if chosen else ""
    subject, to, date = (html.escape(str(row[name])) for name in ("subject", "to", "date"))
    shown = f"<b>{subject or '(no subject)'}</b><span>{to}</span><time>{date}</time>"
    return f'<li{mark}><a href="/?id={row["id"]}">{shown}</a></li>'


def _opened(row: dict[str, Any], text: str) -> str:
    heads = "".join(
        f"<dt>{name}</dt><dd>{html.escape(str(row[field]))}</dd>"
        for name, field in (("From", "from"), ("To", "to"), ("Date", "date"), ("Id", "message_id"))
    )
    return (
        f"<article><h2>{html.escape(row['subject'])}</h2><dl>{heads}</dl>"
        f'<iframe sandbox src="/mail/{row["id"]}/html" title="The mail as HTML"></iframe>'
        f"<h3>As text</h3><pre>{html.escape(text)}</pre>"
        f'<p><a href="/mail/{row["id"]}/raw">As it came</a></p></article>'
    )


_EMPTY: Final = "<li class='empty'>No mail yet.</li>"
_SHELL: Final = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">$refresh
<title>Tally: $count</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --mark: #8882; }
  body { margin: 0; font: 15px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
  header { padding: .8rem 1.2rem; border-bottom: 1px solid var(--line); }
  h1 { display: inline; font-size: 1.1rem; margin-right: .8rem; }
  main { display: grid; grid-template-columns: minmax(16rem, 26rem) 1fr; }
  ul { list-style: none; margin: 0; padding: 0; }
  li a { display: grid; padding: .6rem 1.2rem; border-bottom: 1px solid var(--line); color: inherit;
    text-decoration: none; }
  li a:hover, li a:focus-visible, li.chosen a { background: var(--mark); }
  li span, li time { font-size: .85rem; opacity: .75; overflow: hidden; text-overflow: ellipsis; }
  li.empty { padding: 1.2rem; opacity: .75; }
  article { padding: 1rem 1.5rem; min-width: 0; }
  @media (max-width: 48rem) { main { grid-template-columns: 1fr; } article { order: -1; } }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .9rem; }
  dt { opacity: .75; } dd { margin: 0; overflow-wrap: anywhere; }
  iframe { width: 100%; height: 22rem; border: 1px solid var(--line); border-radius: 6px; background: #fff;
    color-scheme: light; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
</head>
<body>
<header><h1>Mail</h1>$count, for whomever: nothing leaves this machine.</header>
<main><ul>$rows</ul>$mail</main>
</body>
</html>
""")


# --- the process --------------------------------------------------------------------------------------------


async def serve(host: str, smtp_port: int, page_port: int, folder: Path) -> None:
    """Runs until SIGTERM or SIGINT."""
    mails = Mails(folder)
    loop = asyncio.get_running_loop()
    receiver = await loop.create_server(
        lambda: SMTP(Receiver(mails), hostname="tally.localhost", data_size_limit=MAIL_MAX_BYTES, loop=loop),
        host,
        smtp_port,
    )
    config = uvicorn.Config(
        Pages(mails).application(), host=host, port=page_port, log_config=None, access_log=False, lifespan="off"
    )
    page = _Page(config)

    def stop() -> None:
        page.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with receiver:
        await page.serve()


class _Page(uvicorn.Server):
    """uvicorn without its signal handlers: ours stop it."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


def main() -> None:
    host, smtp_port, page_port, folder = sys.argv[1:]
    asyncio.run(serve(host, int(smtp_port), int(page_port), Path(folder)))


if __name__ == "__main__":
    main()
