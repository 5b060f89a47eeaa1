"""`kproxy kubeconfig`: what leads clients through a kproxy that runs already."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kproxy.config.schema import Config
from kproxy.errors import KproxyError, KubeconfigError
from kproxy.instances.inquiry import ask, certificate_of
from kproxy.kube.clientconfig import FIRST_LINE, client_kubeconfig, reaches
from kproxy.kube.kubeconfig import load, locate
from kproxy.system.addresses import joined
from kproxy.system.privatefile import write_private


class HandoutError(KproxyError):
    """There is nothing to lead to, or no place for the file."""


def urls_of(config: Config) -> list[str]:
    """Where a kproxy with these settings listens, as `Record.urls` has it."""
    urls = []
    for each in config.listener_configs():
        if each.unix_socket is not None:
            urls.append(f"unix:{each.unix_socket}")
        elif each.is_tcp and each.port:
            host = "localhost" if each.address in ("0.0.0.0", "::") else each.address.strip("[]")
            urls.append(f"{'https' if each.has_tls else 'http'}://{joined(host, each.port)}")
    return urls


def handout(config: Config, urls: Sequence[str], folder: str) -> str:
    """The kubeconfig for clients of the kproxy at `urls`; relative sockets are in `folder`.

    Raises HandoutError when none answers there, or only at a unix socket, which no client library knows.
    """
    places = ", ".join(urls) or "any port or socket"
    told = ask(urls, folder, "/-/contexts")
    if told is None:
        raise HandoutError(
            f"no kproxy tells of its contexts at {places}; start one with `kproxy start`, or say where it "
            "is with --name, --port or --listen (with --admin=off it does not tell)"
        )
    reachable = [url for url in urls if not url.startswith("unix:")]
    if not reachable:
        raise HandoutError(
            f"kproxy listens at {places} only, and kubectl knows no unix sockets; "
            "give it a port as well: --listen=127.0.0.1:8001"
        )
    url, is_tls = reachable[0], reachable[0].startswith("https:")
    contexts, current = reaches(
        told,
        url,
        api_prefix=config.api_prefix,
        namespaces=_namespaces(config, [each["name"] for each in told["contexts"]]),
        authority_pem=certificate_of(url) if is_tls else None,
    )
    nobody = None
    if is_tls:
        # Imported here: cryptography, which makes it, takes 0.1 s.
        from kproxy.tls.selfsigned import new_pair

        nobody = new_pair(["kproxy.invalid"], time.time())
    return client_kubeconfig(contexts, current, nobody=nobody)


def _namespaces(config: Config, names: Sequence[str]) -> Mapping[str, str | None]:
    """Of the contexts, as far as the kubeconfig at hand has them."""
    if config.namespace:
        return dict.fromkeys(names, config.namespace)
    with contextlib.suppress(KubeconfigError):
        found = load(locate(config.kubeconfig, os.environ)).contexts
        return {name: found[name].namespace for name in names if name in found}
    return {}


def write_handout(path: Path, text: str) -> None:
    """Put it into a file of mode 0600. Raises HandoutError where one of another kind is."""
    with contextlib.suppress(FileNotFoundError):
        if not path.read_text(errors="replace").startswith(FIRST_LINE):
            raise HandoutError(
                f"{path} is there, and kproxy has not written it; choose another file, or remove it first"
            )
    try:
        write_private(path, text.encode())
    except OSError as error:
        raise HandoutError(f"cannot write {path}: {error.strerror}; choose another file") from None
