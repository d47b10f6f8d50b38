"""Connect RPC for plain synchronous Python.

Everything public is here; the server's WSGI application is in `wsgi_adapters`, and what tests need in
`connect_sync.testing`.
"""

from connect_sync.client import (
    CallOptions,
    Cancellation,
    ConnectClient,
    GetCallOptions,
    Lifetime,
    ResponseMetadata,
    ResponseStream,
    Transport,
    Unpack,
)
from connect_sync.code import Code
from connect_sync.compression import Brotli, Compression, Deflate, Gzip, Snappy, Zstd
from connect_sync.context import ContextKey, RequestContext
from connect_sync.errors import (
    ConnectError,
    ErrorDetail,
    ErrorMapping,
    MalformedError,
    NotModified,
    TooLargeError,
)
from connect_sync.headers import Headers, HeadersInput
from connect_sync.http import Body, Request, Response
from connect_sync.interceptor import (
    Call,
    ClientStreamInterceptor,
    Interceptor,
    MetadataInterceptor,
    ServerStreamInterceptor,
    StartInterceptor,
    UnaryInterceptor,
)
from connect_sync.method import IdempotencyLevel, Method, StreamKind
from connect_sync.protocol_type import ProtocolType

__all__ = [
    "Body",
    "Brotli",
    "Call",
    "CallOptions",
    "Cancellation",
    "ClientStreamInterceptor",
    "Code",
    "Compression",
    "ConnectClient",
    "ConnectError",
    "ContextKey",
    "Deflate",
    "ErrorDetail",
    "ErrorMapping",
    "GetCallOptions",
    "Gzip",
    "Headers",
    "HeadersInput",
    "IdempotencyLevel",
    "Interceptor",
    "Lifetime",
    "MalformedError",
    "MetadataInterceptor",
    "Method",
    "NotModified",
    "ProtocolType",
    "Request",
    "RequestContext",
    "Response",
    "ResponseMetadata",
    "ResponseStream",
    "ServerStreamInterceptor",
    "Snappy",
    "StartInterceptor",
    "StreamKind",
    "TooLargeError",
    "Transport",
    "UnaryInterceptor",
    "Unpack",
    "Zstd",
]
