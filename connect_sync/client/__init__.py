"""The blocking client, its transport over urllib3, and the handles on calls in flight."""

from connect_sync.client.client import ConnectClient
from connect_sync.client.lifetime import Cancellation, Lifetime
from connect_sync.client.metadata import ResponseMetadata
from connect_sync.client.options import CallOptions, GetCallOptions, Unpack
from connect_sync.client.stream import ResponseStream
from connect_sync.client.transport import Transport, Urllib3Transport

__all__ = [
    "CallOptions",
    "Cancellation",
    "ConnectClient",
    "GetCallOptions",
    "Lifetime",
    "ResponseMetadata",
    "ResponseStream",
    "Transport",
    "Unpack",
    "Urllib3Transport",
]
