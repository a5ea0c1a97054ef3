"""Certificates for tests: an authority of their own, and PEM files signed by it."""

from __future__ import annotations

from pathlib import Path

import trustme

from libs.serving import TlsFiles

__all__ = ["Authority"]


class Authority:
    def __init__(self) -> None:
        self._ca = trustme.CA()

    def files(self, folder: Path, *, ca: Authority | None = None) -> TlsFiles:
        """Writes cert, key and ca for 127.0.0.1 into `folder`, over those that are there. `ca`: whom they trust."""
        folder.mkdir(exist_ok=True)
        files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        issued = self._ca.issue_cert("127.0.0.1", "localhost")
        for path, content in (
            (files.cert, b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
            (files.key, issued.private_key_pem.bytes()),
            (files.ca, (ca or self)._ca.cert_pem.bytes()),
        ):
            assert path is not None
            path.write_bytes(content)
        return files
