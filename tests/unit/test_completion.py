"""The completion scripts hold all there is to complete; shells run them in tests/e2e/test_completion.py."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from kproxy.cli.arguments import WISHES
from kproxy.cli.commands import COMMANDS, own_flags
from kproxy.cli.completion import script
from kproxy.cli.main import main
from kproxy.config.schema import OPTIONS

SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_everything_is_in_the_script(shell: str) -> None:
    """Each command and each flag, with its negation."""
    words = set(re.findall(r"[a-z0-9][a-z0-9-]*", script(shell)))
    flags = [name for option in OPTIONS for name in (option.flag, option.negation) if name]
    flags += [name for name in own_flags() if name.startswith("--")] + list(WISHES)
    assert {flag[2:] for flag in flags} <= words
    assert {name for name in COMMANDS if name} <= words


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_can_be_read_by_its_shell(shell: str) -> None:
    """Whatever stands in a help text."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n"], input=script(shell), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    """For the shells that there are."""
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == script(shell)
    assert main(["completion"]) == 2
    assert "kproxy completion needs bash|zsh|fish" in capsys.readouterr().err
    assert main(["completion", "fsh"]) == 2
    assert 'unknown word "fsh", did you mean fish?' in capsys.readouterr().err
