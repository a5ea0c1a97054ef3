from __future__ import annotations

import socket

import pytest
from prometheus_client import CollectorRegistry

from libs.serving import ServiceSettings


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(grace_seconds=5)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
