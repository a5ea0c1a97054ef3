"""From a kubeconfig to requests: what of it the doctor needs, so that no client of Kubernetes has to be installed."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml

__all__ = ["Api", "KubeconfigError", "connect"]

PLUGIN_SECONDS = 20.0
CONNECTIONS = 8


class KubeconfigError(ValueError):
    """The file does not say what is needed; the message says what."""


@dataclass(frozen=True)
class Api:
    """The API server, asked as the user of a context."""

    server: str
    namespace: str
    pool: urllib3.PoolManager
    token: str = ""

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON; an answer that is none counts as empty."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        content = json.dumps(body).encode() if body is not None else None
        answer = self.pool.request(method, f"{self.server}{path}", body=content, headers=headers, redirect=False)
        try:
            said = json.loads(answer.data)
        except ValueError:
            said = {}
        return answer.status, said if isinstance(said, dict) else {}


def connect(file: Path, *, context: str = "", namespace: str = "", seconds: float) -> Api:
    """Asks nothing yet, but for a credential plugin that the file names, as kubectl does."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise KubeconfigError(
            f"{file} cannot be read ({type(error).__name__}): name yours with --kubeconfig"
        ) from error
    chosen = _named(config, "contexts", context or config.get("current-context", ""), "context")
    cluster = _named(config, "clusters", chosen.get("cluster", ""), "cluster")
    user = _named(config, "users", chosen["user"], "user") if chosen.get("user") else {}
    if "exec" in user:
        user = {**user, **_from_plugin(user["exec"])}
    tls = _tls(cluster, user, file.parent) if str(cluster.get("server", "")).startswith("https:") else None
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(seconds * 0.8), retries=False, ssl_context=tls, maxsize=CONNECTIONS
    )
    token_file = user.get("tokenFile")
    token = user.get("token") or ((file.parent / token_file).read_text().strip() if token_file else "")
    return Api(
        server=str(cluster.get("server", "")).rstrip("/"),
        namespace=namespace or chosen.get("namespace") or "default",
        pool=pool,
        token=token,
    )


def _named(config: dict[str, Any], kind: str, name: str, inner: str) -> dict[str, Any]:
    for one in config.get(kind) or []:
        if one.get("name") == name:
            return dict(one.get(inner) or {})
    raise KubeconfigError(f"the kubeconfig has no {inner} {name!r}")


def _tls(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext:
    ca = _pem(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=ca.decode() if ca else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate, key = _pem(user, "client-certificate", folder), _pem(user, "client-key", folder)
    if certificate and key:
        # ssl reads a key from files only; this one is ours alone, and gone at once.
        with tempfile.NamedTemporaryFile() as both:
            both.write(certificate + b"\n" + key)
            both.flush()
            context.load_cert_chain(both.name)
    return context


def _pem(said: dict[str, Any], name: str, folder: Path) -> bytes | None:
    if data := said.get(f"{name}-data"):
        return base64.b64decode(data)
    return (folder / said[name]).read_bytes() if said.get(name) else None


def _from_plugin(plugin: dict[str, Any]) -> dict[str, Any]:
    """What EKS, GKE and AKS use: a program that prints a token or a certificate."""
    version = plugin.get("apiVersion", "client.authentication.k8s.io/v1")
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    extra = {one["name"]: one["value"] for one in plugin.get("env") or []}
    try:
        done = subprocess.run(
            [plugin["command"], *(plugin.get("args") or [])],
            env={**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            capture_output=True,
            timeout=PLUGIN_SECONDS,
            check=True,
        )
        status = json.loads(done.stdout)["status"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        what = f"the credential plugin {plugin.get('command')} failed ({type(error).__name__})"
        raise KubeconfigError(what) from error
    given = {"token": status.get("token")}
    for ours, theirs in (("client-certificate-data", "clientCertificateData"), ("client-key-data", "clientKeyData")):
        if pem := status.get(theirs):
            given[ours] = base64.b64encode(pem.encode()).decode()
    return given
