"""Connect services as WSGI applications."""

from wsgi_adapters.application import ConnectWSGIApplication
from wsgi_adapters.cors import CORSMiddleware
from wsgi_adapters.router import Router

__all__ = ["CORSMiddleware", "ConnectWSGIApplication", "Router"]
