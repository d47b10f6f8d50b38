"""What the owner of a server says of it, and how it is told: by Check, by Watch, and by a page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest
from grpc_health.v1 import health_pb2

from connect_sync import Code, ConnectError, Headers, ProtocolType
from connect_sync.codec import JSON, PROTO
from connect_sync.health import (
    CHECK,
    WATCH,
    Health,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthClient,
    ServingStatus,
)
from connect_sync.http import IterableBody, Request, close_iterator
from connect_sync.server.context import ServerContext
from connect_sync.testing import InMemoryTransport
from tests.support import CLIENT_PROTOCOLS, decode, encode, run_wsgi
from wsgi_adapters.health import HealthWSGIApplication, Healthz

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

UNKNOWN = ServingStatus.UNKNOWN
SERVING = ServingStatus.SERVING
NOT_SERVING = ServingStatus.NOT_SERVING
SERVICE_UNKNOWN = ServingStatus.SERVICE_UNKNOWN

NAME = "unit.v1.UnitService"
WHOLE = HealthCheckRequest()
NAMED = HealthCheckRequest(service=NAME)


@pytest.fixture(autouse=True)
def no_look_without_being_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a Watch that nobody wakes wait for ever."""
    look_every(monkeypatch, 1_000_000)


def look_every(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr("connect_sync.health._MAX_WAIT", seconds)


class Sender(IterableBody):
    """The body of a request, whose sender may leave."""

    __slots__ = ("has_left",)

    def __init__(self) -> None:
        super().__init__(())
        self.has_left = False

    def is_disconnected(self) -> bool:
        return self.has_left


def watch(
    health: Health, request: HealthCheckRequest = WHOLE, sender: Sender | None = None
) -> Iterator[HealthCheckResponse]:
    """Call the handler alone, which is a generator: it can be closed."""
    body: Iterable[bytes] = () if sender is None else sender
    http_request = Request("POST", WATCH.path, Headers(), body)
    return health.watch(request, ServerContext(WATCH, http_request, None, ProtocolType.CONNECT))


def next_status(responses: Iterator[HealthCheckResponse]) -> ServingStatus:
    return ServingStatus(next(responses).status)


def statuses(responses: Iterator[HealthCheckResponse]) -> list[ServingStatus]:
    """Return what is left of a Watch that ends."""
    return [ServingStatus(response.status) for response in responses]


# What the owner says


def test_server_is_serving_from_the_beginning() -> None:
    assert Health().get_status() is SERVING


def test_service_is_unknown_until_its_status_is_set() -> None:
    health = Health()
    assert health.get_status(NAME) is SERVICE_UNKNOWN
    health.set_status(NAME, NOT_SERVING)
    assert health.get_status(NAME) is NOT_SERVING


def test_statuses_have_no_influence_on_each_other() -> None:
    health = Health()
    health.set_status(NAME, SERVING)
    health.set_status("", NOT_SERVING)
    assert (health.get_status(), health.get_status(NAME)) == (NOT_SERVING, SERVING)


def test_status_may_be_one_of_the_official_messages() -> None:
    health = Health()
    health.set_status(NAME, health_pb2.HealthCheckResponse.NOT_SERVING)  # type: ignore[arg-type]
    assert health.get_status(NAME) is NOT_SERVING


def test_shutdown_is_for_good() -> None:
    health = Health()
    health.set_status(NAME, UNKNOWN)
    health.shutdown()
    health.shutdown()
    health.set_status("", SERVING)
    health.set_status("other", SERVING)
    assert [health.get_status(name) for name in ("", NAME, "other")] == [
        NOT_SERVING,
        NOT_SERVING,
        SERVICE_UNKNOWN,
    ]


def test_shutdown_does_not_wait_for_what_it_interrupts() -> None:
    class Interrupted(str):
        """A name that a signal handler runs amid the use of."""

        __slots__ = ()

        def __hash__(self) -> int:
            health.shutdown()
            return super().__hash__()

    health = Health()
    health.set_status(Interrupted(NAME), SERVING)
    assert health.get_status() is NOT_SERVING


@pytest.mark.parametrize("service", [None, b"unit.v1.UnitService", 1])
def test_name_that_is_no_string_is_refused(service: Any) -> None:
    with pytest.raises(TypeError, match="service must be a string, got "):
        Health().set_status(service, SERVING)


def test_path_is_not_taken_for_a_name() -> None:
    with pytest.raises(
        ValueError, match=r"service must be a name, such as 'unit\.v1\.UnitService', got the path"
    ):
        Health().set_status(f"/{NAME}", SERVING)


@pytest.mark.parametrize("status", [SERVICE_UNKNOWN, 3, 4, -1, "SERVING", None])
def test_status_that_no_service_can_have_is_refused(status: Any) -> None:
    health = Health()
    with pytest.raises(ValueError, match=r"SERVICE_UNKNOWN|is not a valid ServingStatus"):
        health.set_status(NAME, status)
    assert health.get_status(NAME) is SERVICE_UNKNOWN


# The messages


@pytest.mark.parametrize("status", ServingStatus)
def test_response_is_the_official_message(status: ServingStatus) -> None:
    official = health_pb2.HealthCheckResponse(status=status.value)
    assert encode(PROTO, HealthCheckResponse(status=status)) == official.SerializeToString()
    assert decode(PROTO, official.SerializeToString(), HealthCheckResponse).status == status
    assert encode(JSON, HealthCheckResponse(status=status)) == encode(JSON, official)
    assert decode(JSON, encode(JSON, official), HealthCheckResponse).status == status


@pytest.mark.parametrize("service", ["", NAME])
def test_request_is_the_official_message(service: str) -> None:
    official = health_pb2.HealthCheckRequest(service=service)
    assert encode(PROTO, HealthCheckRequest(service=service)) == official.SerializeToString()
    assert encode(JSON, HealthCheckRequest(service=service)) == encode(JSON, official)
    assert decode(JSON, encode(JSON, official), HealthCheckRequest).service == service


def test_statuses_are_the_official_ones() -> None:
    official = health_pb2.HealthCheckResponse.ServingStatus
    assert {status.name: status.value for status in ServingStatus} == dict(official.items())


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("is_first", [True, False], ids=["ours first", "official first"])
def test_messages_stand_beside_the_official_ones(implementation: str, is_first: bool) -> None:
    imports = ["from connect_sync.health import HealthCheckRequest", "from grpc_health.v1 import health_pb2"]
    if not is_first:
        imports.reverse()
    program = (
        f"{'; '.join(imports)}; "
        "ours, theirs = HealthCheckRequest(service='a'), health_pb2.HealthCheckRequest(service='a'); "
        "print(ours.SerializeToString() == theirs.SerializeToString())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n", done.stderr


# The service

all_clients = pytest.mark.parametrize(
    "options",
    [
        {"protocol": protocol, "proto_json": proto_json}
        for protocol in CLIENT_PROTOCOLS
        for proto_json in (False, True)
    ],
    ids=lambda options: f"{options['protocol'].value}, {'json' if options['proto_json'] else 'proto'}",
)


def client_of(health: Health, **options: Any) -> HealthClient:
    application = HealthWSGIApplication(health)
    return HealthClient("http://unit.test", transport=InMemoryTransport(application.service), **options)


def code_of(call: Callable[[], object]) -> Code:
    with pytest.raises(ConnectError) as raised:
        call()
    return raised.value.code


@all_clients
def test_check_gives_the_status(options: Any) -> None:
    health = Health()
    client = client_of(health, **options)
    assert client.check(WHOLE).status == SERVING
    for status in (NOT_SERVING, UNKNOWN, SERVING):
        health.set_status(NAME, status)
        assert client.check(NAMED).status == status


@all_clients
def test_check_fails_for_an_unknown_service(options: Any) -> None:
    assert code_of(lambda: client_of(Health(), **options).check(NAMED)) is Code.NOT_FOUND


@all_clients
def test_watch_gives_the_status_and_each_change(options: Any) -> None:
    health = Health()
    health.set_status(NAME, UNKNOWN)
    with client_of(health, **options).watch(NAMED) as responses:
        assert next_status(responses) is UNKNOWN
        for status in (SERVING, NOT_SERVING):
            health.set_status(NAME, status)
            assert next_status(responses) is status
        health.shutdown()
        assert statuses(responses) == []


def test_check_is_answered_by_get_and_not_to_be_kept() -> None:
    health = Health()
    service = HealthWSGIApplication(health).service

    def get(message: str) -> tuple[int, str | None]:
        request = Request("GET", CHECK.path, Headers(), (), query=f"encoding=json&message={message}")
        response = service(request)
        return response.status, response.headers.get("cache-control")

    assert get("{}") == (200, "no-store")
    assert get("{%22service%22:%22absent%22}") == (404, "no-store")
    assert client_of(health).check(WHOLE, use_get=True).status == SERVING


def test_error_does_not_send_the_name_back() -> None:
    request = HealthCheckRequest(service="x" * 100_000)
    with pytest.raises(ConnectError) as raised:
        client_of(Health()).check(request)
    assert len(raised.value.message) < 100


# A Watch


def test_watch_of_an_unknown_service_goes_on() -> None:
    health = Health()
    responses = watch(health, NAMED)
    assert next_status(responses) is SERVICE_UNKNOWN
    health.set_status(NAME, SERVING)
    assert next_status(responses) is SERVING


def test_watch_does_not_repeat_a_status() -> None:
    health = Health()
    responses = watch(health)
    assert next_status(responses) is SERVING
    health.set_status("", SERVING)
    health.set_status("", NOT_SERVING)
    health.set_status("", NOT_SERVING)
    assert next_status(responses) is NOT_SERVING
    health.set_status("", SERVING)
    health.set_status("", UNKNOWN)
    assert next_status(responses) is UNKNOWN


def test_watch_sees_no_other_service() -> None:
    health = Health()
    responses = watch(health)
    assert next_status(responses) is SERVING
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next_status, responses)
        health.set_status(NAME, NOT_SERVING)
        health.set_status("", UNKNOWN)
        assert following.result() is UNKNOWN


def test_change_wakes_every_watch() -> None:
    health = Health(max_watches=8)
    all_responses = [watch(health) for _ in range(8)]
    assert [next_status(responses) for responses in all_responses] == [SERVING] * 8
    with ThreadPoolExecutor(8) as pool:
        following = [pool.submit(next_status, responses) for responses in all_responses]
        health.set_status("", NOT_SERVING)
        assert [future.result() for future in following] == [NOT_SERVING] * 8


@pytest.mark.parametrize("request_", [WHOLE, NAMED], ids=["known", "unknown"])
def test_shutdown_ends_watches(request_: HealthCheckRequest) -> None:
    health = Health()
    responses = watch(health, request_)
    first = next_status(responses)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(statuses, responses)
        health.shutdown()
        assert following.result() == ([NOT_SERVING] if first is SERVING else [])


def test_watch_that_comes_after_shutdown_ends_at_once() -> None:
    health = Health()
    health.shutdown()
    assert statuses(watch(health)) == [NOT_SERVING]
    assert statuses(watch(health, NAMED)) == [SERVICE_UNKNOWN]


def test_shutdown_by_a_signal_ends_the_watch_that_it_interrupts() -> None:
    health = Health()
    responses = watch(health)
    assert next_status(responses) is SERVING
    before = signal.signal(signal.SIGUSR1, lambda number, frame: health.shutdown())
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(os.kill, os.getpid(), signal.SIGUSR1)
            assert statuses(responses) == [NOT_SERVING]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_watch_ends_when_its_client_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    look_every(monkeypatch, 0.001)
    sender = Sender()
    responses = watch(Health(), sender=sender)
    assert next_status(responses) is SERVING
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(statuses, responses)
        sender.has_left = True
        assert following.result() == []


@all_clients
def test_watch_ends_at_its_deadline(options: Any) -> None:
    responses = client_of(Health(), **options).watch(WHOLE, timeout_ms=2000)
    assert next_status(responses) is SERVING
    assert code_of(lambda: next(responses)) is Code.DEADLINE_EXCEEDED


# How many Watches


def test_watches_are_bounded() -> None:
    client = client_of(Health(max_watches=2))
    first, second = client.watch(WHOLE), client.watch(WHOLE)
    assert [next_status(first), next_status(second)] == [SERVING, SERVING]
    assert code_of(lambda: next(client.watch(WHOLE))) is Code.RESOURCE_EXHAUSTED
    assert client.check(WHOLE).status == SERVING

    first.close()
    assert next_status(client.watch(WHOLE)) is SERVING


@pytest.mark.parametrize("end", ["close", "shutdown", "left"])
def test_watch_that_has_ended_makes_room(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_every(monkeypatch, 0.001)
    health = Health(max_watches=1)
    sender = Sender()
    responses = watch(health, sender=sender)
    assert next_status(responses) is SERVING
    if end == "close":
        close_iterator(responses)
    elif end == "shutdown":
        health.shutdown()
    else:
        sender.has_left = True
    list(responses)

    assert next_status(watch(health)) is health.get_status()


def test_server_without_watches_says_that_it_has_no_such_method() -> None:
    client = client_of(Health(max_watches=0))
    assert code_of(lambda: next(client.watch(WHOLE))) is Code.UNIMPLEMENTED
    assert client.check(WHOLE).status == SERVING


def test_negative_number_of_watches_is_refused() -> None:
    with pytest.raises(ValueError, match="max_watches must be 0 or more, got -1"):
        Health(max_watches=-1)


# The page


def site(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"site"]


def ask(
    application: WSGIApplication, method: str = "GET", path: str = "/healthz", script_name: str = ""
) -> tuple[str, Mapping[str, str], bytes]:
    """Return status, headers and body of the answer, which goes through the standard library's validator."""
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SCRIPT_NAME": script_name,
        "QUERY_STRING": "",
    }
    setup_testing_defaults(environ)
    status, headers, body = run_wsgi(application, environ)
    return status, dict(headers), body


def test_page_is_200_while_the_server_is_serving() -> None:
    assert ask(Healthz(Health())) == (
        "200 OK",
        {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", "content-length": "8"},
        b"SERVING\n",
    )


@pytest.mark.parametrize("status", [NOT_SERVING, UNKNOWN])
def test_page_is_503_when_the_server_is_not_serving(status: ServingStatus) -> None:
    health = Health()
    page = Healthz(health)
    health.set_status("", status)
    line, headers, body = ask(page)
    assert (line, headers["cache-control"]) == ("503 Service Unavailable", "no-store")
    assert body == f"{status.name}\n".encode()


def test_page_is_503_after_shutdown() -> None:
    health = Health()
    health.shutdown()
    assert ask(Healthz(health))[0] == "503 Service Unavailable"


def test_pages_of_services_have_paths_of_their_own() -> None:
    health = Health()
    page = Healthz(health, path="/readyz", service=NAME, fallback=Healthz(health, fallback=site))
    assert ask(page, path="/readyz")[::2] == ("503 Service Unavailable", b"SERVICE_UNKNOWN\n")
    health.set_status(NAME, SERVING)
    assert ask(page, path="/readyz")[::2] == ("200 OK", b"SERVING\n")
    health.set_status("", NOT_SERVING)
    assert ask(page, path="/healthz")[::2] == ("503 Service Unavailable", b"NOT_SERVING\n")


def test_head_is_answered_as_get_without_the_body() -> None:
    page = Healthz(Health())
    line, headers, _ = ask(page)
    assert ask(page, "HEAD") == (line, headers, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(method: str) -> None:
    line, headers, body = ask(Healthz(Health(), fallback=site), method)
    assert (line, headers["allow"]) == ("405 Method Not Allowed", "GET, HEAD")
    assert body == f"{method} is not allowed here\n".encode()


@pytest.mark.parametrize(
    ("path", "script_name"),
    [
        ("/healthz", ""),
        ("/healthz", "/mounted"),
        ("", "/healthz"),
        ("/", "/healthz"),
        ("", "/mounted/healthz"),
    ],
)
def test_page_is_found_where_it_is_mounted(path: str, script_name: str) -> None:
    assert ask(Healthz(Health()), path=path, script_name=script_name)[2] == b"SERVING\n"


OTHER_PLACES = [
    ("", ""),
    ("/", ""),
    ("/", "/mounted"),
    ("/healthz/", ""),
    ("/healthz/a", ""),
    ("/healthzz", ""),
    ("/Healthz", ""),
    ("/a/healthz", ""),
    ("", "/ahealthz"),
    ("/healthz/healthz", ""),
]


@pytest.mark.parametrize(("path", "script_name"), OTHER_PLACES)
def test_everything_else_is_the_fallbacks(path: str, script_name: str) -> None:
    assert ask(Healthz(Health(), fallback=site), path=path, script_name=script_name)[2] == b"site"


@pytest.mark.parametrize(("path", "script_name"), OTHER_PLACES)
def test_everything_else_is_not_found_without_a_fallback(path: str, script_name: str) -> None:
    assert ask(Healthz(Health()), path=path, script_name=script_name)[0] == "404 Not Found"


@pytest.mark.parametrize("path", ["health/live", "/health/live/"])
def test_slashes_at_the_ends_of_the_path_make_no_difference(path: str) -> None:
    assert ask(Healthz(Health(), path=path), path="/health/live")[0] == "200 OK"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"health": None}, TypeError, "health must be a Health, got "),
        ({"health": HealthWSGIApplication(Health())}, TypeError, "health must be a Health, got "),
        ({"fallback": "site"}, TypeError, "fallback must be a WSGI application, got "),
        ({"service": None}, TypeError, "service must be a string, got "),
        ({"service": f"/{NAME}"}, ValueError, "service must be a name, such as"),
        ({"path": "/health?z"}, ValueError, "path must be a path of plain segments, .*, got '/health\\?z'"),
    ],
    ids=["no health", "application", "fallback", "no name", "path for a name", "no path"],
)
def test_wrong_arguments_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Healthz(**{"health": Health(), **arguments})
