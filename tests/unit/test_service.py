"""What units for systemd and launchd say, and which files may be written and removed."""

from __future__ import annotations

import configparser
import os
import plistlib
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kproxy.cli.arguments import parse
from kproxy.config.schema import Config
from kproxy.config.sources import read
from kproxy.errors import ConfigError
from kproxy.instances.service import (
    LAUNCHD,
    SYSTEMD,
    Service,
    ServiceError,
    UnitFile,
    check_replaceable,
    describe,
    install,
    is_ours,
    left_out,
    uninstall,
    unit_files,
    unit_paths,
)

ENVIRON = {"PATH": "/usr/bin:rel:/bin", "KUBECONFIG": "/a:b", "KPROXY_V": "4", "KPROXY_TOKEN": "hush"}


def config_of(*flags: str) -> Config:
    settings = read(parse(["start", *flags]).given, {})
    assert settings.problems == ()
    return settings.config


def service(*flags: str, name: str = "default", with_socket: bool = False) -> Service:
    return describe(name, config_of(*flags), flags, ENVIRON, with_socket=with_socket)


def parsed(content: str) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",), interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(content)
    return unit


def systemd(*flags: str, name: str = "default", with_socket: bool = False) -> dict[str, str]:
    found = unit_files(
        service(*flags, name=name, with_socket=with_socket), SYSTEMD, {"XDG_CONFIG_HOME": "/c"}
    )
    return {str(file.path): file.content for file in found}


def test_a_unit_of_systemd_runs_the_instance_and_watches_it() -> None:
    """It is told of readiness, fed the watchdog, started again after a failure, and found by its name."""
    ((path, content),) = systemd("--port=9001", name="dev").items()
    assert path == "/c/systemd/user/kproxy-dev.service"
    unit = parsed(content)
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["ExecStart"].endswith(" start --foreground --name=dev --port=9001")
    assert Path(unit["Service"]["ExecStart"].split()[0]).is_absolute()
    assert unit["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert unit["Service"]["Restart"] == "on-failure"
    assert int(unit["Service"]["WatchdogSec"]) > 0
    assert unit["Service"]["NoNewPrivileges"] == "yes"
    assert unit["Install"]["WantedBy"] == "default.target"


def test_the_end_gets_the_time_it_may_take() -> None:
    """systemd and launchd kill what takes longer."""
    assert service("--grace-period=1m", "--shutdown-delay=5s").stop_seconds > 65


def test_the_environment_goes_along_without_secrets() -> None:
    """A service manager does not know the shell's PATH; relative paths would mean something else there."""
    assert dict(service().environment) == {
        "PATH": "/usr/bin:/bin",
        "KUBECONFIG": f"/a:{Path.cwd()}/b",
        "KPROXY_V": "4",
    }
    others = {"KUBERC": "off", "KUBECTL_KUBERC": "false", "https_proxy": "http://p:1", "no_proxy": "x"}
    assert dict(describe("default", Config(), (), others, with_socket=False).environment) == others
    assert left_out(ENVIRON) == ["KPROXY_TOKEN"]
    assert left_out({"HTTPS_PROXY": "http://u:p@proxy"}) == ["HTTPS_PROXY"]
    assert not any("hush" in content for content in systemd().values())


def test_words_of_the_command_stay_what_they_are(tmp_path: Path) -> None:
    """Spaces, quotes, percent signs and dollars mean something to systemd."""
    odd = "a b\"c\\d%e$f'g"
    content = systemd(f"--context={odd}")["/c/systemd/user/kproxy.service"]
    assert '"--context=a b\\"c\\\\d%%e$$f\'g"' in content


def test_a_socket_unit_listens_where_kproxy_would() -> None:
    """TCP by address, the IPv6 loopback in brackets, a unix socket by its path; the service needs it."""
    files = systemd(
        "--listen=127.0.0.1:8002", "--listen=[::1]:8003", "--listen=unix:/run/k.sock", with_socket=True
    )
    assert list(files) == ["/c/systemd/user/kproxy.service", "/c/systemd/user/kproxy.socket"]
    unit, socket = files.values()
    for line in ("ListenStream=127.0.0.1:8002", "ListenStream=[::1]:8003", "ListenStream=/run/k.sock"):
        assert f"\n{line}\n" in socket
    assert "\nSocketMode=0700\n" in socket
    assert parsed(unit)["Unit"]["Requires"] == "kproxy.socket"
    assert parsed(socket)["Install"]["WantedBy"] == "sockets.target"


@pytest.mark.parametrize(
    ("listeners", "mode"),
    [
        ("[{unix_socket: /a, mode: '0660'}, {unix_socket: /b}]", "0600"),
        ("[{unix_socket: /a, mode: '0660'}, {unix_socket: /b, mode: '0606'}]", "0600"),
        ("[{unix_socket: /a, mode: '0666'}, {port: 1}]", "0666"),
    ],
)
def test_no_socket_of_a_unit_is_wider_than_asked(listeners: str, mode: str, tmp_path: Path) -> None:
    """systemd has one mode for all; a port has none."""
    settings = tmp_path / "config.yaml"
    settings.write_text(f"listeners: {listeners}\n")
    _, unit = systemd(f"--config={settings}", with_socket=True).values()
    assert f"\nSocketMode={mode}\n" in unit


@pytest.mark.parametrize(
    "flags",
    [
        ["--port=0"],
        ["--address=example.org"],
        ["--listen=fd:3"],
        ["--unix-socket=/a", "--unix-socket-owner=:staff"],
    ],
)
def test_what_systemd_cannot_listen_on_is_an_error(flags: list[str]) -> None:
    """Before a unit is written that fails."""
    with pytest.raises(ConfigError, match=r"socket unit|leave out the owner"):
        service(*flags, with_socket=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("with_socket", [False, True])
def test_systemd_finds_nothing_wrong(tmp_path: Path, with_socket: bool) -> None:
    """`systemd-analyze verify` reads the units as systemd does, and knows every line of them."""
    found = service("--context=50% of $x", "--port=9001", with_socket=with_socket)
    files = unit_files(found, SYSTEMD, {"XDG_CONFIG_HOME": str(tmp_path)})
    install(files, unit_paths("default", SYSTEMD, {"XDG_CONFIG_HOME": str(tmp_path)}))
    paths = [str(file.path) for file in files]
    # As a system unit: a manager of users cannot be asked without a session.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *paths],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    complaints = [line for line in done.stderr.splitlines() if "kproxy" in line]
    assert (complaints, done.returncode) == ([], 0)


def test_a_property_list_runs_the_instance(tmp_path: Path) -> None:
    """launchd starts it at login and again after a crash, but not after an orderly end."""
    (file,) = unit_files(service("--port=9001", name="dev"), LAUNCHD, {})
    assert file.path.name == "local.kproxy-dev.plist"
    assert is_ours(file.content)
    found: dict[str, Any] = plistlib.loads(file.content.encode())
    assert found["Label"] == "local.kproxy-dev"
    assert found["ProgramArguments"][-4:] == ["start", "--foreground", "--name=dev", "--port=9001"]
    assert found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["RunAtLoad"] is True
    assert found["EnvironmentVariables"]["PATH"] == "/usr/bin:/bin"


# -- files --


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def written(environ: dict[str, str], *flags: str, with_socket: bool = False) -> tuple[UnitFile, ...]:
    files = unit_files(service(*flags, with_socket=with_socket), SYSTEMD, environ)
    install(files, unit_paths("default", SYSTEMD, environ))
    return files


def test_an_own_file_is_replaced_and_removed(environ: dict[str, str]) -> None:
    """Installing once more takes up new settings; a socket unit that is not wanted any more goes."""
    _, socket = written(environ, with_socket=True)
    (unit,) = written(environ, "--port=9001")
    assert "--port=9001" in unit.path.read_text()
    assert not socket.path.exists()
    uninstall([unit.path])
    assert list(unit.path.parent.iterdir()) == []


def test_nobody_else_can_put_units_beside_it(environ: dict[str, str]) -> None:
    """Whatever the umask: the folders that are made on the way are as private as the file."""
    mask = os.umask(0)
    try:
        (unit,) = written(environ)
    finally:
        os.umask(mask)
    made = [unit.path.parent, unit.path.parent.parent]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in made] == [0o700, 0o700]


@pytest.mark.parametrize("how", ["foreign", "edited", "link", "binary"])
def test_a_file_of_somebody_else_stays(environ: dict[str, str], how: str) -> None:
    """Whether kproxy never wrote it or somebody has changed it since: no file at all is touched then."""
    service_path, socket_path = unit_paths("default", SYSTEMD, environ)
    written(environ, "--port=9001", with_socket=True)
    own, before = socket_path.read_text(), service_path.read_text()
    if how == "foreign":
        service_path.write_text("[Service]\nExecStart=/bin/true\n")
    elif how == "edited":
        service_path.write_text(before.replace("9001", "9002"))
    elif how == "binary":
        service_path.write_bytes(b"\xff\xfe")
    else:
        kept = service_path.with_name("elsewhere")
        service_path.rename(kept)
        service_path.symlink_to(kept)
    now = service_path.read_bytes()
    with pytest.raises(ServiceError, match=r"was not written|was changed|cannot be read"):
        written(environ, "--port=9003", with_socket=True)
    with pytest.raises(ServiceError):
        check_replaceable([service_path])
    assert (service_path.read_bytes(), socket_path.read_text()) == (now, own)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    """With the path and the reason."""
    (tmp_path / "systemd").write_text("")
    with pytest.raises(ServiceError, match=r"kproxy\.service cannot be read: .*Not a directory"):
        written({"XDG_CONFIG_HOME": str(tmp_path)})


def test_the_program_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The script beside this Python where there is one, else the module, from where it is found."""
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    found = service()
    assert found.command[:3] == (str(python), "-m", "kproxy")
    assert found.folder is not None
    assert (Path(found.folder) / "kproxy" / "instances" / "service.py").exists()
    (tmp_path / "kproxy").touch(mode=0o755)
    found = service()
    assert (found.command[0], found.folder) == (str(tmp_path / "kproxy"), None)
