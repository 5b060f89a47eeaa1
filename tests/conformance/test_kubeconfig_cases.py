"""Kubeconfig cases that were checked against kubectl: resolved in process, and served by the real program.

kubeconfig_cases.json holds, for each, files, environment and arguments, and what kubectl proxy does:
`${NAME}` is filled from tests/support/kubeconfig_fixtures.py, a file's content `symlink:T` makes a symlink,
and one that begins with `#!` is executable. Wording is ours, but an error must name what kubectl's names.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kproxy.cli import arguments
from kproxy.config import sources as settings
from kproxy.errors import ConfigError
from kproxy.kube.kubeconfig import ResolvedContext, User, load, locate
from kproxy.kube.resolve import resolve, server_address
from kproxy.tls.client import client_context
from kproxy.tls.pair import ClientCertificate
from tests.support.kubeconfig_fixtures import Fixtures, token
from tests.support.pod import in_pod
from tests.support.program import Process

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("kubeconfig_cases.json").read_text())
IDS = [case["id"] for case in CASES]

ERROR = {"startup": "error"}
ANONYMOUS = {"startup": "ok", "requests": [{"status": 200, "headers_absent": ["Authorization"]}]}
NO_DEFAULT = "kubectl silently takes http://localhost:8080 where nothing names a server"
NO_PROMPT = "kubectl asks for a user name on the terminal and fails without one"
AT_MOST_ONCE = "a plugin that gives nothing better is run at most once a second, not at every request"
IN_PLACE = "kubectl copies ~/.kube/.kubeconfig to ~/.kube/config; we read it where it is"

# Where we differ from kubectl on purpose: why, and what is expected instead.
DEVIATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "loc-env-all-missing-warning": (NO_DEFAULT, {**ERROR, "names": ["${DIR}/no1", "${DIR}/no2"]}),
    "loc-env-only-colon": (NO_DEFAULT, ERROR),
    "loc-migration": (
        IN_PLACE,
        {
            "startup": "ok",
            "requests": [{"headers": {"Authorization": "Bearer tok"}}],
            "file_absent": ["home/.kube/config"],
        },
    ),
    "loc-migration-with-env": (
        IN_PLACE,
        {
            "startup": "ok",
            "requests": [{"headers": {"Authorization": "Bearer E"}}],
            "file_absent": ["home/.kube/config"],
        },
    ),
    "ic-no-port": (NO_DEFAULT, ERROR),
    "ic-timeout-flag": (
        "a flag that names no server does not take the pod's identity away",
        {"startup": "ok", "requests": [{"headers": {"Authorization": "Bearer sa-token"}}]},
    ),
    "merge-null-entries": (NO_DEFAULT, {**ERROR, "names": ["x"]}),
    "ref-user-missing-https": (NO_PROMPT, {**ERROR, "names": ["gone"]}),
    "ref-no-current": (NO_DEFAULT, {**ERROR, "names": ["x"]}),
    "ov-token-vs-tokenfile": (
        "a flag beats the kubeconfig, here as everywhere",
        {"startup": "ok", "requests": [{"headers": {"Authorization": "Bearer F"}}]},
    ),
    "ov-cluster-only-no-user": (NO_PROMPT, ANONYMOUS),
    "ov-match-server-version": (
        "the flag is taken and does nothing: kproxy has no Kubernetes version to compare",
        {"startup": "ok", "requests": [{"status": 200, "headers": {"Authorization": "Bearer tok"}}]},
    ),
    "us-basic-password-only": (NO_PROMPT, ANONYMOUS),
    "us-tokenfile-blank": (
        "kubectl sends the blanks and says that they are no header",
        {
            "startup": "ok",
            "requests": [{"status": 500, "body_contains": ["${DIR}/t: read empty token from file"]}],
        },
    ),
    "us-token-newline": ("kubectl starts and answers every request with 500", ERROR),
    "cl-noscheme-host-port": ("kubectl answers every request with 301", ERROR),
    "cl-noscheme-host": ("kubectl answers every request with 500", ERROR),
    "cl-query-no-path": (
        "kubectl answers every GET with 301",
        {"startup": "ok", "requests": [{"status": 200, "path": "/api/x"}]},
    ),
    "cl-proxy-http-target": (
        "a proxy is always asked for a tunnel, also to a plain http server: it need not read our requests",
        {
            "startup": "ok",
            "requests": [{"status": 200, "tls": False, "path": "/api/x"}],
            "proxy_log": ["CONNECT api.test:${HTTP_PORT} HTTP/1.1"],
        },
    ),
    "up-proxy-url-ignored": (
        "exec, attach and port-forward take the way of all other requests, behind which the cluster is",
        {
            "startup": "ok",
            "requests": [{"status": 403, "headers": {"Authorization": "Bearer tok"}}],
            "proxy_log": ["CONNECT 127.0.0.1:${TLS_PORT} HTTP/1.1"],
        },
    ),
    "up-exec-401": (
        "a 401 renews the credential whatever the request was for",
        {
            "startup": "ok",
            "requests": [
                {"status": 401, "headers": {"Authorization": "Bearer pt"}},
                {"status": 403, "headers": {"Authorization": "Bearer pt"}},
            ],
            "file_lines": {"ran": 2},
        },
    ),
    "ex-expired": (
        AT_MOST_ONCE,
        {
            "startup": "ok",
            "requests": [{"status": 200, "headers": {"Authorization": "Bearer pt"}}] * 3,
            "file_lines_at_most": {"ran": 3},
        },
    ),
    "ex-401-each": (
        AT_MOST_ONCE,
        {"startup": "ok", "requests": [{"status": 401}] * 4, "file_lines_at_most": {"ran": 4}},
    ),
    "ex-cert-rotation": (
        "the request that got 401 is sent once more, with the new certificate",
        {
            "startup": "ok",
            "requests": [
                {"status": 200, "client_cn": "alice"},
                {"status": 401, "client_cn": "bob"},
                {"status": 200, "client_cn": "bob"},
            ],
            "file_lines": {"ran": 2},
        },
    ),
    "ex-hint-limit": (
        "each answer stands for itself: who gets the eleventh needs the hint as well",
        {"startup": "ok", "requests": [{"status": 500, "body_contains": ["HINT"]}] * 12},
    ),
    "ap-oidc-lock": (
        "a lock in the way is told of in the log; the tokens are good, and work from memory",
        {
            "startup": "ok",
            "requests": [{"status": 200, "headers": {"Authorization": "Bearer ${JWT_FRESH}"}}],
            "stderr_contains": ["could not persist new tokens: open ${DIR}/kc.lock: file exists"],
        },
    ),
    "tr-ca-no-reload": (
        "a changed file of authorities is noticed within two seconds; see test_rotation.py",
        {"startup": "ok", "requests": [{"status": 200}]},
    ),
    "tr-user-agent": (
        "we say who we are",
        {"startup": "ok", "requests": [{"status": 200, "headers_re": {"User-Agent": r"^kproxy/\d"}}]},
    ),
}

# Pieces of what kubectl says where it answers 500, and our words for them.
WORDS = {
    "tls: failed to verify certificate: ": "",
    "x509: certificate signed by unknown authority": "self-signed certificate in certificate chain",
    "dial tcp ": "https://",
    ": connect: ": ": ",
    "lookup api.test": "name api.test not found",
    "net/http: invalid header": "no valid header",
    " in scheme": "; expected kind ExecCredential",
    "tls: failed to find any PEM data in certificate input": "client certificate holds no certificate",
}

# Not judged here, with the reason that pytest shows; a prefix ends in "-".
SKIPPED = {
    "merge-first-cluster-wins": "is about `kubectl config view`; see test_kubeconfig.py",
    "merge-view-keeps-relative": "is about `kubectl config view`",
    "strict-case-sensitive": "is about `kubectl config view`; see test_kubeconfig.py",
    "ref-minify-none": "is about `kubectl config view`",
}
# Decided after resolving.
NOT_RESOLVED = {"us-token-newline": "is found when the credentials are opened"}


@pytest.fixture(scope="module")
def fixtures() -> Iterator[Fixtures]:
    servers = Fixtures()
    yield servers
    servers.close()


@dataclass(frozen=True)
class Scene:
    """A case laid out in a directory."""

    case_id: str
    directory: Path
    cwd: Path
    env: dict[str, str]
    args: list[str]
    steps: list[dict[str, Any]]
    expect: dict[str, Any]
    given: str


@pytest.fixture
def scene(request: pytest.FixtureRequest, fixtures: Fixtures, tmp_path: Path) -> Scene:
    case = request.param
    values = {**fixtures.values, "DIR": str(tmp_path), "PATH": os.environ["PATH"], "JWT_SOON": token(9)}
    _, expect = DEVIATIONS.get(case["id"], ("", case["expect"]))
    fixtures.reset()
    (tmp_path / "home").mkdir()
    files = _fill(case["files"], values)
    _write(tmp_path, files)
    if "incluster" in case:
        (tmp_path / "sa").mkdir()
        _write(tmp_path / "sa", _fill(case["incluster"], values))
    cwd = tmp_path / case.get("cwd", "")
    cwd.mkdir(exist_ok=True)
    env = {"HOME": str(tmp_path / "home"), **_fill(case["env"], values)}
    args = _fill(case["args"], values)
    return Scene(
        case_id=case["id"],
        directory=tmp_path,
        cwd=cwd,
        env={name: value for name, value in env.items() if value is not None},
        args=args,
        steps=_fill(case.get("requests", [{}]), values),
        expect=_fill(expect, values),
        given=json.dumps([files, env, args], ensure_ascii=False),
    )


def _fill(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], value)
    if isinstance(value, list):
        return [_fill(item, values) for item in value]
    if isinstance(value, dict):
        return {_fill(key, values): _fill(item, values) for key, item in value.items()}
    return value


def _write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("symlink:"):
            path.symlink_to(content.removeprefix("symlink:"))
            continue
        path.write_text(content, newline="")
        if content.startswith("#!"):
            path.chmod(0o755)


def _reason(case_id: str, reasons: dict[str, str]) -> str | None:
    return next(
        (
            why
            for key, why in reasons.items()
            if case_id == key or (key.endswith("-") and case_id.startswith(key))
        ),
        None,
    )


def _params(*reasons: dict[str, str]) -> list[Any]:
    params = []
    for case in CASES:
        why = next(filter(None, (_reason(case["id"], each) for each in reasons)), None)
        marks = [pytest.mark.skip(reason=why)] if why else []
        params.append(pytest.param(case, id=case["id"], marks=marks))
    return params


def _must_name(scene: Scene) -> list[str]:
    """The names and files of the user that kubectl's error holds, and so must ours."""
    said = "\n".join(scene.expect.get("stderr_contains", []))
    quoted = re.findall(r'"([^"\s]+)"', said) + re.findall(r"(/[\w./-]+)", said)
    return [*scene.expect.get("names", []), *(name for name in quoted if name in scene.given)]


# -- in process --


@pytest.mark.parametrize("scene", _params(SKIPPED, NOT_RESOLVED), indirect=True)
def test_case_resolves(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case's files, environment and flags come to the context, or the error, that kubectl comes to."""
    monkeypatch.chdir(scene.cwd)
    if scene.expect["startup"] == "error":
        with pytest.raises(ConfigError) as caught:
            _resolve(scene)
        for name in _must_name(scene):
            assert name in str(caught.value)
        return
    context = _resolve(scene)
    for expected in scene.expect.get("requests", [])[:1]:
        _judge_context(context, expected, scene)


def _resolve(scene: Scene) -> ResolvedContext:
    command = arguments.parse(scene.args)
    overrides = settings.load(command.given, {}).overrides()
    context = resolve(
        load(locate(overrides.kubeconfig, scene.env)), overrides, scene.env, scene.directory / "sa"
    )
    if server_address(context.cluster.server).scheme == "https":
        client_context(context.cluster, _certificate(context.user), context.user)
    return context


def _certificate(user: User) -> ClientCertificate | None:
    certificate, key = user.client_certificate_data, user.client_key_data
    if user.client_certificate:
        certificate = user.client_certificate.read_bytes()
    if user.client_key and certificate:
        key = user.client_key.read_bytes()
    if not certificate or not key:
        return None
    return ClientCertificate(certificate_pem=certificate, key_pem=key)


def _judge_context(context: ResolvedContext, expected: dict[str, Any], scene: Scene) -> None:
    user, address = context.user, server_address(context.cluster.server)
    headers = expected.get("headers", {})
    if "Authorization" in headers and not (user.exec or user.auth_provider) and not scene.steps[0]:
        assert _authorization(user) == headers["Authorization"]
    if "Authorization" in expected.get("headers_absent", []):
        assert _authorization(user) is None
    if "client_cn" in expected and not user.exec:
        assert (_certificate(user) is not None) == (expected["client_cn"] is not None)
    if "tls" in expected:
        assert (address.scheme == "https") == expected["tls"]
    if "sni" in expected:
        assert (context.cluster.tls_server_name or address.host) == expected["sni"]
    if "Host" in headers:
        assert address.authority == headers["Host"]
    if "Impersonate-User" in headers and not scene.steps[0]:
        assert user.impersonate == headers["Impersonate-User"]
    if "Impersonate-Uid" in headers:
        assert user.impersonate_uid == headers["Impersonate-Uid"]
    if "Impersonate-Group" in headers:
        groups = headers["Impersonate-Group"]
        assert list(user.impersonate_groups) == (groups if isinstance(groups, list) else [groups])
    extra = {name: value for name, value in headers.items() if name.startswith("Impersonate-Extra-")}
    if extra:
        assert [*map(list, dict(user.impersonate_extra).values())] == [
            value if isinstance(value, list) else [value] for value in extra.values()
        ]


def _authorization(user: User) -> str | None:
    if user.token_file and (user.token_file.exists() or not user.token):
        return f"Bearer {user.token_file.read_text().strip()}"
    if user.token:
        return f"Bearer {user.token}"
    if user.username:
        return "Basic " + base64.b64encode(f"{user.username}:{user.password or ''}".encode()).decode()
    return None


# -- the real program --


class Attempt(Process):
    """kproxy, which may well refuse to start; `port` is then None."""

    port: int | None = None

    def wait_until_ready(self) -> None:
        with suppress(AssertionError):
            self.port = int(
                self.wait_for_output(r"^Starting to serve on 127\.0\.0\.1:(\d+)\n", stream="stdout")[1]
            )


@pytest.mark.slow
@pytest.mark.parametrize("scene", _params(SKIPPED), indirect=True)
def test_case_is_served(scene: Scene, fixtures: Fixtures) -> None:
    """The program starts or fails like kubectl proxy, and sends what kubectl sends to where it sends it."""
    command = [sys.executable, "-m", "kproxy", "--port=0", *scene.args]
    if (scene.directory / "sa").exists():
        command = in_pod(scene.directory / "sa", command)
    answers: list[Answer] = []
    with Attempt(command, env=scene.env, cwd=scene.cwd) as program:
        if program.port is None:
            assert scene.expect["startup"] == "error", program.stderr
            assert program.wait() != 0
            for name in _must_name(scene):
                assert name in program.stderr
            return
        assert scene.expect["startup"] == "ok"
        for step in scene.steps:
            answers += _take_step(step, program.port, scene.directory)
    fixtures.wait_idle()
    for index, (answer, expected) in enumerate(zip(answers, scene.expect.get("requests", []), strict=False)):
        _judge_answer(answer, expected, f"request {index}")
    for text in scene.expect.get("stderr_absent", []):
        assert text not in program.stderr
    for text in scene.expect.get("stderr_contains", []):
        assert text in program.stderr
    if "proxy_log" in scene.expect:
        assert fixtures.proxy.log == scene.expect["proxy_log"]
    if "oidc_calls" in scene.expect:
        assert len(fixtures.api.token_calls) == scene.expect["oidc_calls"]
    for text in scene.expect.get("oidc_body_contains", []):
        assert any(text in call["body"] for call in fixtures.api.token_calls)
    _judge_files(scene)


@dataclass(frozen=True)
class Answer:
    status: int
    body: str

    @property
    def echo(self) -> dict[str, Any]:
        """What the API server saw."""
        seen = json.loads(self.body)
        assert "headers" in seen, self.body[:500]
        return dict(seen)


def _take_step(step: dict[str, Any], port: int, directory: Path) -> list[Answer]:
    _write(directory, step.get("write", {}))
    if step.get("noop"):
        return []
    if "sleep" in step:
        # The case is about time that passes, such as a credential that expires.
        time.sleep(step["sleep"])
    if parallel := step.get("parallel"):
        with ThreadPoolExecutor(parallel) as pool:
            return list(pool.map(lambda _: _request(step, port), range(parallel)))
    return [_request(step, port)]


def _request(step: dict[str, Any], port: int) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = step.get("headers", [])
        has_host = any(name.lower() == "host" for name, _ in headers)
        connection.putrequest(
            "GET", step.get("path", "/api/x"), skip_host=has_host, skip_accept_encoding=True
        )
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(status=response.status, body=response.read().decode("utf-8", "replace"))
    finally:
        connection.close()


def _judge_answer(answer: Answer, expected: dict[str, Any], where: str) -> None:
    status = expected.get("status")
    if status == 500:
        # kubectl says 500 whatever failed on the way to the API server; we are more precise.
        assert answer.status in (502, 504), f"{where}: {answer}"
        for text in expected.get("body_contains", []):
            for theirs, ours in WORDS.items():
                text = text.replace(theirs, ours)
            assert text in json.loads(answer.body)["message"], where
        return
    if status is not None:
        assert answer.status == status, f"{where}: {answer}"
    for text in expected.get("body_contains", []):
        assert text in answer.body, where
    headers: dict[str, list[str]] = {}
    if any(key.startswith("headers") for key in expected):
        for name, value in answer.echo["headers"]:
            headers.setdefault(name.lower(), []).append(value)
    for name, value in expected.get("headers", {}).items():
        wanted = value if isinstance(value, list) else [value]
        assert sorted(headers.get(name.lower(), [])) == sorted(wanted), f"{where}: {name}"
    for name, pattern in expected.get("headers_re", {}).items():
        assert any(re.search(pattern, value) for value in headers.get(name.lower(), [])), f"{where}: {name}"
    for name in expected.get("headers_absent", []):
        assert name.lower() not in headers, f"{where}: {name}"
    for name in ("client_cn", "path", "sni", "tls", "tls_version"):
        if name in expected:
            assert answer.echo.get(name) == expected[name], f"{where}: {name}"


def _judge_files(scene: Scene) -> None:
    for name, texts in scene.expect.get("file_contains", {}).items():
        content = (scene.directory / name).read_text()
        for text in texts if isinstance(texts, list) else [texts]:
            assert text in content, name
    for name in scene.expect.get("file_absent", []):
        assert not (scene.directory / name).exists(), name
    for name, count in scene.expect.get("file_lines", {}).items():
        assert len((scene.directory / name).read_text().splitlines()) == count, name

    for name, count in scene.expect.get("file_lines_at_most", {}).items():
        assert 0 < len((scene.directory / name).read_text().splitlines()) <= count, name


@pytest.mark.numbers
def test_every_case_is_accounted_for() -> None:
    """No exception names a case that does not exist; this prints how many cases have one."""
    for key in (*DEVIATIONS, *SKIPPED, *NOT_RESOLVED):
        assert any(_reason(case_id, {key: "found"}) for case_id in IDS), key
    skipped = [case_id for case_id in IDS if _reason(case_id, SKIPPED)]
    print(
        f"\n{len(IDS)} cases: {len(skipped)} are not about a proxy, {len(DEVIATIONS)} deviate on purpose, "
        f"{len(IDS) - len(skipped)} are served by the program"
    )
