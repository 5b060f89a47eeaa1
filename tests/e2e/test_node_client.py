"""The Node client `@kubernetes/client-node` through kproxy, by the file of `kproxy kubeconfig`.

Its packages are installed once, by npm and the lock file, into pytest's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clusters import Api, Cluster, config_map
from tests.support.program import KPROXY, Process, Program, ended

HERE = Path(__file__).parent / "node"
NODE, NPM = shutil.which("node"), shutil.which("npm")
SECONDS = 60.0
INSTALL_SECONDS = 180.0
pytestmark = pytest.mark.skipif(not (NODE and NPM), reason="node and npm are not installed")

Script = Callable[..., Process]


@pytest.fixture(scope="session")
def scripts(pytestconfig: pytest.Config) -> Path:
    """The folder with the scripts and what they import."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = pytestconfig.cache.mkdir(f"node-client-{hashlib.sha256(lock).hexdigest()[:12]}")
    for file in HERE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    installed = folder / "installed"
    if not installed.exists():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        if done.returncode:
            pytest.skip(f"npm could not install the Node client: {done.stderr.strip()[-300:]}")
        installed.touch()
    return folder


@pytest.fixture
def script(scripts: Path, tmp_path: Path) -> Script:
    """script(program, "list.mjs", ...): that script for that kproxy, to be started by `with`."""

    def made(program: Program, name: str, *arguments: str, stdin: str = "") -> Process:
        config = tmp_path / f"{program.port}.kubeconfig"
        if not config.exists():
            ended("kubeconfig", f"--port={program.port}", f"--output={config}")
        env = {"KUBECONFIG": str(config), "KPROXY_INPUT": stdin}
        return Process(["node", str(scripts / name), *arguments], env=env, cwd=scripts)

    return made


def lines(process: Process) -> list[Any]:
    """Run it to its end, which must be a good one, for the JSON lines it prints."""
    with process:
        code = process.wait(SECONDS)
    assert code == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def said(*value: Any) -> str:
    """A pattern for the line that a script prints for this value."""
    return f"^{re.escape(json.dumps(list(value), separators=(',', ':')))}$"


def test_the_life_of_an_object(script: Script, proxy: Program, namespace: str) -> None:
    """create, patch, a conflict, delete, not found."""
    assert lines(script(proxy, "life.mjs", namespace)) == [{"a": "1", "b": "2"}, 409, 404]


def test_below_kproxy_run(scripts: Path, demo: Cluster) -> None:
    """A script finds the kubeconfig of `kproxy run` by itself."""
    run = [*KPROXY, "run", f"--kubeconfig={demo.kubeconfig}", "--", "node", str(scripts / "list.mjs")]
    assert all(isinstance(page, list) for page in lines(Process([*run, "default"], cwd=scripts)))


def test_a_list_in_pages(script: Script, proxy: Program, namespace: str, api: Api) -> None:
    """limit and continue: all objects, none twice."""
    for number in range(5):
        api.ask("POST", f"/api/v1/namespaces/{namespace}/configmaps", config_map(f"map-{number}"))
    pages = lines(script(proxy, "list.mjs", namespace))
    assert all(len(page) <= 2 for page in pages)
    names = [name for page in pages for name in page if name.startswith("map-")]
    assert names == [f"map-{number}" for number in range(5)]


def test_an_informer_follows(script: Script, proxy: Program, namespace: str, api: Api) -> None:
    """What is there, what comes, changes and goes: each as one event."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api.ask("POST", path, config_map("one", a="1"))
    with script(proxy, "informer.mjs", namespace) as informer:
        informer.wait_for_output(said("add", "one", {"a": "1"}), "stdout")
        api.ask("POST", path, config_map("two", b="2"))
        informer.wait_for_output(said("add", "two", {"b": "2"}), "stdout")
        api.merge(f"{path}/one", {"data": {"a": "3"}})
        informer.wait_for_output(said("update", "one", {"a": "3"}), "stdout")
        api.ask("DELETE", f"{path}/two")
        informer.wait_for_output(said("delete", "two", {"b": "2"}), "stdout")
        assert "error" not in informer.stdout


def test_an_informer_resumes_after_a_cut(
    script: Script, cluster: Cluster, namespace: str, api: Api, reserved_port: int
) -> None:
    """kproxy dies and another takes its port: the informer hears what happened meanwhile."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api.ask("POST", path, config_map("one", a="1"))
    port = f"--port={reserved_port}"
    with Program(port, kubeconfig=cluster.kubeconfig) as first:
        informer = script(first, "informer.mjs", namespace)
        informer.start()
        try:
            informer.wait_for_output(said("add", "one", {"a": "1"}), "stdout")
            first.kill()
            api.ask("POST", path, config_map("two", b="2"))
            with Program(port, kubeconfig=cluster.kubeconfig):
                informer.wait_for_output(said("add", "two", {"b": "2"}), "stdout")
        finally:
            informer.kill()


def test_exec(script: Script, open_proxy: Program) -> None:
    """Both outputs and the Status at the end, over a WebSocket."""
    command = ["cat", "/etc/hostname", "/nope"]
    with script(open_proxy, "exec.mjs", "default", "clock", "clock", *command) as process:
        assert process.wait(SECONDS) == 0, process.stderr
        out, status = process.stdout.splitlines()
        assert (out, process.stderr) == ("clock", "cat: /nope: No such file or directory\n")
        assert json.loads(status)["details"]["causes"] == [{"reason": "ExitCode", "message": "1"}]


def test_exec_with_standard_input(script: Script, open_proxy: Program) -> None:
    """What the client writes reaches the command."""
    text = "echo first\necho second\nexit 0\n"
    with script(open_proxy, "exec.mjs", "default", "clock", "clock", "sh", stdin=text) as process:
        assert process.wait(SECONDS) == 0, process.stderr
        first, second, status = process.stdout.splitlines()
        assert (first, second, json.loads(status)["status"]) == ("first", "second", "Success")


def test_exec_is_refused_by_default(script: Script, demo_proxy: Program) -> None:
    """The WebSocket is answered 403."""
    with script(demo_proxy, "exec.mjs", "default", "clock", "clock", "sh") as process:
        assert process.wait(SECONDS) == 1
        assert "403" in process.stdout
