"""`kproxy completion`: Tab in real shells. A stand-in for kproxy prints the words that it was called with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import ROOT
from tests.support.terminal import Terminal
from tests.support.tools import needs

NAMES = ["dev", "kubernetes-admin@kubernetes", "arn:aws:eks:eu-1:7:cluster/prod", "with blank", "odd $(id);"]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """A user with a kubeconfig and one instance, and `kproxy` in their PATH."""
    content: dict[str, Any] = {
        "current-context": "dev",
        "clusters": [{"name": "one", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": "one", "user": "me"}} for name in NAMES],
    }
    (tmp_path / "config").write_text(json.dumps(content))
    content["contexts"] = [{"name": "elsewhere", "context": {}}]
    (tmp_path / "other").write_text(json.dumps(content))
    kproxy = tmp_path / "bin" / "kproxy"
    kproxy.parent.mkdir()
    kproxy.write_text(
        f'#!/bin/sh\n[ "$1" = __names ] && exec env PYTHONPATH={ROOT} {sys.executable} -m kproxy "$@"\n'
        "printf 'CALLED'; printf '<%s>' \"$@\"; echo\n"
    )
    kproxy.chmod(0o755)
    shutil.copy(kproxy, kproxy.with_name("no-such-command"))
    return {
        "HOME": str(tmp_path), "PATH": f"{kproxy.parent}:{os.environ['PATH']}", "TERM": "dumb",
        "LANG": "C.UTF-8", "KUBECONFIG": str(tmp_path / "config"), "XDG_RUNTIME_DIR": str(tmp_path),
    }  # fmt: skip


@pytest.fixture
def script(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    shell: str = request.param
    path = tmp_path / f"completion.{shell}"
    done = subprocess.run(
        [sys.executable, "-m", "kproxy", "completion", shell], capture_output=True, cwd=ROOT, check=True
    )
    path.write_bytes(done.stdout)
    return path


STARTS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "PS1=READY; bind 'set show-all-if-ambiguous on'; bind 'set completion-query-items 0'; source {}",
    ),
    "zsh": (["zsh", "-f", "-i"], "PROMPT=READY; autoload -U compinit; compinit -u -D; source {}"),
}


@pytest.fixture
def shell(tmp_path: Path, home: dict[str, str], script: Path) -> Iterator[Terminal]:
    command, setup = STARTS[script.suffix[1:]]
    terminal = Terminal(command, env=home, cwd=tmp_path)
    try:
        terminal.type(setup.format(script) + "; echo LOA''DED\n")
        terminal.until(b"LOADED\r?\n")
        terminal.until(b"READY")
        yield terminal
    finally:
        terminal.close()


TYPED = [
    ("kproxy vers\t", "<version>"),
    ("kproxy --context=d\t", "<--context=dev>"),
    ("kproxy --context d\t", "<--context><dev>"),
    ("kproxy --context=kub\t", "<--context=kubernetes-admin@kubernetes>"),
    ("kproxy --context kubernetes-admin@\t", "<--context><kubernetes-admin@kubernetes>"),
    ("kproxy --context=kubernetes-admin@kub\t", "<--context=kubernetes-admin@kubernetes>"),
    ("kproxy --context=arn:\t", "<--context=arn:aws:eks:eu-1:7:cluster/prod>"),
    ("kproxy --context arn:aws:e\t", "<--context><arn:aws:eks:eu-1:7:cluster/prod>"),
    ("kproxy --contexts dev,kub\t", "<--contexts><dev,kubernetes-admin@kubernetes>"),
    ("kproxy --kubeconfig=other --context \t", "<--kubeconfig=other><--context><elsewhere>"),
    ("kproxy --kubeconfig ot\t --context=els\t", "<--kubeconfig><other><--context=elsewhere>"),
    ("kproxy --context=od\t", "<--context=odd $(id);>"),
    ("kproxy --context od\t", "<--context><odd $(id);>"),
    ("kproxy --contexts dev,od\t", "<--contexts><dev,odd $(id);>"),
    ("kproxy --user=\t", "<--user=me>"),
    ("kproxy --log-format=j\t", "<--log-format=json>"),
    ("kproxy -p 80 vers\t --js\t", "<-p><80><version><--json>"),
    ("kproxy completion f\t", "<completion><fish>"),
    ("kproxy help completi\t", "<help><completion>"),
    ("kproxy check --kubec\tot\t", "<check><--kubeconfig=other>"),
    ("kproxy run -- no-such-comm\t", "<run><--><no-such-command>"),
    ("kproxy run --dem\t no-such-comm\t", "<run><--demo><no-such-command>"),
    ("kproxy run -- cat ot\t", "<run><--><cat><other>"),
    ("kproxy version --port\t", "<version><--port>"),
]


@pytest.mark.parametrize("script", [pytest.param(name, marks=needs(name)) for name in STARTS], indirect=True)
def test_tab(shell: Terminal, script: Path) -> None:
    """Commands, flags of the command at hand, names from the kubeconfig at hand, another program's words."""
    for typed, expected in TYPED:
        shell.type(typed + "\n")
        called = shell.until(rb"CALLED([^\r\n]*)\r?\n")[1].decode()
        if "check --kubec" in typed and script.suffix == ".bash":
            expected = "<check><--kubeconfig><other>"
        assert called == expected, typed
        shell.until(b"READY")


@pytest.mark.parametrize("script", [pytest.param(name, marks=needs(name)) for name in STARTS], indirect=True)
def test_what_there_is_to_choose_from(shell: Terminal) -> None:
    """A second Tab, or the first, lists it."""
    shell.type("kproxy sta\t\t")
    shell.until(b"(?s)start.*status")
    shell.type("\x15")


FISH = [
    ("kproxy vers", ["version"]),
    ("kproxy --context=d", ["--context=dev"]),
    ("kproxy --context ", sorted(NAMES)),
    ("kproxy --contexts dev,kub", ["dev,kubernetes-admin@kubernetes"]),
    ("kproxy --kubeconfig=other --context ", ["elsewhere"]),
    ("kproxy --kubeconfig ot", ["other"]),
    ("kproxy --user ", ["me"]),
    ("kproxy --log-format ", ["auto", "console", "json"]),
    ("kproxy -p 80 vers", ["version"]),
    ("kproxy version --js", ["--json"]),
    ("kproxy version --port", []),
    ("kproxy sta", ["start", "status"]),
    ("kproxy completion ", ["bash", "fish", "zsh"]),
    ("kproxy help completi", ["completion"]),
    ("kproxy run --dem", ["--demo"]),
    ("kproxy run --demo -- no-such-comm", ["no-such-command"]),
    ("kproxy run no-such-comm", ["no-such-command"]),
    ("kproxy run -- cat ot", ["other"]),
    ("kproxy run -- cat --dem", []),
]


@pytest.mark.parametrize("script", [pytest.param("fish", marks=needs("fish"))], indirect=True)
def test_fish(home: dict[str, str], script: Path, tmp_path: Path) -> None:
    """What fish would offer, as it tells itself."""
    program = 'source $argv[1]; for line in $argv[2..-1]; complete -C "$line"; echo ---; end'
    done = subprocess.run(
        ["fish", "--no-config", "-c", program, str(script), *(line for line, _ in FISH)],
        capture_output=True, text=True, env=home, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    answers = done.stdout.split("---\n")[:-1]
    for (line, expected), answer in zip(FISH, answers, strict=True):
        assert sorted(each.partition("\t")[0] for each in answer.splitlines()) == expected, line


def test_names_are_told_quickly_and_without_a_complaint(home: dict[str, str], tmp_path: Path) -> None:
    """One per line; nothing where there is nothing to be had. No event loop is loaded for it."""

    def names(*words: str) -> list[str]:
        program = (
            "import sys; from kproxy.cli.main import main; code = main(sys.argv[1:]);"
            "sys.exit(code or int(any(name in sys.modules for name in ('asyncio', 'structlog', 'ssl'))))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "__names", *words], capture_output=True, text=True, env=home,
            cwd=ROOT, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert names("contexts") == NAMES
    assert names("contexts", f"--kubeconfig={tmp_path}/other", "--nope", "start") == ["elsewhere"]
    assert (names("clusters"), names("users"), names("instances")) == (["one"], ["me"], [])
    assert names("contexts", "--kubeconfig=/no/such/file") == []
    (tmp_path / "config").write_text("{")
    assert names("contexts") == []
