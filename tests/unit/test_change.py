"""What a changed config file changes, by values alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kproxy.config.schema import OPTIONS, Config
from kproxy.config.sources import Given, Settings, read
from kproxy.errors import ConfigError
from kproxy.server.changes import Change, differences, read_change

BY_NAME = {option.name: option for option in OPTIONS}


class Edited:
    """A config file, and the settings as they were at the start."""

    def __init__(self, path: Path, text: str, **flags: str) -> None:
        self.path = path
        path.write_text(text)
        given = [Given(option=BY_NAME[name], text=flags[name], origin=f"--{name}") for name in flags]
        self.settings: Settings = read(
            [Given(option=BY_NAME["config"], text=str(path), origin="--config"), *given], {}
        )
        assert self.settings.problems == ()

    def to(self, text: str, in_force: Config | None = None, **pinned: Any) -> Change:
        self.path.write_text(text)
        return read_change(self.settings, in_force or self.settings.config, pinned)


def names(change: Change) -> list[str]:
    return [option.name for option in change.applied]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_what_is_live_is_applied_and_the_rest_is_left(path: Path) -> None:
    """The config to be in force has the one and not the other."""
    change = Edited(path, "v: 1\nport: 1\n").to("v: 2\nport: 2\ncontext: dev\n")
    assert names(change) == ["context", "v"]
    assert change.left == {"port": 2}
    assert (change.config.verbosity, change.config.port, change.config.context) == (2, 1, "dev")
    assert change.touches("log")
    assert change.touches("end", "contexts")
    assert not change.touches("filters")


def test_it_is_told_by_what_is_in_force_not_by_what_was_read_last(path: Path) -> None:
    """Several changes that wait for a restart add up; one that is taken back is gone."""
    edited = Edited(path, "port: 1\nwww_prefix: /a/\n")
    first = edited.to("port: 2\nwww_prefix: /a/\n")
    assert first.left == {"port": 2}
    second = edited.to("port: 2\nwww_prefix: /b/\n", first.config)
    assert second.left == {"port": 2, "www_prefix": "/b/"}
    assert edited.to("port: 1\nwww_prefix: /a/\n", second.config).left == {}


def test_what_is_pinned_stays(path: Path) -> None:
    """The port of `kproxy run` and the kubeconfig of the demo are not the file's to say."""
    edited = Edited(path, "port: 1\n")
    change = edited.to("port: 2\nkubeconfig: x\n", port=0, kubeconfig="demo")
    assert change.config.kubeconfig == "demo"
    assert change.left == {"port": 0}


def test_flags_are_read_again_with_the_file(path: Path) -> None:
    """They win as at the start."""
    assert names(Edited(path, "v: 1\n", v="6").to("v: 2\nas: alice\n")) == ["as"]


def test_the_filters_are_compiled_before_anything_is_changed(path: Path) -> None:
    """The policy is that of the config to be in force."""
    change = Edited(path, "").to("reject_paths: [/pods]\n")
    assert change.policy.check_request("GET", "/api/v1/pods") is not None
    assert change.touches("filters")


@pytest.mark.parametrize(
    ("text", "count"), [("port: x\nvv: 1\n", 2), ("accept_paths: ['(']\n", 1), ("- a\n", 1), ("port: [", 1)]
)
def test_problems_are_raised_together(path: Path, text: str, count: int) -> None:
    """Nothing of such a file counts."""
    with pytest.raises(ConfigError) as caught:
        Edited(path, "v: 1\n").to(text)
    assert len(caught.value.problems) == count


def test_the_same_is_no_change(path: Path) -> None:
    """Whatever stands around it."""
    change = Edited(path, "v: 1\n").to("# a comment\nv: 1\n")
    assert (change.applied, change.left) == ((), {})


def test_differences_name_every_field() -> None:
    """Two configs are the same when there are none."""
    assert differences(Config(), Config()) == {}
    assert differences(Config(port=1), Config(port=2, token="t")) == {"port": 2, "token": "t"}
