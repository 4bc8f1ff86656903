"""Mails on a real database, broker and mail server: which there are, and that each is sent once."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.notifier.mailer import FORGET_AFTER, ServerAway, queries
from tally.chassis.database_faults import DatabaseUnavailable
from tally.chassis.signals import Signals
from tests.integration.notifier.deployment import (
    TRACE,
    Notifier,
    PostOffice,
    event_row,
    notifier,
    running,
    until,
    working,
)
from tests.support.broker import Broker
from tests.support.postgres import Databases


async def test_a_confirmed_attendance_is_one_mail_however_often_it_is_told(
    broker: Broker, address: str, post: PostOffice
) -> None:
    async with notifier(broker.url, address, post) as one, working(one):
        author, event = await one.author(), await one.event()
        operation = await one.attend(author, event, times=3)
        await one.quiet()
        assert post.ids() == [f"<{operation}.confirmed@example.net>"]
        [mail] = post.mails
        assert (mail["To"], mail["X-Tally-Operation"]) == ("Ada <ada@example.org>", str(operation))
        assert "You attend SWAT #1" in mail["Subject"]
        assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


async def test_an_end_a_rejection_and_a_change_are_told_once_each(
    broker: Broker, address: str, post: PostOffice
) -> None:
    async with notifier(broker.url, address, post) as one, working(one):
        author, event = await one.author(), await one.event("Opening", "2027-01-01T10:00:00+01:00")
        conference = await one.database.fetchval("SELECT conference FROM event") if await _known(one, event) else None
        operation = await one.attend(author, event)
        await one.tell("event.updated", event, event_row(event, conference, "Opening", "2027-01-01T09:00:00Z"), times=3)
        await one.tell("event.updated", event, event_row(event, conference, "Closing"), times=3)
        pair = {"operation": str(operation), "author": str(author), "event": str(event)}
        await one.tell("attendance.cancelled", operation, {**pair, "reason": "deleted"}, times=3)
        await one.tell("event.updated", event, event_row(event, conference, "Nobody hears this"))
        deferred = uuid4()
        why = {"code": "event-full", "detail": "No seat is left at event x."}
        await one.tell("operation.rejected", deferred, {**pair, "operation": str(deferred), **why}, times=3)
        await one.quiet()
        kinds = [mail["kind"] for mail in await one.mails()]
        assert sorted(kinds) == ["cancelled", "changed", "confirmed", "rejected"]
        texts = {mail["Message-ID"].split(".")[1].split("@")[0]: _text(mail) for mail in post.mails}
        assert "It was SWAT #1 “Opening”, and began: Friday, 01 January 2027, 09:00 UTC." in texts["changed"]
        assert "does not exist any more" in texts["cancelled"]
        assert "No seat is left." in texts["rejected"]
        assert len(set(post.ids())) == len(post.ids()) == 4


async def test_a_mail_waits_for_an_author_who_is_told_of_later(broker: Broker, address: str, post: PostOffice) -> None:
    async with notifier(broker.url, address, post) as one, working(one):
        author = uuid4()
        await one.attend(author, await one.event())
        await one.caught_up()

        async def looked_for() -> bool:
            return [mail["reason"] for mail in await one.mails()] == ["author-unknown"]

        await until(looked_for)
        await one.author("Late", id=author)
        await one.caught_up()
        await one.database.execute("UPDATE mail SET due_at = now()")
        await one.quiet()
        assert [mail["To"] for mail in post.mails] == ["Late <ada@example.org>"]


async def test_who_has_no_address_gets_no_mail_and_is_counted(broker: Broker, address: str, post: PostOffice) -> None:
    async with notifier(broker.url, address, post) as one, working(one):
        await one.attend(await one.author(email=None), await one.event())
        await one.quiet()
        assert [(mail["state"], mail["reason"]) for mail in await one.mails()] == [("suppressed", "no-address")]
        assert post.mails == []
        assert one.signals.mails_total("confirmed", "suppressed")._value.get() == 1


async def test_a_mail_server_that_is_away_delays_mails_and_loses_none(
    broker: Broker, address: str, post: PostOffice
) -> None:
    await post.close()
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        author, event = await one.author(), await one.event()
        operations = [await one.attend(author, event) for _ in range(20)]
        await one.caught_up()
        with pytest.raises(ServerAway):
            await one.mailer.run_once()
        assert {(mail["state"], mail["attempts"]) for mail in await one.mails()} == {("waiting", 0)}
        await post.open()
        async with running(one.mailer.run):
            await one.quiet()
        assert sorted(post.ids()) == sorted(f"<{operation}.confirmed@example.net>" for operation in operations)


async def test_a_crash_between_acceptance_and_mark_repeats_the_same_mail(
    broker: Broker, address: str, post: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifier(broker.url, address, post) as one:
        await one.attend(await one.author(), await one.event())
        while await one.inbox.run_once() == 0 or one.inbox.applied_sequence < await one.stream.last_sequence():
            pass

        async def die(*args: Any) -> None:
            raise _Crash

        with monkeypatch.context() as patch, pytest.raises(_Crash):
            patch.setattr(one.mailer, "_end", die)
            await one.mailer.run_once()
        assert [mail["state"] for mail in await one.mails()] == ["waiting"]
        assert await one.mailer.run_once() == 0  # it is claimed, for a while
        await one.database.execute("UPDATE mail SET due_at = now()")
        assert await one.mailer.run_once() == 1
        first, second = post.mails
        assert (first["Message-ID"], first["Date"]) == (second["Message-ID"], second["Date"])
        assert [mail["state"] for mail in await one.mails()] == ["sent"]


async def test_a_database_that_is_away_for_a_moment_repeats_no_mail_and_delays_none_for_long(
    broker: Broker, address: str, post: PostOffice, dsn: Databases
) -> None:
    name = urlsplit(address).path.removeprefix("/")
    taken = count(1)

    def says(mail: Any) -> None:
        if next(taken) == 5:
            dsn.server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            dsn.server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    async with notifier(broker.url, address, post) as one:
        async with running(one.inbox.run):
            author, event = await one.author(), await one.event()
            operations = [await one.attend(author, event) for _ in range(20)]
            await one.caught_up()
        post.says = says
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await one.mailer.run_once()
        dsn.server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        async with working(one):
            await one.quiet()
        assert sorted(post.ids()) == sorted(f"<{operation}.confirmed@example.net>" for operation in operations)
        assert one.signals.mails_total("confirmed", "sent")._value.get() == len(operations)


async def test_a_no_is_final_until_an_operator_asks_again_and_not_now_is_later(
    broker: Broker, address: str, post: PostOffice
) -> None:
    refused: list[str] = []

    def says(mail: Any) -> str | None:
        if "never" in mail["To"]:
            return "550 5.1.1 Nobody of this name"
        if "later" in mail["To"] and mail["To"] not in refused:
            refused.append(mail["To"])
            return "451 4.3.0 Try again"
        return None

    post.says = says
    async with notifier(broker.url, address, post) as one, working(one):
        event = await one.event()
        for name in ("never", "later"):
            await one.attend(await one.author(name, f"{name}@example.org"), event)
        await one.quiet()
        assert sorted((mail["state"], mail["reason"]) for mail in await one.mails() if mail["reason"]) == [
            ("failed", "550 5.1.1 Nobody of this name")
        ]
        assert [mail["To"] for mail in post.mails] == ["later <later@example.org>"]
        post.says = lambda mail: None
        await one.database.fetch(queries.retry, None)
        await one.quiet()
        assert sorted(mail["state"] for mail in await one.mails()) == ["sent", "sent"]


async def test_a_server_s_words_are_kept_in_whatever_encoding_they_come(
    broker: Broker, address: str, post: PostOffice
) -> None:
    answers = {"never": b"552 5.2.2 Bo\xeete pleine", "later": b"451 4.3.0 R\xe9essayez\0"}
    post.says = lambda mail: next((answer for name, answer in answers.items() if name in mail["To"]), None)
    async with notifier(broker.url, address, post) as one, working(one):
        event = await one.event()
        for name in ("never", "later", "well"):
            await one.attend(await one.author(name, f"{name}@example.org"), event)
        await one.caught_up()
        one.mailer.wake()

        async def all_said() -> bool:
            said = {(mail["state"], mail["reason"]) for mail in await one.mails()}
            return said == {("failed", "552 5.2.2 Bo?te pleine"), ("waiting", "451 4.3.0 R?essayez?"), ("sent", None)}

        await until(all_said)


async def test_an_address_that_can_not_be_sent_safely_fails_its_mail_only(
    broker: Broker, address: str, post: PostOffice
) -> None:
    async with notifier(broker.url, address, post) as one, working(one):
        event = await one.event()
        for email in ("a\x07da@example.org", "ada@example.org"):
            await one.attend(await one.author(email=email), event)
        await one.quiet()
        assert sorted(mail["state"] for mail in await one.mails()) == ["failed", "sent"]


async def test_who_was_deleted_is_forgotten_although_a_mail_failed(
    broker: Broker, address: str, post: PostOffice
) -> None:
    post.says = lambda mail: f"550 5.1.1 {mail['To']}: nobody of this name"
    async with notifier(broker.url, address, post) as one, working(one):
        author = await one.author()
        await one.attend(author, await one.event())
        data = {"id": str(author), "full_name": "Ada", "email": "ada@example.org"}
        await one.tell("author.deleted", author, data, age_s=FORGET_AFTER.total_seconds() + 60)
        await one.quiet()
        await one.mailer._forget()
        assert await one.database.fetchval("SELECT email FROM author"), "somebody may have it tried again"
        before = "UPDATE mail SET noted_at = noted_at - $1::interval, due_at = due_at - $1::interval"
        await one.database.execute(before, FORGET_AFTER + timedelta(minutes=2))
        await one.mailer._forget()
        assert await one.database.fetchval("SELECT full_name || coalesce(email, '') FROM author") == ""
        [mail] = await one.mails()
        assert "ada" not in str(mail)
        # Tried again, it has no address.
        await one.database.fetch(queries.retry, mail["id"])
        await one.quiet()
        assert [(mail["state"], mail["reason"]) for mail in await one.mails()] == [("suppressed", "no-address")]


async def test_several_replicas_share_the_mails(broker: Broker, address: str, post: PostOffice) -> None:
    async with notifier(broker.url, address, post) as one, notifier(broker.url, address, post) as two:
        async with working(one, two):
            author, event = await one.author(), await one.event()
            operations = [await one.attend(author, event, times=2) for _ in range(100)]

            async def sent() -> bool:
                return sum(mail["state"] == "sent" for mail in await one.mails()) == len(operations)

            await until(sent)
        assert len(post.ids()) == len(set(post.ids())) == len(operations)


async def test_old_news_fills_the_replica_and_is_not_mailed(broker: Broker, address: str, post: PostOffice) -> None:
    async with notifier(broker.url, address, post) as one, working(one):
        author, event, operation = await one.author(), await one.event(), uuid4()
        data = {"operation": str(operation), "author": str(author), "event": str(event)}
        await one.tell("attendance.confirmed", operation, data, age_s=3601.0)
        await one.quiet()
        assert [(mail["state"], mail["reason"]) for mail in await one.mails()] == [("suppressed", "too-old")]
        assert await one.database.fetchval("SELECT live FROM attendance")


async def test_the_span_of_a_mail_points_at_the_request_that_caused_it(
    broker: Broker, address: str, post: PostOffice
) -> None:
    exporter = InMemorySpanExporter()
    signals = Signals("notifier", span_exporter=exporter)
    async with notifier(broker.url, address, post, signals=signals) as one, working(one):
        await one.attend(await one.author(), await one.event())
        await one.quiet()
    [span] = [span for span in exporter.get_finished_spans() if span.name == "mail"]
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE.split("-")[1]]
    signals.close()


class _Crash(Exception):
    """The process dies here."""


async def _known(one: Notifier, event: UUID) -> bool:
    await one.caught_up()
    return bool(await one.database.fetchval("SELECT count(*) FROM event WHERE id = $1", event))


def _text(mail: Any) -> str:
    return str(mail.get_body(("plain",)).get_content())
