"""Names, types and listings of static files, and that none outside of the folder is opened."""

from __future__ import annotations

import html
import os
import re
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import BadRequest, Denied, NotServed
from kproxy.web.folder import (
    File,
    Folder,
    clean_path,
    decode_path,
    media_type_of,
    open_below,
    quote_relative,
    render_listing,
    sniff,
)

file_names = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=20
).filter(lambda name: name not in (".", ".."))


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (b"", "text/plain; charset=utf-8"),
        (b"plain\twords\r\n\x1b[0m", "text/plain; charset=utf-8"),
        (b"caf\xc3\xa9", "text/plain; charset=utf-8"),
        (b"a\0b", "application/octet-stream"),
        (b"  <!DOCTYPE html>", "text/html; charset=utf-8"),
        (b"\n<html ", "text/html; charset=utf-8"),
        (b"<!--x", "text/html; charset=utf-8"),
        (b"<htmlx>", "text/plain; charset=utf-8"),
        (b"<?xml version", "text/xml; charset=utf-8"),
        (b"%PDF-1.7", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF89a", "image/gif"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\n\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\1\0", "image/x-icon"),
        (b"\0\0\0\x18ftypmp42", "video/mp4"),
        (b"\0\0\0\x18ftypisom", "video/mp4"),
        (b"wOF2", "font/woff2"),
        (b"\0\1\0\0", "font/ttf"),
        (b"\x1f\x8b\x08", "application/x-gzip"),
        (b"PK\3\4", "application/zip"),
        (b"\0asm", "application/wasm"),
    ],
)
def test_a_type_is_told_by_the_first_bytes(start: bytes, media_type: str) -> None:
    """Signatures as in Go's sniffer; control characters make the rest binary."""
    assert sniff(start) == media_type


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.min.js", "text/javascript; charset=utf-8"),
        ("A.CSS", "text/css; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.nobody-knows", None),
        ("Makefile", None),
        ("a.", None),
    ],
)
def test_a_type_is_told_by_the_extension(name: str, media_type: str | None) -> None:
    """Go's own table whatever the case, text with its charset, None for what nobody knows."""
    assert media_type_of(name) == media_type


@given(st.lists(st.sampled_from(["", ".", "..", "...", "a", "b c"])))
def test_a_cleaned_path_only_goes_down(names: list[str]) -> None:
    """No empty name, '.' or '..' is left, and what is left was there."""
    cleaned = clean_path("/" + "/".join(names))
    assert not {"", ".", ".."} & {*cleaned}
    assert {*cleaned} <= {*names}


@pytest.mark.parametrize("path", ["%", "%4", "%zz", "a%00b", "100%"])
def test_a_bad_escape_is_a_bad_request(path: str) -> None:
    """What does not decode to a file name is 400."""
    with pytest.raises(BadRequest):
        decode_path(path)


@given(file_names)
def test_a_quoted_name_leads_to_its_file(name: str) -> None:
    """As a link the quoted name is a relative path of one segment (RFC 3986, 4.2) that decodes to it."""
    url = quote_relative(name)
    assert re.fullmatch(r"(\./)?[^/?#\s]+", url)
    assert ":" not in url or url.startswith("./")
    assert decode_path(url.removeprefix("./")) == name


@given(st.lists(file_names, max_size=3))
def test_a_listing_shows_names_and_nothing_else(names: list[str]) -> None:
    """A name can neither leave its attribute nor its text, whatever characters it has."""
    page = render_listing(names).decode()
    links = re.findall(r'<a href="([^"<>]*)">([^<>]*)</a>', page)
    shown = [html.unescape(text) for _, text in links]
    assert [unquote(html.unescape(url)).removeprefix("./") for url, _ in links] == names
    assert shown == [html.unescape(html.escape(name)) for name in names]
    assert page.count("<") == 4 + 2 * len(names)


def test_a_name_that_is_no_text_can_be_listed_and_read(tmp_path: Path) -> None:
    """A name in another encoding than UTF-8 is linked byte for byte."""
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    folder = Folder(tmp_path, follow_symlinks=False)
    with ExitStack() as opened:
        assert b'<a href="caf%E9.txt">' in getattr(folder.find("/", opened), "page", b"")
        assert isinstance(folder.find("/" + decode_path("caf%E9.txt"), opened), File)


def test_a_link_put_in_place_of_a_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a name and its opening, nobody can put a link to another file there."""
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "www"
    root.mkdir()
    (root / "file").write_text("inside")
    (tmp_path / "link").symlink_to("../secret")
    look = os.stat

    def look_then_swap(path: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        found = look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        os.replace(tmp_path / "link", root / "file")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look_then_swap)
        with pytest.raises(OSError, match="symbolic links"):
            open_below(root, ["file"])


def test_nothing_is_left_open_by_a_refusal(tmp_path: Path) -> None:
    """A path that turns out to lead out or nowhere closes the directories it passed."""
    inner = tmp_path / "www" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "out").symlink_to("../../../..")
    os.mkfifo(inner / "fifo")
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(Denied):
        open_below(tmp_path / "www", ["a", "b", "out", "x"])
    with pytest.raises(NotServed):
        open_below(tmp_path / "www", ["a", "b", "fifo"])
    with pytest.raises(FileNotFoundError):
        open_below(tmp_path / "www", ["a", "b", "c"])
    os.close(open_below(tmp_path / "www", ["a", "b"]))
    assert (os.listdir("/proc/self/fd") if before else []) == before
