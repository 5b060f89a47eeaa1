"""exec and attach of the demo cluster over a bare WebSocket: channels, subprotocols, the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest

from tests.e2e.demo_session import DEFAULT, PODS, DemoSession, open_demo
from tests.support.patience import LAST_RESORT_SECONDS

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


@pytest.fixture
async def demo() -> AsyncIterator[DemoSession]:
    async with open_demo() as session:
        yield session


class Exec:
    """One command's channels, and what came on each so far."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.channels: dict[int, bytearray] = {channel: bytearray() for channel in range(5)}
        self.messages = 0

    async def send(self, channel: int, data: bytes) -> None:
        await self.socket.send_bytes(bytes((channel,)) + data)

    async def receive(self) -> bool:
        """Take one message; False at the end."""
        message = await self.socket.receive(timeout=LAST_RESORT_SECONDS)
        if message.type is not aiohttp.WSMsgType.BINARY:
            return False
        self.messages += 1
        self.channels[message.data[0]] += message.data[1:]
        return True

    async def until(self, channel: int, text: bytes) -> None:
        while text not in self.channels[channel]:
            assert await self.receive(), f"ended without {text!r}: {self.channels}"

    async def status(self) -> Any:
        """What the error channel said, read up to the end."""
        while await self.receive():
            pass
        return json.loads(self.channels[ERROR])


@contextlib.asynccontextmanager
async def execute(
    demo: DemoSession,
    command: Sequence[str],
    *,
    protocols: Sequence[str] = (V5, V4),
    verb: str = "exec",
    pod: str = "clock",
    **flags: bool,
) -> AsyncIterator[Exec]:
    chosen = {"stdout": True, "stderr": True, **flags}
    query = [("command", word) for word in command]
    query += [(name, str(value).lower()) for name, value in chosen.items()]
    url = demo.cluster.url + f"{PODS}/{pod}/{verb}"
    async with demo.http.ws_connect(url, params=query, protocols=protocols, max_msg_size=0) as socket:
        yield Exec(socket)


async def test_streams_and_exit_code_have_their_channels(demo: DemoSession) -> None:
    """Output, errors and the exit code arrive apart; a first empty message says "connected"."""
    async with execute(demo, ["cat", "/etc/hostname", "/nope"]) as running:
        assert running.socket.protocol == V5
        await running.receive()
        assert (running.messages, running.channels[STDOUT]) == (1, b"")
        status = await running.status()
    assert running.channels[STDOUT] == b"clock\n"
    assert running.channels[STDERR] == b"cat: /nope: No such file or directory\n"
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "1"}]


async def test_success_is_a_status_too(demo: DemoSession) -> None:
    """Exit code 0 comes as Success."""
    async with execute(demo, ["true"], protocols=[V4]) as running:
        assert await running.status() == {"metadata": {}, "status": "Success"}


async def test_closing_standard_input_needs_v5(demo: DemoSession) -> None:
    """In v5 the close signal lets `cat` end; in v4 those bytes are nothing, and it goes on."""
    async with execute(demo, ["cat"], stdin=True) as running:
        await running.send(STDIN, b"a\0b")
        await running.send(CLOSE, bytes((STDIN,)))
        assert (await running.status())["status"] == "Success"
        assert running.channels[STDOUT] == b"a\0b"
    async with execute(demo, ["cat"], stdin=True, protocols=[V4]) as running:
        await running.send(CLOSE, bytes((STDIN,)))
        await running.send(STDIN, b"still there")
        await running.until(STDOUT, b"still there")


async def test_much_goes_both_ways(demo: DemoSession) -> None:
    """4 MB through cat come back unchanged while they are still being sent."""
    data = bytes(range(256)) * 16_000
    async with execute(demo, ["cat"], stdin=True) as running:

        async def send() -> None:
            for start in range(0, len(data), 60_000):
                await running.send(STDIN, data[start : start + 60_000])
            await running.send(CLOSE, bytes((STDIN,)))

        sending = asyncio.ensure_future(send())
        assert (await running.status())["status"] == "Success"
        await sending
    assert running.channels[STDOUT] == data


async def test_a_terminal_has_one_output(demo: DemoSession) -> None:
    """With a TTY lines end as on one, errors come with the output, and resizing does no harm."""
    async with execute(demo, ["sh"], stdin=True, tty=True) as running:
        await running.send(RESIZE, b'{"Width":101,"Height":33}')
        await running.until(STDOUT, b"# ")
        await running.send(STDIN, b"whoami\rnosuch\r")
        await running.until(STDOUT, b"root\r\n")
        await running.until(STDOUT, b"not found")
        await running.send(RESIZE, b"nonsense")
        await running.send(STDIN, b"exit 5\r")
        status = await running.status()
    assert status["details"]["causes"][0]["message"] == "5"
    assert running.channels[STDERR] == b""


async def test_a_command_that_is_not_there_ends_with_127(demo: DemoSession) -> None:
    """And says so, in the words of a container runtime."""
    async with execute(demo, ["nosuch"]) as running:
        status = await running.status()
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "127"}]
    assert b'exec: "nosuch": executable file not found' in running.channels[STDERR]


async def test_attaching_shows_what_the_container_writes(demo: DemoSession) -> None:
    """New lines of the log, until the pod goes."""
    async with execute(demo, [], verb="attach") as running:
        await running.until(STDOUT, b"made-up line")
        await demo.ask("DELETE", f"{PODS}/clock", {"gracePeriodSeconds": 0})
        assert (await running.status())["status"] == "Success"


async def test_attaching_to_a_shell_ends_the_pod_with_it(demo: DemoSession) -> None:
    """As after `kubectl run -it --restart=Never`: the shell's exit code is the pod's."""
    container = {"name": "c", "image": "busybox", "stdin": True, "tty": True}
    body = {"metadata": {"name": "run"}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    await demo.ask("POST", PODS, body)
    async with demo.watch(f"{PODS}?fieldSelector=metadata.name%3Drun") as events:
        while (await events.next())[1]["status"]["phase"] != "Running":
            pass
        async with execute(demo, [], verb="attach", pod="run", stdin=True, tty=True) as running:
            await running.send(STDIN, b"exit 6\r")
            await running.status()
        pod = (await events.next())[1]
    assert pod["status"]["phase"] == "Failed"
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 6


async def test_leaving_ends_the_command(demo: DemoSession) -> None:
    """A client that goes away leaves nothing running: the guards of the test suite would see the task."""
    async with execute(demo, ["sh"], stdin=True) as running:
        await running.send(STDIN, b"echo on\nsleep 60\n")
        await running.until(STDOUT, b"on\n")


@pytest.mark.parametrize(
    ("query", "headers", "code", "message"),
    [
        ("command=ls&stdout=true", {}, 400, "Upgrade request required"),
        ("command=ls&stdout=true", {"Upgrade": "SPDY/3.1"}, 501, "over WebSocket only"),
        ("command=ls", {}, 400, "at least one of stdin, stdout, stderr"),
        ("stdout=true", {}, 400, "at least one command"),
        ("command=ls&stdout=true&container=x", {}, 400, "container x is not valid for pod clock"),
    ],
)
async def test_an_exec_that_is_refused(
    demo: DemoSession, query: str, headers: dict[str, str], code: int, message: str
) -> None:
    """Before the upgrade a refusal is an ordinary Status."""
    sent = {"Connection": "Upgrade", **headers} if headers else {}
    reply = await demo.request("POST", f"{PODS}/clock/exec?{query}", **sent)
    assert reply.status == code
    assert message in reply.value["message"]


async def test_an_unknown_subprotocol_is_refused(demo: DemoSession) -> None:
    """The handshake fails rather than end in streams nobody understands, as for a pod that is not there."""
    for protocols, pod, code in ((["v9.example"], "clock", 400), ([V5], "nowhere", 404)):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with execute(demo, ["ls"], protocols=protocols, pod=pod):
                pass
        assert caught.value.status == code
    assert (await demo.get(f"{DEFAULT}/pods/clock")).status == 200
