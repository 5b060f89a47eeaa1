"""kubeconfig: which files are read, and how they become one."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import KubeconfigError
from kproxy.kube.kubeconfig import KubeConfig, Sources, load, locate
from tests.support import secrets
from tests.support.patience import LAST_RESORT_SECONDS


def write(path: Path, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def users(**tokens: str) -> list[dict[str, Any]]:
    return [{"name": name, "user": {"token": token}} for name, token in tokens.items()]


# -- which files --


def test_flag_beats_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--kubeconfig names one file, relative to the working directory and never a list."""
    monkeypatch.chdir(tmp_path)
    sources = locate("a:b", {"KUBECONFIG": "/else", "HOME": "/home/me"})
    assert sources == Sources(paths=(tmp_path / "a:b",), required=True)


def test_environment_is_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KUBECONFIG is a list without its empty and repeated entries; `~` is not expanded."""
    monkeypatch.chdir(tmp_path)
    sources = locate(None, {"KUBECONFIG": ":/a::b:/a:~/c:", "HOME": "/home/me"})
    assert sources == Sources(paths=(Path("/a"), tmp_path / "b", tmp_path / "~/c"))


def test_only_separators_in_environment_mean_no_file() -> None:
    """KUBECONFIG=":" is set and holds no file, so that the home directory does not count."""
    assert locate(None, {"KUBECONFIG": ":", "HOME": "/home/me"}) == Sources(paths=())


@pytest.mark.parametrize("environ", [{"HOME": "/home/me"}, {"HOME": "/home/me", "KUBECONFIG": ""}])
def test_home_is_the_default(environ: dict[str, str]) -> None:
    """Without flag and KUBECONFIG it is $HOME/.kube/config, else the legacy file beside it."""
    assert locate("", environ) == Sources(
        paths=(Path("/home/me/.kube/config"),), legacy=Path("/home/me/.kube/.kubeconfig")
    )


def test_no_home_means_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME the path .kube/config is relative."""
    monkeypatch.chdir(tmp_path)
    assert locate(None, {}).paths == (tmp_path / ".kube/config",)


# -- reading --


def test_legacy_file_is_read_in_place(tmp_path: Path) -> None:
    """~/.kube/.kubeconfig counts only without a config file, and nothing is written."""
    write(tmp_path / ".kube/.kubeconfig", users=users(old="1"))
    sources = locate(None, {"HOME": str(tmp_path)})
    assert set(load(sources).users) == {"old"}
    assert load(sources).missing == (tmp_path / ".kube/config",)
    assert [path.name for path in (tmp_path / ".kube").iterdir()] == [".kubeconfig"]

    write(tmp_path / ".kube/config", users=users(new="1"))
    assert set(load(sources).users) == {"new"}
    assert load(sources).paths == (tmp_path / ".kube/config", tmp_path / ".kube/.kubeconfig")


def test_broken_config_is_not_replaced_by_legacy(tmp_path: Path) -> None:
    """A config file that cannot be used is an error even when there is a legacy file."""
    write(tmp_path / ".kube/.kubeconfig", users=users(old="1"))
    write(tmp_path / ".kube/config", kind="Pod")
    with pytest.raises(KubeconfigError, match="Pod"):
        load(locate(None, {"HOME": str(tmp_path)}))


def test_missing_files_of_a_list_are_skipped(tmp_path: Path) -> None:
    """A listed file that does not exist is remembered, to be watched, but no error."""
    there = write(tmp_path / "there", users=users(a="1"))
    config = load(Sources(paths=(tmp_path / "gone", there)))
    assert (config.paths, config.missing) == ((tmp_path / "gone", there), (tmp_path / "gone",))
    assert config.users["a"].token == "1"


def test_missing_explicit_file_is_an_error(tmp_path: Path) -> None:
    """What --kubeconfig names must exist."""
    with pytest.raises(KubeconfigError, match=rf"--kubeconfig {tmp_path}/gone: no such file"):
        load(Sources(paths=(tmp_path / "gone",), required=True))


def test_all_bad_files_are_reported(tmp_path: Path) -> None:
    """Every file that cannot be used is named, whether by the system, by YAML or by a field."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "syntax").write_text("a: [")
    write(tmp_path / "types", users=[{"name": 1, "user": {"token": 2}}], contexts={})
    paths = tuple(tmp_path / name for name in ("directory", "loop", "syntax", "types"))
    with pytest.raises(KubeconfigError) as caught:
        load(Sources(paths=paths))
    problems = list(caught.value.problems)
    # The words after the line number are those of the YAML parser at hand.
    assert problems.pop(2).startswith(f"kubeconfig {paths[2]}: line ")
    assert problems == [
        f"kubeconfig {paths[0]}: cannot be read: Is a directory",
        f"kubeconfig {paths[1]}: cannot be read: Too many levels of symbolic links",
        f"kubeconfig {paths[3]}: users[0].name: expected a string, found a number; put it in quotes",
        f"kubeconfig {paths[3]}: users[0].user.token: expected a string, found a number; put it in quotes",
        f"kubeconfig {paths[3]}: contexts: expected a list, found a mapping",
    ]


def test_pipe_is_read_once(tmp_path: Path) -> None:
    """A FIFO, as `<(...)` in a shell makes one, can be a kubeconfig: it is opened and read only once."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(json.dumps({"users": users(a="1")}),))
    writer.start()
    config = load(Sources(paths=(path,), required=True))
    writer.join(LAST_RESORT_SECONDS)
    assert not writer.is_alive()
    assert config.users["a"].token == "1"


# -- what a file holds --

EVERYTHING = """
apiVersion: v1
kind: Config
preferences: {colors: true, extensions: [{name: p, extension: 1}]}
extensions: [{name: q, extension: null}]
clusters:
- name: c
  cluster:
    server: https://h:1/p
    tls-server-name: sni
    insecure-skip-tls-verify: true
    certificate-authority: ../ca.pem
    certificate-authority-data: YWJj
    proxy-url: socks5://proxy
    disable-compression: on
    unknown: {a: b}
    extensions:
    - name: client.authentication.k8s.io/exec
      extension: {audience: x, list: [1]}
users:
- name: u
  user:
    client-certificate: pki/c.pem
    client-certificate-data: YQ==
    client-key: /abs/k.pem
    client-key-data: Yg==
    token: t
    tokenFile: ./t
    Token: ignored, as keys are case-sensitive
    username: me
    password: pw
    as: joe
    as-uid: '7'
    as-groups: [g, null]
    as-user-extra: {n: [v], k: null}
    auth-provider: {name: oidc, config: {client-id: cid, x: null}}
    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      command: bin/plugin
      args: [a, b]
      env: [{name: A, value: '1'}, {name: B}]
      installHint: do this
      provideClusterInfo: true
contexts:
- name: x
  context: {cluster: c, user: u, namespace: ns}
current-context: x
"""


def test_every_field_is_read(tmp_path: Path) -> None:
    """Each known field arrives in its value, with paths made absolute from the file's directory."""
    path = tmp_path / "d" / "kc"
    path.parent.mkdir()
    path.write_text(EVERYTHING)
    config = load(Sources(paths=(path,)))
    cluster, user, context = config.clusters["c"], config.users["u"], config.contexts["x"]
    assert config.current_context == "x"
    assert (context.cluster, context.user, context.namespace) == ("c", "u", "ns")
    assert (cluster.server, cluster.tls_server_name, cluster.proxy_url) == (
        "https://h:1/p", "sni", "socks5://proxy",
    )  # fmt: skip
    assert cluster.insecure_skip_tls_verify
    assert cluster.disable_compression
    assert (cluster.certificate_authority, cluster.certificate_authority_data) == (
        tmp_path / "ca.pem",
        b"abc",
    )
    assert cluster.exec_config == {"audience": "x", "list": [1]}
    assert (user.client_certificate, user.client_certificate_data) == (path.parent / "pki/c.pem", b"a")
    assert (user.client_key, user.client_key_data) == (Path("/abs/k.pem"), b"b")
    assert (user.token, user.token_file) == ("t", path.parent / "t")
    assert (user.username, user.password) == ("me", "pw")
    assert (user.impersonate, user.impersonate_uid, user.impersonate_groups) == ("joe", "7", ("g", ""))
    assert user.impersonate_extra == (("false", ("v",)), ("k", ()))
    assert user.auth_provider is not None
    assert (user.auth_provider.name, dict(user.auth_provider.config)) == (
        "oidc",
        {"client-id": "cid", "x": ""},
    )
    assert (cluster.source_path, user.source_path) == (path, path)
    plugin = user.exec
    assert plugin is not None
    assert plugin.command == str(path.parent / "bin/plugin")
    assert (plugin.args, plugin.env) == (("a", "b"), (("A", "1"), ("B", "")))
    assert plugin.api_version == "client.authentication.k8s.io/v1beta1"
    assert plugin.provide_cluster_info
    assert (plugin.install_hint, plugin.interactive_mode) == ("do this", "IfAvailable")


def test_empty_fields_are_absent(tmp_path: Path) -> None:
    """Empty strings and nulls mean the same as leaving a field out."""
    entry = {"token": "", "client-key": "", "client-key-data": "", "as": None, "exec": None}
    path = write(tmp_path / "kc", users=[{"name": "u", "user": entry}, {"name": "v"}, None])
    config = load(Sources(paths=(path,)))
    user = config.users["u"]
    assert (user.token, user.client_key, user.client_key_data, user.impersonate, user.exec) == (None,) * 5
    assert set(config.users) == {"u", "v", ""}


def test_relative_command_needs_a_separator(tmp_path: Path) -> None:
    """An exec command without a separator is left for PATH; `~` is a directory like any other."""
    commands = {"a": "plugin", "b": "./plugin", "c": "~/plugin"}
    entries = [{"name": name, "user": {"exec": {"command": command}}} for name, command in commands.items()]
    config = load(Sources(paths=(write(tmp_path / "kc", users=entries),)))
    resolved = {name: user.exec.command for name, user in config.users.items() if user.exec}
    assert resolved == {"a": "plugin", "b": f"{tmp_path}/plugin", "c": f"{tmp_path}/~/plugin"}


def test_paths_are_relative_to_the_symlink(tmp_path: Path) -> None:
    """A kubeconfig that is a symlink looks for its files beside the link."""
    write(tmp_path / "real/kc", users=[{"name": "u", "user": {"tokenFile": "t"}}])
    (tmp_path / "link").mkdir()
    (tmp_path / "link/kc").symlink_to("../real/kc")
    config = load(Sources(paths=(tmp_path / "link/kc",)))
    assert config.users["u"].token_file == tmp_path / "link/t"


# -- merging --


def test_first_file_wins_as_a_whole(tmp_path: Path) -> None:
    """Of two entries of one name the first file's is taken, even an empty one; nothing is mixed."""
    first = write(
        tmp_path / "a",
        users=[{"name": "u", "user": {}}],
        clusters=[{"name": "c", "cluster": {"server": "https://a"}}],
    )
    second = write(
        tmp_path / "b",
        users=users(u="1", v="2"),
        clusters=[{"name": "c", "cluster": {"server": "https://b", "tls-server-name": "zz"}}],
    )
    config = load(Sources(paths=(first, second)))
    assert config.users["u"].token is None
    assert config.users["v"].token == "2"
    assert (config.clusters["c"].server, config.clusters["c"].tls_server_name) == ("https://a", None)
    assert config.clusters["c"].source_path == first


NAMES = st.sampled_from(["a", "b", "c", ""])
FILES = st.lists(st.tuples(st.dictionaries(NAMES, st.sampled_from(["1", "2"])), NAMES), max_size=4)


@given(FILES)
def test_merge_takes_the_first_of_each(files: list[tuple[dict[str, str], str]]) -> None:
    """Whatever the files hold, each name and the current-context come from the first file that has them."""
    with tempfile.TemporaryDirectory() as directory:
        paths = tuple(
            write(Path(directory, str(index)), **{"users": users(**tokens), "current-context": current})
            for index, (tokens, current) in enumerate(files)
        )
        config = load(Sources(paths=paths))
    expected: dict[str, str] = {}
    for tokens, _ in reversed(files):
        expected |= tokens
    assert {name: user.token for name, user in config.users.items()} == expected
    assert config.current_context == next((current for _, current in files if current), "")


def test_no_files_are_an_empty_kubeconfig() -> None:
    """Nothing to read is no error here; what it means is for the one who resolves."""
    assert load(Sources(paths=())) == KubeConfig()


# -- secrets --


@pytest.mark.parametrize(
    "entry",
    [
        {"token": ["SECRET"]},
        {"token": {"SECRET": 1}},
        {"password": ["SECRET"]},
        {"client-key-data": "SECRET !"},
        {"auth-provider": {"name": "oidc", "config": {"refresh-token": ["SECRET"]}}},
        {"exec": {"env": [{"name": "A", "value": ["SECRET"]}]}},
        {"as-user-extra": {"k": "SECRET"}},
    ],
    ids=lambda entry: str(next(iter(entry))),
)
def test_errors_show_no_values(entry: dict[str, Any], tmp_path: Path) -> None:
    """A wrong type and a duplicate name are reported without the value, which may be a credential."""
    secret = secrets.plant("kubeconfig")
    filled = json.loads(json.dumps(entry).replace("SECRET", secret))
    entries = [{"name": "u", "user": filled}, {"name": "u", "user": {"token": secret}}]
    with pytest.raises(KubeconfigError) as caught:
        load(Sources(paths=(write(tmp_path / "kc", users=entries),)))
    assert len(caught.value.problems) == 2
    assert not secrets.leaked(str(caught.value))


def test_representations_show_no_secrets(tmp_path: Path) -> None:
    """The repr of a loaded kubeconfig, which ends up in assertion messages and logs, holds no secret."""
    secret = secrets.plant("repr")
    path = write(
        tmp_path / "kc",
        users=[
            {
                "name": "u",
                "user": {
                    "token": secret,
                    "password": secret,
                    "auth-provider": {"name": "oidc", "config": {"id-token": secret}},
                    "exec": {"env": [{"name": "A", "value": secret}]},
                },
            }
        ],
        clusters=[{"name": "c", "cluster": {"proxy-url": f"http://me:{secret}@proxy"}}],
    )
    assert not secrets.leaked(repr(load(Sources(paths=(path,)))))
