"""Certificates, made anew for each run of the tests."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Literal

import trustme


class Certificates:
    """An authority that server and client trust, one that they do not, and what the two have issued."""

    def __init__(self, directory: Path) -> None:
        """Make the certificates, and write them to files below ``directory``."""
        self._directory = directory
        self._authority = trustme.CA()
        self._server = self._authority.issue_cert("localhost", "127.0.0.1")
        self._stranger = trustme.CA()
        self.authority = self._write("authority.pem", self._authority.cert_pem)
        self.server = self._write("server.pem", self._server.private_key_and_cert_chain_pem)

    def client_context(
        self,
        *,
        certificate: Literal["none", "known", "unknown"] = "none",
        is_server_known: bool = True,
        is_http2: bool = False,
    ) -> ssl.SSLContext:
        """Return how a client sees to TLS: with which certificate of its own, trusting whom, for what."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        (self._authority if is_server_known else self._stranger).configure_trust(context)
        if certificate != "none":
            issuer = self._authority if certificate == "known" else self._stranger
            issuer.issue_cert("client@example.com").configure_cert(context)
        if is_http2:
            context.set_alpn_protocols(["h2"])
        return context

    def server_context(self) -> ssl.SSLContext:
        """Return how a server of the tests sees to TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.configure_cert(context)
        return context

    def _write(self, name: str, blob: trustme.Blob) -> Path:
        path = self._directory / name
        blob.write_to_path(path)
        return path
