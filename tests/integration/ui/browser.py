"""A headless Chromium by its DevTools protocol: the system's, over one WebSocket, and nothing downloaded.

Assumes that a page says by itself when something has come of a click: what is waited for is an expression that holds.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.folders import scratch_folder

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_S = 20.0
PATIENCE_S = 20.0
_POLL_S = 0.05


def installed() -> str | None:
    """The program, if the machine has one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One page. `errors` is what its console, its policies and its script have complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if (number := told.get("id")) is not None:
                self._waiting.pop(number).set_result(told)
            elif told["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["params"]["exceptionDetails"])[:2000])
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.errors.append(f"{told['params']['entry']['text']} {told['params']['entry'].get('url', '')}")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(PATIENCE_S):
            told = await self._waiting[number]
        assert "error" not in told, (method, told)
        return dict(told["result"])

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until an expression holds."""
        give_up_s = asyncio.get_running_loop().time() + patience_s
        while not await self.value(f"Boolean({expression})"):
            if asyncio.get_running_loop().time() > give_up_s:
                raise AssertionError(f"not within {patience_s:g} s: {expression}\n{await self.text()}\n{self.errors}")
            await asyncio.sleep(_POLL_S)

    async def text(self) -> str:
        return str(await self.value("document.body?.innerText ?? ''"))

    async def press(self, key: str, *, shift: bool = False) -> None:
        """A key of the keyboard: Tab, Enter, Space."""
        code = {"Tab": 9, "Enter": 13, "Space": 32}[key]
        named = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        text = {"Enter": "\r", "Space": " "}.get(key)
        more = {} if text is None else {"text": text}
        await self.call("Input.dispatchKeyEvent", type="keyDown", modifiers=8 if shift else 0, **named, **more)
        await self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=8 if shift else 0, **named)

    async def look_as(self, width: int, *, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """The size of the window, and what the person prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        """The whole page."""
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(told["data"]))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Tab]:
    """A tab with the page in it."""
    program = installed()
    assert program is not None
    with scratch_folder() as profile:
        process = await asyncio.create_subprocess_exec(
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--mute-audio", "--hide-scrollbars", f"--user-data-dir={profile}", "--remote-debugging-port=0",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            port = await asyncio.to_thread(_port, profile / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [one for one in await answer.json() if one["type"] == "page"]
                async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    tab = Tab(socket)
                    listening = asyncio.create_task(tab.listen())
                    await tab.open(url)
                    yield tab
                    listening.cancel()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _port(told: Path) -> int:
    """The port that Chromium chose; it writes it down when it listens."""
    give_up_s = time.monotonic() + START_S
    while not told.exists() or not (lines := told.read_text().splitlines()):
        assert time.monotonic() < give_up_s, "Chromium did not start"
        time.sleep(_POLL_S)
    return int(lines[0])
