"""The command line: pflag's forms, sub-commands, help, and problems told without a traceback."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kproxy import __version__
from kproxy.cli.arguments import IGNORED_FLAGS, CommandLine, parse
from kproxy.cli.commands import COMMANDS, Command, own_flags
from kproxy.cli.help import help_text
from kproxy.cli.main import main
from kproxy.config.kinds import SWITCH, Option
from kproxy.config.schema import OPTIONS, Config
from kproxy.config.sources import load
from tests.support import secrets
from tests.support.program import kubeconfig


def config_of(*argv: str) -> Config:
    """The settings that a command line without problems gives."""
    line = parse(argv)
    assert not line.problems
    return load(line.given, {})


def values(line: CommandLine) -> dict[str, str]:
    return {each.option.name: each.text for each in line.given}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path), "PATH": "/usr/bin"})


@pytest.mark.parametrize(
    "argv",
    [
        ["--port", "8002"], ["--port=8002"], ["-p", "8002"], ["-p8002"], ["-p=8002"],
        ["proxy", "--port=8002"], ["--port=8002", "proxy"], ["-p", "8002", "proxy"], ["-p1", "-p8002"],
    ],
)  # fmt: skip
def test_a_value_can_be_written_in_all_of_pflags_forms(argv: list[str]) -> None:
    """Long and short, with blank, with equals sign, glued, before or after the command; the last one wins."""
    assert config_of(*argv).port == 8002


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--disable-filter", True), ("--disable-filter=true", True), ("--disable-filter=1", True),
        ("--disable-filter=t", True), ("--disable-filter=false", False), ("--disable-filter=0", False),
        ("--disable_filter", True),
    ],
)  # fmt: skip
def test_a_boolean_takes_its_value_with_an_equals_sign(flag: str, expected: bool) -> None:
    """As in Go, where the flag alone is true; kubectl also takes _ for -."""
    assert config_of(flag).disable_filter is expected


def test_a_boolean_does_not_eat_the_next_word() -> None:
    """`--disable-filter proxy` is a flag and a command."""
    line = parse(["--disable-filter", "proxy"])
    assert (line.command.name, line.words, values(line)) == ("proxy", [], {"disable_filter": "true"})


@pytest.mark.parametrize(
    "each", [option for option in OPTIONS if option.kind is SWITCH], ids=lambda each: each.name
)
def test_what_is_on_can_be_turned_off_with_no(each: Option) -> None:
    """Every boolean that is on by default has a --no- form, and no other has."""
    off = f"--no-{each.flag[2:]}"
    if each.default is True:
        assert getattr(config_of(off), each.field) is False
        assert getattr(config_of(f"{each.flag}=false"), each.field) is False
        assert parse([off + "=true"]).problems == [f"{off} takes no value; write {each.flag}=true"]
    else:
        assert parse([off]).problems[0].startswith(f"unknown flag: {off}")


def test_v_takes_its_number_in_all_forms() -> None:
    """kubectl's -v."""
    for argv in (["-v=6"], ["-v6"], ["-v", "6"], ["--v=6"], ["--v", "6"]):
        assert config_of(*argv).verbosity == 6
    assert config_of("-v=-1").verbosity == -1


def test_values_may_look_like_flags() -> None:
    """What follows a flag that needs a value is that value, whatever it looks like."""
    assert values(parse(["--token", "--port", "-u", "-p"])) == {"token": "--port", "unix_socket": "-p"}


def test_nothing_after_the_double_dash_is_a_flag() -> None:
    """`--` ends the flags; what follows are words, even where no word is known."""
    line = parse(["-p1", "help", "--", "--port=2", "-x"])
    assert (line.command.name, line.words) == ("help", ["--port=2", "-x"])
    assert parse(["--", "--port=2", "-x"]).problems == ['unknown command "--port=2"']


def test_repeated_flags_add_up_where_they_mean_a_list() -> None:
    """--as-group and --as-user-extra may be given several times, and are not split at commas."""
    config = config_of(
        "--as=a", "--as-group=g1", "--as-group", "g2,g3", "--as-user-extra=k=v", "--as-user-extra=k=w"
    )
    assert config.impersonate_groups == ("g1", "g2,g3")
    assert config.impersonate_extra == ("k=v", "k=w")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["--nope=1"], "unknown flag: --nope"),
        (["--acept-hosts=x"], "unknown flag: --acept-hosts, did you mean --accept-hosts?"),
        (["--Port=1"], "unknown flag: --Port"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-p8001", "-xyz"], "unknown shorthand flag: 'x' in -xyz"),
        (["--port"], "flag needs an argument: --port"),
        (["-p"], "flag needs an argument: 'p' in -p"),
        (["--=3"], "unknown flag: --"),
    ],
)
def test_a_flag_that_cannot_be_understood_is_named(argv: list[str], problem: str) -> None:
    """In pflag's words, with the flag that may have been meant."""
    assert [each.partition(", did you mean --port")[0] for each in parse(argv).problems] == [problem]


def test_parsing_goes_on_after_a_problem() -> None:
    """All problems are found, and the value of an unknown flag is not taken for a command."""
    line = parse(["--nope", "value", "-x", "--port", "1", "--last"])
    assert line.problems == [
        "unknown flag: --nope",
        "unknown shorthand flag: 'x' in -x",
        "unknown flag: --last",
    ]
    assert (line.words, values(line)) == ([], {"port": "1"})


def test_kubectls_other_global_flags_are_accepted() -> None:
    """Scripts that give them go on working; they set nothing."""
    for flag, takes_value in IGNORED_FLAGS.items():
        for argv in ([f"{flag}=x"], [flag, "x"] if takes_value else [flag]):
            line = parse([*argv, "proxy"])
            assert (line.problems, line.given, line.command.name) == ([], [], "proxy")


def test_minikubes_and_lens_command_lines_are_understood() -> None:
    """The two programs known to run `kubectl proxy` as a child."""
    assert config_of("--context", "minikube", "proxy", "--port=0").port == 0
    config = config_of(
        "proxy", "-p", "9000", "--kubeconfig", "/f", "--context", "c", "--accept-hosts", "^h$",
        "--reject-paths", "^[^/]",
    )  # fmt: skip
    assert (config.port, config.context, config.accept_hosts, config.reject_paths) == (
        9000,
        "c",
        ("^h$",),
        ("^[^/]",),
    )


@given(st.lists(st.text(alphabet="-=_pvuhx0 aort\x00é", max_size=8), max_size=6))
def test_no_command_line_crashes_the_parser(argv: list[str]) -> None:
    """Any words give settings, words or problems."""
    line = parse(argv)
    assert len(line.words) + len(line.given) + len(line.problems) <= sum(len(word) + 1 for word in argv)


def test_help_names_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Each flag, short form, negation and command is in the help, which goes to stdout."""
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown == help_text() + "\n"
    words = shown.replace(",", " ").replace(".", " ").split()
    for option in OPTIONS:
        assert option.flag in words
        assert not option.short or f"-{option.short}" in words
        assert not option.negation or option.negation in words
    assert all(flag in words for flag in IGNORED_FLAGS)
    assert all(f"kproxy {command}".rstrip() in shown for command in COMMANDS)
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    "argv", [["help"], ["-h"], ["proxy", "--help"], ["--nope", "--help"], ["nope", "--help"]]
)
def test_help_is_always_at_hand(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks for help gets it, even beside a mistake."""
    assert main(argv) == 0
    assert capsys.readouterr().out == help_text() + "\n"


every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.title)


@every_command
def test_each_command_has_its_own_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """`kproxy help COMMAND` and `kproxy COMMAND --help` name its flags; all commands stand in the whole."""
    assert f"  {command.title}" in help_text()
    shown = help_text(command)
    assert max(map(len, shown.splitlines())) <= 100
    assert all(f"{flag.flag} {flag.kind.metavar}".rstrip() in shown for flag in command.flags)
    assert command.words.shown in shown
    for argv in (["help", *filter(None, [command.name])], [*filter(None, [command.name]), "--help"]):
        assert main(argv) == 0
        assert capsys.readouterr().out == shown + "\n"


@every_command
def test_a_flag_of_another_command_is_an_error(command: Command) -> None:
    """Flags are not taken where they have no effect; the message names the command that was asked."""
    names = [name for name in own_flags() if name not in own_flags([command])]
    if not command.takes_settings:
        names += [option.flag for option in OPTIONS]
    words = command.words.choices[: command.words.least] or ("word",) * command.words.least
    for name in names:
        (problem,) = parse([f"{name}=1", *filter(None, [command.name]), *words]).problems
        assert problem.startswith("unknown ")
        assert not command.name or f" of {command.title}: " in problem


def test_a_flag_means_one_thing_in_all_commands() -> None:
    """It takes a value everywhere or nowhere, and no setting has its name; it may precede the command."""
    settings = {name for option in OPTIONS for name in (option.flag, option.negation, f"-{option.short}")}
    assert not set(own_flags()) & (settings | set(IGNORED_FLAGS))
    for command in COMMANDS.values():
        for name, flag in own_flags([command]).items():
            assert flag.takes_value == own_flags()[name].takes_value


def test_commands_own_flags_may_stand_before_them() -> None:
    """As kubectl takes them; a switch may be turned off again."""
    assert parse(["--json", "version"]).flags == {"json": True}
    assert parse(["version", "--json", "--json=false"]).flags == {}
    assert parse(["version", "--json=perhaps"]).problems == ["--json: expected true or false, got 'perhaps'"]


def test_version_is_told_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for programs."""
    assert (main(["version"]), main(["--version"])) == (0, 0)
    assert capsys.readouterr().out == f"kproxy {__version__}\n" * 2
    assert main(["version", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["version"], facts["platform"]) == (__version__, sys.platform)
    assert facts["openssl"] == ssl.OPENSSL_VERSION
    assert facts["packages"]["uvloop"] == metadata.version("uvloop")
    assert main(["version", "--nope"]) == 2
    assert main(["demo", "--json"]) == 2
    assert "unknown flag of kproxy demo: --json" in capsys.readouterr().err
    assert (main(["--version", "--json"]), main(["version", "--jsn"])) == (0, 2)
    assert "unknown flag: --jsn, did you mean --json?" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["help", "check"], ["version"], ["version", "--json"]])
def test_help_and_version_load_no_event_loop(argv: list[str]) -> None:
    """They answer at once: neither asyncio nor anything that needs it is imported."""
    slow = ["asyncio", "structlog", *([] if "--json" in argv else ["ssl"])]
    program = (
        "import sys; from kproxy.cli.main import main; code = main(sys.argv[1:]);"
        f"sys.exit(code or int(any(name in sys.modules for name in {slow})))"
    )
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With the one that may have been meant, and no word of settings that it may not have; exit code 2."""
    assert main(["prxy", "--port=abc", "--context=nowhere"]) == 2
    told = capsys.readouterr().err
    assert told == "error: unknown command \"prxy\", did you mean proxy?\nSee 'kproxy --help'.\n"
    assert main(["help", "chek"]) == 2
    assert 'unknown command "chek", did you mean check?' in capsys.readouterr().err
    assert main(["demo", "now", "--port=abc"]) == 2
    assert 'kproxy demo takes no further words, got "now"' in capsys.readouterr().err


def test_one_problem_is_one_line_and_several_are_a_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Flags, settings and the kubeconfig are looked at before anything is said; stdout stays empty."""
    config = kubeconfig(tmp_path, "https://127.0.0.1:1")
    assert main([f"--kubeconfig={config}", "--port=abc"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: port: expected 0-65535, got 'abc' (--port)\nSee 'kproxy --help'.\n"
    assert main([f"--kubeconfig={tmp_path}/none", "--port=abc", "--nope", "--accept-paths=("]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: 4 problems:"
    assert lines[1:3] == ["  unknown flag: --nope", "  port: expected 0-65535, got 'abc' (--port)"]
    assert lines[3].startswith("  accept_paths: '(' is not a regular expression: ")
    assert f"{tmp_path}/none" in lines[4]
    assert lines[5] == "See 'kproxy --help'."


def test_names_of_others_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A context's name and a path of no encoding are shown with what cannot be printed spelt out."""
    config = kubeconfig(tmp_path, "https://127.0.0.1:1", name="x\x1b[31m")
    assert main(["check", f"--kubeconfig={config}"]) == 0
    assert "xU+001B[31m" in capsys.readouterr().out
    assert main(["check", f"--kubeconfig={tmp_path}/\udcff"]) == 2
    assert "U+DCFF" in capsys.readouterr().err


def test_the_demo_brings_its_own_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    """Choosing another one beside it is a contradiction, wherever it is written."""
    assert main(["demo", "--kubeconfig=/x", "--context=c"]) == 2
    assert capsys.readouterr().err.splitlines()[1:3] == [
        "  kubeconfig: the demo brings its own; leave it out (--kubeconfig)",
        "  context: the demo brings its own; leave it out (--context)",
    ]


def test_the_demo_is_not_for_the_users_own_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A context in ~/.config/kproxy/config.yaml contradicts nothing; one in a file that was named does."""
    path = tmp_path / ".config" / "kproxy" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("context: dev\nport: abc\n")
    assert main(["demo", "--v=x"]) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith("error: v: expected")
    assert main(["demo", f"--config={path}"]) == 2
    assert "context: the demo brings its own; leave it out (config.yaml line 1)" in capsys.readouterr().err


def test_check_shows_what_is_in_force_and_hides_secrets(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The output is a config file: YAML with every key, its value, and where that comes from."""
    token = secrets.plant("flag-token")
    config = kubeconfig(tmp_path, "http://127.0.0.1:1", token=secrets.plant("kubeconfig-token"))
    assert main(["check", f"--kubeconfig={config}", "-p0", f"--token={token}"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert (
        lines[0]
        == f"# config file: none; there would be room for one at {tmp_path}/.config/kproxy/config.yaml"
    )
    assert "port: 0  # --port; a change needs a restart" in lines
    assert "v: 0  # default" in lines
    assert 'token: "[hidden]"  # --token' in lines
    assert "password: null  # default" in lines
    assert any(line.startswith('# context "test": http://127.0.0.1:1') for line in lines)
    assert list(yaml.safe_load(shown)) == [option.name for option in OPTIONS if option.in_file]


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("by_flag", [False, True])
def test_check_hides_the_password_of_a_server(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, is_json: bool, by_flag: bool
) -> None:
    """A server's URL may have one before its host, with an @ in it, and what check shows goes into issues."""
    server = f"https://me:p@{secrets.plant('userinfo')}@127.0.0.1:1"
    config = kubeconfig(tmp_path, "http://127.0.0.1:2" if by_flag else server)
    argv = [
        f"--kubeconfig={config}",
        *(["--json"] if is_json else []),
        *([f"--server={server}"] if by_flag else []),
    ]
    assert main(["check", *argv]) == 0
    assert "https://[hidden]@127.0.0.1:1" in capsys.readouterr().out


def test_what_check_shows_can_be_a_config_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Settings that are written down as check shows them mean the same."""
    config = kubeconfig(tmp_path, "http://127.0.0.1:1")
    argv = [
        f"--kubeconfig={config}", "--reject-paths=^/a$,b\\d", "--grace-period=1m30s", "--as=x",
        "--as-group=a", "--no-reload", "--www=/srv", "-v4",
    ]  # fmt: skip
    assert main(["check", *argv]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    again = config_of(f"--config={tmp_path}/config.yaml")
    assert again == config_of(*argv, f"--config={tmp_path}/config.yaml")


def test_check_names_the_config_file_and_its_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where it was found, what it says, and whom it lets change it."""
    config = kubeconfig(tmp_path, "http://127.0.0.1:1")
    path = tmp_path / ".config" / "kproxy" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("v: 4\n")
    path.chmod(0o666)
    assert main(["check", f"--kubeconfig={config}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"# config file: {path} (found where such files are)"
    assert "v: 4  # ~/.config/kproxy/config.yaml line 1" in lines
    assert any(line.startswith("# warning: everybody on this machine can write to") for line in lines)
    assert main(["check", f"--kubeconfig={config}", "--config=off"]) == 0
    assert capsys.readouterr().out.startswith("# config file: none\n")


def test_check_answers_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same for programs, with the problems in it; secrets stay hidden."""
    token = secrets.plant("flag-token")
    config = kubeconfig(tmp_path, "http://127.0.0.1:1", token=secrets.plant("kubeconfig-token"))
    argv = ["check", "--json", f"--kubeconfig={config}", f"--token={token}"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config_file"] is None
    assert found["settings"]["token"] == {"value": "[hidden]", "origin": "--token", "live": True}
    assert found["settings"]["port"] == {"value": 8001, "origin": "default", "live": False}
    assert [(each["name"], each["default"], each["credential"]) for each in found["contexts"]] == [
        ("test", True, "none")
    ]
    assert found["problems"] == []
    assert main([*argv, "--port=abc"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["problems"] == ["port: expected 0-65535, got 'abc' (--port)"]
    assert "error: port" in captured.err


def test_check_tells_all_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit code 2, the settings on stdout, the problems on stderr."""
    config = kubeconfig(tmp_path, "https://127.0.0.1:1", ca_pem=b"no certificate")
    assert main(["check", f"--kubeconfig={config}", "--port=abc"]) == 2
    captured = capsys.readouterr()
    assert "port: 8001  # default; a change needs a restart" in captured.out
    lines = captured.err.splitlines()
    assert lines[:2] == ["error: 2 problems:", "  port: expected 0-65535, got 'abc' (--port)"]
    assert "certificate-authority-data" in lines[2]


def test_check_passes_on_the_warnings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What works but is probably not meant is no error."""
    config = kubeconfig(tmp_path, "http://127.0.0.1:1")
    assert main(["check", f"--kubeconfig={config}", "--reject-paths="]) == 0
    assert "# warning: Request filter has been relaxed" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_no_failure() -> None:
    """`kproxy --help | head -1` ends without a traceback."""
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -u -m kproxy --help | head -n 1', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == help_text().splitlines()[0] + "\n"
    assert done.stderr == ""
