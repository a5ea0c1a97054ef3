from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from soundstage.video.v1 import video_pb2 as pb

from client import SoundstageClient
from client.cli import main
from libs.serving.tls import server_credentials
from tests.client.server import FakeVideos, serving_in_thread
from tests.support.certificates import Authority

CONTENT = b"a film" * 1000


@pytest.fixture
def videos(tmp_path: Path) -> FakeVideos:
    (tmp_path / "made.mp4").write_bytes(CONTENT)
    url = (tmp_path / "made.mp4").as_uri()
    videos = FakeVideos()
    videos.result = pb.VideoResult(
        video_url=url, poster_url=url, sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT)
    )
    return videos


@pytest.fixture
def address(videos: FakeVideos) -> Iterator[str]:
    with serving_in_thread(videos) as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env={"SOUNDSTAGE_ADDRESS": address})


def test_create_prints_the_name(address: str, videos: FakeVideos) -> None:
    result = run(
        address, "create", "a fire", "--steps", "7", "--guidance", "2", "--audio", "silent", "--negative", "rain"
    )
    assert (result.exit_code, result.stdout) == (0, "videos/1\n")
    spec = videos.requests[0].spec
    assert (spec.num_inference_steps, spec.guidance_scale, spec.negative_prompt) == (7, 2.0, "rain")
    assert spec.audio_intent == pb.AUDIO_INTENT_SILENT


def test_create_waits_and_brings_the_file(address: str, videos: FakeVideos, tmp_path: Path) -> None:
    image = tmp_path / "first.png"
    image.write_bytes(b"png")
    out = tmp_path / "fire.mp4"
    videos.breaks = [("cut", 2)]
    result = run(address, "create", "a fire", "--image", str(image), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == CONTENT
    assert result.stdout == f"{out}\n"
    assert "making the picture" in result.stderr
    assert videos.requests[0].spec.image == b"png"


def test_create_takes_a_lora_as_a_file_or_by_its_name(address: str, videos: FakeVideos, tmp_path: Path) -> None:
    file, uri, sha256 = tmp_path / "style.safetensors", "s3://store/_loras/style.safetensors", "0" * 64
    file.write_bytes(b"tensors")
    named = ("--lora", uri, "--lora-sha256", sha256, "--lora-bytes", "7")
    for arguments in (("--lora", str(file), "--lora-scale", "0.5"), named, ()):
        result = run(address, "create", "a fire", *arguments)
        assert result.exit_code == 0, result.output
    sent, by_name, without = (request.spec for request in videos.requests)
    assert (sent.lora.file, sent.lora.scale) == (b"tensors", 0.5)
    artifact = by_name.lora.artifact
    assert (artifact.uri, artifact.sha256, artifact.size_bytes) == (uri, sha256, 7)
    assert not by_name.lora.HasField("scale")
    assert not without.HasField("lora")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["create", "a fire", "--duration", "1000"], 2, "--duration: diorama makes 1 to 8 s; ask for 8 s or less"),
        (["create", " "], 2, "PROMPT: write what the video should show"),
        (["create", "a fire", "--image", "/missing.png"], 2, "does not exist"),
        (["create", "a fire", "--preset", "quick"], 2, "fast"),
        (["create", "a fire", "--lora", "/missing.safetensors"], 2, "does not exist"),
        (["create", "a fire", "--lora", "s3://store/_loras/x.safetensors"], 2, "--lora-sha256 and --lora-bytes"),
        (["create", "a fire", "--lora-bytes", "7"], 2, "belong to a URI"),
        (["create", "a fire", "--lora-scale", "1"], 2, "--lora-scale: there is no LoRA to scale"),
        (["create", "a fire", "--duration", "nan"], 2, "--duration: nan is not a number of seconds"),
        (["create", "a fire", "--steps", "3000000000"], 2, "--steps: 3000000000 does not fit into a request"),
        (["create", "a fire", "--seed", "1" + "0" * 30], 2, "--seed: 1000000000000000000000000000000 does not fit"),
        (["create", "a fire", "--out", "pyproject.toml/a.mp4"], 2, "pyproject.toml is no folder that you may write to"),
        (["get", "a b"], 2, "VIDEO: give the name or the id of a video, as `soundstage list` shows it"),
        (["get", "nothing"], 4, "there is no videos/nothing (VIDEO_NOT_FOUND)"),
        (["watch", "nothing"], 4, "there is no videos/nothing"),
    ],
)
def test_errors_say_what_to_change(address: str, arguments: list[str], code: int, text: str) -> None:
    result = run(address, *arguments)
    assert result.exit_code == code, result.output
    assert text in result.stderr
    assert "Traceback" not in result.output


def test_a_picture_too_large_for_any_request(address: str, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(5 << 20))  # gRPC's own limit is 4 MiB
    result = run(address, "create", "a fire", "--image", str(tmp_path / "large.png"))
    assert result.exit_code == 2
    assert "more bytes than this server takes, give a smaller picture or LoRA" in result.stderr


def test_a_failed_video_is_an_exit_code(address: str, videos: FakeVideos) -> None:
    videos.final_state = pb.STATE_FAILED
    result = run(address, "create", "a fire", "--wait")
    assert result.exit_code == 1
    assert "videos/1 failed in stage denoise: out of memory (STAGE_FAILED)" in result.stderr


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("127.0.0.1:9", "models")
    assert result.exit_code == 3
    assert "no Soundstage server answers at 127.0.0.1:9" in result.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("client.cli.REPOSITORY", tmp_path)
    result = run("", "models")
    assert result.exit_code == 3
    assert "--address" in result.stderr


def test_the_running_stack_is_found_from_below(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state" / "address").write_text(address + "\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    result = run("", "models")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("diorama: Small.")


def test_get_list_cancel_delete_analyze(address: str) -> None:
    with SoundstageClient(address) as client:
        client.wait(client.create("a fire\non a beach"))
        client.create("rain")
    assert "12.3" in run(address, "get", "1").stdout
    assert json.loads(run(address, "get", "videos/1", "--json").stdout)["state"] == "STATE_SUCCEEDED"
    lines = run(address, "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["videos/1", "videos/2"]
    assert "a fire on a beach" in lines[0]
    assert run(address, "list", "--state", "queued").stdout.count("\n") == 1
    assert run(address, "list", "--limit", "1").stdout.count("\n") == 1
    assert run(address, "cancel", "2").stdout == "videos/2 cancelled\n"
    assert run(address, "delete", "2").exit_code == 0
    assert run(address, "get", "2").exit_code == 4
    analysis = run(address, "analyze", "a fire").stdout
    assert analysis == "50%\n+ light: says what the light is like ('at dusk')\ntry: a fire at night\n"


def test_a_limited_list_asks_for_no_more_than_it_shows(address: str, videos: FakeVideos) -> None:
    for prompt in ("a fire", "rain"):
        run(address, "create", prompt)
    assert run(address, "list", "--limit", "1").stdout.count("\n") == 1
    assert [type(request) for request in videos.requests].count(pb.ListVideosRequest) == 1


def test_get_brings_the_file_later(address: str, tmp_path: Path) -> None:
    with SoundstageClient(address) as client:
        client.wait(client.create("a fire"))
    assert run(address, "get", "1", "--out", str(tmp_path / "late.mp4")).exit_code == 0
    assert (tmp_path / "late.mp4").read_bytes() == CONTENT


def test_watch_prints_the_address_of_the_result(address: str, videos: FakeVideos) -> None:
    run(address, "create", "a fire")
    assert run(address, "watch", "1").stdout == f"{videos.result.video_url}\n"


def test_quota_and_price_before_anything_is_made(address: str, videos: FakeVideos) -> None:
    shown = run(address, "quota", "--token", "acme").stdout
    assert "acme" in shown
    assert "queued   1 of 20" in shown
    assert "running  2 of 1000" in shown
    assert "credits  12.5" in shown
    assert run(address, "create", "a fire", "--price").stdout == "17 credits\n"
    assert videos.videos == {}


def test_tls_to_a_server_without_it(address: str) -> None:
    result = run(address, "quota", "--tls")
    assert result.exit_code == 3
    assert "does not speak TLS: leave out --tls" in result.stderr


def test_a_token_that_is_not_accepted(address: str) -> None:
    result = run(address, "quota", "--token", "wrong")
    assert result.exit_code == 6
    assert "no such key (API_KEY_INVALID): put your API key or token into SOUNDSTAGE_TOKEN" in result.stderr


def test_over_tls_with_options_from_the_environment(videos: FakeVideos, tmp_path: Path) -> None:
    files = Authority().files(tmp_path / "own")
    environment = {f"SOUNDSTAGE_{name.upper()}": str(getattr(files, name)) for name in ("ca", "cert", "key")}
    with serving_in_thread(videos, server_credentials(files)) as address:
        result = CliRunner().invoke(
            main, ["quota"], env={"SOUNDSTAGE_ADDRESS": address, "SOUNDSTAGE_TOKEN": "acme", **environment}
        )
        assert result.exit_code == 0, result.output
        assert "acme" in result.stdout
        for options, says in (((), "needs --tls or --ca"), (("--tls",), "name its authority by --ca")):
            refused = run(address, "quota", *options)
            assert (refused.exit_code, says in refused.stderr) == (3, True), refused.stderr
        assert run(address, "quota", "--cert", str(files.cert)).exit_code == 2
