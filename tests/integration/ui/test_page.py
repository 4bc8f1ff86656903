"""What the page is over HTTP: its files, its headers, its modes."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

import tally.gateway.ui
from tests.integration.ui.conftest import Mode, Started

ASSETS = Path(tally.gateway.ui.__path__[0]) / "assets"


async def test_the_page_may_load_its_own_files_and_nothing_else(
    started: Started, session: aiohttp.ClientSession
) -> None:
    gateway = await started("read")
    for path in ("/ui", "/ui/page.css", "/ui/page.js", "/ui/icon.svg"):
        async with session.get(gateway.url + path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert (answer.status, answer.headers["X-Content-Type-Options"]) == (200, "nosniff")
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "frame-ancestors 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("name", ["page.html", "page.css", "page.js"])
def test_nothing_in_the_page_comes_from_elsewhere_or_becomes_markup(name: str) -> None:
    text = (ASSETS / name).read_text()
    elsewhere = text.replace("http://www.w3.org/2000/svg", "")
    assert "://" not in elsewhere.replace("^http:\\/\\/", "")
    assert not [
        risk for risk in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if risk in text
    ]
    assert " style=" not in text and "<script>" not in text


async def test_off_means_that_there_is_no_page(started: Started, session: aiohttp.ClientSession) -> None:
    gateway = await started("off")
    for path in ("/ui", "/ui/feed", "/ui/page.js"):
        async with session.get(gateway.url + path) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (404, "no-such-path")


async def test_a_page_that_can_only_be_read_tells_no_addresses(
    started: Started, session: aiohttp.ClientSession
) -> None:
    gateway = await started("read")
    async with session.get(gateway.url + "/ui/about") as answer:
        told = await answer.json()
    assert (told["mode"], told["urls"]) == ("read", {})


@pytest.mark.parametrize(("mode", "home"), [("read", "/ui"), ("off", "/docs")])
async def test_a_browser_is_sent_to_the_page_where_there_is_one(
    started: Started, session: aiohttp.ClientSession, mode: Mode, home: str
) -> None:
    gateway = await started(mode)
    async with session.get(gateway.url, headers={"Accept": "text/html"}, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (307, home)


async def test_an_unknown_file_is_not_looked_for(started: Started, session: aiohttp.ClientSession) -> None:
    gateway = await started("read")
    for name in ("page.py", "..%2fpage.py", "page.html"):
        async with session.get(f"{gateway.url}/ui/{name}") as answer:
            assert answer.status == 404


async def test_the_page_is_no_part_of_the_api(started: Started, session: aiohttp.ClientSession) -> None:
    gateway = await started("full")
    async with session.get(gateway.url + "/openapi.json") as answer:
        assert not [path for path in (await answer.json())["paths"] if path.startswith("/ui")]
