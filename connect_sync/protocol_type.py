"""The wire protocols, by name."""

from __future__ import annotations

from enum import Enum


class ProtocolType(Enum):
    """A wire protocol. Services support all three, clients the first two."""

    CONNECT = "connect"
    """Connect, over any version of HTTP."""
    GRPC_WEB = "grpc-web"
    """gRPC-Web, over any version of HTTP."""
    GRPC = "grpc"
    """gRPC, which needs HTTP/2 and trailers. Clients do not support it, since urllib3 speaks HTTP/1.1."""
