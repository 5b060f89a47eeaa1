"""The kubeconfig for clients of kproxy: what is put in comes out of it, as kubectl and kproxy read it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kproxy.kube.clientconfig import Reach, client_kubeconfig
from kproxy.kube.kubeconfig import load, locate

# All but surrogates, which neither YAML nor Go's strings can hold.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(NAMES, min_size=1, unique=True), NAMES)
def test_names_come_out_as_they_went_in(names: list[str], namespace: str) -> None:
    """Quotes, colons, emoji, YAML's own words: a context keeps its name, and steers no terminal."""
    text = client_kubeconfig(
        [
            Reach(name=name, server=f"http://localhost/{n}", namespace=namespace)
            for n, name in enumerate(names)
        ],
        names[-1],
    )
    assert text.replace("\n", "").isprintable()
    found = yaml.safe_load(text)
    assert found["current-context"] == names[-1]
    clusters = {each["name"]: each["cluster"]["server"] for each in found["clusters"]}
    assert clusters == {name: f"http://localhost/{n}" for n, name in enumerate(names)}
    for each in found["contexts"]:
        assert each["context"] == {"cluster": each["name"], "user": "kproxy", "namespace": namespace}


def test_kproxy_reads_it_too(tmp_path: Path) -> None:
    """One kproxy may stand behind another; there is no credential in it."""
    path = tmp_path / "config"
    path.write_text(client_kubeconfig([Reach(name="a", server="https://h", authority_pem=b"pem")], "a"))
    found = load(locate(str(path), {}))
    assert found.current_context == "a"
    assert found.clusters["a"].certificate_authority_data == b"pem"
    assert (found.contexts["a"].namespace or None, found.users["kproxy"].token) == (None, None)
    assert base64.b64encode(b"pem").decode() in path.read_text()


@pytest.mark.parametrize(
    ("server", "skips"), [("http://h", True), ("https://h", False), ("unix:/run/s", False)]
)
def test_only_without_tls_there_is_nothing_to_verify(server: str, skips: bool) -> None:
    """Node's client takes plain http with this word only; over TLS it would be a hole."""
    text = client_kubeconfig([Reach(name="a", server=server)], "a")
    assert ("insecure-skip-tls-verify: true" in text) is skips


def test_the_current_context_is_one_of_them() -> None:
    """A kubeconfig that leads nowhere is never made."""
    with pytest.raises(AssertionError):
        client_kubeconfig([Reach(name="a", server="http://h")], "b")
