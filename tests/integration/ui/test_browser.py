"""The page as a person has it: a real Chromium, a real stack, clicks and keys."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tally.local.stack import LocalStack, free_ports
from tests.integration.ui.browser import Tab, installed, opened
from tests.integration.ui.conftest import Started
from tests.support.folders import scratch_folder

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(installed() is None, reason="this machine has no Chromium: apt-get install chromium"),
]

STEPS = 10
#: Where the screenshots go, for whoever wants to look at them.
SHOTS = "TALLY_SCREENSHOTS"
WIDE, PHONE = 1280, 320
#: Contrast of all text that is shown, by WCAG 2: what is below 4.5 (3, where it is large).
PALE = """
(() => {
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parts = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const pale = [];
  for (const e of document.body.querySelectorAll('*')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parts(style.color)), light(ground(e))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24;
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) pale.push(e.textContent.trim().slice(0, 40));
  }
  return pale;
})()
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with (
        scratch_folder() as folder,
        LocalStack(
            folder / ".tally", ports=free_ports(), env={"TALLY_FAULTS": "on"}, supervise=False, durable=False
        ) as stack,
    ):
        yield stack


@asynccontextmanager
async def page(url: str) -> AsyncIterator[Tab]:
    """The page in a tab, live. At the end nothing was wrong in it: a request that is refused on purpose is not."""
    async with opened(url + "/ui") as tab:
        await tab.look_as(WIDE)
        await tab.until("document.getElementById('feed').textContent.includes('live')")
        yield tab
        assert not [error for error in tab.errors if "/attendance/" not in error and "/ui/feed" not in error], (
            tab.errors
        )


async def click(tab: Tab, label: str) -> None:
    """A button by what it says; what it is folded into is unfolded."""
    find = f"[...document.querySelectorAll('button')].find((one) => one.textContent === {label!r})"
    await tab.until(find)
    await tab.value(f"(() => {{ const b = {find}; b.closest('details')?.setAttribute('open', ''); b.click(); }})()")


async def walked(tab: Tab) -> None:
    await click(tab, "All steps")
    await tab.until(f"document.querySelectorAll('#steps .result.good').length === {STEPS}", 30)


async def test_a_person_walks_through_the_demonstration_by_clicking(stack: LocalStack) -> None:
    async with page(stack.urls["gateway"]) as tab:
        await click(tab, "Begin: An author")
        await click(tab, "Next: A conference")
        await tab.until("document.querySelectorAll('#steps .result.good').length === 2")
        first = await tab.value("document.querySelector('#steps pre.ask').textContent")
        assert first.startswith("curl -i localhost:") and "Alan Turing" in first
        await walked(tab)
        # The author who does not exist: the event's half was undone, and the page says so.
        await tab.until("document.querySelector('#compensations')?.textContent.includes('does not exist')")
        services = await tab.value("[...document.querySelectorAll('#services tr')].map((row) => row.innerText)")
        assert all("up" in row for row in services) and len(services) >= 5, services
        assert f"All {len(services)} services answer" in await tab.value("document.getElementById('verdict').innerText")


async def test_it_is_legible_in_any_light_and_on_a_phone(stack: LocalStack, tmp_path: Path) -> None:
    shots = Path(os.environ.get(SHOTS) or tmp_path)
    async with page(stack.urls["gateway"]) as tab:
        await walked(tab)
        for width, dark in ((WIDE, False), (WIDE, True), (PHONE, False), (PHONE, True)):
            await tab.look_as(width, dark=dark, phone=width == PHONE)
            await tab.until(f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}")
            assert await tab.value(PALE) == []
            shot = shots / f"ui-{width}-{'dark' if dark else 'light'}.png"
            await tab.screenshot(shot)
            assert shot.stat().st_size > 20_000


async def test_the_keyboard_alone_is_enough(stack: LocalStack) -> None:
    async with page(stack.urls["gateway"]) as tab:
        await tab.press("Tab")
        assert await tab.value("document.activeElement.className") == "skip"
        await tab.press("Enter")
        assert await tab.value("document.activeElement.id") == "main"
        await tab.press("Tab")
        assert await tab.value("document.activeElement.id") == "walk-next"
        for done, key in enumerate(("Enter", "Space"), 1):
            await tab.press(key)
            await tab.until(f"document.querySelectorAll('#steps .result.good').length === {done}")
            # A step does not take the focus away.
            assert await tab.value("document.activeElement.id") == "walk-next"
        for _ in range(25):
            await tab.press("Tab")
            if await tab.value("document.activeElement === document.body"):
                break
            where = await tab.value("document.activeElement.outerHTML.slice(0, 120)")
            outline = await tab.value("getComputedStyle(document.activeElement).outline")
            assert outline.endswith("solid 3px"), where


async def test_an_outage_is_seen_and_what_was_left_behind_is_confirmed_after_it(stack: LocalStack) -> None:
    async with page(stack.urls["gateway"]) as tab:
        await walked(tab)
        stack.pause("conference")
        try:
            await tab.until("document.getElementById('services').innerText.includes('silent')")
            verdict = await tab.value("document.getElementById('verdict').innerText")
            assert "Conference does not answer" in verdict and "Creates can't be completed" in verdict
            await click(tab, "Attend")
            await click(tab, "Attend with Prefer: respond-async")
            await tab.until("document.querySelector('.track')?.textContent.includes('attempt')", 30)
            # After ten seconds it counts as stuck, with its reason and a button.
            await tab.until("document.querySelector('#stuck button')", 40)
            assert "not ended" in await tab.value("document.getElementById('left-link').innerText")
            await click(tab, "Retry")
            await tab.until("document.getElementById('news').textContent.includes('is tried now')")
        finally:
            stack.resume("conference")
        await tab.until("document.querySelector('.track').textContent.includes('confirmed')", 40)
        await tab.until("!document.getElementById('services').innerText.includes('silent')")
        await tab.until("document.getElementById('verdict').innerText.includes('Every circuit is closed')")
        await tab.until("document.getElementById('mails').textContent.includes('alan@example.org')", 30)


async def test_a_feed_that_is_cut_says_so_and_comes_back_and_does_not_hold_up_the_stop(stack: LocalStack) -> None:
    async with page(stack.urls["gateway"]) as tab:
        process, began_s = stack.process("gateway"), time.monotonic()
        os.kill(process, signal.SIGTERM)
        while "gateway" in stack.running():
            assert time.monotonic() - began_s < 8, "the open feed holds the stop up"
            await asyncio.sleep(0.05)
        await tab.until("document.getElementById('feed').textContent.includes('cut')")
        await asyncio.to_thread(stack.start_service, "gateway")
        await tab.until("document.getElementById('feed').textContent.includes('live')", 30)


async def test_what_others_wrote_stays_text(stack: LocalStack) -> None:
    async with page(stack.urls["gateway"]) as tab:
        hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
        await tab.value(f"WALK[0].body = () => ({{ full_name: {hostile!r} }})")
        await walked(tab)
        assert hostile in await tab.value("document.getElementById('steps').textContent")
        assert await tab.value("document.querySelectorAll('#main img, #main script').length") == 0


async def test_a_page_that_can_only_be_read_offers_nothing_to_press(started: Started) -> None:
    async with page((await started("read")).url) as tab:
        await tab.until("document.getElementById('services').innerText.includes('down')")
        offered = "[...document.querySelectorAll('button')].filter((one) => one.checkVisibility()).length"
        assert await tab.value(offered) == 0
        assert "Nothing can be created or read" in await tab.value("document.getElementById('verdict').innerText")
        assert "can only be read" in await tab.text()
