"""Chromium without a window, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.program import Process

SECONDS = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-breakpad",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--remote-debugging-port=0",
)


class Chromium(Process):
    """The browser; names of `.example` are this machine, and no other name is looked up."""

    def __init__(self, path: str, profile: Path) -> None:
        names = "--host-resolver-rules=MAP *.example 127.0.0.1"
        super().__init__([path, *FLAGS, names, f"--user-data-dir={profile}", "about:blank"])

    def wait_until_ready(self) -> None:
        self.wait_for_output(r"^DevTools listening on (\S+)\n")

    @property
    def url(self) -> str:
        return self.wait_for_output(r"^DevTools listening on (\S+)\n")[1]


class PageError(Exception):
    """A script on the page has thrown."""


class Page:
    """One page in a browsing context of its own: nothing of other pages is in it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session = ""

    async def make(self) -> None:
        context = await self._call("Target.createBrowserContext", disposeOnDetach=True)
        target = await self._call(
            "Target.createTarget", url="about:blank", browserContextId=context["browserContextId"]
        )
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self._call("Page.enable")

    async def open(self, url: str) -> str:
        """Load a page wholly; what the browser then shows as text."""
        await self._call("Page.navigate", url=url)
        return await self._shown()

    async def follow(self, selector: str) -> str:
        """Click a link with the mouse, and load what it leads to wholly; what is then shown as text."""
        place = f"document.querySelector({json.dumps(selector)}).getClientRects()[0]"
        x, y = await self.run(f"(({{left, top}}) => [left + 1, top + 5])({place})", is_clicked=False)
        button = {"x": x, "y": y, "button": "left", "clickCount": 1}
        await self._call("Input.dispatchMouseEvent", type="mousePressed", **button)
        # Its answer is not waited for: the page may be loaded by then.
        await self._send("Input.dispatchMouseEvent", type="mouseReleased", **button)
        return await self._shown()

    async def _shown(self) -> str:
        await self._until(lambda message: message.get("method") == "Page.loadEventFired")
        shown: str = await self.run("document.documentElement.innerText", is_clicked=False)
        return shown

    async def trust_everybody(self) -> None:
        """Open https pages whatever their certificate: as a person who has looked at its fingerprint."""
        await self._call("Security.setIgnoreCertificateErrors", ignore=True)

    async def run(self, expression: str, *, is_clicked: bool = True) -> Any:
        """The value of an expression, which may be a promise. Raises PageError when it throws.

        With `is_clicked` as if a person had clicked, so that nothing is held back for want of a gesture.
        """
        result = await self._call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=is_clicked,
        )
        if "exceptionDetails" in result:
            raise PageError(result["exceptionDetails"]["exception"].get("description"))
        return result["result"].get("value")

    async def call(self, function: str, *arguments: Any, is_clicked: bool = True) -> Any:
        """The value of a function of the page."""
        return await self.run(f"{function}({', '.join(map(json.dumps, arguments))})", is_clicked=is_clicked)

    async def _send(self, method: str, **parameters: Any) -> int:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        return number

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = await self._send(method, **parameters)
        answer = await self._until(lambda message: message.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    async def _until(self, wanted: Any) -> dict[str, Any]:
        async with asyncio.timeout(SECONDS):
            while True:
                message = await self._socket.receive_json()
                if wanted(message):
                    found: dict[str, Any] = message
                    return found


@contextlib.asynccontextmanager
async def new_page(chromium: Chromium) -> AsyncIterator[Page]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(chromium.url, max_msg_size=0) as socket,
    ):
        page = Page(socket)
        await page.make()
        yield page
