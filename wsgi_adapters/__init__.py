"""Connect services as WSGI applications."""

from wsgi_adapters.application import ConnectWSGIApplication

__all__ = ["ConnectWSGIApplication"]
