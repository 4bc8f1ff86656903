"""Who may act by the page: the page itself, in one mode, and nobody else."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.integration.ui.conftest import Started

FAULT = {"kind": "error", "expires_s": 60, "path": "/event/"}
PATHS = ("/ui/faults", "/ui/breakers/author/write", "/ui/demo/author/author", f"/ui/operations/{uuid4()}/retry")


def by_the_page(url: str, **more: str) -> dict[str, str]:
    """The headers that a browser sends when the page's script asks."""
    return {"Origin": url, "X-Tally-UI": "1", "Sec-Fetch-Site": "same-origin", **more}


async def refused(session: aiohttp.ClientSession, url: str, headers: dict[str, str], body: Any = None) -> bool:
    async with session.post(url, headers=headers, json=body or {}) as answer:
        return (answer.status, (await answer.json(content_type=None))["code"]) == (403, "not-allowed-here")


@pytest.mark.parametrize("path", PATHS)
async def test_no_action_without_proof_that_the_page_asks(
    path: str, started: Started, session: aiohttp.ClientSession
) -> None:
    url = (await started("full")).url
    port = url.rsplit(":", 1)[1]
    without_header = {name: value for name, value in by_the_page(url).items() if name != "X-Tally-UI"}
    without_origin = {name: value for name, value in by_the_page(url).items() if name != "Origin"}
    from_elsewhere = by_the_page("http://elsewhere.example")
    from_another_port = by_the_page("http://127.0.0.1:1")
    cross_site = by_the_page(url, **{"Sec-Fetch-Site": "cross-site"})
    rebound = by_the_page(f"http://elsewhere.example:{port}", Host=f"elsewhere.example:{port}")
    for headers in ({}, without_header, without_origin, from_elsewhere, from_another_port, cross_site, rebound):
        assert await refused(session, url + path, headers), headers


@pytest.mark.parametrize("path", PATHS)
async def test_no_action_by_a_page_that_can_only_be_read(
    path: str, started: Started, session: aiohttp.ClientSession
) -> None:
    url = (await started("read")).url
    assert await refused(session, url + path, by_the_page(url))


async def test_no_other_site_gets_leave_to_ask(started: Started, session: aiohttp.ClientSession) -> None:
    url = (await started("full")).url
    asks = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    async with session.options(url + "/ui/faults", headers=asks) as answer:
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_the_page_switches_faults_and_circuits(started: Started, session: aiohttp.ClientSession) -> None:
    url = (await started("full")).url
    headers = by_the_page(url)
    async with session.post(url + "/ui/faults", headers=headers, json={"faults": [FAULT]}) as answer:
        assert [one["fault"]["kind"] for one in (await answer.json())["items"]] == ["error"]
    async with session.get(f"{url}/event/{uuid4()}/attendance") as answer:
        assert answer.status == 500
    async with session.post(url + "/ui/faults", headers=headers, json={"faults": []}) as answer:
        assert (await answer.json())["items"] == []
    held = {"mode": "forced_open"}
    async with session.post(url + "/ui/breakers/author/write", headers=headers, json=held) as answer:
        assert await answer.json() == held
    async with session.post(f"{url}/event/{uuid4()}/attendance/{uuid4()}") as answer:
        told = await answer.json(content_type=None)
        assert (answer.status, told["service"]) == (503, "author")


async def test_a_step_of_the_walk_says_who_is_not_there(started: Started, session: aiohttp.ClientSession) -> None:
    url = (await started("full")).url
    async with session.post(url + "/ui/demo/author/author", headers=by_the_page(url), json={}) as answer:
        told = await answer.json(content_type=None)
    assert (answer.status, told["code"], told["service"]) == (503, "service-unavailable", "author")


@pytest.mark.parametrize("path", ["/ui/demo/directory/author", "/ui/demo/author/..%2finternal", "/ui/demo/author/A"])
async def test_the_walk_goes_only_to_collections_of_the_owners(
    path: str, started: Started, session: aiohttp.ClientSession
) -> None:
    url = (await started("full")).url
    async with session.post(url + path, headers=by_the_page(url), json={}) as answer:
        assert answer.status == 404
