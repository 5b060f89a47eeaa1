"""Static files as Go's file server serves them (net/http/fs.go), where someone could notice a difference."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from kproxy.web.static import PIECE_BYTES, StaticFiles
from tests.support.client import RawClient, Response
from tests.support.page_server import PageServer
from tests.support.patience import LAST_RESORT_SECONDS

MODIFIED_AT = 1_000_000_000
MODIFIED = "Sun, 09 Sep 2001 01:46:40 GMT"
LATER = "Sun, 09 Sep 2001 01:46:41 GMT"
EARLIER = "Sun, 09 Sep 2001 01:46:39 GMT"
ODD_NAMES = [
    "100%.txt",
    "<x>.txt",
    "a b.txt",
    "a#b?c.txt",
    "a&b &lt;.txt",
    "a+b;c=d@e.txt",
    "a:b.txt",
    "a\\b.txt",
    "caf\u00e9.txt",
    "q\"u'o`te.txt",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder `www` beside a file that must never be served."""
    root = tmp_path / "www"
    files = {
        "index.html": "<!doctype html><title>i</title>\n",
        "hello.txt": "hello, static world\n",
        "empty.txt": "",
        "page.html": "<html>page</html>\n",
        "app.js": "console.log('hi');\n",
        "pic.svg": "<svg/>\n",
        "feed.xml": "<?xml version='1.0'?><a/>\n",
        "README": "read me\n",
        ".hidden": "hidden\n",
        "UP.TXT": "UP\n",
        "sub/index.html": "<p>sub</p>\n",
        "sub/x.txt": "x\n",
        "list/a.txt": "a",
        "list/b & c.txt": "b",
        "list/inner/deep.txt": "c",
        "a b:c/d.txt": "d",
    } | {f"odd/{name}": name for name in ODD_NAMES}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "blob").write_bytes(bytes(range(256)))
    (tmp_path / "secret.txt").write_text("outside\n", encoding="utf-8")
    for path in [*root.rglob("*"), root]:
        os.utime(path, (MODIFIED_AT, MODIFIED_AT))
    return root


@pytest.fixture
async def server(root: Path) -> AsyncIterator[PageServer]:
    async with PageServer(StaticFiles(root, "/static/", follow_symlinks=False)) as server:
        yield server


async def get(server: PageServer, target: str, *headers: tuple[str, str], method: str = "GET") -> Response:
    async with await RawClient.connect(server.address) as client:
        return await client.request(method, target, headers)


def fields(response: Response) -> dict[str, str]:
    """Names lower-case, without Date, which every answer has."""
    named = {name.lower(): value for name, value in response.headers}
    assert len(named) == len(response.headers)
    del named["date"]
    return named


# What is served


async def test_a_file_is_served_with_its_type_length_and_date(server: PageServer) -> None:
    """A file's answer has the five fields that Go's has and no other, no ETag and no Server."""
    response = await get(server, "/static/hello.txt?v=1")
    assert (response.status, response.text) == (200, "hello, static world\n")
    assert fields(response) == {
        "accept-ranges": "bytes",
        "content-length": "20",
        "content-type": "text/plain; charset=utf-8",
        "last-modified": MODIFIED,
    }
    assert server.answered[0].body_bytes == 20


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("page.html", "text/html; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("pic.svg", "image/svg+xml"),
        ("feed.xml", "text/xml; charset=utf-8"),
        ("UP.TXT", "text/plain; charset=utf-8"),
        ("README", "text/plain; charset=utf-8"),
        (".hidden", "text/plain; charset=utf-8"),
        ("blob", "application/octet-stream"),
        ("empty.txt", "text/plain; charset=utf-8"),
    ],
)
async def test_the_type_is_told_by_extension_or_content(
    server: PageServer, name: str, media_type: str
) -> None:
    """Go's table, then the system's, then the first bytes tell the Content-Type; text has a charset."""
    response = await get(server, f"/static/{name}")
    assert (response.status, response.value("Content-Type")) == (200, media_type)


@pytest.mark.parametrize(("target", "text"), [("/static/", "<title>i</"), ("/static/sub/", "<p>sub</p>")])
async def test_a_directory_is_its_index(server: PageServer, target: str, text: str) -> None:
    """A directory with index.html is served as that file."""
    response = await get(server, target)
    assert response.status == 200
    assert text in response.text
    assert fields(response)["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/static/index.html", "./"),
        ("/static/sub/index.html?x=1&y", "./?x=1&y"),
        ("/static/sub", "sub/"),
        ("/static/sub?x=%2F", "sub/?x=%2F"),
        ("/static/a%20b%3Ac", "./a%20b:c/"),
        ("/static/hello.txt/", "../hello.txt"),
        ("/static/hello.txt/?x", "../hello.txt?x"),
        ("/static/sub/%2e", "./"),
    ],
)
async def test_another_spelling_of_a_page_is_redirected(
    server: PageServer, target: str, location: str
) -> None:
    """Relative 301s, query kept, to the one address that relative links on the page work from."""
    response = await get(server, target)
    assert (response.status, response.text) == (301, "")
    assert fields(response) == {"location": location, "content-length": "0"}
    assert (await get(server, urljoin(target, location))).status == 200


async def test_a_directory_without_index_is_listed(server: PageServer) -> None:
    """The listing has Go's links in Go's order, and the directory's date."""
    response = await get(server, "/static/list/")
    assert fields(response) == {
        "content-type": "text/html; charset=utf-8",
        "content-length": str(len(response.text)),
        "last-modified": MODIFIED,
    }
    assert response.text.startswith("<!doctype html>\n")
    assert response.text.split("<pre>\n")[1] == (
        '<a href="a.txt">a.txt</a>\n'
        '<a href="b%20&%20c.txt">b &amp; c.txt</a>\n'
        '<a href="inner/">inner/</a>\n'
        "</pre>\n"
    )


async def test_every_link_of_a_listing_leads_to_its_file(server: PageServer) -> None:
    """Odd names survive: as text they are inert, as links they lead to the file they name."""
    page = (await get(server, "/static/odd/")).text
    links = re.findall(r'<a href="([^"<>]+)">[^<>]+</a>', page)
    assert len(links) == len(ODD_NAMES)
    served = [(await get(server, urljoin("/static/odd/", link))).text for link in links]
    assert served == sorted(ODD_NAMES)


async def test_a_date_of_1970_is_no_date(server: PageServer, root: Path) -> None:
    """A file without a meaningful date has no Last-Modified and is never taken for unmodified."""
    os.utime(root / "hello.txt", (0, 0))
    response = await get(server, "/static/hello.txt", ("If-Modified-Since", MODIFIED))
    assert (response.status, response.value("Last-Modified")) == (200, None)


async def test_the_folder_may_come_later(tmp_path: Path) -> None:
    """A folder that is not there is 404 like any missing file, and served as soon as it is there."""
    async with PageServer(StaticFiles(tmp_path / "later", "/", follow_symlinks=False)) as server:
        assert (await get(server, "/x.txt")).status == 404
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "x.txt").write_text("x")
        assert (await get(server, "/x.txt")).status == 200


@pytest.mark.parametrize("follow_symlinks", [False, True])
async def test_a_file_in_place_of_the_folder_is_not_served(tmp_path: Path, follow_symlinks: bool) -> None:
    """--www that names a file serves nothing, and redirects nowhere."""
    (tmp_path / "file").write_text("x")
    handler = StaticFiles(tmp_path / "file", "/static/", follow_symlinks=follow_symlinks)
    async with PageServer(handler) as server:
        assert [(await get(server, target)).status for target in ("/static/", "/static/file")] == [404, 404]


# Conditions and ranges


@pytest.mark.parametrize("target", ["/static/hello.txt", "/static/list/"])
@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("If-Modified-Since", MODIFIED, 304),
        ("If-Modified-Since", LATER, 304),
        ("If-Modified-Since", EARLIER, 200),
        ("If-Modified-Since", "yesterday", 200),
        ("If-None-Match", "*", 304),
        ("If-None-Match", '"x"', 200),
        ("If-Unmodified-Since", EARLIER, 412),
        ("If-Unmodified-Since", MODIFIED, 200),
        ("If-Match", '"x"', 412),
        ("If-Match", "*", 200),
    ],
)
async def test_conditions_are_judged_by_date(
    server: PageServer, target: str, name: str, value: str, status: int
) -> None:
    """Files and listings have a date and no ETag: RFC 9110 section 13 follows from that."""
    response = await get(server, target, (name, value))
    assert (response.status, response.value("Last-Modified")) == (status, MODIFIED)
    if status == 304:
        assert fields(response) == {"last-modified": MODIFIED}


async def test_an_entity_tag_outranks_a_date(server: PageServer) -> None:
    """If-Modified-Since counts only without If-None-Match (RFC 9110, 13.1.3)."""
    conditions = [("If-None-Match", '"x"'), ("If-Modified-Since", LATER)]
    assert (await get(server, "/static/hello.txt", *conditions)).status == 200


@pytest.mark.parametrize(
    ("wanted", "content_range", "text"),
    [
        ("bytes=2-5", "bytes 2-5/20", "llo,"),
        ("bytes=-3", "bytes 17-19/20", "ld\n"),
        ("bytes=-99", "bytes 0-19/20", "hello, static world\n"),
        ("bytes=0-", "bytes 0-19/20", "hello, static world\n"),
        ("bytes=5-99999", "bytes 5-19/20", ", static world\n"),
        ("bytes=1000-, 0-0", "bytes 0-0/20", "h"),
    ],
)
async def test_a_range_is_served_alone(
    server: PageServer, wanted: str, content_range: str, text: str
) -> None:
    """One range is 206 with just its bytes."""
    response = await get(server, "/static/hello.txt", ("Range", wanted))
    assert (response.status, response.text) == (206, text)
    assert response.value("Content-Range") == content_range
    assert response.value("Content-Length") == str(len(text))
    assert response.value("Last-Modified") == MODIFIED


async def test_several_ranges_are_parts_of_one_answer(server: PageServer) -> None:
    """Two ranges are multipart/byteranges, written as Go writes it."""
    response = await get(server, "/static/hello.txt", ("Range", "bytes=0-1,3-4"))
    media_type, _, boundary = fields(response)["content-type"].partition("; boundary=")
    assert (response.status, media_type) == (206, "multipart/byteranges")
    part = "Content-Type: text/plain; charset=utf-8\r\n\r\n"
    assert response.text == (
        f"--{boundary}\r\nContent-Range: bytes 0-1/20\r\n{part}he\r\n"
        f"--{boundary}\r\nContent-Range: bytes 3-4/20\r\n{part}lo\r\n--{boundary}--\r\n"
    )
    assert response.value("Content-Length") == str(len(response.text))


@pytest.mark.parametrize("wanted", ["bytes=1000-", "bytes=-0", "bytes=x-y", "bytes=5-2", "bytes=5"])
async def test_a_range_without_bytes_is_416(server: PageServer, wanted: str) -> None:
    """A range outside of the file, or none at all, is told the file's size."""
    response = await get(server, "/static/hello.txt", ("Range", wanted))
    assert (response.status, response.value("Content-Range")) == (416, "bytes */20")
    assert response.json()["reason"] == "RequestedRangeNotSatisfiable"


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("hello.txt", [("Range", "bites=1-2")]),
        ("hello.txt", [("Range", "bytes=0-19,0-19")]),
        ("blob", [("Range", f"bytes={','.join(f'{at}-{at}' for at in range(33))}")]),
        ("blob", [("Range", f"bytes={','.join(['0-0'] * 10_000)}")]),
        ("hello.txt", [("Range", "bytes=0-3"), ("If-Range", EARLIER)]),
        ("hello.txt", [("Range", "bytes=0-3"), ("If-Range", LATER)]),
        ("hello.txt", [("Range", "bytes=0-3"), ("If-Range", '"x"')]),
        ("empty.txt", [("Range", "bytes=0-3")]),
    ],
)
async def test_a_range_that_does_not_count_sends_all(
    server: PageServer, root: Path, name: str, headers: list[tuple[str, str]]
) -> None:
    """Unknown units, more bytes or parts than are served, another date in If-Range, an empty file: 200."""
    response = await get(server, f"/static/{name}", *headers)
    assert (response.status, bytes(response.body.data)) == (200, (root / name).read_bytes())


async def test_if_range_with_the_same_date_serves_the_range(server: PageServer) -> None:
    """A download that is resumed on an unchanged file gets only the rest."""
    response = await get(server, "/static/hello.txt", ("Range", "bytes=18-"), ("If-Range", MODIFIED))
    assert (response.status, response.text) == (206, "d\n")


# Methods and errors


@pytest.mark.parametrize(
    "target", ["/static/hello.txt", "/static/list/", "/static/sub", "/static/missing", "/static/"]
)
async def test_head_is_get_without_the_body(server: PageServer, target: str) -> None:
    """HEAD has the status and the fields of GET; the next answer follows at once."""
    async with await RawClient.connect(server.address) as client:
        full = await client.request("GET", target)
        bare = await client.request("HEAD", target)
        again = await client.request("GET", target)
    assert bare.status == full.status
    assert {"content-length": "0"} | fields(bare) == fields(full)
    assert again.text == full.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get"])
async def test_other_methods_are_refused(server: PageServer, method: str) -> None:
    """What could only be meant to change a file is 405 and says what is allowed."""
    response = await get(server, "/static/hello.txt", method=method)
    assert (response.status, response.json()["reason"]) == (405, "MethodNotAllowed")
    assert response.value("Allow") == "GET, HEAD"


@pytest.mark.parametrize("target", ["/static/nope.txt", "/static/hello.txt/x", "/static/" + "n" * 5000])
async def test_a_missing_file_is_a_status(server: PageServer, target: str) -> None:
    """404 is told as a `Status` that cannot be mistaken for the API server's."""
    response = await get(server, target)
    assert (response.status, response.json()["reason"]) == (404, "NotFound")
    assert response.value("Proxy-Status") == "kproxy; error=destination_not_found"
    assert server.answered[0].proxy_error == "destination_not_found"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
async def test_a_file_without_permission_is_forbidden(server: PageServer, root: Path) -> None:
    """A file that this process may not read is 403, not missing."""
    (root / "hello.txt").chmod(0)
    response = await get(server, "/static/hello.txt")
    assert (response.status, response.json()["reason"]) == (403, "Forbidden")


# Never outside


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "%2e%2e%2fsecret.txt",
        "%252e%252e/secret.txt",
        "sub/%2e%2e/%2e%2e/secret.txt",
        "..%5csecret.txt",
        "..\\secret.txt",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "hello.txt%00.png",
        "%00",
        "100%",
        "%c0%ae%c0%ae/secret.txt",
        "%ff%fe",
    ],
)
async def test_nothing_outside_of_the_folder_is_served(server: PageServer, path: str) -> None:
    """No spelling of a path leaves the folder; what no file can be named is 400, the rest 404."""
    response = await get(server, f"/static/{path}")
    assert response.status == (400 if "%00" in path or path == "100%" else 404)
    assert "outside" not in response.text


async def test_dot_segments_inside_of_the_folder_are_resolved(server: PageServer) -> None:
    """Encoded dot segments mean what they mean in Go: another name of the same file."""
    assert (await get(server, "/static/sub/%2e%2e/hello.txt")).text == "hello, static world\n"


def link(root: Path) -> dict[str, str]:
    """Symlinks in `root`; the file each leads to, by target."""
    (root / "near.txt").symlink_to("hello.txt")
    (root / "sub" / "up.txt").symlink_to("../hello.txt")
    (root / "chain.txt").symlink_to("./sub/../sub/up.txt")
    (root / "absolute.txt").symlink_to(root / "hello.txt")
    (root / "folder").symlink_to("list")
    (root / "home").symlink_to(root)
    (root / "out.txt").symlink_to("../secret.txt")
    (root / "out-absolute.txt").symlink_to(root.parent / "secret.txt")
    (root / "out").symlink_to("..")
    (root / "lookalike").symlink_to(f"{root}-2")
    (root.parent / "www-2").mkdir()
    (root.parent / "www-2" / "x.txt").write_text("outside\n")
    return {
        "near.txt": "hello, static world\n",
        "sub/up.txt": "hello, static world\n",
        "chain.txt": "hello, static world\n",
        "absolute.txt": "hello, static world\n",
        "folder/a.txt": "a",
        "home/home/sub/up.txt": "hello, static world\n",
        "out.txt": "outside\n",
        "out-absolute.txt": "outside\n",
        "out/secret.txt": "outside\n",
        "lookalike/x.txt": "outside\n",
    }


async def test_links_that_stay_in_the_folder_are_followed(server: PageServer, root: Path) -> None:
    """A symlink to a file or directory of the folder is served; one that leaves it is 403 and says so."""
    for path, text in link(root).items():
        response = await get(server, f"/static/{path}")
        if text == "outside\n":
            assert (path, response.status) == (path, 403)
            assert "--www-follow-symlinks" in response.json()["message"]
        else:
            assert (path, response.status, response.text) == (path, 200, text)


async def test_links_out_of_the_folder_are_followed_when_asked(root: Path) -> None:
    """With --www-follow-symlinks a symlink leads anywhere, as in kubectl."""
    links = link(root)
    async with PageServer(StaticFiles(root, "/static/", follow_symlinks=True)) as server:
        served = {path: (await get(server, f"/static/{path}")).text for path in links}
    assert served == links


@pytest.mark.parametrize("follow_symlinks", [False, True])
async def test_links_in_a_circle_and_to_nowhere_are_missing(root: Path, follow_symlinks: bool) -> None:
    """A symlink to itself or to nothing is 404."""
    (root / "self.txt").symlink_to("self.txt")
    (root / "nowhere.txt").symlink_to("nothing.txt")
    async with PageServer(StaticFiles(root, "/static/", follow_symlinks=follow_symlinks)) as server:
        for name in ("self.txt", "nowhere.txt"):
            assert (await get(server, f"/static/{name}")).status == 404


@pytest.mark.parametrize("follow_symlinks", [False, True])
async def test_a_special_file_is_never_opened(root: Path, follow_symlinks: bool) -> None:
    """A FIFO is 404, and a program that waits to write into it is not woken."""
    os.mkfifo(root / "fifo.txt")
    (root / "to-fifo.txt").symlink_to("fifo.txt")
    writer = await asyncio.create_subprocess_exec("sh", "-c", f"echo x > '{root}/fifo.txt'")
    async with PageServer(StaticFiles(root, "/static/", follow_symlinks=follow_symlinks)) as server:
        for name in ("fifo.txt", "to-fifo.txt"):
            assert (await get(server, f"/static/{name}")).status == 404
    # Had anybody opened it and gone, the writer would have died of SIGPIPE or have lost its line.
    reader = os.open(root / "fifo.txt", os.O_RDWR | os.O_NONBLOCK)
    try:
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            assert await writer.wait() == 0
        assert os.read(reader, 10) == b"x\n"
    finally:
        os.close(reader)


# Big files


@pytest.fixture
def big(root: Path) -> Path:
    path = root / "big.bin"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    return path


def descriptors_of(path: Path) -> int:
    links = Path("/proc/self/fd")
    return sum(1 for link in links.iterdir() if os.path.exists(link) and os.path.samefile(link, path))


async def stall(server: PageServer, client: RawClient) -> Response:
    """Ask for the big file and read none of it until the server has to wait."""
    await client.send(b"GET /static/big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
    response = await client.read_head()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await server.connections[0].paused.wait()
    return response


async def test_a_file_is_read_as_fast_as_the_client_reads(server: PageServer, big: Path) -> None:
    """A reader that stalls makes the file wait on disk, not in memory; then it gets all of it."""
    async with await RawClient.connect(server.address, receive_buffer_bytes=4096) as client:
        response = await stall(server, client)
        for _ in range(20):  # each is two trips to a thread, as many as a piece of the big file takes
            assert (await get(server, "/static/hello.txt")).status == 200
        assert server.connections[0].transport.get_write_buffer_size() <= 2 * PIECE_BYTES
        await client.read_rest(response)
    assert response.body.is_complete
    assert response.body.size == 64 * 1024 * 1024


async def test_a_file_that_shrinks_cuts_the_connection(server: PageServer, big: Path) -> None:
    """Fewer bytes than were promised are never passed off as the file."""
    async with await RawClient.connect(server.address) as client:
        response = await stall(server, client)
        os.truncate(big, 100)
        await client.read_rest(response)
        assert not response.body.is_complete
        assert "became shorter" in str(server.failed[0])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to see open files")
@pytest.mark.parametrize("ends_by", ["reset", "cancellation"])
async def test_a_file_is_closed_when_its_answer_ends_early(
    server: PageServer, big: Path, ends_by: str
) -> None:
    """A client that goes, or a cancelled answer, leaves no file open."""
    async with await RawClient.connect(server.address) as client:
        await stall(server, client)
        assert descriptors_of(big) == 1
        if ends_by == "reset":
            client.reset()
        else:
            server.connections[0].cancel()
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await server.connections[0].ended.wait()
        assert descriptors_of(big) == 0
    assert isinstance(server.failed[0], ConnectionError if ends_by == "reset" else asyncio.CancelledError)
