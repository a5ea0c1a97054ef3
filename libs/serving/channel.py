"""The calling side: a channel to a service."""

from __future__ import annotations

import json

import grpc

from libs.serving.tls import TlsFiles, reloading_channel

__all__ = ["open_channel"]

# gRPC adds its own jitter of a fifth to each wait, and never tries more than 5 times. A stream is only tried again
# before its first event has arrived.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
}


def open_channel(
    address: str, *, max_message_mib: int = 16, retries: bool = True, tls: TlsFiles | None = None
) -> grpc.aio.Channel:
    """A channel to ``address`` (host:port), plaintext without ``tls``; close it, or use it with ``async with``.

    UNAVAILABLE is tried again, 4 times in all within a few seconds; not with ``retries=False``, for callers whose own
    retries need a fresh attempt id each time. Pings every 30 s find a dead connection under a
    long silent call; our servers allow them (others may answer "too many pings" below 300 s).
    """
    max_message_bytes = max_message_mib * 1024 * 1024
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # By default all calls go to the first address that the name has: one replica of many.
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.enable_retries", int(retries)),
        *([("grpc.service_config", json.dumps(_SERVICE_CONFIG))] if retries else []),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(address, options)
    # Channels of one process share connections; one with new certificates must not take an old one's.
    options.append(("grpc.use_local_subchannel_pool", 1))
    return reloading_channel(tls, lambda credentials: grpc.aio.secure_channel(address, credentials, options))
