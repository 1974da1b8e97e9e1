"""Downloading from a server on this machine, and installing files that the user brought."""

import functools
import gzip
import hashlib
import http.server
import re
import threading

import numpy as np
import pytest

from minidl.data import available, cifar, load
from minidl.data.download import download, fetch, install
from minidl.data.registry import DATASETS, DatasetInfo, Source
from minidl.errors import ConfigError, DataError
from tests.data import files

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/good serves CONTENT with ranges; the other names misbehave as they say."""

    def __init__(self, log, *args):
        self.log = log
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_GET(self):
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))) else 0
        kind = self.path.strip("/").split("/")[0]
        self.log.append((kind, start))
        content = CONTENT[::-1] if kind == "wrong" else CONTENT
        if kind == "missing":
            return self.send_error(404)
        if kind == "no-range":
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if kind == "odd-range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if kind != "endless":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if kind == "cut":
            self.wfile.write(content[start : start + 100_000])
            self.close_connection = True
        elif kind == "endless":
            try:
                for _ in range(1000):
                    self.wfile.write(content)
            except OSError:
                pass  # the client has had enough
        else:
            self.wfile.write(content[start:])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    log = []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, log))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    httpd.log = log
    httpd.url = lambda kind: f"http://127.0.0.1:{httpd.server_port}/{kind}"
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_download_with_progress(server, tmp_path):
    seen = []
    path = fetch([server.url("good")], tmp_path / "new" / "file", CHECKSUM, progress=lambda *a: seen.append(a))
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == ["file"]
    assert seen[-1] == ("file", len(CONTENT), len(CONTENT)) and len(seen) > 2
    fetch([server.url("missing")], path, CHECKSUM)
    assert server.log == [("good", 0)], "a file that is there and right is not fetched again"
    path.write_bytes(b"damaged")
    assert fetch([server.url("good")], path, CHECKSUM).read_bytes() == CONTENT


def test_a_cut_download_is_continued(server, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(DataError, match="100,000 of 300,000 bytes; run it again to continue"):
        fetch([server.url("cut")], path, CHECKSUM)
    assert not path.exists() and (tmp_path / "file.part").stat().st_size == 100_000
    fetch([server.url("good")], path, CHECKSUM)
    assert path.read_bytes() == CONTENT and not (tmp_path / "file.part").exists()
    assert server.log == [("cut", 0), ("good", 100_000)]


def test_the_next_address_continues(server, tmp_path):
    urls = [server.url(kind) for kind in ("missing", "cut", "cut/again", "odd-range", "good")]
    assert fetch(urls, tmp_path / "file", CHECKSUM).read_bytes() == CONTENT
    assert server.log == [("missing", 0), ("cut", 0), ("cut", 100_000), ("odd-range", 200_000), ("good", 200_000)]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:5000])
    assert fetch([server.url("no-range")], tmp_path / "file", CHECKSUM).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "part", [b"other bytes", CONTENT[::-1], CONTENT + b"more"], ids=["short", "same size", "too long"]
)
def test_a_part_of_another_file_is_thrown_away(server, tmp_path, part):
    (tmp_path / "file.part").write_bytes(part)
    assert fetch([server.url("good")], tmp_path / "file", CHECKSUM).read_bytes() == CONTENT


def test_a_complete_part_only_needs_its_name(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert fetch([server.url("good")], tmp_path / "file", CHECKSUM).read_bytes() == CONTENT


def test_every_address_fails(server, tmp_path):
    urls = [server.url("missing"), server.url("wrong"), "http://127.0.0.1:9/"]
    with pytest.raises(DataError) as caught:
        fetch(urls, tmp_path / "file", CHECKSUM, hint=" Try --data-file.")
    message = str(caught.value)
    assert "HTTP 404" in message and f"expected {CHECKSUM}" in message and "refused" in message
    assert message.endswith("Try --data-file.") and list(tmp_path.iterdir()) == []


def test_limits(server, tmp_path):
    with pytest.raises(DataError, match="more than the limit of 500,000 bytes"):
        fetch([server.url("endless")], tmp_path / "file", CHECKSUM, max_bytes=500_000)
    (tmp_path / "file.part").unlink()
    with pytest.raises(DataError, match="300,000 bytes, more than the limit of 1,000"):
        fetch([server.url("good")], tmp_path / "file", CHECKSUM, max_bytes=1000)
    with pytest.raises(ConfigError, match="not an http or https address"):
        fetch(["file:///etc/passwd"], tmp_path / "file", CHECKSUM)
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="download: cannot write .*taken"):
        fetch([server.url("good")], tmp_path / "taken" / "file", CHECKSUM)


@pytest.fixture
def toy(server, monkeypatch):
    """The name cifar10, with a small archive of our own behind it."""
    info = DATASETS["cifar10"]
    source = Source("cifar-10-python.tar.gz", (server.url("missing"), server.url("good")), CHECKSUM, len(CONTENT))
    monkeypatch.setitem(DATASETS, "cifar10", DatasetInfo(**{**vars(info), "sources": (source,)}))
    monkeypatch.setitem(cifar.ARCHIVE_CHECKSUMS, source.filename, CHECKSUM)


def test_download_by_name(toy, tmp_path):
    assert download("cifar10", tmp_path) == [tmp_path / "cifar-10-python.tar.gz"]
    status = {s.name: s for s in available(tmp_path, verify=True)}["cifar10"]
    assert (status.present, status.checksum) == (True, "ok")
    with pytest.raises(ConfigError, match="shapes10: there is nothing to download"):
        download("shapes10", tmp_path)


def test_install_a_file_of_the_users(toy, tmp_path):
    given = tmp_path / "Downloads" / "cifar (1).tar.gz"
    given.parent.mkdir()
    given.write_bytes(CONTENT)
    root = tmp_path / "root"
    assert install("cifar10", given, root) == [root / "cifar-10-python.tar.gz"]
    assert (root / "cifar-10-python.tar.gz").read_bytes() == CONTENT and given.exists()
    assert install("cifar10", root / "cifar-10-python.tar.gz", root), "installing it onto itself is harmless"
    given.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"\(299,999 bytes of 300,000\) has checksum .*fetch http.* again"):
        install("cifar10", given, root)
    with pytest.raises(DataError, match="nothing.tar.gz cannot be read"):
        install("cifar10", tmp_path / "nothing.tar.gz", root)


def test_install_an_archive_that_was_packed_anew(tmp_path, monkeypatch):
    contents = files.cifar10_python()
    sums = {("cifar-10-batches-py", n): "sha256:" + hashlib.sha256(d).hexdigest() for n, d in contents.items()}
    monkeypatch.setattr("minidl.data.cifar.CHECKSUMS", sums)
    given = files.tar_gz(tmp_path / "mine.tgz", contents, "anything/")
    install("cifar10", given, tmp_path)
    assert {s.name: s for s in available(tmp_path, verify=True)}["cifar10"].checksum == "ok"
    given = files.tar_gz(tmp_path / "mine.tgz", {**contents, "test_batch": b"other"}, "anything/")
    with pytest.raises(DataError, match="mine.tgz .*has checksum"):
        install("cifar10", given, tmp_path)


@pytest.fixture
def small_cifar(monkeypatch):
    """CIFAR-10 with 30 + 6 images, and the checksums of both releases' files: (python, binary)."""
    python, binary = files.cifar10_python(), files.cifar10_binary()
    sums = {("cifar-10-batches-py", n): "sha256:" + hashlib.sha256(d).hexdigest() for n, d in python.items()}
    monkeypatch.setattr("minidl.data.cifar.CHECKSUMS", sums)
    monkeypatch.setitem(DATASETS["cifar10"].counts, "train", 30)
    monkeypatch.setitem(DATASETS["cifar10"].counts, "test", 6)
    return python, binary


def test_install_cifar_unpacked_or_binary(tmp_path, monkeypatch, small_cifar):
    python, binary = small_cifar
    for number, (folder, contents) in enumerate([("cifar-10-batches-py", python), ("Downloads", python), ("bin", binary)]):
        given, root = files.write_folder(tmp_path / str(number) / folder, contents), tmp_path / f"root{number}"
        paths = install("cifar10", given, root)
        assert len(paths) == 6 and len({path.parent for path in paths}) == 1
        assert len(load("cifar10", root)) == 30 and sorted(root.rglob("*.part")) == []
    archive = files.tar_gz(tmp_path / "cifar-10-binary.tar.gz", binary, "cifar-10-batches-bin/")
    monkeypatch.setitem(cifar.ARCHIVE_CHECKSUMS, archive.name, "md5:" + hashlib.md5(archive.read_bytes()).hexdigest())
    assert install("cifar10", archive, tmp_path / "root") == [tmp_path / "root" / archive.name]
    assert len(load("cifar10", tmp_path / "root", "test")) == 6


def test_install_a_folder_that_is_not_whole(tmp_path, small_cifar):
    python, binary = small_cifar
    given = files.write_folder(tmp_path / "cifar-10-batches-py", {**python, "data_batch_2": python["data_batch_1"]})
    with pytest.raises(DataError, match="data_batch_2: .*checksum"):
        install("cifar10", given, tmp_path / "root")
    (given / "data_batch_2").unlink()
    with pytest.raises(DataError, match="data_batch_2.*cannot be read"):
        install("cifar10", given, tmp_path / "root")
    given = files.write_folder(tmp_path / "bin", {**binary, "test_batch.bin": binary["test_batch.bin"][:-1]})
    with pytest.raises(DataError, match="test_batch.bin: .*truncated"):
        install("cifar10", given, tmp_path / "root")
    (given / "test_batch.bin").unlink()
    with pytest.raises(DataError, match="cifar-10-python.tar.gz cannot be read"):
        install("cifar10", tmp_path / "bin", tmp_path / "root")
    assert not (tmp_path / "root").exists(), "nothing is installed unless all of it is right"


def test_every_file_has_several_addresses():
    for info in DATASETS.values():
        for source in info.sources:
            assert len(source.urls) >= 2 and all(url.endswith("/" + source.filename) for url in source.urls)


def test_install_mnist_from_a_folder_or_file_by_file(tmp_path, monkeypatch):
    packed = files.mnist_files(packed=True)
    sums = {
        ("mnist", n.removesuffix(".gz")): "sha256:" + hashlib.sha256(gzip.decompress(d)).hexdigest()
        for n, d in packed.items()
    }
    monkeypatch.setattr("minidl.data.mnist.CHECKSUMS", sums)
    folder = files.write_folder(tmp_path / "given", packed)
    assert len(install("mnist", folder, tmp_path / "a")) == 4, "packed anew: what they hold is what counts"
    for name in packed:
        install("mnist", folder / name, tmp_path / "b")
    for root in ("a", "b"):
        status = {s.name: s for s in available(tmp_path / root, verify=True)}["mnist"]
        assert (status.checksum, status.problems) == ("ok", ())
        assert len(load("mnist", tmp_path / root, verify=False)) == 7
    with pytest.raises(DataError, match="is not one of its files; expected a folder with train-images"):
        install("mnist", tmp_path / "given" / ".." / "pictures.zip", tmp_path)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte.gz .*has checksum"):
        install("mnist", folder, tmp_path / "c")
    assert not (tmp_path / "c").exists(), "nothing is installed unless all of it is right"
