from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from soundstage.video.v1 import video_pb2 as pb

from client import AsyncSoundstageClient, DownloadError, SoundstageClient
from client.backoff import Backoff
from client.download import fetch
from tests.client.server import FakeVideos, serving, serving_in_thread

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Backoff(attempts=3, first_seconds=0.01)


class Files(http.server.BaseHTTPRequestHandler):
    answers: list[tuple[int, int]]  # status, bytes that are really sent

    def do_GET(self) -> None:
        status, sent = self.answers.pop(0) if self.answers else (200, len(CONTENT))
        self.send_response(status)
        self.send_header("Content-Length", str(len(CONTENT) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(CONTENT[:sent])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """URL of the file, and a list of answers to give before the right one."""
    answers: list[tuple[int, int]] = []
    handler = type("Handler", (Files,), {"answers": answers})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/video.mp4", answers
        server.shutdown()


def result_of(url: str, *, sha256: str = SHA256) -> pb.VideoResult:
    return pb.VideoResult(video_url=url, poster_url=url, sha256=sha256, size_bytes=len(CONTENT))


async def test_download_from_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "with space.mp4"
    source.write_bytes(CONTENT)
    videos = FakeVideos()
    videos.result = result_of(source.as_uri())
    async with serving(videos) as address, AsyncSoundstageClient(address) as client:
        video = await client.wait(await client.create("a fire"))
        path = await client.download(video, tmp_path / "out" / "fire.mp4", poster=tmp_path / "fire.jpg")
    assert path.read_bytes() == CONTENT
    assert (tmp_path / "fire.jpg").read_bytes() == CONTENT


def test_download_from_the_blocking_client(tmp_path: Path, site: tuple[str, list[tuple[int, int]]]) -> None:
    videos = FakeVideos()
    videos.result = result_of(site[0])
    with serving_in_thread(videos) as address, SoundstageClient(address) as client:
        video = client.create("a fire")
        assert [event.sequence for event in client.watch(video)] == [1, 2, 3, 4, 5]
        assert client.download(video, tmp_path / "fire.mp4").read_bytes() == CONTENT
        assert [found.name for found in client.list()] == [video.name]


async def test_download_needs_a_video_that_succeeded(tmp_path: Path) -> None:
    async with serving(FakeVideos()) as address, AsyncSoundstageClient(address) as client:
        video = await client.create("a fire")
        with pytest.raises(DownloadError, match="is QUEUED"):
            await client.download(video, tmp_path / "fire.mp4")


def test_a_wrong_hash_leaves_the_old_file_alone(tmp_path: Path, site: tuple[str, list[tuple[int, int]]]) -> None:
    path = tmp_path / "fire.mp4"
    path.write_bytes(b"old")
    with pytest.raises(DownloadError, match="is not the video"):
        fetch(site[0], path, sha256="0" * 64, size_bytes=len(CONTENT), backoff=QUICK)
    assert [found.name for found in tmp_path.iterdir()] == ["fire.mp4"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("answers", [[(503, 0)], [(200, 1000)], [(503, 0), (200, 0)]])
def test_an_overloaded_store_and_a_cut_are_tried_again(
    tmp_path: Path, site: tuple[str, list[tuple[int, int]]], answers: list[tuple[int, int]]
) -> None:
    site[1].extend(answers)
    fetch(site[0], tmp_path / "fire.mp4", sha256=SHA256, size_bytes=len(CONTENT), backoff=QUICK)
    assert (tmp_path / "fire.mp4").read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "match"), [(403, "fresh address"), (404, "404")])
def test_a_refusal_is_not_tried_again(
    tmp_path: Path, site: tuple[str, list[tuple[int, int]]], status: int, match: str
) -> None:
    site[1].append((status, 0))
    with pytest.raises(DownloadError, match=match):
        fetch(site[0], tmp_path / "fire.mp4", backoff=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_addresses_that_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot fetch"):
        fetch("ftp://example.org/x", tmp_path / "x")
    with pytest.raises(DownloadError, match="not on this machine"):
        fetch((tmp_path / "missing.mp4").as_uri(), tmp_path / "x", backoff=QUICK)
