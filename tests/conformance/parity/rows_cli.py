"""Command lines: what serves, what fails, and which words are said."""

from __future__ import annotations

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import CliRow

SERVING = r"\AStarting to serve on 127\.0\.0\.1:\d+\n"

ROWS = [
    CliRow(
        id="cli-first-line",
        why="Scripts wait for it, and read the port from it.",
        args=("--port=0",),
        stdout=SERVING,
    ),
    CliRow(id="cli-short-port", why="-p.", args=("-p", "0"), stdout=SERVING),
    CliRow(id="cli-short-joined", why="As pflag takes it.", args=("-p0",), stdout=SERVING),
    CliRow(id="cli-short-equals", why="As pflag takes it.", args=("-p=0",), stdout=SERVING),
    CliRow(
        id="cli-socket",
        why="A socket says its path.",
        args=("--unix-socket=@SOCK@",),
        stdout=r"\AStarting to serve on @SOCK@\n",
    ),
    CliRow(
        id="cli-stale-socket",
        why="What a killed proxy left behind must not stop the next.",
        args=("-u", "@SOCK@"),
        stdout="Starting to serve on",
        prepare="stale-socket",
    ),
    CliRow(
        id="cli-socket-over-file",
        why="A file is not ours to take away.",
        args=("--unix-socket=@SOCK@",),
        serves=False,
        stderr="in use|not a socket",
        prepare="file",
    ),
    CliRow(
        id="cli-socket-and-port",
        why="Which of them?",
        args=("--unix-socket=@SOCK@", "--port=1"),
        serves=False,
        stderr="cannot set --unix-socket and --port at the same time",
    ),
    CliRow(
        id="cli-unknown-flag", why="A typo.", args=("--nope",), serves=False, stderr="unknown flag: --nope"
    ),
    CliRow(
        id="cli-word-too-many",
        why="The filter would be off.",
        args=("--port=0", "--disable-filter", "false"),
        kproxy_serves=False,
        kproxy_stderr='"false"',
        differs=differs.WORDS,
    ),
    CliRow(
        id="cli-port-word",
        why="No number.",
        args=("--port=abc",),
        serves=False,
        stderr='invalid argument "abc"|abc',
    ),
    CliRow(id="cli-port-negative", why="No port.", args=("--port=-1",), serves=False, stderr="-1"),
    CliRow(
        id="cli-port-in-use",
        why="Another proxy runs.",
        args=("--port=@USED@",),
        serves=False,
        stderr="already in use",
    ),
    CliRow(
        id="cli-address-elsewhere",
        why="Not an address of this machine.",
        args=("--port=0", "--address=192.0.2.1"),
        serves=False,
        stderr=r"192\.0\.2\.1",
    ),
    CliRow(
        id="cli-expression",
        why="A filter that does not compile must not be left out.",
        args=("--port=0", "--accept-paths=("),
        serves=False,
        stderr=r"missing closing \)",
    ),
    CliRow(
        id="cli-no-kubeconfig",
        why="Named, and not there.",
        args=("--port=0", "--kubeconfig=@DIR@/no-such-file"),
        serves=False,
        stderr="no-such-file.*: no such file|no-such-file.*does not exist|no-such-file.*[Nn]o such file",
    ),
    CliRow(
        id="cli-filter-off",
        why="Whoever turns it off should know.",
        args=("--port=0", "--disable-filter"),
        stderr="vulnerable to XSRF attacks, please be cautious",
    ),
    CliRow(
        id="cli-www-missing",
        why="The API is served all the same.",
        args=("--port=0", "--www=@DIR@/nope"),
        stdout=SERVING,
        stderr="Failed to stat static file directory .*nope",
    ),
    CliRow(
        id="cli-www-file",
        why="The same.",
        args=("--port=0", "--www=@DIR@/file"),
        stdout=SERVING,
        stderr="Static file directory .*file is not a directory",
    ),
    CliRow(
        id="cli-www-over-api",
        why="Two things at one place: kubectl panics.",
        args=("--port=0", "--www=@WWW@", "--www-prefix=/"),
        serves=False,
        stderr="conflicts|--www-prefix",
    ),
]
