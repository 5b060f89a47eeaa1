"""`python -m kproxy.demo`: the demo cluster alone, until SIGTERM or SIGINT.

Prints `kubeconfig: PATH` and `server: URL` once it serves, and nothing else on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from kproxy.demo import DemoCluster
from kproxy.errors import KproxyError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kproxy.demo", description="A pretend cluster.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--no-life", action="store_false", dest="life", help="let nothing change by itself")
    parser.add_argument("--settle-seconds", type=float, default=0.5, help="how long pods take to start")
    parser.add_argument("--log-seconds", type=float, default=1.0, help="time between two log lines")
    try:
        asyncio.run(_serve(DemoCluster(**vars(parser.parse_args()))))
    except KproxyError as error:
        sys.exit(error.message)
    return 0


async def _serve(cluster: DemoCluster) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with cluster:
        sys.stdout.write(f"kubeconfig: {cluster.kubeconfig_path}\nserver: {cluster.url}\n")
        sys.stdout.flush()
        await stopping.wait()


if __name__ == "__main__":
    sys.exit(main())
