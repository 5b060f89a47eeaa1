"""kuberc: which exec plugins may run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kproxy.errors import ConfigError
from kproxy.kube.kuberc import ALLOW_ALL, PluginPolicy, load_plugin_policy, parse_plugin_policy

PATH = Path("/home/joe/.kube/kuberc")


def parsed(text: str) -> PluginPolicy:
    return parse_plugin_policy(text.encode(), PATH)


def found(**programs: str) -> Callable[[str], str | None]:
    return lambda command: programs.get(command)


@pytest.mark.parametrize("text", ["", "kind: Preference\n", "credentialPluginPolicy: AllowAll\n"])
def test_without_a_policy_all_plugins_may_run(text: str) -> None:
    """That is how it was before kuberc knew of plugins."""
    assert parsed(text).refusal("p", "/bin/p", found()) is None


def test_deny_all_refuses_every_plugin() -> None:
    """The message is kubectl's and names the file that says so."""
    refusal = parsed("credentialPluginPolicy: DenyAll\n").refusal("p", "/bin/p", found())
    assert refusal == f'plugin "p" not allowed: policy set to "DenyAll" ({PATH})'


@pytest.mark.parametrize("key", ["command", "name"])
@pytest.mark.parametrize(
    ("entry", "command", "path"),
    [
        ("p", "p", "/bin/p"),
        ("/bin/p", "p", "/bin/p"),
        ("p", "/bin/p", "/bin/p"),
        ("/bin/p", "/bin/p", "/bin/p"),
    ],
)
def test_an_entry_matches_by_its_text_or_by_its_program(
    key: str, entry: str, command: str, path: str
) -> None:
    """`name` was the key's name in kubectl 1.35."""
    policy = parsed(f"credentialPluginPolicy: Allowlist\ncredentialPluginAllowlist:\n- {key}: {entry}\n")
    assert policy.refusal(command, path, found(p="/bin/p")) is None


@pytest.mark.parametrize(("command", "path"), [("q", "/bin/q"), ("p", "/evil/p"), ("/evil/p", "/evil/p")])
def test_what_is_not_listed_is_refused(command: str, path: str) -> None:
    """The message says what to add."""
    policy = parsed("credentialPluginPolicy: Allowlist\ncredentialPluginAllowlist:\n- command: /bin/p\n")
    refusal = policy.refusal(command, path, found(p="/bin/p"))
    assert refusal is not None
    assert f'plugin path "{path}" is not permitted by the credential plugin allowlist' in refusal
    assert f"command: {command}" in refusal
    assert str(PATH) in refusal


LISTED = "credentialPluginAllowlist:\n- command: p\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("credentialPluginPolicy: Maybe\n", 'unknown plugin policy: "Maybe"'),
        ("credentialPluginPolicy: Allowlist\n", "but allowlist is unspecified"),
        (
            "credentialPluginPolicy: Allowlist\ncredentialPluginAllowlist: []\n",
            'but allowlist is empty; use "DenyAll" policy instead',
        ),
        (LISTED, 'misconfigured credential plugin allowlist: plugin policy is "" but allowlist is non-nil'),
        ("credentialPluginPolicy: DenyAll\n" + LISTED, 'plugin policy is "DenyAll" but allowlist is non-nil'),
        ("credentialPluginPolicy: Allowlist\ncredentialPluginAllowlist:\n- {}\n", "an entry has no command"),
        ("credentialPluginPolicy: 1\n", "credentialPluginPolicy: expected a string, found a number"),
        ("credentialPluginPolicy: Allowlist\ncredentialPluginAllowlist: p\n", "expected a list"),
        ("- a\n", "expected a mapping"),
        ("a: [\n", "line "),
    ],
)
def test_a_policy_that_makes_no_sense_is_an_error(text: str, message: str) -> None:
    """It names the file; a policy is not dropped for a typing error."""
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert message in str(caught.value)
    assert f"kuberc: {PATH}: " in str(caught.value)


def test_the_file_is_found_as_kubectl_finds_it(tmp_path: Path) -> None:
    """--kuberc before $KUBERC before ~/.kube/kuberc, of which only the last may be missing."""
    home = {"HOME": str(tmp_path)}
    assert load_plugin_policy(home) == ALLOW_ALL
    (tmp_path / ".kube").mkdir()
    for name in (".kube/kuberc", "by-env", "by-flag"):
        listed = f"credentialPluginPolicy: Allowlist\ncredentialPluginAllowlist:\n- command: {name}\n"
        (tmp_path / name).write_text(listed)
    by_env = {**home, "KUBERC": str(tmp_path / "by-env")}
    assert load_plugin_policy(home).allowlist == (".kube/kuberc",)
    assert load_plugin_policy(by_env).allowlist == ("by-env",)
    assert load_plugin_policy(by_env, str(tmp_path / "by-flag")).allowlist == ("by-flag",)
    for environ, flag in (({**home, "KUBERC": "/no/such"}, None), (home, "/no/such")):
        with pytest.raises(ConfigError, match="open /no/such: no such file or directory"):
            load_plugin_policy(environ, flag)


def test_the_file_can_be_turned_off(tmp_path: Path) -> None:
    """KUBERC=off, or the feature gate; the first contradicts --kuberc."""
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "kuberc").write_text("credentialPluginPolicy: DenyAll\n")
    home = {"HOME": str(tmp_path)}
    assert load_plugin_policy({**home, "KUBERC": "off"}) == ALLOW_ALL
    assert load_plugin_policy({**home, "KUBECTL_KUBERC": "false"}) == ALLOW_ALL
    assert load_plugin_policy(home).policy == "DenyAll"
    with pytest.raises(ConfigError, match="exclude each other"):
        load_plugin_policy({**home, "KUBERC": "off"}, "x")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Not the same as no file: there may be a policy in it."""
    (tmp_path / ".kube" / "kuberc").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cannot read .*kuberc: Is a directory"):
        load_plugin_policy({"HOME": str(tmp_path)})
