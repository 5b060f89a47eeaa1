"""What the processes of the table share, and one of them at work."""

from __future__ import annotations

import base64
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.conftest import Pki
from tests.support import secrets
from tests.support.pki import CA
from tests.support.program import ProxyProcess, kubeconfig

LAST_MODIFIED_AT = 1_000_000_000


class World:
    """What every process of the table shares: certificates, kubeconfigs, a folder of static files, a port."""

    def __init__(self, directory: Path, pki: Pki, port: int) -> None:
        self.directory = directory
        self.port = port
        self.token = secrets.plant("token")
        self.token_file_token = secrets.plant("file-token")
        self.password = secrets.plant("password")
        self.basic = "Basic " + base64.b64encode(f"joe:{self.password}".encode()).decode()
        self.ca = pki.ca
        self.tls = pki.ca.server_context(client_ca=pki.ca, client_certificate_required=False)
        self.www = directory / "www"
        self._certificate = pki.client_certificate
        _fill(self.www)
        (directory / "token").write_text(self.token_file_token + "\n")
        (directory / "file").write_text("precious")

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @functools.cache  # noqa: B019  # one per run, and as long as it
    def kubeconfig(self, cluster: str) -> Path:
        """The kubeconfig that rows name by `cluster`."""
        options: dict[str, Any] = {"token": self.token, "ca_pem": self.ca.pem}
        url = f"https://{self.authority}"
        match cluster:
            case "token":
                pass
            case "path":
                url += "/base/path"
            case "impersonation":
                options["user"] = {
                    "as": "jane",
                    "as-uid": "42",
                    "as-groups": ["g1", "g2"],
                    "as-user-extra": {"scopes": ["view"]},
                }
            case "certificate":
                options |= {"token": None, "client_certificate": self._certificate}
            case "certificate-and-token":
                options["client_certificate"] = self._certificate
            case "basic-uncompressed":
                options |= {"token": None, "user": {"username": "joe", "password": self.password}}
                options["cluster"] = {"disable-compression": True}
            case "token-file":
                options |= {"token": None, "user": {"tokenFile": str(self.directory / "token")}}
            case "other-ca":
                options["ca_pem"] = CA("other").pem
            case "other-name":
                options["cluster"] = {"tls-server-name": "somewhere.else"}
            case _:
                raise AssertionError(f"no such kubeconfig: {cluster}")
        return kubeconfig(self.directory, url, name=cluster, **options)

    def fill_in(self, text: str) -> str:
        """Replace the marks that rows use for what is only known at run time."""
        return (
            text.replace("@WWW@", str(self.www))
            .replace("@DIR@", str(self.directory))
            .replace("@UPSTREAM@", self.authority)
            .replace("@TOKEN@", self.token)
            .replace("@FILE-TOKEN@", self.token_file_token)
            .replace("@BASIC@", self.basic)
        )


def _fill(www: Path) -> None:
    files = {
        "index.html": b"<!doctype html><title>i</title>\n",
        "hello.txt": b"hello, static world\n",
        "app.js": b"console.log('hi');\n" * 50,
        "style.css": b"body{}\n",
        "pic.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>\n',
        "data.json": b"{}\n",
        "blob": bytes(range(256)),
        "empty.txt": b"",
        "100%.txt": b"percent\n",
        "sub/index.html": b"<p>sub</p>\n",
        "list/a.txt": b"a",
        "list/<b>.txt": b"b",
    }
    for name, content in files.items():
        path = www / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (LAST_MODIFIED_AT, LAST_MODIFIED_AT))
    (www.parent / "outside.txt").write_text("outside")
    (www / "link.txt").symlink_to(www.parent / "outside.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A running program. `idle_sockets` are those it has when nothing goes on."""

    side: str
    program: ProxyProcess
    world: World
    idle_sockets: int

    def fill_in(self, text: str) -> str:
        text = self.world.fill_in(text)
        return text if self.is_unix else text.replace("@PORT@", str(self.program.port))

    @property
    def is_unix(self) -> bool:
        return isinstance(self.program.address, str)
