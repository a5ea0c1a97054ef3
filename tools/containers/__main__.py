"""`make test-images`: builds every image and makes a video with them, in the pods of the chart's dev rendering.

    python -m tools.containers [--keep] [--no-build] [--out video.mp4]

Needs podman and root (fixed addresses), half an hour and 15 GB, so that `make test` leaves it out. What had to
be changed of the rendering is in `tools/containers/pods.py`.
"""

from __future__ import annotations

import argparse
import base64
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import yaml
from soundstage.video.v1 import video_pb2 as pb

from client import SoundstageClient
from client.text import failure_of
from tools.containers.engine import Engine, EngineMissingError, engine
from tools.containers.images import SERVICES, build
from tools.containers.pods import Pod, pods_of
from tools.containers.stores import bring_base, bring_store
from tools.helm import helm

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/soundstage"
RELEASE, NETWORK, SUBNET = "soundstage", "soundstage-images", "10.90.77"
PROMPT = "a campfire crackling at night"
READY_SECONDS, VIDEO_SECONDS, POLL_SECONDS = 300.0, 600.0, 1.0
MOST_SAID = 2000
"""Characters of what a command that failed wrote."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the pods running")
    parser.add_argument("--no-build", action="store_true", help="with the images that are there")
    parser.add_argument("--out", type=Path, help="keep the video here")
    given = parser.parse_args()
    try:
        with engine("podman") as podman:
            print("base image:", bring_base(podman), flush=True)
            for service in () if given.no_build else SERVICES:
                build(podman, service)
            check(podman, keep=given.keep, out=given.out)
    except EngineMissingError as error:
        print(error)
        return 1
    except subprocess.CalledProcessError as error:
        said = error.stderr or (error.stdout or "")[-MOST_SAID:] or "see above"
        print(f"{' '.join(map(str, error.cmd[:3]))} failed: {said}")
        return 1
    return 0


def check(podman: Engine, *, keep: bool, out: Path | None) -> None:
    """Raises what goes wrong, after it has shown the pods' last words."""
    rendering = render()
    for store in ("postgresql", "seaweedfs", "temporal"):
        print(f"{store}: {bring_store(podman, store, image_of(rendering, store))}", flush=True)
    pods = pods_of(rendering, SUBNET)
    with played(podman, pods, keep=keep):
        try:
            wait_until_healthy(podman, pods)
            make_video(podman, pods, out)
        except BaseException:
            show_logs(podman, pods)
            raise


def render() -> list[dict[str, Any]]:
    # The second pod's: this process fetches the video from there.
    values = (f"--values={CHART / 'values-dev.yaml'}", f"--set=s3.publicEndpoint={SUBNET}.12:8333")
    command = (helm(), "template", RELEASE, CHART, *values)
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def image_of(rendering: list[dict[str, Any]], store: str) -> str:
    (image,) = (
        manifest["spec"]["template"]["spec"]["containers"][0]["image"]
        for manifest in rendering
        if manifest["kind"] == "StatefulSet" and manifest["metadata"]["name"].endswith(f"-{store}")
    )
    return str(image)


@contextmanager
def played(podman: Engine, pods: list[Pod], *, keep: bool) -> Iterator[None]:
    """The pods, each at its address; all gone at the end, unless they are to be kept."""
    remove(podman, pods)
    podman.run("network", "create", f"--subnet={SUBNET}.0/24", NETWORK)
    try:
        for secret, values in store_secrets().items():
            # As podman 4.3 reads them for an environment: a map in JSON, the values in base64.
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
            podman.run("secret", "create", secret, "-", stdin=json.dumps(encoded))
        for pod in pods:
            if pod.component != "test":
                play(podman, [pod.manifest], f"--network={NETWORK}", f"--ip={pod.address}")
        yield
    finally:
        if not keep:
            remove(podman, pods)


def play(podman: Engine, manifests: list[dict[str, Any]], *options: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(manifests, file)
        file.flush()
        podman.run("play", "kube", *options, file.name)


def store_secrets() -> dict[str, dict[str, str]]:
    """As the chart's README says to make them."""
    password = secrets.token_hex(16)
    url = f"postgresql://soundstage:{password}@{RELEASE}-postgresql:5432/soundstage"
    return {
        "soundstage-postgresql": {"password": password, "url": url},
        "soundstage-s3": {"access-key": "soundstage", "secret-key": secrets.token_hex(16)},
    }


def wait_until_healthy(podman: Engine, pods: list[Pod]) -> None:
    """Until the pod of `helm test`, which asks every service under its Service's name, has ended well."""
    (test,) = (pod for pod in pods if pod.component == "test")
    deadline = time.monotonic() + READY_SECONDS
    while True:
        play(podman, [test.manifest], f"--network={NETWORK}", f"--ip={test.address}")
        codes = {name: podman.run("wait", name, seconds=READY_SECONDS) for name in test.containers}
        if not any(map(int, codes.values())):
            print("helm test's pod:", ", ".join(codes), "well", flush=True)
            return
        if time.monotonic() > deadline:
            said = "\n".join(podman.run("logs", name) for name in test.containers)
            raise RuntimeError(f"helm test's pod does not end well: {codes}\n{said}")
        podman.run("pod", "rm", "--force", test.manifest["metadata"]["name"])
        time.sleep(POLL_SECONDS)


def make_video(podman: Engine, pods: list[Pod], out: Path | None) -> None:
    """By the API's own address and a key made in its pod, as the chart's notes say; the file is looked into."""
    (api,) = (pod for pod in pods if pod.component == "gateway-api")
    (container,) = api.containers
    token = podman.run("exec", container, "python", "-m", "services.gateway.admin", "keys", "make", "trial")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, SoundstageClient(f"{api.address}:50051", token=token) as client:
        path = out or Path(name) / "video.mp4"
        video = client.wait(client.create(PROMPT, seed=1), timeout_seconds=VIDEO_SECONDS)
        if video.state != pb.STATE_SUCCEEDED:
            raise RuntimeError(f"no video: {failure_of(video)}")
        client.download(video, path)
        with av.open(str(path)) as file:
            frames = sum(1 for _ in file.decode(video=0))
            channels = file.streams.audio[0].channels
        print(f"{frames} frames and {channels} channels of sound after {time.monotonic() - began:.0f} s", flush=True)


def show_logs(podman: Engine, pods: list[Pod]) -> None:
    for pod in pods:
        for name in pod.containers:
            with suppress(subprocess.CalledProcessError):
                print(f"--- {name}\n{podman.run('logs', '--tail=15', name)}", flush=True)


def remove(podman: Engine, pods: list[Pod]) -> None:
    for pod in pods:
        name = pod.manifest["metadata"]["name"]
        for one in (name, f"{name}-pod-0"):
            with suppress(subprocess.CalledProcessError):
                podman.run("pod", "rm", "--force", one)
        for volume in pod.volumes:
            with suppress(subprocess.CalledProcessError):
                podman.run("volume", "rm", "--force", volume)
    for what in (("secret", "rm", "soundstage-postgresql", "soundstage-s3"), ("network", "rm", "--force", NETWORK)):
        with suppress(subprocess.CalledProcessError):
            podman.run(*what)


if __name__ == "__main__":
    sys.exit(main())
