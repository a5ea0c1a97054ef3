"""The command of `make video` from start to end: with a running stack, and alone with its files in a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from minio import Minio

from deploy.local.plan import REPOSITORY
from tests.e2e.film import Film, read_film
from tests.e2e.studio import PROMPT, SEED, SERVICES, STEPS, Made, Studio
from tests.support.s3 import S3Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BUCKET = "films"
COMMAND_SECONDS = 400


def make_video(state: Path, out: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    order = ["--prompt", PROMPT, "--seed", str(SEED), "--steps", str(STEPS), "--duration", "1", "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", "--state", str(state), "video", *order],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def on_s3(server: S3Server) -> dict[str, str]:
    settings = {
        "ARTIFACTS_URL": server.url(BUCKET),
        "S3_ACCESS_KEY": server.access_key,
        "S3_SECRET_KEY": server.secret_key,
    }
    return {f"SOUNDSTAGE_{name.upper()}_{field}": value for name in SERVICES for field, value in settings.items()}


def errors_of(state: Path) -> str:
    """What the services that a failed run left its logs of did not say to the caller."""
    logs = sorted(state.glob("video-*/logs/*.log"))
    return "\n".join(line[-3000:] for log in logs for line in log.read_text().splitlines() if '"ERROR"' in line)


def test_with_a_running_stack_it_makes_the_same_file(studio: Studio, made: Made, tmp_path: Path) -> None:
    result = make_video(studio.state.folder, tmp_path / "fire.mp4", {})
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "fire.mp4").read_bytes() == made.path.read_bytes()
    assert (tmp_path / "fire.jpg").read_bytes() == made.poster.read_bytes()
    assert "denoise" in result.stderr
    assert studio.client.models(), "the stack that was up stays up"


def test_the_whole_pipeline_on_a_real_s3_server(s3_server: S3Server, film: Film, tmp_path: Path) -> None:
    """Its own stack, started and stopped by the command, and a new bucket; the file comes through a presigned URL."""
    client = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    result = make_video(tmp_path / "state", tmp_path / "fire.mp4", on_s3(s3_server))
    assert result.returncode == 0, result.stderr + errors_of(tmp_path / "state")
    made = read_film(tmp_path / "fire.mp4")
    assert (made.frames == film.frames).all(), "the store does not change the picture"
    assert (made.sound == film.sound).all()
    keys = [str(found.object_name).split("/") for found in client.list_objects(BUCKET, recursive=True)]
    assert {(key[2], key[-1]) for key in keys} == {
        ("encode", "conditioning.safetensors"),
        ("denoise", "latents.safetensors"),
        ("render", "picture.mp4"),
        ("synthesize", "sound.flac"),
        ("mux", "video.mp4"),
        ("mux", "poster.jpg"),
    }
    assert not list((tmp_path / "state").glob("video-*")), "nothing is left behind"
