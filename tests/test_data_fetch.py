"""Downloads from a local server that behaves as badly as real ones do."""

import hashlib
import io
import os
import tarfile
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from backbench import UserError
from backbench.data import downloads, fetch, registry
from backbench.data.unpack import unpack

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``. ``faults``: one word for each request to come, then all goes well. Notes each Range header."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/set.tar": CONTENT}
        self.faults = []
        self.ranges = []
        self.knows_ranges = True

    def url(self, path="/set.tar"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        fault = server.faults.pop(0) if server.faults else ""
        content = server.files.get(self.path)
        if content is None or fault.isdecimal():
            return self.send_error(int(fault or 404))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.knows_ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if fault != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + 100_000 if fault == "break" else start if fault == "nothing" else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(start_server):
    return start_server(Server())


def get(server, tmp_path, *, md5=MD5, path="/set.tar"):
    return fetch.fetch(server.url(path), tmp_path / "set.tar", md5=md5)


def test_whole_file(server, tmp_path, capsys):
    path = get(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["set.tar"]
    assert "1/1 MB" in capsys.readouterr().err
    get(server, tmp_path)  # already there and right: no second request
    assert server.ranges == [None]


def test_broken_connections_are_taken_up_where_they_stopped(server, tmp_path):
    server.faults = ["break", "503", "break", "nothing"]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=200000-", "bytes=200000-"]


def test_a_killed_run_is_taken_up(server, tmp_path):
    (tmp_path / "set.tar.part").write_bytes(CONTENT[:1000])
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_killed_between_the_last_byte_and_the_check(server, tmp_path):
    (tmp_path / "set.tar.part").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_begun_anew(server, tmp_path):
    (tmp_path / "set.tar.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_server_without_ranges(server, tmp_path):
    server.knows_ranges = False
    server.faults = ["break", "break"]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_server_that_does_not_tell_the_length(server, tmp_path):
    server.faults = ["no length"]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_wrong_checksum(server, tmp_path):
    with pytest.raises(UserError, match=f"came with md5 {MD5} where 0000 is expected"):
        get(server, tmp_path, md5="0000")
    assert os.listdir(tmp_path) == []


def test_not_found_is_not_tried_again(server, tmp_path):
    with pytest.raises(UserError, match="404 Not Found"):
        get(server, tmp_path, path="/gone.tar")
    assert len(server.ranges) == 1


def test_gives_up_and_keeps_what_came(server, tmp_path):
    server.faults = ["break"] + ["nothing"] * 20
    with pytest.raises(UserError, match=r"connection closed after 100,000 of 307,200 bytes\. 100,000 bytes are kept"):
        get(server, tmp_path)
    assert len(server.ranges) == 1 + fetch.TRIES
    assert (tmp_path / "set.tar.part").read_bytes() == CONTENT[:100_000]


def test_no_network(server, tmp_path):
    server.server_close()
    with pytest.raises(UserError, match=r"no connection \(.*refused"):
        get(server, tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(server, tmp_path):
    (tmp_path / "set.tar.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"the disk is full: .*set\.tar\.part\. Make room; the same command goes on"):
        get(server, tmp_path)


def test_no_folder_to_write_to(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"can't write .*file: (File exists|Not a directory). Choose another --data-root"
    ):
        fetch.fetch(server.url(), tmp_path / "file" / "set.tar", md5=MD5)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(server, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        get(server, tmp_path)
    tmp_path.chmod(0o700)


def tar(*names, content=b"picture", kind=None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if kind:
                member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zipped(**files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar", tar("../out.jpg")),
        ("a.tar", tar("in/link", kind=tarfile.SYMTYPE)),
        ("a.tar", tar("in/pipe", kind=tarfile.FIFOTYPE)),
        ("a.zip", zipped(**{"../out.jpg": b"x"})),
        ("a.zip", zipped(**{"/out.jpg": b"x"})),
    ],
)
def test_archives_that_would_write_elsewhere_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "inside").mkdir()
    with pytest.raises(UserError, match="is not safe to unpack"):
        unpack(tmp_path / name, tmp_path / "inside")
    assert sorted(os.listdir(tmp_path)) == [name, "inside"]


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"no archive" * 100, b"\x1f\x8b\x08" + b"\0" * 40])
def test_damaged_archives_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        unpack(tmp_path / name, tmp_path)


def serve(server, monkeypatch, content, **settings):
    """Have the server give ``content`` where caltech256 would come from."""
    server.files["/256_ObjectCategories.tar"] = content
    where = downloads.Download(
        server.url("/256_ObjectCategories.tar"), hashlib.md5(content).hexdigest(), "256_ObjectCategories", **settings
    )
    monkeypatch.setitem(downloads.CALTECH, "caltech256", where)


def pictures():
    names = [f"256_ObjectCategories/{name}/{i}.jpg" for name in ("001.ak47", "002.flag") for i in range(7)]
    return tar(*names)


def test_load_downloads_only_when_asked(server, monkeypatch, tmp_path):
    serve(server, monkeypatch, pictures())
    with pytest.raises(UserError, match="is not there"):
        registry.load("caltech256", data_root=tmp_path)
    assert server.ranges == []
    images = registry.load("caltech256", data_root=tmp_path, download=True)
    assert len(images) == 14
    assert [name for name in os.listdir(tmp_path / "caltech256") if name != ".lock"] == ["256_ObjectCategories"]
    registry.load("caltech256", data_root=tmp_path, download=True)
    assert server.ranges == [None]


def test_an_archive_in_an_archive(server, monkeypatch, tmp_path):
    bundle = zipped(**{"caltech-101/x.tar": pictures()})
    (tmp_path / "a.zip").write_bytes(bundle)
    downloads.install(tmp_path / "a.zip", tmp_path / "256_ObjectCategories", inner="caltech-101/x.tar")
    assert sorted(os.listdir(tmp_path / "256_ObjectCategories")) == ["001.ak47", "002.flag"]
    assert sorted(os.listdir(tmp_path)) == ["256_ObjectCategories", "a.zip"]


def test_half_an_unpacking_is_never_taken_for_the_set(server, monkeypatch, tmp_path):
    serve(server, monkeypatch, pictures())
    left = tmp_path / "caltech256" / ".256_ObjectCategories.unpacking" / "256_ObjectCategories" / "001.ak47"
    left.mkdir(parents=True)  # what a killed run leaves
    (left / "old.jpg").write_text("half")
    with pytest.raises(UserError, match="is not there"):
        registry.load("caltech256", data_root=tmp_path)
    assert len(registry.load("caltech256", data_root=tmp_path, download=True)) == 14


def test_a_failed_unpacking_leaves_nothing_but_the_archive(server, monkeypatch, tmp_path):
    serve(server, monkeypatch, tar("something/else.jpg"))
    with pytest.raises(UserError, match="holds no folder 256_ObjectCategories"):
        downloads.get("caltech256", tmp_path)
    left = [name for name in os.listdir(tmp_path / "caltech256") if name != ".lock"]
    assert left == ["256_ObjectCategories.tar"]


def test_two_downloads_at_once(server, monkeypatch, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    serve(server, monkeypatch, pictures())
    (tmp_path / "caltech256").mkdir()
    with (tmp_path / "caltech256" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another download writes to"):
            downloads.get("caltech256", tmp_path)
    downloads.get("caltech256", tmp_path)


def test_addresses_are_torchvisions():
    import inspect

    from torchvision import datasets

    for name, kind in (("caltech256", datasets.Caltech256), ("caltech101", datasets.Caltech101)):
        source = inspect.getsource(kind.download)
        assert downloads.CALTECH[name].url in source
        assert downloads.CALTECH[name].md5 in source
    assert downloads._download("cifar100").md5 == datasets.CIFAR100.tgz_md5
    assert downloads._download("cifar10").folder == "cifar-10-batches-py"
