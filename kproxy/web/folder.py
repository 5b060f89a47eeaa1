"""The folder of --www on disk: files opened without leaving it, their types, the listing of directories.

Everything here blocks; `pages` calls it from a thread. Rules of names, redirects and listings are those of
Go's http.FileServer (net/http/fs.go), those of types Go's mime.TypeByExtension and net/http/sniff.go.
"""

from __future__ import annotations

import contextlib
import errno
import html
import mimetypes
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from kproxy.errors import BadRequest, Denied, KproxyError, NotServed

MAX_LINKS = 40  # as many as Linux follows
SNIFFED_BYTES = 512
YEAR_10000 = 253402300800

# Go's own table; it wins over the system's.
_TYPES = {
    ".avif": "image/avif",
    ".css": "text/css; charset=utf-8",
    ".gif": "image/gif",
    ".htm": "text/html; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
    ".xml": "text/xml; charset=utf-8",
}

_is_markup = re.compile(
    rb"(?i)[\t\n\f\r ]*<(?:!--|(?:!DOCTYPE HTML|HTML|HEAD|BODY|SCRIPT|IFRAME|STYLE|TITLE|TABLE|FONT|DIV"
    rb"|H1|BR|A|B|P)[ >])"
).match
_is_xml = re.compile(rb"[\t\n\f\r ]*<\?xml").match
_is_binary = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]").search
_SIGNATURES = tuple(
    (re.compile(pattern, re.DOTALL).match, media_type)
    for pattern, media_type in (
        (rb"%PDF-", "application/pdf"),
        (rb"\xfe\xff", "text/plain; charset=utf-16be"),
        (rb"\xff\xfe", "text/plain; charset=utf-16le"),
        (rb"\xef\xbb\xbf", "text/plain; charset=utf-8"),
        (rb"\x89PNG\r\n\x1a\n", "image/png"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"GIF8[79]a", "image/gif"),
        (rb"RIFF....WEBPVP", "image/webp"),
        (rb"\x00\x00\x01\x00", "image/x-icon"),
        (rb"BM", "image/bmp"),
        (rb"RIFF....WAVE", "audio/wave"),
        (rb"ID3", "audio/mpeg"),
        (rb"OggS\x00", "application/ogg"),
        (rb"....ftyp(?:mp4|isom|avc1)", "video/mp4"),
        (rb"\x1a\x45\xdf\xa3", "video/webm"),
        (rb"\x00\x01\x00\x00", "font/ttf"),
        (rb"OTTO", "font/otf"),
        (rb"wOFF", "font/woff"),
        (rb"wOF2", "font/woff2"),
        (rb"\x1f\x8b\x08", "application/x-gzip"),
        (rb"PK\x03\x04", "application/zip"),
        (rb"\x00asm", "application/wasm"),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """The page is at another address, relative to the one asked for."""

    location: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A directory without index.html, as the page that shows it."""

    page: bytes
    modified_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """An open regular file. `modified_at` is in whole seconds, 0 when unknown."""

    descriptor: int
    size_bytes: int
    media_type: str
    modified_at: int


class Folder:
    """The files below `root`, looked up anew for each request: the folder may come and go."""

    def __init__(self, root: Path, *, follow_symlinks: bool) -> None:
        self._root = root
        self._open = open_anywhere if follow_symlinks else open_below
        if not mimetypes.inited:
            mimetypes.init()  # reads the system's tables: not while a request waits

    def find(self, path: str, opened: contextlib.ExitStack) -> Moved | Listing | File:
        """What is at `path`, which begins with a slash and is decoded; `opened` closes its file.

        Raises Denied, NotServed, KproxyError.
        """
        names = clean_path(path)
        last = posixpath.basename(path.rstrip("/"))
        try:
            descriptor, facts = self._enter(names, opened)
            if not stat.S_ISDIR(facts.st_mode):
                if not names:
                    raise NotServed("the --www folder is not a directory")
                if path.endswith("/"):
                    return Moved(location="../" + quote_name(last))
                return _describe(descriptor, facts, last)
            if not path.endswith("/"):
                return Moved(location=quote_relative(last + "/"))
            with contextlib.suppress(OSError, KproxyError):  # an index out of reach is none, as in Go
                index, index_facts = self._enter([*names, "index.html"], opened)
                if stat.S_ISREG(index_facts.st_mode):
                    return _describe(index, index_facts, "index.html")
            with os.scandir(descriptor) as entries:
                listed = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries]
            return Listing(page=render_listing(sorted(listed)), modified_at=_modified_at(facts))
        except PermissionError:
            raise Denied("www-permissions", f"{path!r}: the user kproxy runs as may not read it") from None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise NotServed(f"{path!r}: there is no such file in the --www folder") from None
            raise KproxyError(f"{path!r} cannot be read: {error.strerror}") from None

    def _enter(self, names: Sequence[str], opened: contextlib.ExitStack) -> tuple[int, os.stat_result]:
        descriptor = self._open(self._root, names)
        opened.callback(os.close, descriptor)
        return descriptor, os.fstat(descriptor)


def decode_path(path: str) -> str:
    """The path of a request target as the file system spells it. Raises BadRequest."""
    if "%00" in path or re.search(r"%(?![0-9A-Fa-f]{2})", path):
        raise BadRequest(f"{path} has a percent escape that no file name has")
    return os.fsdecode(unquote_to_bytes(path))


def clean_path(path: str) -> list[str]:
    """The names on the way to `path`; '..' goes back, but never past the start."""
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            del names[-1:]
        elif name not in ("", "."):
            names.append(name)
    return names


def open_below(root: Path, names: Sequence[str]) -> int:
    """Open a file or directory for reading, following symlinks as long as they stay in `root`.

    Every name is opened in the directory opened before it and without following a link, so nothing that is
    swapped meanwhile leads elsewhere. Returns the descriptor. Raises OSError, Denied, NotServed.
    """
    trail = [os.open(root, os.O_RDONLY | os.O_DIRECTORY)]
    ahead = [*reversed(names)]
    links = 0
    try:
        while ahead:
            name = ahead.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(trail) == 1:
                    raise _leads_out(names)
                os.close(trail.pop())
                continue
            mode = os.stat(name, dir_fd=trail[-1], follow_symlinks=False).st_mode
            if not stat.S_ISLNK(mode):
                trail.append(_open_plain(name, mode, trail[-1]))
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(name, dir_fd=trail[-1])
            if target.startswith("/"):
                home = os.path.realpath(root).rstrip("/") + "/"
                if not (target + "/").startswith(home):
                    raise _leads_out(names)
                target = target[len(home) :]
                while len(trail) > 1:
                    os.close(trail.pop())
            ahead.extend(reversed(target.split("/")))
        return trail.pop()
    finally:
        for descriptor in trail:
            os.close(descriptor)


def open_anywhere(root: Path, names: Sequence[str]) -> int:
    """Open a file or directory for reading, wherever symlinks lead. Raises OSError, NotServed."""
    path = os.path.realpath(root.joinpath(*names))
    return _open_plain(path, os.stat(path).st_mode, None)


def _open_plain(name: str, mode: int, directory: int | None) -> int:
    # Looked at before it is opened, as opening a FIFO or a device already does something, and after.
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return descriptor
        os.close(descriptor)
    raise NotServed(f"{posixpath.basename(name)!r} is neither a file nor a directory")


def _leads_out(names: Sequence[str]) -> Denied:
    return Denied(
        "www-follow-symlinks",
        f"a link on the way to {'/'.join(names)!r} leads out of the --www folder; "
        "--www-follow-symlinks allows that",
    )


def _describe(descriptor: int, facts: os.stat_result, name: str) -> File:
    return File(
        descriptor=descriptor,
        size_bytes=facts.st_size,
        media_type=media_type_of(name) or sniff(os.pread(descriptor, SNIFFED_BYTES, 0)),
        modified_at=_modified_at(facts),
    )


def _modified_at(facts: os.stat_result) -> int:
    return int(facts.st_mtime) if 0 < facts.st_mtime < YEAR_10000 else 0


def media_type_of(name: str) -> str | None:
    """The Content-Type by the name's extension, Go's table first, then the system's."""
    extension = name[name.rfind(".") :].lower() if "." in name else ""
    known = _TYPES.get(extension) or mimetypes.types_map.get(extension)
    if known and known.startswith("text/") and "charset" not in known:
        return known + "; charset=utf-8"
    return known


def sniff(start: bytes) -> str:
    """The Content-Type by the first bytes of a file, for names that do not tell."""
    if _is_markup(start):
        return "text/html; charset=utf-8"
    if _is_xml(start):
        return "text/xml; charset=utf-8"
    for matches, media_type in _SIGNATURES:
        if matches(start):
            return media_type
    return "application/octet-stream" if _is_binary(start) else "text/plain; charset=utf-8"


def quote_name(name: str) -> str:
    """A file name as part of a URL's path, escaped as Go's url.URL does it."""
    return quote(os.fsencode(name), safe="$&+,/:;=@")


def quote_relative(name: str) -> str:
    """A file name as a relative URL: what stands before a colon must not look like a scheme."""
    url = quote_name(name)
    return "./" + url if ":" in url else url


def render_listing(names: Iterable[str]) -> bytes:
    """The page of links that shows a directory; names of directories end in a slash."""
    lines = ["<!doctype html>", '<meta name="viewport" content="width=device-width">', "<pre>"]
    for name in names:
        # An & before a letter could read as a character reference in the attribute.
        url = re.sub(r"&(?=[A-Za-z])", "%26", quote_relative(name))
        lines.append(f'<a href="{url}">{html.escape(name)}</a>')
    return "\n".join([*lines, "</pre>", ""]).encode("utf-8", "replace")
