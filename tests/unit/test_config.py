"""Settings: their forms, their precedence, and problems that name place and remedy."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import string
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.config.kinds import Duration, Option, Unusable
from kproxy.config.schema import LIVE, OPTIONS, Config
from kproxy.config.sources import Given, Settings, as_flags, load, read
from kproxy.errors import ConfigError
from kproxy.kube.kubeconfig import Overrides
from kproxy.policy import policy
from kproxy.system.snapshot import take_snapshot
from tests.support import secrets

BY_NAME = {option.name: option for option in OPTIONS}


def flags(**texts: str) -> list[Given]:
    """Settings as flags would give them."""
    return [Given(option=BY_NAME[name], text=text, origin=BY_NAME[name].flag) for name, text in texts.items()]


def read_file(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None, **texts: str) -> Settings:
    """Settings with a config file named config.yaml."""
    (tmp_path / "config.yaml").write_text(text)
    return read(flags(config=str(tmp_path / "config.yaml"), **texts), environ or {})


def problems_of(texts: Mapping[str, str]) -> tuple[str, ...]:
    return read(flags(**texts), {}).problems


def test_defaults_are_kubectls() -> None:
    """Without flags, variables and file the settings are those of `kubectl proxy`."""
    config = load([], {})
    assert config == Config()
    assert (config.port, config.address, config.api_prefix, config.www_prefix) == (
        8001, "127.0.0.1", "/", "/static/",
    )  # fmt: skip
    assert config.accept_paths == policy.DEFAULT_ACCEPT_PATHS
    assert config.reject_paths == policy.DEFAULT_REJECT_PATHS
    assert config.accept_hosts == policy.DEFAULT_ACCEPT_HOSTS
    assert config.reject_methods == policy.DEFAULT_REJECT_METHODS
    assert (config.disable_filter, config.keepalive_seconds, config.unix_socket) == (False, 0.0, None)


def test_every_setting_has_names_of_its_own() -> None:
    """No two settings share a field, a key, a flag, a short flag or a negation."""
    spellings = [option.field for option in OPTIONS]
    assert len(set(spellings)) == len(spellings)
    spellings = [
        name
        for each in OPTIONS
        for name in (each.flag, each.short and "-" + each.short, each.negation)
        if name
    ]
    assert len(set(spellings)) == len(spellings)


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    """Each layer wins over those below it, and the origin tells which one did."""
    text = "port: 1\naddress: 127.0.0.2\nwww_prefix: /file/\n"
    environ = {"KPROXY_PORT": "2", "KPROXY_ADDRESS": "127.0.0.3"}
    settings = read_file(tmp_path, text, environ, port="3")
    config = settings.config
    assert (config.port, config.address, config.www_prefix, config.api_prefix) == (
        3,
        "127.0.0.3",
        "/file/",
        "/",
    )
    assert {name: settings.origins.get(name) for name in ("port", "address", "www_prefix", "api_prefix")} == {
        "port": "--port",
        "address": "KPROXY_ADDRESS",
        "www_prefix": "config.yaml line 3",
        "api_prefix": None,
    }


def test_the_config_file_can_be_named_by_a_variable(tmp_path: Path) -> None:
    """KPROXY_CONFIG does what --config does."""
    path = tmp_path / "settings.yaml"
    path.write_text("port: 8002\n")
    assert load([], {"KPROXY_CONFIG": str(path)}).port == 8002


def config_in(folder: Path, text: str = "port: 8002\n") -> Path:
    """A config file where it is looked for below `folder`."""
    path = folder / "kproxy" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_the_config_file_is_looked_for_in_the_users_folder(tmp_path: Path) -> None:
    """~/.config, unless XDG_CONFIG_HOME says where; one that is relative counts for nothing."""
    home, other = tmp_path / "home", tmp_path / "other"
    path = config_in(home / ".config", "port: 8002\n")
    config_in(other, "port: 8003\n")
    environ = {"HOME": str(home)}
    settings = read([], environ)
    assert (settings.config.port, settings.config.config) == (8002, str(path))
    assert settings.origins["port"] == "~/.config/kproxy/config.yaml line 1"
    assert load([], {**environ, "XDG_CONFIG_HOME": ""}).port == 8002
    assert load([], {**environ, "XDG_CONFIG_HOME": "other"}).port == 8002
    assert load([], {**environ, "XDG_CONFIG_HOME": str(other)}).port == 8003
    assert load([], {"XDG_CONFIG_HOME": str(other)}).port == 8003


def test_there_need_not_be_a_config_file(tmp_path: Path) -> None:
    """Neither a home without one nor no home at all is a problem; it may come later."""
    assert load([], {}) == load([], {"HOME": str(tmp_path)}) == Config()
    settings = read([], {"HOME": str(tmp_path)})
    assert settings.file is not None
    assert (settings.file.path, settings.file.is_there) == (tmp_path / ".config/kproxy/config.yaml", False)
    assert read([], {}).file is None


def test_a_named_file_takes_the_place_of_the_users_own(tmp_path: Path) -> None:
    """The flag, then the variable, then the folder; `off` and an empty text mean none at all."""
    config_in(tmp_path / ".config", "port: 1\n")
    flag, variable = tmp_path / "flag.yaml", tmp_path / "variable.yaml"
    flag.write_text("port: 3\n")
    variable.write_text("port: 2\n")
    environ = {"HOME": str(tmp_path), "KPROXY_CONFIG": str(variable)}
    assert load(flags(config=str(flag)), environ).port == 3
    assert load([], environ).port == 2
    for nothing in ("off", ""):
        assert load(flags(config=nothing), environ) == Config()
        assert load([], {**environ, "KPROXY_CONFIG": nothing}) == Config()


def test_off_is_no_path() -> None:
    """It stays what it is when flags are kept for a restart."""
    assert as_flags(flags(config="off"), Path("/here")) == (("--config=off",), ())
    assert as_flags(flags(config="x.yaml"), Path("/here")) == (("--config=/here/x.yaml",), ())


def test_a_file_need_not_be_looked_for(tmp_path: Path) -> None:
    """As for the demo: only one that is named counts."""
    path = config_in(tmp_path / ".config", "port: 1\n")
    environ = {"HOME": str(tmp_path)}
    assert read([], environ, finds_file=False).config == Config()
    assert read(flags(config=str(path)), environ, finds_file=False).config.port == 1


def test_the_users_own_file_is_no_less_strict(tmp_path: Path) -> None:
    """A problem in a file that nobody named has the folder in it; so has one that cannot be read."""
    path = config_in(tmp_path / ".config", "ports: 1\n")
    environ = {"HOME": str(tmp_path)}
    assert read([], environ).problems == (
        "ports: unknown setting, did you mean port? (~/.config/kproxy/config.yaml line 1)",
    )
    path.unlink()
    path.mkdir()
    assert read([], environ).problems == (f"config: cannot read {path}: Is a directory",)


def test_a_file_that_everybody_can_write_to_is_a_warning(tmp_path: Path) -> None:
    """What it says may run programs as its reader; a group is taken to be trusted."""
    path = tmp_path / "config.yaml"
    path.write_text("port: 8002\n")
    for mode in (0o600, 0o644, 0o664):
        path.chmod(mode)
        assert read(flags(config=str(path)), {}).warnings == ()
    path.chmod(0o646)
    settings = read(flags(config=str(path)), {})
    assert (settings.config.port, settings.problems) == (8002, ())
    (warning,) = settings.warnings
    assert f"chmod o-w {path}" in warning


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """`--config=<(...)`: who reads it again gets nothing, which is not what was meant."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("port: 8002\n",))
    writer.start()
    settings = read(flags(config=str(path)), {})
    writer.join()
    assert settings.config.port == 8002
    assert settings.read_again is None


def test_a_change_after_the_reading_can_be_told(tmp_path: Path) -> None:
    """How the file looked is noted before it is read."""
    path = config_in(tmp_path / ".config")
    file = read([], {"HOME": str(tmp_path)}).file
    assert file is not None
    assert take_snapshot([path]) == file.seen
    path.write_text("port: 80\n")
    assert take_snapshot([path]) != file.seen


def test_settings_can_be_read_again(tmp_path: Path) -> None:
    """As they are by then: flags and variables still win."""
    path = config_in(tmp_path / ".config", "port: 1\nv: 1\n")
    settings = read(flags(v="6"), {"HOME": str(tmp_path)})
    path.write_text("port: 2\nv: 2\n")
    assert settings.read_again is not None
    config = settings.read_again().config
    assert (config.port, config.verbosity) == (2, 6)
    assert read([], {}).read_again is None


def test_what_is_applied_while_kproxy_runs_is_a_setting_of_the_file() -> None:
    """LIVE names keys, each once."""
    names = [name for part in LIVE.values() for name in part]
    assert len(set(names)) == len(names)
    assert set(names) == {option.name for option in OPTIONS if option.live}
    assert all(BY_NAME[name].in_file and BY_NAME[name].live in LIVE for name in names)


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    """One error names every problem: which setting, what is expected, what was given, and where."""
    text = "port: abc\nacept_hosts: []\nwww_follow_symlinks: 3\n"
    (tmp_path / "config.yaml").write_text(text)
    given = flags(config=str(tmp_path / "config.yaml"), accept_paths="ok,(", log_format="xml")
    with pytest.raises(ConfigError) as caught:
        load(given, {"KPROXY_DISABLE_FILTER": "maybe", "KPROXY_ACCEPT_HOST": "x"})
    problems = caught.value.problems
    assert set(problems) >= {
        "port: expected 0-65535, got 'abc' (config.yaml line 1)",
        "acept_hosts: unknown setting, did you mean accept_hosts? (config.yaml line 2)",
        "www_follow_symlinks: expected true or false, got 3 (config.yaml line 3)",
        "log_format: expected auto, console or json, got 'xml' (--log-format)",
        "disable_filter: expected true or false, got 'maybe' (KPROXY_DISABLE_FILTER)",
        "KPROXY_ACCEPT_HOST: unknown variable, did you mean KPROXY_ACCEPT_HOSTS?",
    }
    regex = [
        problem
        for problem in problems
        if problem.startswith("accept_paths: '(' is not a regular expression: ")
    ]
    assert len(regex) == 1
    assert regex[0].endswith(" (--accept-paths)")
    assert len(problems) == 7


def test_a_setting_with_a_problem_keeps_its_default() -> None:
    """So that the rest can still be looked at, to find all problems."""
    settings = read(flags(port="abc", address="127.0.0.9"), {})
    assert (settings.config.port, settings.config.address) == (8001, "127.0.0.9")


@pytest.mark.parametrize(
    "text", ["-1", "65536", "abc", "", "8001.0", "80 01", "1_000", "\u0663", "0x10", "9" * 40]
)
def test_a_port_is_a_number_from_0_to_65535(text: str) -> None:
    """Anything else is refused."""
    assert problems_of({"port": text}) == (f"port: expected 0-65535, got {text!r} (--port)",)


@pytest.mark.parametrize("text", ["0", "1", "8001", "65535", "+80", "08001"])
def test_ports_in_range_are_taken(text: str) -> None:
    """The bounds are ports, and 0 is one (a free one)."""
    assert load(flags(port=text), {}).port == int(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("t", True), ("TRUE", True), ("True", True), ("0", False), ("F", False), ("false", False)],
)
def test_booleans_are_gos(text: str, value: bool) -> None:
    """strconv.ParseBool's words and no others."""
    assert load(flags(disable_filter=text), {}).disable_filter is value
    assert problems_of({"disable_filter": "yes"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("0s", 0.0), ("30s", 30.0), ("1m30s", 90.0), ("1.5h", 5400.0), (".5s", 0.5), ("1.s", 1.0),
        ("100ms", 0.1), ("250us", 0.00025), ("2µs", 0.000002), ("+2s", 2.0), ("1h1m1s1ms", 3661.001),
    ],
)  # fmt: skip
def test_durations_are_gos(text: str, seconds: float) -> None:
    """time.ParseDuration's notation, in seconds."""
    assert load(flags(keepalive=text), {}).keepalive_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "s",
        "1 s",
        "1s ",
        "-1s",
        "1d",
        "1m30",
        "1..5s",
        "--1s",
        "1S",
        "\u0661s",
        "1h9e9s",
        "9999999h",
    ],
)
def test_other_durations_are_refused(text: str) -> None:
    """A unit is needed, and time does not run backwards."""
    assert problems_of({"keepalive": text})[0].startswith("keepalive: expected a duration")


@given(st.floats(min_value=0, max_value=1e9, allow_nan=False))
def test_a_shown_duration_reads_back(seconds: float) -> None:
    """What `kproxy check` shows means the same when it is written into a config file."""
    kind = Duration(0.0, "a duration")
    assert kind.parse(kind.show(seconds)) == pytest.approx(seconds, abs=1e-6)
    assert kind.take(seconds, Path()) == seconds


@given(st.sampled_from(OPTIONS), st.text(alphabet=string.printable + "é\x00λ", max_size=30))
def test_any_text_is_a_value_or_a_problem(option: Option, text: str) -> None:
    """No text crashes the reading of a setting, and no message shows a secret's value."""
    try:
        option.kind.parse(text)
    except Unusable:
        assert not option.secret


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(OPTIONS), json_values.filter(lambda value: value is not None))
def test_any_yaml_value_is_a_value_or_a_problem(option: Option, value: object) -> None:
    """No value in a config file crashes the reading of a setting."""
    with contextlib.suppress(Unusable):
        assert option.kind.show(option.kind.take(value, Path("/somewhere"))) is not None


def test_lists_of_expressions_split_at_commas_in_flags_only(tmp_path: Path) -> None:
    """kubectl splits its flags at every comma; a YAML list is not split, so that it can hold {1,3}."""
    assert load(flags(reject_paths="^/a,^/b"), {}).reject_paths == ("^/a", "^/b")
    settings = read_file(tmp_path, "reject_paths: ['^/a{1,3}$']\naccept_paths: ^/a,^/b\n")
    assert settings.config.reject_paths == ("^/a{1,3}$",)
    assert settings.config.accept_paths == ("^/a", "^/b")


def test_an_empty_text_is_no_expression() -> None:
    """As in kubectl: --reject-paths='' refuses nothing, --accept-hosts='' accepts no host."""
    config = load(flags(reject_paths="", accept_hosts=""), {})
    assert (config.reject_paths, config.accept_hosts) == ((), ())


def test_empty_texts_are_not_given() -> None:
    """--kubeconfig='' and --context='' count for nothing, as in kubectl."""
    config = load(flags(kubeconfig="", context="", token="", unix_socket="", www=""), {})
    assert config == Config()


def test_an_empty_address_is_refused() -> None:
    """In Go it would listen on all interfaces: nobody means that by mistake."""
    assert "0.0.0.0" in problems_of({"address": ""})[0]


def test_prefixes_get_their_slash() -> None:
    """A prefix ends with a slash and must begin with one."""
    assert load(flags(api_prefix="/k8s-api", www_prefix=""), {}).api_prefix == "/k8s-api/"
    assert load(flags(api_prefix=""), {}).api_prefix == "/"
    assert problems_of({"api_prefix": "k8s"}) == (
        "api_prefix: expected a path that starts with /, got 'k8s' (--api-prefix)",
    )


def test_repeated_settings_add_up_within_a_layer_and_replace_those_below() -> None:
    """--as-group twice gives two groups; a variable's groups then count no more."""
    config = load(
        [*flags(as_group="a"), *flags(as_group="b,c")],
        {"KPROXY_AS_GROUP": "x\ny", "KPROXY_AS_USER_EXTRA": "k=v"},
    )
    assert config.impersonate_groups == ("a", "b,c")
    assert config.impersonate_extra == ("k=v",)
    assert load([], {"KPROXY_AS_GROUP": "x\ny"}).impersonate_groups == ("x", "y")


def test_an_empty_group_takes_the_place_of_others() -> None:
    """--as-group= gives one group without a name, as in kubectl; an empty variable gives none."""
    assert load([*flags(as_group="")], {"KPROXY_AS_GROUP": "x"}).impersonate_groups == ("",)
    assert load([], {"KPROXY_AS_GROUP": ""}).impersonate_groups == ()


def test_extra_fields_need_their_equals_sign() -> None:
    """kubectl drops --as-user-extra=novalue without a word; here it is a problem."""
    assert problems_of({"as_user_extra": "novalue"}) == (
        "as_user_extra: expected a list of key=value, got 'novalue' (--as-user-extra)",
    )


def test_unix_socket_and_port_exclude_each_other() -> None:
    """kubectl's rule: any port but the default, even if that is given explicitly."""
    (problem,) = problems_of({"unix_socket": "/x", "port": "0"})
    assert problem.startswith("unix_socket: cannot set --unix-socket and --port at the same time")
    assert problem.endswith("(--unix-socket, --port)")
    assert not problems_of({"unix_socket": "/x", "port": "8001"})


def test_static_files_cannot_hide_the_api() -> None:
    """Two things under one prefix are a problem, but only if there are static files."""
    assert problems_of({"www": "/srv", "www_prefix": "/"})[0].startswith(
        "www_prefix: '/' is the path of the API"
    )
    assert not problems_of({"www_prefix": "/"})


def test_paths_in_the_file_start_at_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, ~ and absolute ones; those of flags are left to the working directory."""
    monkeypatch.setenv("HOME", "/somebody")
    settings = read_file(
        tmp_path,
        "www: site\nkubeconfig: ~/.kube/dev\nclient_key: /etc/key\nexec_path: bin:/opt/bin:~/bin\n",
        unix_socket="here.sock",
    )
    config = settings.config
    assert config.www == str(tmp_path / "site")
    assert config.kubeconfig == "/somebody/.kube/dev"
    assert config.client_key == "/etc/key"
    assert config.exec_path == f"{tmp_path}/bin:/opt/bin:/somebody/bin"
    assert config.unix_socket == "here.sock"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("port: '8001'", "port: expected 0-65535, got '8001'"),
        ("port: true", "port: expected 0-65535, got True"),
        ("port: 80.5", "port: expected 0-65535, got 80.5"),
        ("disable_filter: 'true'", "disable_filter: expected true or false, got 'true'"),
        ("context: 127", "context: expected text, got 127"),
        ("context: [a]", "context: expected text, got ['a']"),
        ("www: 5", "www: expected a path, got 5"),
        (r'kubeconfig: "a\0b"', r"kubeconfig: expected a path, got 'a\x00b'"),
        ("exec_path: [a]", "exec_path: expected folders with a colon between, got ['a']"),
        ("as_group: admins", "as_group: expected a list of groups, got 'admins'"),
        ("as_group: [1]", "as_group: expected a list of groups, got [1]"),
        ("log_format: xml", "log_format: expected auto, console or json, got 'xml'"),
        ("exec_timeout: 0", "exec_timeout: expected a duration above zero, such as 30s or 1m30s, got 0"),
        ("v: -2", "v: expected a whole number from -1 to 99, got -2"),
        ("config: other.yaml", "config: unknown setting"),
        ("no_reload: true", "no_reload: unknown setting, did you mean reload?"),
        ("keepalive_seconds: 3", "keepalive_seconds: unknown setting"),
        ("accept-hosts: []", "accept-hosts: unknown setting, did you mean accept_hosts?"),
        ("3: 4", "3: unknown setting"),
    ],
)  # fmt: skip
def test_values_in_the_file_keep_their_type(tmp_path: Path, line: str, problem: str) -> None:
    """Nothing is guessed: a value of another type is a problem that names key, line and value."""
    assert read_file(tmp_path, f"# a comment\n{line}\n").problems == (f"{problem} (config.yaml line 2)",)


def test_null_is_not_given_and_numbers_are_seconds(tmp_path: Path) -> None:
    """A key without a value is as if it were not there; durations may be plain seconds."""
    settings = read_file(tmp_path, "www:\nport: null\nexec_timeout: 5\ngrace_period: 0.5\nkeepalive: 1m\n")
    assert not settings.problems
    config = settings.config
    assert (config.www, config.port) == (None, 8001)
    assert (config.exec_timeout_seconds, config.grace_period_seconds, config.keepalive_seconds) == (
        5.0,
        0.5,
        60.0,
    )


def test_a_key_may_be_given_once(tmp_path: Path) -> None:
    """YAML parsers let the last one win, which hides a mistake."""
    assert read_file(tmp_path, "port: 1\nv: 2\nport: 3\n").problems == (
        "port: given twice (config.yaml line 1 and config.yaml line 3)",
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_fine(tmp_path: Path, text: str) -> None:
    """A config file may hold nothing."""
    settings = read_file(tmp_path, text)
    assert not settings.problems
    assert dataclasses.replace(settings.config, config=None) == Config()


@pytest.mark.parametrize("text", ["- port\n", "port\n", "8001\n"])
def test_a_file_without_settings_is_refused(tmp_path: Path, text: str) -> None:
    """A list or a word is no set of settings."""
    assert read_file(tmp_path, text).problems == (
        "config: expected settings such as `port: 8001` (config.yaml)",
    )


@pytest.mark.parametrize(
    "text",
    [
        "port: [1\n",
        "a: b: c\n",
        "\tport: 1\n",
        "port: !!python/object:x {}\n",
        "port: !!bool x\n",
        "port: !!timestamp x\n",
        "&a : *b\n",
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    """Syntax errors say where and never quote the file, which may hold a token."""
    secret = secrets.plant("token-in-config")
    (problem,) = read_file(tmp_path, f"token: {secret}\n{text}").problems
    assert ": not YAML: " in problem
    assert "(config.yaml line" in problem
    assert secret not in problem


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text give a problem, not a crash."""
    (tmp_path / "config.yaml").write_bytes(b"\xff\x00\x01port: 1")
    (problem,) = read(flags(config=str(tmp_path / "config.yaml")), {}).problems
    assert problem.startswith("config: not YAML: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message has the path, the reason and who asked for it."""
    path = tmp_path / "none.yaml"
    assert problems_of({"config": str(path)}) == (
        f"config: cannot read {path}: No such file or directory (--config)",
    )
    assert problems_of({"config": str(tmp_path)}) == (
        f"config: cannot read {tmp_path}: Is a directory (--config)",
    )


def test_no_message_shows_a_secret(tmp_path: Path) -> None:
    """A token or password of the wrong type is not quoted, and neither is in the repr of the config."""
    settings = read_file(tmp_path, "token: [tok-123]\npassword: {a: pw-123}\n")
    assert settings.problems == (
        "token: expected text (config.yaml line 1)",
        "password: expected text (config.yaml line 2)",
    )
    given = flags(token="tok-123", password="pw-123")
    assert "-123" not in repr(given) + repr(load(given, {})) + repr(read(given, {}))


def test_service_links_are_not_settings() -> None:
    """In a pod beside a Service named kproxy, Kubernetes sets KPROXY_PORT=tcp://... and more."""
    environ = {
        "KPROXY_PORT": "tcp://10.0.0.1:8001",
        "KPROXY_PORT_8001_TCP": "tcp://10.0.0.1:8001",
        "KPROXY_PORT_8001_TCP_ADDR": "10.0.0.1",
        "KPROXY_PORT_8001_TCP_PROTO": "tcp",
        "KPROXY_SERVICE_HOST": "10.0.0.1",
        "KPROXY_SERVICE_PORT": "8001",
    }
    assert load([], environ) == Config()


def test_variables_of_others_are_left_alone() -> None:
    """Only what looks like a misspelt setting is a problem."""
    assert load([], {"KPROXY_URL": "http://x", "XKPROXY_PORT": "1", "KPROXY_": "", "PORT": "2"}) == Config()
    assert read([], {"KPROXY_ACEPT_HOSTS": ""}).problems == (
        "KPROXY_ACEPT_HOSTS: unknown variable, did you mean KPROXY_ACCEPT_HOSTS?",
    )


def test_every_kubectl_override_arrives() -> None:
    """Each field of Overrides is a setting, and what is given there reaches it."""
    config = load(
        flags(
            kubeconfig="k", context="c", cluster="cl", user="u", server="https://s", tls_server_name="t",
            certificate_authority="ca", insecure_skip_tls_verify="true", disable_compression="1",
            client_certificate="cc", client_key="ck", token="tok", username="un", password="pw",
            as_uid="uid", as_group="g", as_user_extra="a=b", request_timeout="5", namespace="n",
            **{"as": "alice"},
        ),
        {},
    )  # fmt: skip
    overrides = config.overrides()
    assert overrides == Overrides(
        kubeconfig="k", context="c", cluster="cl", user="u", server="https://s", tls_server_name="t",
        certificate_authority="ca", insecure_skip_tls_verify=True, disable_compression=True,
        client_certificate="cc", client_key="ck", token="tok", username="un", password="pw",
        impersonate="alice", impersonate_uid="uid", impersonate_groups=("g",), impersonate_extra=("a=b",),
        request_timeout="5", namespace="n",
    )  # fmt: skip
    assert all(getattr(overrides, field.name) for field in dataclasses.fields(Overrides))


def test_nothing_given_overrides_nothing() -> None:
    """The default of every override is "not given"."""
    assert Config().overrides() == Overrides()


# -- several contexts --


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        (" a , b,,a", ("a", "b")),
        (
            "arn:aws:eks:eu-west-1:1:cluster/prod,kind-dev",
            ("arn:aws:eks:eu-west-1:1:cluster/prod", "kind-dev"),
        ),
        ("", ()),
    ],
)
def test_contexts_are_listed_with_commas(text: str, names: tuple[str, ...]) -> None:
    """Once each, in their order; spaces around them are nobody's."""
    assert load(flags(contexts=text), {}).contexts == names
    assert load([], {"KPROXY_CONTEXTS": text}).contexts == names


def test_contexts_add_up_over_flags_and_replace_what_is_below() -> None:
    """`--contexts=a --contexts=b,c` is one list; the variable then counts for nothing."""
    given = [*flags(contexts="a"), *flags(contexts="b,c")]
    assert load(given, {"KPROXY_CONTEXTS": "d"}).contexts == ("a", "b", "c")


def test_a_name_with_a_comma_has_its_place_in_the_file(tmp_path: Path) -> None:
    """A YAML list is not split, a text is."""
    assert read_file(tmp_path, "contexts: ['a,b', c]").config.contexts == ("a,b", "c")
    assert read_file(tmp_path, "contexts: a,b").config.contexts == ("a", "b")
    for wrong in ("[1]", "['']", "{a: b}", "true"):
        (problem,) = read_file(tmp_path, f"contexts: {wrong}").problems
        assert problem.startswith("contexts: expected names")


@pytest.mark.parametrize("wish", [{"contexts": "a,b"}, {"all_contexts": "true"}])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cluster", "c"), ("user", "u"), ("server", "https://s"), ("tls_server_name", "t"),
        ("certificate_authority", "ca"), ("insecure_skip_tls_verify", "true"), ("client_certificate", "cc"),
        ("client_key", "ck"), ("token", "secret-token"), ("username", "un"), ("password", "secret-password"),
    ],
)  # fmt: skip
def test_what_is_for_one_cluster_is_refused_for_several(wish: dict[str, str], name: str, value: str) -> None:
    """A token on the command line would be shown to every cluster."""
    (problem,) = problems_of({**wish, name: value})
    assert problem.startswith(f"{name}: it is for one cluster")
    assert "secret" not in problem
    assert not problems_of({name: value})


def test_what_is_for_every_cluster_is_allowed_for_several() -> None:
    """Which one is the default, who to be in all of them, and how to talk."""
    settings = {
        "context": "a",
        "as": "viewer",
        "as_group": "g",
        "disable_compression": "1",
        "kubeconfig": "k",
    }
    assert not problems_of({"contexts": "a,b", **settings})


def test_contexts_and_all_contexts_are_two_wishes() -> None:
    """One would make the other mean nothing."""
    (problem,) = problems_of({"contexts": "a", "all_contexts": "true"})
    assert problem.startswith("contexts: --all-contexts serves these")


@pytest.mark.parametrize("name", ["api_prefix", "www_prefix"])
def test_no_prefix_is_among_the_contexts(name: str) -> None:
    """/clusters/ is taken, if it means contexts."""
    (problem,) = problems_of({"all_contexts": "true", "www": "/srv", name: "/clusters/x/"})
    assert problem.startswith(f"{name}: the contexts are below /clusters/")
    assert not problems_of({"www": "/srv", name: "/clusters/x/"})
