"""The upstream every proxy is measured against: nginx with HTTP/2 and client certificates.

nginx serves files itself and passes watches, uploads and tunnels on to stream_server.py, so that the
TLS and the choice of HTTP/2 (kubectl) or HTTP/1.1 (the others) are the same for every row.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import layout
from tests.support import pki
from tests.support.program import Process

VERSION_ANSWER = b'{"major": "1", "minor": "32", "gitVersion": "v1.32.5", "platform": "linux/amd64"}'

# 250 streams is what kube-apiserver offers (k8s.io/apiserver pkg/server/secure_serving.go). The key for
# session tickets is kept over reloads, so that a client that resumes sessions gains by it.
UPSTREAM_CONF = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
{user}
pid nginx.pid;
error_log error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  default_type application/json;
  client_body_temp_path tmp; proxy_temp_path tmp;
  fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  client_max_body_size 0;
  open_file_cache max=16;
  upstream streams {{ server 127.0.0.1:{stream_port}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port} ssl {http2} backlog=4096;
    http2_max_concurrent_streams 250;
    ssl_certificate server.pem;
    ssl_certificate_key server.key;
    ssl_client_certificate ca.pem;
    ssl_verify_client on;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:sessions:1m;
    ssl_session_ticket_key ticket.key;
    location = {layout.SMALL} {{ alias {directory}/small; }}
    location = {layout.MEDIUM} {{ alias {directory}/medium; }}
    location = {layout.LIST} {{ alias {directory}/list; }}
    location = {layout.VERSION} {{ alias {directory}/version; }}
    location / {{
      proxy_pass http://streams;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
    }}
    location = {layout.TUNNEL} {{
      proxy_pass http://streams;
      proxy_http_version 1.1;
      proxy_set_header Connection upgrade;
      proxy_set_header Upgrade $http_upgrade;
      proxy_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


def find_nginx() -> str | None:
    """Debian keeps it in a directory that is in root's PATH alone."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


def nginx_user() -> str:
    return f"user {getpass.getuser()};" if os.geteuid() == 0 else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, timeout: float = 10.0) -> None:
    """Block until something listens there; TimeoutError when nothing does."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on port {port}") from None
            time.sleep(0.002)
        else:
            return


class Nginx(Process):
    """nginx in the foreground with a configuration of its own, in `directory`."""

    def __init__(self, directory: Path, configuration: str, port: int) -> None:
        binary = find_nginx()
        assert binary is not None, "checked by missing()"
        (directory / "tmp").mkdir(exist_ok=True)
        (directory / "nginx.conf").write_text(configuration)
        self.port = port
        command = [binary, "-p", str(directory), "-c", "nginx.conf", "-e", str(directory / "error.log")]
        super().__init__(command, cwd=directory)

    def wait_until_ready(self) -> None:
        wait_for_port(self.port)


class StreamServer(Process):
    def __init__(self) -> None:
        super().__init__([sys.executable, "-m", "tests.bench.stream_server"])

    def wait_until_ready(self) -> None:
        self.wait_for_output(r"^port: \d+\n", "stdout")

    @property
    def port(self) -> int:
        return int(self.wait_for_output(r"^port: (\d+)\n", "stdout")[1])


class Upstream:
    """Both programs, and the papers a client needs: CA, certificate and key as files in `directory`."""

    def __init__(self, directory: Path, *, offers_http2: bool = True) -> None:
        self.directory = directory
        self._offers_http2 = offers_http2
        ca = pki.CA("benchmark-ca")
        self.ca_pem = ca.pem
        self.client_certificate = ca.issue("benchmark", client=True, organizations=["system:masters"])
        self._server_certificate = ca.issue("localhost", ["localhost", "127.0.0.1"])
        self.ca_path = directory / "ca.pem"
        self.certificate_path = directory / "client.pem"
        self.key_path = directory / "client.key"
        self.streams = StreamServer()
        self.nginx: Nginx | None = None

    @property
    def port(self) -> int:
        assert self.nginx is not None, "not started"
        return self.nginx.port

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._write_files()
        self.streams.start()
        port = free_port()
        configuration = UPSTREAM_CONF.format(
            user=nginx_user(),
            port=port,
            http2="http2" if self._offers_http2 else "",
            stream_port=self.streams.port,
            directory=self.directory,
            layout=layout,
        )
        self.nginx = Nginx(self.directory, configuration, port)
        self.nginx.start()

    def close_idle_connections(self) -> None:
        """What an idle time-out does, at once: a reload ends the old worker's idle connections."""
        assert self.nginx is not None
        workers = self._workers()
        self.nginx.send_signal(1)
        deadline = time.monotonic() + 10
        while workers & self._workers():
            if time.monotonic() > deadline:
                raise TimeoutError("nginx did not end its old worker: a connection is still busy")
            time.sleep(0.005)

    def kill(self) -> None:
        if self.nginx is not None:
            self.nginx.kill()
        self.streams.kill()

    def _workers(self) -> set[int]:
        assert self.nginx is not None
        children = Path(f"/proc/{self.nginx.pid}/task/{self.nginx.pid}/children").read_text()
        return {int(pid) for pid in children.split()}

    def _write_files(self) -> None:
        files = {
            "ca.pem": self.ca_pem,
            "server.pem": self._server_certificate[0],
            "server.key": self._server_certificate[1],
            "client.pem": self.client_certificate[0],
            "client.key": self.client_certificate[1],
            "ticket.key": os.urandom(80),
            "version": VERSION_ANSWER,
            "small": _json_of_size(layout.SMALL_BYTES),
            "medium": _json_of_size(layout.MEDIUM_BYTES),
            "list": _json_of_size(layout.LIST_BYTES),
        }
        for name, content in files.items():
            (self.directory / name).write_bytes(content)


def _json_of_size(size: int) -> bytes:
    empty = b'{"kind": "ConfigMap", "apiVersion": "v1", "data": {"filler": "%b"}}'
    return empty % (b"x" * (size - len(empty) + 2))


def nginx_version() -> str:
    binary = find_nginx()
    assert binary is not None
    told = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr
    return told.strip().rpartition("/")[2]
