"""The map of the rooms, held up to the code: who may import whom, and which words belong where."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ROOMS = (
    "errors", "system", "http", "kube", "tls", "policy", "config", "telemetry", "credentials", "upstream",
    "gateway", "web", "listeners", "server", "instances", "cli", "__main__",
)  # fmt: skip
"""From the ground up: a room imports from those before it. `demo` stands beside them all."""

PURE = {"errors", "http", "kube", "policy", "config.kinds", "config.listeners", "telemetry.exchange"}
"""Rooms and modules of values and decisions: no event loop, no sockets."""


def room_of(module: str) -> str:
    """`credentials.oidc` -> credentials, `asyncio.base_events` -> asyncio."""
    return module.partition(".")[0]


HEIGHTS = {room: height for height, room in enumerate(ROOMS)}


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of kproxy by its name below the package, parsed."""
    found = {}
    for path in sorted((ROOT / "kproxy").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "kproxy").with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(), str(path))
    del found["__init__"]
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(node: ast.AST, *, on_import: bool) -> Iterator[ast.AST]:
    """All nodes below, or those alone that run on import: not what functions hold, nor the type checker's."""
    for child in ast.iter_child_nodes(node):
        is_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if on_import and (is_later or is_type_checking(child)):
            continue
        yield child
        yield from statements(child, on_import=on_import)


def imports(module: str, *, on_import: bool = False) -> Iterator[tuple[str, int]]:
    """(full name, line) of the modules that a module imports, its own package's as `kproxy.gateway.relay`."""
    for node in statements(trees()[module], on_import=on_import):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: relative import"
            for alias in node.names:
                full_name = f"{node.module}.{alias.name}"
                is_module = full_name.removeprefix("kproxy.") in trees()
                yield full_name if is_module else node.module or "", node.lineno


def own_imports(module: str, *, on_import: bool = False) -> Iterator[tuple[str, int]]:
    """The modules of kproxy that a module imports."""
    for name, line in imports(module, on_import=on_import):
        below = name.removeprefix("kproxy.")
        if below != name and below in trees():
            yield below, line


def test_every_module_has_its_room() -> None:
    """Nothing lies in the hall: all is in one of seventeen folders, but for what errors there are."""
    assert {room_of(module) for module in trees()} == {*HEIGHTS, "demo"}
    in_the_hall = {path.stem for path in (ROOT / "kproxy").glob("*.py")}
    assert in_the_hall == {"__init__", "__main__", "errors"}


@pytest.mark.parametrize("room", [*ROOMS[1:-1], "demo"])
def test_every_room_says_what_lives_there(room: str) -> None:
    """In the first line of its `__init__`."""
    assert ast.get_docstring(trees()[room])


def test_imports_go_downwards() -> None:
    """No room knows of one above it, be it inside a function or for the type checker."""
    wrong = [
        f"{module}:{line} imports {other}"
        for module in trees()
        if room_of(module) != "demo"
        for other, line in own_imports(module)
        if room_of(other) != "demo" and HEIGHTS[room_of(other)] > HEIGHTS[room_of(module)]
    ]
    assert wrong == []


def test_no_module_imports_itself_in_a_circle() -> None:
    """Modules can be read one after the other."""
    graph = {module: {other for other, _ in own_imports(module)} for module in trees()}
    while graph:
        leaves = {module for module, others in graph.items() if not others & graph.keys() - {module}}
        assert leaves, f"import circle among {sorted(graph)}"
        graph = {module: others for module, others in graph.items() if module not in leaves}


def test_the_demo_stands_alone() -> None:
    """It imports only the error tree of the rest and how HTTP is written, and only the server imports it."""
    for module in trees():
        for other, line in own_imports(module):
            if room_of(module) == "demo":
                is_known = room_of(other) in {"demo", "errors", "http"}
                assert is_known, f"{module}:{line} imports {other}"
            elif room_of(other) == "demo":
                assert room_of(module) in {"server", "cli"}, f"{module}:{line} imports {other}"


def test_pure_modules_are_pure() -> None:
    """No event loop, no sockets, no processes, no log: they can be tested with values alone."""
    impure = {
        "asyncio",
        "socket",
        "ssl",
        "subprocess",
        "threading",
        "structlog",
        "logging",
        "aiohttp",
        "select",
    }
    wrong = [
        f"{module}:{line} imports {name}"
        for module in trees()
        if module in PURE or room_of(module) in PURE
        for name, line in imports(module)
        if room_of(name) in impure
    ]
    assert wrong == []


SLOW = {
    "aiohttp", "cryptography", "prometheus_client", "python_socks", "importlib.metadata", "inspect", "uvloop",
    "http.client", "urllib.request", "email",
}  # fmt: skip


def test_the_start_imports_nothing_slow() -> None:
    """What runs before the first request imports none of the packages that take their time."""
    reached, waiting = set[str](), ["__main__", "server.server"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += [other for other, _ in own_imports(module, on_import=True)]
    assert {"cli.main", "config.schema", "gateway.relay", "upstream.pool"} <= reached
    wrong = [
        f"{module}:{line} imports {name}"
        for module in sorted(reached)
        for name, line in imports(module, on_import=True)
        if name in SLOW or room_of(name) in SLOW
    ]
    assert wrong == []


def test_a_start_has_nothing_slow_in_memory() -> None:
    """Nor do the packages that are imported bring one in by the back door."""
    program = (
        "import sys, kproxy.__main__, kproxy.server.server\n"
        "slow = ('aiohttp', 'cryptography', 'prometheus_client', 'python_socks')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"


@cache
def uses() -> dict[str, list[ast.AST]]:
    """The nodes of each module that may hold one of the words below: a tenth of all."""
    kinds = (ast.Call, ast.Expr, ast.Import, ast.ImportFrom)
    return {module: [n for n in ast.walk(tree) if isinstance(n, kinds)] for module, tree in trees().items()}


def name_of(node: ast.AST) -> str:
    """`asyncio.create_task` for that expression, however it is called; empty for what is no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ""


def calls(name: str) -> Callable[[ast.AST], bool]:
    """Whether a node calls a function of that (last) name."""
    return lambda node: isinstance(node, ast.Call) and f".{name_of(node.func)}".endswith(f".{name}")


def mentions(name: str) -> Callable[[ast.AST], bool]:
    """Whether a node imports or names a module."""

    def is_mention(node: ast.AST) -> bool:
        if isinstance(node, ast.Import):
            return any(room_of(alias.name) == name for alias in node.names)
        return isinstance(node, ast.ImportFrom) and room_of(node.module or "") == name

    return is_mention


def is_dropped_task(node: ast.AST) -> bool:
    """A task that nobody keeps may be collected before it is done, and its error is lost."""
    spawners = [calls(name) for name in ("create_task", "ensure_future")]
    return isinstance(node, ast.Expr) and any(spawns(node.value) for spawns in spawners)


WORDS: tuple[tuple[str, Callable[[ast.AST], bool], set[str]], ...] = (
    ("print", calls("print"), {"cli.main"}),
    ("create_subprocess_exec", calls("create_subprocess_exec"), {"credentials.exec_plugin"}),
    ("create_subprocess_shell", calls("create_subprocess_shell"), set()),
    ("subprocess", mentions("subprocess"), {"instances.service"}),
    ("tempfile", mentions("tempfile"), {"tls.pair", "demo", "cli.run", "system.privatefile"}),
    ("structlog.configure", calls("structlog.configure"), {"telemetry.log"}),
    ("logging", mentions("logging"), {"telemetry.log", "demo"}),
    (
        "add_signal_handler",
        calls("add_signal_handler"),
        {"server.shutdown", "cli.run", "server.reloading", "demo.__main__"},
    ),
    ("aiohttp", mentions("aiohttp"), {"web.static", "demo", "credentials.oidc"}),
    ("cryptography", mentions("cryptography"), {"demo", "tls.selfsigned"}),
    ("prometheus_client", mentions("prometheus_client"), {"web.exposition"}),
    ("uvloop", mentions("uvloop"), {"system.eventloop"}),
    ("sys.exit", calls("sys.exit"), {"__main__", "demo.__main__"}),
    ("a task that nobody keeps", is_dropped_task, set()),
)


@pytest.mark.parametrize(
    ("word", "is_used", "homes"), WORDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_words_stay_at_home(word: str, is_used: Callable[[ast.AST], bool], homes: set[str]) -> None:
    """Each of these has one place, so that one looks there and nowhere else."""
    wrong = [
        f"{module}:{getattr(node, 'lineno', 0)} has {word}"
        for module, nodes in uses().items()
        if module not in homes and room_of(module) not in homes
        for node in nodes
        if is_used(node)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("word", "is_used", "homes"), WORDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_homes_of_words_exist(word: str, is_used: Callable[[ast.AST], bool], homes: set[str]) -> None:
    """A home that lost its word is taken off the list."""
    used = {module for module, nodes in uses().items() if any(is_used(node) for node in nodes)}
    assert all(home in used or home in {room_of(module) for module in used} for home in homes)


def test_secrets_are_kept_out_of_reprs() -> None:
    """Every dataclass field that holds a credential has repr=False."""
    secret = {"token", "password", "authorization", "key_pem", "client_key_data", "id_token", "refresh_token"}
    shown = []
    for module, tree in trees().items():
        for node in ast.walk(tree):
            is_dataclass = isinstance(node, ast.ClassDef) and any(
                name_of(each.func if isinstance(each, ast.Call) else each).endswith("dataclass")
                for each in node.decorator_list
            )
            if not is_dataclass:
                continue
            assert isinstance(node, ast.ClassDef)
            shown += [
                f"{module}:{each.lineno} {name_of(each.target)}"
                for each in node.body
                if isinstance(each, ast.AnnAssign)
                and name_of(each.target) in secret
                and not (
                    each.value
                    and ("repr=False" in (text := ast.unparse(each.value)) or "secret=True" in text)
                )
            ]
    assert shown == []
