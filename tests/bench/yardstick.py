"""`python -m tests.bench.yardstick URL CA CERT KEY`: the proxy one would write with aiohttp in an hour.

It streams, strips hop-by-hop fields and speaks WebSocket, and has none of kproxy's guards, logs or
metrics. Prints `Starting to serve on ADDRESS` as the others do.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from aiohttp import ClientSession, ClientTimeout, ClientWebSocketResponse, TCPConnector, WSMsgType, web

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
READ_BYTES = 64 * 1024


class Yardstick:
    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self._url = url
        self._context = context
        self._session: ClientSession | None = None

    async def open(self, app: web.Application) -> None:
        connector = TCPConnector(limit=0, ssl=self._context)
        timeout = ClientTimeout(total=None)
        self._session = ClientSession(connector=connector, timeout=timeout, auto_decompress=False)

    async def close(self, app: web.Application) -> None:
        assert self._session is not None
        await self._session.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        url = self._url + request.raw_path
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._tunnel(request, url)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        body = request.content.iter_chunked(READ_BYTES) if request.can_read_body else None
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    async def _tunnel(self, request: web.Request, url: str) -> web.WebSocketResponse:
        assert self._session is not None
        downstream = web.WebSocketResponse()
        await downstream.prepare(request)
        async with self._session.ws_connect(url) as upstream:
            await asyncio.wait(
                [
                    asyncio.create_task(_pass_on(downstream, upstream)),
                    asyncio.create_task(_pass_on(upstream, downstream)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        return downstream


WebSocket = web.WebSocketResponse | ClientWebSocketResponse


async def _pass_on(source: WebSocket, sink: WebSocket) -> None:
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)


async def main(url: str, ca: str, certificate: str, key: str) -> None:
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    yardstick = Yardstick(url, context)
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", yardstick.handle)
    app.on_startup.append(yardstick.open)
    app.on_cleanup.append(yardstick.close)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"Starting to serve on {host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
