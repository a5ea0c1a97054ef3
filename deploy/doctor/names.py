"""Whether the name of an address is known, from where the doctor runs."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from deploy.doctor.checking import Outcome, fail, ok, warn

__all__ = ["Address"]


@dataclass(frozen=True)
class Address:
    """host:port or a URL. ``variable`` is the setting that says another one."""

    text: str
    variable: str
    for_cluster: bool = False
    """Pods use it; it need not be known where the doctor runs."""

    value: str = ""
    """Of the chart, which says it where the setting does not, and so for pods."""

    @property
    def host(self) -> str:
        text = self.text if "://" in self.text else f"//{self.text}"
        return urlsplit(text).hostname or ""

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or (_is_number(self.host) and ip_address(self.host).is_loopback)

    def resolve(self) -> Outcome:
        if not self.host:
            return fail(f"{self.text!r} names no host", f"set {self.variable} to host:port")
        if _is_number(self.host):
            return ok(f"{self.host} is a number, no name")
        try:
            found = sorted({str(one[4][0]) for one in socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)})
        except OSError:
            return self._unknown()
        return ok(f"{self.host} is {', '.join(found)}")

    def _unknown(self) -> Outcome:
        if self.for_cluster and ("." not in self.host or ".svc" in self.host):
            return warn(
                f"{self.host} is a name inside the cluster, unknown here",
                f"forward its port and set {self.variable} to it, or run the doctor in a pod",
            )
        said_by = self.value if self.for_cluster and self.value else self.variable
        return fail(f"{self.host} is unknown", f"repair the name or its DNS record; it comes from {said_by}")


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
