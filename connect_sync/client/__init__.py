"""The blocking client, its transport over urllib3, and the handles on calls in flight."""

from connect_sync.client.client import ConnectClient
from connect_sync.client.lifetime import Cancellation, Lifetime
from connect_sync.client.metadata import ResponseMetadata
from connect_sync.client.stream import ResponseStream
from connect_sync.client.transport import Transport, Urllib3Transport

__all__ = [
    "Cancellation",
    "ConnectClient",
    "Lifetime",
    "ResponseMetadata",
    "ResponseStream",
    "Transport",
    "Urllib3Transport",
]
