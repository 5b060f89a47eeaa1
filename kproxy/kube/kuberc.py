"""The exec plugin policy of kubectl's preferences file, kuberc.

Rules: kubectl pkg/kuberc, client-go plugin/pkg/client/auth/exec (ValidatePluginPolicy), KEP-3104.
Of the file only `credentialPluginPolicy` and `credentialPluginAllowlist` mean something to a proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kproxy.errors import ConfigError
from kproxy.kube.yaml import Section, YamlError, parse

POLICIES = ("", "AllowAll", "DenyAll", "Allowlist")


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginPolicy:
    """Which exec plugins may run. `source_path` is the file that says so, for messages."""

    policy: str = ""
    allowlist: tuple[str, ...] = ()
    source_path: Path | None = None

    def refusal(self, command: str, path: str, find: Callable[[str], str | None]) -> str | None:
        """Why the plugin may not run, None if it may.

        `command` is as configured, `path` the program found for it, `find` looks a command up in
        PATH: an entry matches by its text or by the program that it leads to.
        """
        if self.policy in ("", "AllowAll"):
            return None
        where = f" ({self.source_path})" if self.source_path is not None else ""
        if self.policy == "DenyAll":
            return f'plugin "{command}" not allowed: policy set to "DenyAll"{where}'
        if any(entry in (command, path) or find(entry) == path for entry in self.allowlist):
            return None
        return (
            f'plugin path "{path}" is not permitted by the credential plugin allowlist{where}; '
            f"to allow it, add `- command: {command}` to credentialPluginAllowlist"
        )


ALLOW_ALL = PluginPolicy()


def policy_path(environ: Mapping[str, str], flag: str | None = None) -> Path | None:
    """The kuberc file that is read, or would be if it were there; None when it is turned off."""
    named = flag or environ.get("KUBERC") or ""
    if environ.get("KUBERC") == "off" or environ.get("KUBECTL_KUBERC", "").lower() in ("false", "0", "f"):
        return None
    return Path(named or Path(environ.get("HOME", ""), ".kube", "kuberc"))


def load_plugin_policy(environ: Mapping[str, str], flag: str | None = None) -> PluginPolicy:
    """The policy of the kuberc file that `flag` (--kuberc) names, else $KUBERC, else ~/.kube/kuberc.

    KUBERC=off and KUBECTL_KUBERC=false turn the file off; one that is not named may be missing.
    kubectl goes on without a policy when the unnamed file cannot be read; here that is an error,
    since a policy that vanishes by a typing error protects nobody. Raises ConfigError.
    """
    if environ.get("KUBERC") == "off" and flag:
        raise ConfigError("KUBERC=off and --kuberc exclude each other; drop one of them")
    path = policy_path(environ, flag)
    if path is None:
        return ALLOW_ALL
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if flag or environ.get("KUBERC"):
            raise ConfigError(
                f"kuberc: open {path}: no such file or directory; "
                "correct --kuberc or KUBERC, or set KUBERC=off"
            ) from None
        return ALLOW_ALL
    except OSError as error:
        raise ConfigError(f"kuberc: cannot read {path}: {error.strerror}; or set KUBERC=off") from None
    return parse_plugin_policy(data, path)


def parse_plugin_policy(data: bytes, path: Path) -> PluginPolicy:
    """The policy written in `data`, the content of `path`. Raises ConfigError with every problem found."""
    try:
        document = parse(data)
    except YamlError as error:
        raise ConfigError(f"kuberc: {path}: {error}") from None
    problems: list[str] = []
    fields = Section.of(document, "", problems)
    policy = fields.string("credentialPluginPolicy")
    # The key was `name` in 1.35 and 1.36 and is `command` since.
    entries = tuple(
        entry.string("command") or entry.string("name")
        for entry in fields.sections("credentialPluginAllowlist")
    )
    if not problems:
        problems = _contradictions(policy, entries, fields.has("credentialPluginAllowlist"))
    if problems:
        raise ConfigError([f"kuberc: {path}: {problem}" for problem in problems])
    return PluginPolicy(policy=policy, allowlist=entries, source_path=path)


def _contradictions(policy: str, entries: tuple[str, ...], has_allowlist: bool) -> list[str]:
    """client-go exec.go, ValidatePluginPolicy."""
    problem = None
    if policy not in POLICIES:
        problem = f'unknown plugin policy: "{policy}"; use AllowAll, DenyAll or Allowlist'
    elif policy != "Allowlist" and has_allowlist:
        problem = (
            f'misconfigured credential plugin allowlist: plugin policy is "{policy}" but allowlist is '
            "non-nil; set credentialPluginPolicy: Allowlist, or drop credentialPluginAllowlist"
        )
    elif policy == "Allowlist" and not has_allowlist:
        problem = (
            'credential plugin policy set to "Allowlist", but allowlist is unspecified; '
            "add credentialPluginAllowlist"
        )
    elif policy == "Allowlist" and not entries:
        problem = (
            'credential plugin policy set to "Allowlist", but allowlist is empty; '
            'use "DenyAll" policy instead'
        )
    elif "" in entries:
        problem = "credentialPluginAllowlist: an entry has no command"
    return [problem] if problem is not None else []
