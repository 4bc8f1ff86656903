"""The stream is lost with its disk before all have read it: it is told again, and nobody has to ask for it."""

from __future__ import annotations

import shutil
from uuid import UUID

from tally.local.ask import ask
from tally.local.stack import LocalStack
from tests.integration.statements.stage import Stage, until

PATIENCE_S = 60.0


def test_what_nobody_had_read_of_a_stream_that_is_lost_reaches_everybody(stage: Stage) -> None:
    stack = stage.stack
    before = _attended(stage, "before@example.org")
    until(lambda: _mails(stack, before) == 1, "a mail, while all is well", PATIENCE_S)
    for reader in ("directory", "notifier"):
        stack.stop_service(reader)
    unread = _attended(stage, "unread@example.org")
    until(lambda: _told(stack, unread), "the stream has it, and nobody else", PATIENCE_S)

    stack.kill("nats")
    shutil.rmtree(stack.folder / "nats")
    (stack.folder / "nats").mkdir()
    meanwhile = _attended(stage, "meanwhile@example.org")
    for program in ("nats", "directory", "notifier"):
        stack.start_service(program)

    operations = [before, unread, meanwhile]
    until(lambda: [_mails(stack, one) for one in operations] == [1, 1, 1], "each has its one mail", PATIENCE_S)
    sql = "SELECT count(*) FROM live.attendance WHERE live"
    until(lambda: stack.postgres.execute(sql, "directory") == ["3"], "the directory knows all", PATIENCE_S)
    for table, service, owned in (
        ("shadow_author", "conference", "author"),
        ("shadow_event", "author", "event"),
    ):
        owner = "author" if owned == "author" else "conference"
        [rows] = stack.postgres.execute(f"SELECT count(*) FROM {owned}", owner)
        kept = f"SELECT count(*) FROM {table}"
        until(lambda: stack.postgres.execute(kept, service) == [rows], f"{service} has its copies", PATIENCE_S)  # noqa: B023


def _attended(stage: Stage, email: str) -> str:
    """The operation of an author with this address."""
    answer = ask("POST", f"{stage.stack.urls['author']}/author", {"full_name": "Ada Lovelace", "email": email})
    assert answer.status == 201, answer.says()
    return stage.created(stage.event(), str(answer.body["id"]))


def _mails(stack: LocalStack, operation: str) -> int:
    items = ask("GET", f"{stack.admin_urls['mail']}/mail").body["items"]
    return len({item["message_id"] for item in items if item["operation"] == operation})


def _told(stack: LocalStack, operation: str) -> bool:
    sql = f"SELECT count(*) FROM outbox WHERE subject = '{UUID(operation)}' AND published_at IS NOT NULL"
    return stack.postgres.execute(sql, "conference") == ["1"]
