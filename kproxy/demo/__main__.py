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
    parser = argparse.ArgumentParser(
        prog="python -m kproxy.demo", description="A pretend Kubernetes cluster."
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--no-life", action="store_true", help="let nothing change by itself")
    parser.add_argument("--settle-seconds", type=float, default=0.5, help="how long pods take to start")
    parser.add_argument("--log-seconds", type=float, default=1.0, help="time between two log lines")
    parser.add_argument("--extra-pods", type=int, default=0, help="so many more pods, for big lists")
    parser.add_argument("--extra-pod-bytes", type=int, default=1024, help="size of each of them")
    arguments = parser.parse_args()
    cluster = DemoCluster(
        port=arguments.port,
        life=not arguments.no_life,
        settle_seconds=arguments.settle_seconds,
        log_seconds=arguments.log_seconds,
        extra_pods=arguments.extra_pods,
        extra_pod_bytes=arguments.extra_pod_bytes,
    )
    try:
        asyncio.run(_serve(cluster))
    except KproxyError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
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
