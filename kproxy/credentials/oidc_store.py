"""Where kubectl keeps OIDC tokens: in the user's `auth-provider.config` of a kubeconfig file.

Reading and writing block; they are not for the event loop's thread. A write changes the two values in the
text and leaves the rest alone, comments too; only where that is not possible (anchors) the file is written
anew from its meaning, as kubectl always does.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kproxy.credentials.lock_file import LockedError, locked
from kproxy.kube.yaml import SafeLoader, YamlError, parse

# How long whoever holds a lock is waited for; requests may be waiting for us.
LOCK_SECONDS = 2.0
# Nothing in it that means something to YAML; whether it is a text is still to be seen (true, 1e3).
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./+=-]*")
_BOM = b"\xef\xbb\xbf"


class StoreError(Exception):
    """The tokens cannot be read or written; the text names the file and shows no value."""


class TokenStore:
    """The `auth-provider.config` of one user in one kubeconfig file."""

    def __init__(
        self,
        path: Path,
        user_name: str,
        *,
        kubeconfig_paths: tuple[Path, ...],
        clock: Callable[[], float],
    ) -> None:
        """`kubeconfig_paths` are all files of the list: whoever writes one of them locks them all."""
        self._path = path
        self._user_name = user_name
        self._lock_paths = {path, *kubeconfig_paths}
        self._clock = clock

    def read(self) -> Mapping[str, str]:
        """The values as they are now in the file. Raises StoreError."""
        values = _config(_document(self._read_bytes(), self._path), self._user_name, self._path)
        return {key: value for key, value in values.items() if isinstance(value, str)}

    def write(self, values: Mapping[str, str]) -> None:
        """Set `values`. The file keeps its mode; it is replaced at one stroke. Raises StoreError."""
        try:
            with locked(self._lock_paths, clock=self._clock, wait_seconds=LOCK_SECONDS):
                data = self._read_bytes()
                _replace(self._path, _edited(data, self._user_name, values, self._path))
        except LockedError as error:
            raise StoreError(str(error)) from None
        except OSError as error:
            raise StoreError(f"{error.filename or self._path}: {error.strerror}") from None

    def _read_bytes(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from None


def _document(data: bytes, path: Path) -> Any:
    try:
        return parse(data)
    except YamlError as error:
        raise StoreError(f"{path}: {error}") from None


def _config(document: Any, user_name: str, path: Path) -> dict[str, Any]:
    """The part of the document that holds the tokens, itself and not a copy."""
    try:
        for entry in document["users"]:
            if entry["name"] == user_name:
                config = entry["user"]["auth-provider"]["config"]
                if isinstance(config, dict):
                    return config
    except (KeyError, TypeError):
        pass
    raise StoreError(f'{path}: user "{user_name}" has no auth-provider any more')


def _edited(data: bytes, user_name: str, values: Mapping[str, str], path: Path) -> bytes:
    """The file's new content. Raises StoreError."""
    wanted = _document(data, path)
    # Of anchors and merges the parts are shared objects: only this user's copy may change.
    config = _config(wanted, user_name, path)
    untangled = copy.deepcopy(config) | dict(values)
    for entry in wanted["users"]:
        if entry["name"] == user_name:
            entry["user"] = {
                **entry["user"],
                "auth-provider": {**entry["user"]["auth-provider"], "config": untangled},
            }
            break
    bom = _BOM if data.startswith(_BOM) else b""
    with contextlib.suppress(UnicodeDecodeError, yaml.YAMLError, LookupError, YamlError):
        edited = bom + _edit_text(data.removeprefix(bom).decode(), user_name, values).encode()
        if parse(edited) == wanted:
            return edited
    return yaml.dump(wanted, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20).encode()


def _edit_text(text: str, user_name: str, values: Mapping[str, str]) -> str:
    """`text` with the values put in place, new ones first. Raises LookupError, yaml.YAMLError."""
    loader = SafeLoader(text)
    try:
        if not loader.check_node():
            raise LookupError("no document")
        root = loader.get_node()
    finally:
        loader.dispose()
    config = _at(_at(_user(root, user_name), "auth-provider"), "config")
    in_braces = text[config.start_mark.index] == "{"
    edits: list[tuple[int, int, str]] = []
    for key, value in values.items():
        written = _written(value, in_braces=in_braces)
        try:
            node = _at(config, key)
        except LookupError:
            first = config.value[0][0].start_mark
            entry = f'"{key}": {written}, ' if in_braces else f"{key}: {written}\n{' ' * first.column}"
            edits.append((first.index, first.index, entry))
            continue
        start, end = node.start_mark.index, node.end_mark.index
        while text[end - 1].isspace() and end > start:
            end -= 1  # the end of a block scalar is the start of the next line
        edits.append((start, end, written if end > start else f" {written}"))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _written(value: str, *, in_braces: bool) -> str:
    """`value` in YAML: plain as kubectl writes it if that is safe; in braces, perhaps of JSON, quoted."""
    if not in_braces and _PLAIN.fullmatch(value) and parse(value.encode()) == value:
        return value
    return json.dumps(value)


def _user(root: yaml.Node | None, user_name: str) -> yaml.Node:
    users = _at(root, "users")
    for entry in users.value:
        if _at(entry, "name").value == user_name:
            return _at(entry, "user")
    raise LookupError(user_name)


def _at(node: yaml.Node | None, name: str) -> yaml.Node:
    """The value of key `name`; of keys given twice the last one counts."""
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):
            if key.value == name and isinstance(value, yaml.Node):
                return value
    raise LookupError(name)


class _Dumper(yaml.SafeDumper):
    """Quotes every text: what PyYAML leaves plain, as y or 1e3, is no text to the YAML parsers of Go."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def _replace(path: Path, data: bytes) -> None:
    """Put a file of the same mode and owner in the place of `path`, behind its symbolic links."""
    target = os.path.realpath(path)
    before = os.stat(target)
    new_path = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.kproxy-new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new_path)
    descriptor = os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            mode = stat.S_IMODE(before.st_mode)
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                try:
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                except PermissionError:
                    mode &= stat.S_IRWXU  # the group would be another one
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(new_path, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new_path)
        raise
