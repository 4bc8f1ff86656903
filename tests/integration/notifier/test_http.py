"""The notifier over HTTP: what became of a mail, and what operators may see and do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.notifier.notifier import NotifierSettings
from services.notifier.notifier import notifier as build
from tally.chassis.app import Addresses, running
from tally.chassis.signals import Signals
from tally.local.ask import Answer, ask
from tests.integration.notifier.deployment import Notifier, PostOffice, notifier, until
from tests.support.broker import Broker


@pytest.fixture
def settings(broker: Broker, address: str, post: PostOffice) -> NotifierSettings:
    return NotifierSettings(
        port=0,
        token_check="off",
        database_url=address,
        stream_url=broker.url,
        smtp_port=post.port,
        smtp_connections=2,
        mail_from="Tally <tally@example.net>",
    )


@pytest.fixture
async def service(settings: NotifierSettings) -> AsyncIterator[Addresses]:
    async with running(build(settings, Signals("notifier"))) as addresses:
        yield addresses


async def test_a_stop_repeats_no_mail_and_holds_none_back(
    broker: Broker, address: str, post: PostOffice, settings: NotifierSettings
) -> None:
    post.slow = lambda mail: not post.moment.is_set()
    async with notifier(broker.url, address, post) as one:
        author, event = await one.author(), await one.event()
        operations = [await one.attend(author, event) for _ in range(6)]
        async with running(build(settings, Signals("notifier"))):
            await until(lambda: asyncio.sleep(0, len(post.mails) == 2))
            asyncio.get_running_loop().call_later(0.5, post.moment.set)
        assert await _are_sent(one, 2)
        async with running(build(settings, Signals("notifier"))):
            await until(lambda: _are_sent(one, 6))
        assert sorted(post.ids()) == sorted(f"<{operation}.confirmed@example.net>" for operation in operations)


async def test_who_knows_an_operation_sees_its_mail_but_not_the_address(
    broker: Broker, address: str, post: PostOffice, service: Addresses
) -> None:
    async with notifier(broker.url, address, post) as one:
        operation = await one.attend(await one.author(), await one.event())
        await _sent(one)
    told = await _get(f"{service.url}/mail?operation={operation}")
    [mail] = told.body["items"]
    assert (mail["kind"], mail["state"], "email" in mail) == ("confirmed", "sent", False)
    [private] = (await _get(f"{service.admin_url}/admin/mail?state=sent")).body["items"]
    assert private["email"] == "ada@example.org"
    assert (await _get(f"{service.url}/mail?state=waiting")).body == {"items": [], "next": None}
    refused = await _get(f"{service.url}/mail?state=lost")
    assert (refused.status, refused.body["code"]) == (400, "invalid-query")


async def test_a_page_of_mails_says_where_the_next_one_is(
    broker: Broker, address: str, post: PostOffice, service: Addresses
) -> None:
    async with notifier(broker.url, address, post) as one:
        author, events = await one.author(), [await one.event(), await one.event()]
        operations = {str(await one.attend(author, event)) for event in events}
        await until(lambda: _told(one, 2))
    first = await _get(f"{service.url}/mail?limit=1")
    assert first.headers["link"] == f'</mail?limit=1&after={first.body["next"]}>; rel="next"'
    last = await _get(f"{service.url}/mail?limit=1&after={first.body['next']}")
    assert (last.body["next"], "link" in last.headers) == (None, False)
    assert {mail["operation"] for mail in first.body["items"] + last.body["items"]} == operations


async def test_a_mail_that_failed_is_sent_when_an_operator_says_so(
    broker: Broker, address: str, post: PostOffice, service: Addresses
) -> None:
    post.says = lambda mail: "550 5.1.1 Nobody of this name"
    async with notifier(broker.url, address, post) as one:
        await one.attend(await one.author(), await one.event())
        await _sent(one)
        [failed] = (await _get(f"{service.admin_url}/admin/mail?state=failed")).body["items"]
        assert failed["reason"] == "550 5.1.1 Nobody of this name"
        assert "reason" not in (await _get(f"{service.url}/mail")).body["items"][0]
        post.says = lambda mail: None
        again = await asyncio.to_thread(ask, "POST", f"{service.admin_url}/admin/mail/{failed['id']}/retry")
        assert (again.status, again.body) == (200, {"queued": 1})
        await _sent(one)
        assert len(post.mails) == 1
        none = await asyncio.to_thread(ask, "POST", f"{service.admin_url}/admin/mail/{failed['id']}/retry")
        assert (none.status, none.body["code"]) == (404, "not-found")


async def _are_sent(one: Notifier, count: int) -> bool:
    return [mail["state"] for mail in await one.mails()].count("sent") == count


async def _told(one: Notifier, count: int) -> bool:
    return len(await one.mails()) == count


async def _sent(one: Notifier) -> None:
    """Return when the service has dealt with all mails."""

    async def nothing_waits() -> bool:
        mails = await one.mails()
        return bool(mails) and not any(mail["state"] == "waiting" for mail in mails)

    await until(nothing_waits)


async def _get(url: str) -> Answer:
    return await asyncio.to_thread(ask, "GET", url)
