"""Temporal: its frontend, the namespace and how long that keeps what has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeNamespaceResponse
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from deploy.doctor.checking import Check, Outcome, fail, ok, warn
from deploy.doctor.names import Address
from deploy.doctor.settings import variable

__all__ = ["TemporalDoctor"]

LEAST_RETENTION = timedelta(days=1)
"""Files of failed videos stay so long; without its history, nobody sees why one failed."""


@dataclass(frozen=True)
class TemporalDoctor:
    address: str
    namespace: str
    seconds: float
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    for_cluster: bool = False

    def checks(self) -> Iterator[Check]:
        address = Address(self.address, variable("temporal_address"), self.for_cluster, "temporal.address")
        yield Check("temporal dns", address.resolve)
        yield Check("temporal reachable", self.reach, needs="temporal dns")
        yield Check("temporal namespace", self.named, needs="temporal reachable")
        yield Check("temporal retention", self.retention, needs="temporal namespace")

    def reach(self) -> Outcome:
        try:
            asyncio.run(self._connect())
        except OSError as error:  # a TLS file, or the time is over
            if isinstance(error, TimeoutError):
                return self._silent("no answer in time")
            return fail(f"{error.filename}: {error.strerror}", f"see {variable('temporal_ca')}, …_cert and …_key")
        except RuntimeError:
            return self._silent("the connection fails")
        except RPCError as error:
            return self._silent(f"it answers {error.status.name}")
        return ok(f"{self.address} answers {'over TLS' if self._tls else 'in plaintext'}")

    def named(self) -> Outcome:
        try:
            self._describe()
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return fail(
                    f"{self.namespace} is not there",
                    f"temporal operator namespace create --namespace {self.namespace} --retention 72h "
                    f"--address {self.address}",
                )
            return fail(f"{self.namespace}: {error.status.name}", "allow this certificate or key to use the namespace")
        return ok(f"{self.namespace} is there")

    def retention(self) -> Outcome:
        kept = self._describe().config.workflow_execution_retention_ttl.ToTimedelta()
        hours = f"{kept.total_seconds() / 3600:g} h"
        if kept < LEAST_RETENTION:
            return warn(
                f"what has ended is kept for {hours}",
                f"temporal operator namespace update --namespace {self.namespace} --retention 72h",
            )
        return ok(f"what has ended is kept for {hours}")

    def _silent(self, what: str) -> Outcome:
        return fail(
            f"{self.address}: {what}",
            f"see that the frontend runs there, and whether it speaks TLS ({variable('temporal_tls')})",
        )

    def _describe(self) -> DescribeNamespaceResponse:
        return asyncio.run(self._description())

    async def _description(self) -> DescribeNamespaceResponse:
        client = await self._connect()
        return await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=self.namespace))

    async def _connect(self) -> Client:
        async with asyncio.timeout(self.seconds * 0.8):
            return await Client.connect(self.address, namespace=self.namespace, tls=self._tls)

    @property
    def _tls(self) -> TLSConfig | bool:
        if not (self.tls or self.ca or self.cert):
            return False
        read = (file.read_bytes() if file else None for file in (self.ca, self.cert, self.key))
        ca, cert, key = read
        return TLSConfig(server_root_ca_cert=ca, client_cert=cert, client_private_key=key)
