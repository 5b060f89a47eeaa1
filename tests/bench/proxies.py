"""The contenders: kproxy as shipped, kubectl proxy, nginx as a reverse proxy, and the yardstick."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.upstreams import Nginx, Upstream, find_nginx, free_port, nginx_user, nginx_version
from tests.support.program import KubectlProxy, Process, Program, ProxyProcess, kubeconfig

# Buffering is off, since a proxy for Kubernetes cannot know which answer is a watch; the access log is
# on, as in nginx's default configuration and in kproxy.
PROXY_CONF = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
{user}
pid nginx.pid;
error_log error.log;
events {{ worker_connections 8192; }}
http {{
  access_log access.log;
  client_body_temp_path tmp; proxy_temp_path tmp;
  fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  tcp_nodelay on;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  client_max_body_size 0;
  map $http_upgrade $connection_field {{ default upgrade; "" ""; }}
  upstream api {{
    server 127.0.0.1:{upstream.port};
    keepalive 64; keepalive_requests 100000000; keepalive_timeout 600s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass https://api;
      proxy_http_version 1.1;
      proxy_set_header Host 127.0.0.1:{upstream.port};
      proxy_set_header Connection $connection_field;
      proxy_set_header Upgrade $http_upgrade;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
      proxy_ssl_certificate {upstream.certificate_path};
      proxy_ssl_certificate_key {upstream.key_path};
      proxy_ssl_trusted_certificate {upstream.ca_path};
      proxy_ssl_verify on;
      proxy_ssl_name localhost;
      proxy_ssl_protocols TLSv1.2 TLSv1.3;
    }}
  }}
}}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A proxy that can be started any number of times; `missing` says why it cannot, else None."""

    name: str
    version: str
    missing: str | None
    prepare: Callable[[Upstream, Path], Process]

    def start(self, upstream: Upstream, directory: Path) -> Running:
        """Start one that serves `upstream`; `directory` is its own, and its log goes there."""
        process = self.prepare(upstream, directory)
        process.start()
        return Running(contender=self, process=process)


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    contender: Contender
    process: Process

    @property
    def port(self) -> int:
        assert isinstance(self.process, ProxyProcess | Nginx)
        return self.process.port


class YardstickProcess(ProxyProcess):
    def __init__(self, upstream: Upstream, stderr_path: Path) -> None:
        papers = [upstream.ca_path, upstream.certificate_path, upstream.key_path]
        command = [sys.executable, "-m", "tests.bench.yardstick", upstream.url, *map(str, papers)]
        super().__init__(command, stderr_path=stderr_path)


def contenders(kubectl: str | None = None) -> list[Contender]:
    """All four, present or not; `kubectl` names another binary than the PATH's."""
    return [_kproxy(), _kubectl(kubectl or shutil.which("kubectl")), _nginx(), _yardstick()]


def _kproxy() -> Contender:
    from kproxy import __version__

    def prepare(upstream: Upstream, directory: Path) -> Process:
        return Program(kubeconfig=_config(upstream, directory), stderr_path=directory / "stderr.log")

    return Contender(name="kproxy", version=__version__, missing=None, prepare=prepare)


def _kubectl(binary: str | None) -> Contender:
    def prepare(upstream: Upstream, directory: Path) -> Process:
        return KubectlProxy(kubeconfig=_config(upstream, directory), kubectl=binary or "kubectl")

    missing = None if binary else "kubectl is not installed"
    version = _kubectl_version(binary) if binary else ""
    return Contender(name="kubectl", version=version, missing=missing, prepare=prepare)


def _nginx() -> Contender:
    def prepare(upstream: Upstream, directory: Path) -> Process:
        port = free_port()
        return Nginx(directory, PROXY_CONF.format(user=nginx_user(), port=port, upstream=upstream), port)

    present = find_nginx() is not None
    missing = None if present else "nginx is not installed (nginx-light)"
    return Contender(
        name="nginx", version=nginx_version() if present else "", missing=missing, prepare=prepare
    )


def _yardstick() -> Contender:
    def prepare(upstream: Upstream, directory: Path) -> Process:
        return YardstickProcess(upstream, directory / "stderr.log")

    version = importlib.metadata.version("aiohttp")
    return Contender(name="aiohttp", version=version, missing=None, prepare=prepare)


def _config(upstream: Upstream, directory: Path) -> Path:
    return kubeconfig(
        directory,
        upstream.url,
        ca_pem=upstream.ca_pem,
        client_certificate=upstream.client_certificate,
        name="benchmark",
    )


def _kubectl_version(binary: str) -> str:
    command = [binary, "version", "--client", "--output=json"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    version: str = json.loads(told)["clientVersion"]["gitVersion"]
    return version.removeprefix("v")
