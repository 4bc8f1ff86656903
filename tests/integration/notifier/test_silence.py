"""A mail server that is slow to answer, hangs up or closes: no mail is sent without end, and none stops the others."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from services.notifier import mailer
from services.notifier.mailer import ServerAway, queries
from tests.integration.notifier.deployment import (
    HANG_UP,
    Notifier,
    PostOffice,
    notifier,
    running,
    until,
    working,
)
from tests.support.broker import Broker

CLOSING = "421 4.7.0 Try again later"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's answer is waited for, and a mail is claimed, for a part of a second."""
    monkeypatch.setattr(mailer, "_SMTP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(mailer, "CLAIM_S", 1.0)
    monkeypatch.setattr(mailer, "_KEEP_PERIOD_S", 0.2)
    monkeypatch.setattr(mailer, "_SLOW_S", 0.1)


@pytest.mark.usefixtures("quick")
async def test_a_server_that_is_slow_to_answer_is_given_a_mail_once(
    broker: Broker, address: str, post: PostOffice
) -> None:
    post.slow = lambda mail: True
    async with notifier(broker.url, address, post) as one, notifier(broker.url, address, post) as two:
        async with working(one, two):
            await one.attend(await one.author(), await one.event())
            claimed_until = await _claimed(one, post)

            async def claimed_much_longer() -> bool:
                [mail] = await one.mails()
                return bool((mail["due_at"] - claimed_until).total_seconds() > 2 * mailer.CLAIM_S)

            await until(claimed_much_longer)
            post.moment.set()
            await one.quiet()
        assert [(mail["state"], mail["attempts"]) for mail in await one.mails()] == [("sent", 1)]
        assert len(post.mails) == 1


@pytest.mark.usefixtures("quick")
async def test_nobody_waits_for_a_mail_that_the_server_is_slow_to_answer(
    broker: Broker, address: str, post: PostOffice
) -> None:
    post.slow = lambda mail: "slow" in mail["To"]
    async with notifier(broker.url, address, post) as one, working(one):
        event = await one.event()
        await _attend(one, event, "slow")
        await _claimed(one, post)
        for _ in range(3):
            await _attend(one, event, *["well"] * 3)
            await until(lambda: _all_but(one, 1, "sent"))
        post.moment.set()
        await one.quiet()
        assert len(post.mails) == 10


@pytest.mark.usefixtures("quick")
async def test_while_every_connection_waits_the_other_mails_stay_untried(
    broker: Broker, address: str, post: PostOffice
) -> None:
    post.slow = lambda mail: "slow" in mail["To"]
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        event = await one.event()
        await _attend(one, event, "slow", "slow")
        await one.caught_up()
        assert await one.mailer.run_once() == 2
        await _attend(one, event, "well", "well")
        await one.caught_up()
        assert await one.mailer.run_once() == 0
        assert [mail["attempts"] for mail in await one.mails()] == [1, 1, 0, 0]
        post.moment.set()
        async with running(one.mailer.run):
            await one.quiet()
        assert [(mail["state"], mail["attempts"]) for mail in await one.mails()] == [("sent", 1)] * 4
        assert len(post.mails) == 4


@pytest.mark.usefixtures("quick")
async def test_stopped_while_the_server_is_slow_to_answer_and_the_mail_is_sent_again(
    broker: Broker, address: str, post: PostOffice
) -> None:
    post.slow = lambda mail: not post.moment.is_set()
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        async with running(one.mailer.run):
            await one.attend(await one.author(), await one.event())
            await _claimed(one, post)
        post.moment.set()
        async with running(one.mailer.run):
            await one.quiet()
        first, second = post.mails
        assert (first["Message-ID"], first["Date"]) == (second["Message-ID"], second["Date"])
        assert [(mail["state"], mail["attempts"]) for mail in await one.mails()] == [("sent", 2)]


async def test_a_mail_that_gets_no_answer_is_put_off_the_longer_the_longer_it_took(
    broker: Broker, address: str, post: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailer, "_DATA_TIMEOUT_S", 2.5)
    monkeypatch.setattr(mailer, "_SLOW_S", 5.0)
    monkeypatch.setattr(mailer, "_MAIL_BACKOFF_S", (0.1, 0.1))
    post.slow = lambda mail: True
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        await one.attend(await one.author(), await one.event())
        await one.caught_up()
        assert await one.mailer.run_once() == 1
        [mail] = await one.mails()
        assert (mail["state"], mail["attempts"], len(post.mails)) == ("waiting", 1, 1)
        assert "hung up or is silent" in mail["reason"]
        assert await _put_off_s(one) > 1.0
        assert await one.mailer.run_once() == 0


@pytest.mark.parametrize("answer", [CLOSING, HANG_UP], ids=["421", "hang-up"])
async def test_mails_at_which_the_server_drops_the_connection_stop_no_others(
    broker: Broker, address: str, post: PostOffice, answer: str
) -> None:
    post.says = lambda mail: answer if "busy" in mail["To"] else None
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        event = await one.event()
        await _attend(one, event, *["busy"] * 5, *["well"] * 5)
        await one.caught_up()
        async with running(one.mailer.run):
            await until(lambda: _all_but(one, 5, "sent"))
            await until(lambda: _tried(one, 2))
        assert [mail["To"] for mail in post.mails] == ["well <well@example.org>"] * 5
        waiting = [mail for mail in await one.mails() if mail["state"] == "waiting"]
        assert all("the mail server" in mail["reason"] for mail in waiting)


async def test_a_server_that_drops_the_connection_at_every_mail_is_away(
    broker: Broker, address: str, post: PostOffice
) -> None:
    post.says = lambda mail: CLOSING
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        await _attend(one, await one.event(), *["busy"] * 20)
        await one.caught_up()
        with pytest.raises(ServerAway, match=r"421 4\.7\.0 Try again later"):
            await one.mailer.run_once()
        attempts = sorted(mail["attempts"] for mail in await one.mails())
        assert attempts == [0] * 16 + [1] * 4  # two for each connection


async def test_a_server_that_says_no_to_our_hello_is_away_and_uses_up_no_attempt(
    broker: Broker, address: str, post: PostOffice
) -> None:
    post.greets = lambda: CLOSING
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        await _attend(one, await one.event(), *["well"] * 5)
        await one.caught_up()
        with pytest.raises(ServerAway):
            await one.mailer.run_once()
        assert {(mail["state"], mail["attempts"]) for mail in await one.mails()} == {("waiting", 0)}


async def test_a_server_that_lets_in_fewer_connections_gets_the_mails_over_those(
    broker: Broker, address: str, post: PostOffice
) -> None:
    answers = iter([None])
    post.greets = lambda: next(answers, "421 4.7.0 Too many connections")
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        await _attend(one, await one.event(), *["well"] * 20)
        await one.caught_up()
        with pytest.raises(ServerAway):
            await one.mailer.run_once()
        sent = [mail["attempts"] for mail in await one.mails() if mail["state"] == "sent"]
        assert sent == [1] * len(post.mails)
        assert len(post.mails) >= 19


async def test_a_mail_that_was_tried_less_goes_first(broker: Broker, address: str, post: PostOffice) -> None:
    async with notifier(broker.url, address, post, connections=1) as one, running(one.inbox.run):
        await _attend(one, await one.event(), "old", "new")
        await one.caught_up()
        await one.database.execute("UPDATE mail SET attempts = 1 WHERE at = (SELECT min(at) FROM mail)")
        assert await one.mailer.run_once() == 2
        assert [mail["To"].split()[0] for mail in post.mails] == ["new", "old"]


async def test_whoever_lost_its_claim_changes_nothing(broker: Broker, address: str, post: PostOffice) -> None:
    async with notifier(broker.url, address, post) as one, running(one.inbox.run):
        await one.attend(await one.author(), await one.event())
        await one.caught_up()
        [lost] = await one.database.fetch(queries.claim, 1, 0.0)
        [ours] = await one.database.fetch(queries.claim, 1, 60.0)
        before = await one.mails()
        await one.database.execute(queries.keep, lost["id"], lost["attempts"], 600.0)
        await one.database.execute(queries.later, lost["id"], lost["attempts"], 600.0, "421")
        await one.database.execute(queries.free, [lost["id"]], [lost["attempts"]])
        assert await one.mails() == before
        await one.database.execute(queries.free, [ours["id"]], [ours["attempts"]])
        assert [mail["attempts"] for mail in await one.mails()] == [1]


async def _attend(one: Notifier, event: Any, *names: str) -> None:
    for name in names:
        await one.attend(await one.author(name, f"{name}@example.org"), event)


async def _claimed(one: Notifier, post: PostOffice) -> datetime:
    """Until when the one mail is claimed, once the server has it."""

    async def taken() -> bool:
        return len(post.mails) == 1

    await until(taken)
    [mail] = await one.mails()
    due_at: datetime = mail["due_at"]
    return due_at


async def _all_but(one: Notifier, number: int, state: str) -> bool:
    states = [mail["state"] for mail in await one.mails()]
    return len(states) > number and states.count(state) == len(states) - number


async def _tried(one: Notifier, times: int) -> bool:
    return all(mail["attempts"] >= times for mail in await one.mails() if mail["state"] == "waiting")


async def _put_off_s(one: Notifier) -> float:
    return float(await one.database.fetchval("SELECT extract(epoch FROM min(due_at) - now()) FROM mail"))
