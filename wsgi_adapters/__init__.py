"""Connect services as WSGI applications."""

from wsgi_adapters.application import ConnectWSGIApplication
from wsgi_adapters.cors import CORSMiddleware

__all__ = ["CORSMiddleware", "ConnectWSGIApplication"]
