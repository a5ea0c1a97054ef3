from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from deploy.local.ports import free_ports
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
    return free_ports(1)[0]
