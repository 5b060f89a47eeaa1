"""Kubernetes' reading of YAML: which document, which scalars are strings, and no coercion of types.

kubectl parses with go-yaml v2 and decodes JSON from that (sigs.k8s.io/yaml, apimachinery
runtime/serializer/json), so this differs from PyYAML's SafeLoader in the resolution of plain scalars
and from dict access in that a number is never taken for a string. No message shows a value: the
values are credentials.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from yaml.constructor import ConstructorError

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML built without libyaml: ten times slower, and it refuses tabs in JSON
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]  # the same by another class

SafeLoader = _SafeLoader
"""The faster of PyYAML's two: with the rules of YAML 1.1, and marks of where each node is."""


_Value = TypeVar("_Value")


NOT_CONSTRUCTED = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError)
"""What PyYAML raises for a value that its tag does not fit: `!!bool x` is a KeyError."""

MAX_DEPTH = 200
"""Levels of a document; a kubeconfig has seven, and extensions may hold any JSON."""


class YamlError(ValueError):
    """The document cannot be parsed; the text says on which line and never quotes it."""


class _Loader(_SafeLoader):
    """PyYAML with go-yaml's scalars: `y` and `n` are booleans, dates and sexagesimal numbers strings."""

    # go-yaml v2, resolve.go. Emptied first: the class attribute belongs to PyYAML's own loader.
    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 -- as PyYAML has it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Keys become strings as in the step to JSON: `n: 1` is `{"false": 1}`; the last of equals wins."""
        if not isinstance(node, yaml.MappingNode):
            raise ConstructorError(None, None, "expected a mapping", node.start_mark)
        self.flatten_mapping(node)
        return {
            _key(self.construct_object(key, deep=deep), key): self.construct_object(value, deep=deep)
            for key, value in node.value
        }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """A merge overrides what stands before it, as in go-yaml v2; YAML would have it the other way."""
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for pair in node.value:
            single = yaml.MappingNode(node.tag, [pair], node.start_mark, node.end_mark)
            super().flatten_mapping(single)
            pairs += single.value
        node.value = pairs


def _key(key: object, node: yaml.Node) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int | float):
        return str(key)
    raise ConstructorError(None, None, "a mapping key is neither text nor number", node.start_mark)


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """A `<<` that is no key."""
    return str(loader.construct_scalar(node))


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    text = str(loader.construct_scalar(node))
    plain = text.replace("_", "").lower()
    for parse in (lambda: int(plain, 0), lambda: int(plain, 8), lambda: float(plain)):
        try:
            number: int | float = parse()
        except ValueError:
            continue
        # ParseFloat refuses what does not fit, and then the scalar stays text.
        return text if number in (float("inf"), float("-inf")) else number
    return text


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"(?:y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF)$"),
    list("yYtToOnNfF"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(
        r"[-+]?(?:0[bB][01_]+|0[oO][0-7_]+|0[xX][0-9a-fA-F_]+"
        r"|(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9_]+)?)$"
    ),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:merge", _text)
_Loader.bool_values = {
    **dict.fromkeys(("y", "yes", "true", "on"), True),
    **dict.fromkeys(("n", "no", "false", "off"), False),
}


def _check_depth(data: bytes) -> None:
    """libyaml composes a node within a node by calling itself, and ends the process when the stack does."""
    depth = 0
    for event in yaml.parse(data, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise YamlError(f"line {line}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentEndEvent):
            return


def parse(data: bytes) -> object:
    """Return the first document of `data` (None if there is none); the others are not even parsed.

    Raises YamlError.
    """
    try:
        if len(data) - len(data.translate(None, b"[{?-")) > MAX_DEPTH:
            _check_depth(data)
        loader = _Loader(data)
        try:
            node = loader.get_node() if loader.check_node() else None
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except YamlError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context
        if problem == "second occurrence":  # said of anchors alone, and nothing else is said
            problem = "an anchor is defined twice"
        raise YamlError(f"{where}{problem}") from None
    except yaml.reader.ReaderError as error:
        raise YamlError(f"byte {error.position}: {error.reason}") from None
    except (*NOT_CONSTRUCTED, RecursionError) as error:
        raise YamlError(f"not readable as YAML ({type(error).__name__})") from None


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with its path. Hands out typed fields and adds every field of a wrong type to `problems`.

    Unknown fields are ignored, keys are case-sensitive, and null is the same as absent.
    """

    fields: Mapping[str, object]
    path: str
    problems: list[str]

    @classmethod
    def of(cls, value: object, path: str, problems: list[str]) -> Section:
        """`value` as a section; an empty one, with the problem noted, if it is no mapping."""
        if value is not None and not isinstance(value, dict):
            problems.append(f"{path or 'the document'}: expected a mapping, found {_kind(value)}")
        return cls(value if isinstance(value, dict) else {}, path, problems)

    def has(self, key: str) -> bool:
        return self.fields.get(key) is not None

    def string(self, key: str) -> str:
        """The text of `key`, "" if absent."""
        return _string(self.fields.get(key), self._at(key), self.problems)

    def boolean(self, key: str) -> bool:
        """The truth of `key`, False if absent."""
        value = self.fields.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.problems.append(f"{self._at(key)}: expected true or false, found {_kind(value)}")
        return False

    def data(self, key: str) -> bytes:
        """The bytes of base64 field `key`, b"" if absent. Line ends inside are fine, blanks are not."""
        text = self.string(key).replace("\r", "").replace("\n", "")
        if wrong := re.search(r"[^A-Za-z0-9+/=]", text):
            self.problems.append(f"{self._at(key)}: illegal base64 character at byte {wrong.start()}")
            return b""
        # Not left to b64decode, which takes too much padding.
        if not re.fullmatch(r"(?:[^=]{4})*(?:[^=]{2}==|[^=]{3}=)?", text):
            self.problems.append(f"{self._at(key)}: not base64: wrong length or padding")
            return b""
        return base64.b64decode(text)

    def strings(self, key: str) -> tuple[str, ...]:
        """The texts of list `key`."""
        return _strings(self.fields.get(key), self._at(key), self.problems)

    def string_map(self, key: str) -> dict[str, str]:
        """Mapping `key` from text to text."""
        return self._map(key, _string)

    def strings_map(self, key: str) -> dict[str, tuple[str, ...]]:
        """Mapping `key` from text to lists of texts."""
        return self._map(key, _strings)

    def section(self, key: str) -> Section:
        """Mapping `key`, an empty one if absent."""
        return Section.of(self.fields.get(key), self._at(key), self.problems)

    def sections(self, key: str) -> Iterator[Section]:
        """The mappings of list `key`."""
        path = self._at(key)
        for index, item in enumerate(_list(self.fields.get(key), path, self.problems)):
            yield Section.of(item, f"{path}[{index}]", self.problems)

    def named(self, key: str, field: str | None = None) -> Iterator[tuple[str, Section]]:
        """(name, entry) of a list of named entries, or of the entries' mapping `field`.

        A name used twice is a problem (client-go api/v1/conversion.go).
        """
        seen: set[str] = set()
        for entry in self.sections(key):
            name = entry.string("name")
            if name in seen:
                # kubectl prints the whole list here, tokens included.
                self.problems.append(f'{self._at(key)}: duplicate name "{name}"; rename or remove one')
            seen.add(name)
            yield name, entry.section(field) if field else entry

    def _map(self, key: str, convert: Callable[[object, str, list[str]], _Value]) -> dict[str, _Value]:
        section = self.section(key)
        return {
            name: convert(value, section._at(name), self.problems) for name, value in section.fields.items()
        }

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _string(value: object, path: str, problems: list[str]) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    hint = "; put it in quotes" if isinstance(value, bool | int | float) else ""
    problems.append(f"{path}: expected a string, found {_kind(value)}{hint}")
    return ""


def _strings(value: object, path: str, problems: list[str]) -> tuple[str, ...]:
    return tuple(
        _string(item, f"{path}[{index}]", problems) for index, item in enumerate(_list(value, path, problems))
    )


def _list(value: object, path: str, problems: list[str]) -> list[object]:
    if value is None or isinstance(value, list):
        return value or []
    problems.append(f"{path}: expected a list, found {_kind(value)}")
    return []


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false (YAML also reads plain y, n, yes, no, on and off as such)"
    kinds = {str: "a string", int: "a number", float: "a number", dict: "a mapping", list: "a list"}
    return kinds.get(type(value), f"a {type(value).__name__}")
