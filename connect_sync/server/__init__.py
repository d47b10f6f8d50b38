"""The server: a function from an HTTP request to its response, whatever server stands before it."""

from connect_sync.server.service import Service

__all__ = ["Service"]
