"""The client under test: makes the calls that the runner describes, and says how each one ended.

Requests come on stdin; results go to stdout, in the order in which the calls end.
"""

from __future__ import annotations

import ssl
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import urllib3
from connectrpc.conformance.v1 import config_pb2, service_pb2
from connectrpc.conformance.v1.client_compat_pb2 import (
    ClientCompatRequest,
    ClientCompatResponse,
    ClientResponseResult,
)
from connectrpc.conformance.v1.service_connect import ConformanceServiceClient
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from connect_sync import Cancellation, ConnectError, Headers, ProtocolType, ResponseMetadata
from connect_sync.http import DEFAULT_READ_MAX_BYTES
from tests.conformance.wire import from_headers, read_messages, to_pairs, write_message

_MessageT = TypeVar("_MessageT", bound=Message)

_SERVICE = "connectrpc.conformance.v1.ConformanceService"

_PROTOCOLS = {
    config_pb2.PROTOCOL_CONNECT: ProtocolType.CONNECT,
    config_pb2.PROTOCOL_GRPC_WEB: ProtocolType.GRPC_WEB,
}
_COMPRESSIONS = {
    config_pb2.COMPRESSION_IDENTITY: None,
    config_pb2.COMPRESSION_GZIP: "gzip",
    config_pb2.COMPRESSION_BR: "br",
    config_pb2.COMPRESSION_ZSTD: "zstd",
    config_pb2.COMPRESSION_DEFLATE: "deflate",
    config_pb2.COMPRESSION_SNAPPY: "snappy",
}

# Most calls wait: for a slow answer, a deadline or a cancellation.
_THREADS = 16


class Call:
    """One call that the runner wants, and what comes of it."""

    def __init__(self, client: ConformanceServiceClient, request: ClientCompatRequest) -> None:
        self._client = client
        self._request = request
        self._headers = Headers(to_pairs(request.request_headers))
        self._timeout_ms = request.timeout_ms if request.HasField("timeout_ms") else None
        self._cancellation = Cancellation() if request.HasField("cancel") else None
        self._result = ClientResponseResult()

    def run(self) -> ClientResponseResult:
        """Make the call.

        Raises:
            ValueError: The runner wants what this client does not have.
        """
        method = _METHODS.get(self._request.method)
        if method is None or self._request.service != _SERVICE:
            raise ValueError(f"no method {self._request.service}/{self._request.method}")
        try:
            method(self)
        except ConnectError as error:
            self._result.error.CopyFrom(_describe(error))
        return self._result

    def unary(self) -> None:
        self._request_is_sent()
        with ResponseMetadata() as metadata:
            try:
                response = self._client.unary(
                    self._only_message(service_pb2.UnaryRequest),
                    headers=self._headers,
                    timeout_ms=self._timeout_ms,
                    cancellation=self._cancellation,
                )
            finally:
                self._keep(metadata.headers(), metadata.trailers())
        self._result.payloads.append(response.payload)

    def idempotent_unary(self) -> None:
        self._request_is_sent()
        with ResponseMetadata() as metadata:
            try:
                response = self._client.idempotent_unary(
                    self._only_message(service_pb2.IdempotentUnaryRequest),
                    headers=self._headers,
                    timeout_ms=self._timeout_ms,
                    cancellation=self._cancellation,
                    use_get=self._request.use_get_http_method,
                )
            finally:
                self._keep(metadata.headers(), metadata.trailers())
        self._result.payloads.append(response.payload)

    def unimplemented(self) -> None:
        with ResponseMetadata() as metadata:
            try:
                self._client.unimplemented(
                    self._only_message(service_pb2.UnimplementedRequest),
                    headers=self._headers,
                    timeout_ms=self._timeout_ms,
                    cancellation=self._cancellation,
                )
            finally:
                self._keep(metadata.headers(), metadata.trailers())

    def client_stream(self) -> None:
        with ResponseMetadata() as metadata:
            try:
                response = self._client.client_stream(
                    self._messages(),
                    headers=self._headers,
                    timeout_ms=self._timeout_ms,
                    cancellation=self._cancellation,
                )
            finally:
                self._keep(metadata.headers(), metadata.trailers())
        self._result.payloads.append(response.payload)

    def server_stream(self) -> None:
        with self._client.server_stream(
            self._only_message(service_pb2.ServerStreamRequest),
            headers=self._headers,
            timeout_ms=self._timeout_ms,
            cancellation=self._cancellation,
        ) as stream:
            self._request_is_sent()
            try:
                for response in stream:
                    self._result.payloads.append(response.payload)
                    self._response_is_read()
            finally:
                self._keep(stream.response_headers(), stream.response_trailers())

    def _only_message(self, message_class: type[_MessageT]) -> _MessageT:
        (packed,) = self._request.request_messages
        return _unpack(packed, message_class)

    def _messages(self) -> Iterator[service_pb2.ClientStreamRequest]:
        for number, packed in enumerate(self._request.request_messages):
            # Stays so when the call ends before it asks for the next one.
            self._result.num_unsent_requests = len(self._request.request_messages) - number
            time.sleep(self._request.request_delay_ms / 1000)
            yield _unpack(packed, service_pb2.ClientStreamRequest)
        self._result.num_unsent_requests = 0
        self._request_is_sent()

    def _request_is_sent(self) -> None:
        """Cancel, soon or now, if the runner wants it here: see ClientCompatRequest.Cancel.

        A unary call blocks until it is over, so that its request "is sent" just before it.
        """
        if self._cancellation is None or self._request.cancel.HasField("after_num_responses"):
            return
        delay_ms = self._request.cancel.after_close_send_ms
        if delay_ms:
            timer = threading.Timer(delay_ms / 1000, self._cancellation.cancel)
            timer.daemon = True
            timer.start()
        else:
            self._cancellation.cancel()

    def _response_is_read(self) -> None:
        count = len(self._result.payloads)
        if self._cancellation is not None and self._request.cancel.after_num_responses == count:
            self._cancellation.cancel()

    def _keep(self, headers: Headers, trailers: Headers) -> None:
        self._result.response_headers.extend(from_headers(headers))
        self._result.response_trailers.extend(from_headers(trailers))


_METHODS: dict[str, Callable[[Call], None]] = {
    "Unary": Call.unary,
    "IdempotentUnary": Call.idempotent_unary,
    "Unimplemented": Call.unimplemented,
    "ClientStream": Call.client_stream,
    "ServerStream": Call.server_stream,
}


def _unpack(packed: AnyMessage, message_class: type[_MessageT]) -> _MessageT:
    message = message_class()
    if not packed.Unpack(message):
        raise ValueError(f"{packed.type_url} is not a {message_class.DESCRIPTOR.full_name}")
    return message


def _describe(error: ConnectError) -> service_pb2.Error:
    return service_pb2.Error(
        code=f"CODE_{error.code.name}",
        message=error.message,
        details=[
            AnyMessage(type_url=f"type.googleapis.com/{detail.type}", value=detail.data)
            for detail in error.details
        ],
    )


class Clients:
    """The clients in use, one for each server and set of options, all closed at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[object, ConformanceServiceClient] = {}
        self._pools: dict[object, urllib3.PoolManager] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.close()

    def find(self, request: ClientCompatRequest) -> ConformanceServiceClient:
        """Return the client to make ``request`` with."""
        scheme = "https" if request.server_tls_cert else "http"
        address = f"{scheme}://{request.host}:{request.port}"
        key = (
            address,
            request.protocol,
            request.codec,
            request.compression,
            request.message_receive_limit,
            request.server_tls_cert,
            request.client_tls_creds.cert,
        )
        with self._lock:
            client = self._clients.get(key)
            if client is None:
                client = self._closing.enter_context(self._make(address, request))
                self._clients[key] = client
            return client

    def _make(self, address: str, request: ClientCompatRequest) -> ConformanceServiceClient:
        compression = _COMPRESSIONS[request.compression]
        return ConformanceServiceClient(
            address,
            proto_json=request.codec == config_pb2.CODEC_JSON,
            protocol=_PROTOCOLS[request.protocol],
            send_compression=compression,
            accept_compression=() if compression is None else (compression,),
            compress_min_bytes=0,
            read_max_bytes=request.message_receive_limit or DEFAULT_READ_MAX_BYTES,
            pool_manager=self._pool(request),
        )

    def _pool(self, request: ClientCompatRequest) -> urllib3.PoolManager:
        key = (request.server_tls_cert, request.client_tls_creds.cert)
        pool = self._pools.get(key)
        if pool is None:
            context = _tls_context(request) if request.server_tls_cert else None
            pool = urllib3.PoolManager(maxsize=_THREADS, ssl_context=context)
            self._closing.callback(pool.clear)
            self._pools[key] = pool
        return pool


def _tls_context(request: ClientCompatRequest) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=request.server_tls_cert.decode("ascii"))
    if request.HasField("client_tls_creds"):
        with tempfile.TemporaryDirectory() as directory:
            certificate = Path(directory, "client.crt")
            certificate.write_bytes(request.client_tls_creds.cert)
            key = Path(directory, "client.key")
            key.write_bytes(request.client_tls_creds.key)
            context.load_cert_chain(certificate, key)
    return context


def main() -> None:
    """Make the calls that stdin asks for until it ends, many at a time."""
    writing = threading.Lock()

    def answer(request: ClientCompatRequest) -> None:
        response = ClientCompatResponse(test_name=request.test_name)
        try:
            response.response.CopyFrom(Call(clients.find(request), request).run())
        except Exception:
            response.error.message = traceback.format_exc()
        with writing:
            write_message(sys.stdout.buffer, response)

    with Clients() as clients, ThreadPoolExecutor(_THREADS) as threads:
        for request in read_messages(sys.stdin.buffer, ClientCompatRequest):
            threads.submit(answer, request)


if __name__ == "__main__":
    main()
