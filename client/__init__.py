"""Soundstage from Python: a small client over the public VideoService.

    with SoundstageClient("127.0.0.1:50051") as client:
        video = client.wait(client.create("a campfire on a beach at night", duration=5))
        client.download(video, "campfire.mp4")

``AsyncSoundstageClient`` is the same with ``await``. The command ``soundstage`` is made of it.
"""

from client.aio import TERMINAL_STATES, AsyncSoundstageClient
from client.credentials import tls_credentials
from client.errors import DownloadError, SoundstageClientError, SoundstageRpcError, Violation, WaitTimeoutError
from client.sync import SoundstageClient

__all__ = [
    "TERMINAL_STATES",
    "AsyncSoundstageClient",
    "DownloadError",
    "SoundstageClient",
    "SoundstageClientError",
    "SoundstageRpcError",
    "Violation",
    "WaitTimeoutError",
    "tls_credentials",
]
