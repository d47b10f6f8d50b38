"""The server: a function from an HTTP request to its response, whatever server stands before it."""

from connect_sync.server.service import DEFAULT_READ_MAX_BYTES, Service

__all__ = ["DEFAULT_READ_MAX_BYTES", "Service"]
