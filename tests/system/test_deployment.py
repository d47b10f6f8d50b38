"""What samples/deploy and docs/deployment.md say, with real servers: two gunicorns behind nginx, or Envoy."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from pathlib import Path

import pytest
import urllib3
import yaml
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import Code, ConnectError, ProtocolType, ResponseStream
from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.live import NAMES, assert_live, paced
from tests.support import CLIENT_PROTOCOLS
from tests.system.deployment import SAMPLE, Deployment, Envoy, Image, Load, Nginx


@pytest.fixture(scope="module", params=[Nginx, Envoy], ids=["nginx", "Envoy"])
def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Deployment]:
    """A deployment that tests share, as none of them ends one of its servers."""
    with closing(Deployment(tmp_path_factory.mktemp("shared"), certificates, request.param)) as deployment:
        yield deployment


def test_program_accepts_its_configuration(deployment: Deployment) -> None:
    assert "warn" not in deployment.proxy.check()


@pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)
def test_message_reaches_handler_before_next_is_sent(
    deployment: Deployment, channel: Channel, protocol: ProtocolType
) -> None:
    with deployment.client(protocol=protocol) as client:
        response = client.collect(paced(channel), headers=channel.headers)
    assert response.payload == "".join(NAMES).encode()


@pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)
def test_response_reaches_client_before_next_is_asked_for(
    deployment: Deployment, channel: Channel, protocol: ProtocolType
) -> None:
    request = EchoRequest(payload=b"x", times=3)
    with deployment.client(protocol=protocol) as client:
        assert_live(client.repeat(request, headers=channel.headers), channel)


def test_handler_is_closed_when_client_leaves(deployment: Deployment, channel: Channel) -> None:
    request = EchoRequest(payload=b"x", times=-1)
    with deployment.client() as client, client.repeat(request, headers=channel.headers) as responses:
        next(responses)
    channel.go_on_to_the_end()
    assert "closed" in iter(channel.next_event, "")


def test_calls_share_connections_to_hosts(deployment: Deployment) -> None:
    before = len(deployment.arrivals())
    with deployment.client() as client:
        for number in range(50):
            client.echo(EchoRequest(payload=b"x"), headers={"call": f"sharing-{number}"})
    arrivals = deployment.arrivals()
    assert len(arrivals) - before == 50
    calls = Counter(arrival.connection for arrival in arrivals if arrival.name.startswith("sharing"))
    # One to each host. Another call may have left further ones, which are used in turn.
    assert len(calls) <= 4


def test_subject_of_certificate_is_not_for_clients_to_set(deployment: Deployment) -> None:
    with deployment.client() as client:
        client.echo(EchoRequest(), headers={"call": "impostor", "x-client-subject": "CN=admin"})
    assert [call.subject for call in deployment.arrivals() if call.name == "impostor"] == [""]


def test_address_of_client_is_not_for_clients_to_set(deployment: Deployment) -> None:
    with deployment.client() as client:
        client.echo(EchoRequest(), headers={"call": "local"})
        client.echo(EchoRequest(), headers={"call": "forwarded", "x-forwarded-for": "203.0.113.1"})
    told = {call.name: call.forwarded_for for call in deployment.arrivals()}
    # Of a client on the same machine Envoy tells another address of the machine than nginx.
    assert str(ip_address(told["forwarded"])) == told["local"]


@pytest.fixture(params=[Nginx, Envoy], ids=["nginx", "Envoy"])
def closed_deployment(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates
) -> Iterator[Deployment]:
    """A deployment for clients that have a certificate."""
    deployment = Deployment(tmp_path, certificates, request.param, has_client_certificates=True)
    with closing(deployment):
        yield deployment


def test_client_certificate_is_asked_for_and_told(closed_deployment: Deployment) -> None:
    with closed_deployment.client() as stranger, pytest.raises(ConnectError):
        stranger.echo(EchoRequest(), headers={"call": "stranger"})
    with closed_deployment.client(has_certificate=True) as client:
        client.echo(EchoRequest(), headers={"call": "known", "x-client-subject": "CN=admin"})
    (call,) = closed_deployment.arrivals()
    assert call.name == "known"
    assert "O=trustme" in call.subject
    assert "admin" not in call.subject


@pytest.fixture(params=[Nginx, Envoy], ids=["nginx", "Envoy"])
def own_deployment(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates
) -> Iterator[Deployment]:
    """A deployment of which a test ends what it likes."""
    with closing(Deployment(tmp_path, certificates, request.param)) as deployment:
        yield deployment


def test_no_get_is_lost_when_host_is_killed(own_deployment: Deployment) -> None:
    first, _ = own_deployment.hosts
    with Load(own_deployment) as load:
        load.await_calls(100)
        first.kill()
        load.await_calls(100)
    assert_no_get_is_lost(load)
    assert load.calls_that_came_twice() == []


def test_no_message_is_logged_when_host_is_killed(own_deployment: Deployment) -> None:
    kill_first_host_and_call(own_deployment)
    logged = own_deployment.proxy.stop()
    assert logged.count("/EchoSafely") >= 4
    assert "message=" not in logged


def test_log_of_nginx_says_which_host_has_failed(tmp_path: Path, certificates: Certificates) -> None:
    with closing(Deployment(tmp_path, certificates, Nginx)) as deployment:
        first, second = deployment.hosts
        kill_first_host_and_call(deployment)
        assert f"from 127.0.0.1:{first.port}, 127.0.0.1:{second.port}: 502, 200" in deployment.proxy.stop()


def kill_first_host_and_call(deployment: Deployment) -> None:
    """Make calls by GET one after the other, for which nginx chooses the hosts in turn."""
    deployment.hosts[0].kill()
    with deployment.client() as client:
        for _ in range(4):
            assert client.echo_safely(EchoRequest(payload=b"x"), use_get=True).payload == b"x"


def test_no_get_is_lost_when_hosts_are_killed_in_turn(own_deployment: Deployment) -> None:
    first, second = own_deployment.hosts
    with Load(own_deployment) as load:
        load.await_calls(30)
        for host in (first, second, first):
            host.kill()
            host.start()
            own_deployment.proxy.await_host(host)
            load.await_calls(30)
    assert_no_get_is_lost(load)
    assert load.calls_that_came_twice() == []


def test_no_call_is_lost_when_hosts_are_restarted_in_turn(own_deployment: Deployment) -> None:
    first, second = own_deployment.hosts
    with Load(own_deployment) as load:
        load.await_calls(30)
        for host in (first, second, first):
            host.restart()
            own_deployment.proxy.await_host(host)
            load.await_calls(30)
    assert not any(load.failed.values())
    assert load.retries.reasons == []
    assert load.calls_that_came_twice() == []


def test_streams_end_and_calls_go_elsewhere_when_host_stops(own_deployment: Deployment) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(own_deployment.client())
        streams = open_streams(stack, own_deployment, client)
        first, _ = own_deployment.hosts
        with Load(own_deployment) as load:
            load.await_calls(30)
            first.send_signal(signal.SIGTERM)
            load.await_calls(100)
            stopped_at = len(first.calls())
            load.await_calls(30)
            assert len(first.calls()) == stopped_at
        assert not any(load.failed.values())
        assert load.retries.reasons == []
        for responses, channel in streams:
            channel.go_on_to_the_end()
            assert len(list(responses)) == 2
        assert first.wait_for_end() == 0


@pytest.fixture(params=[Nginx, Envoy], ids=["nginx", "Envoy"])
def hasty_deployment(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates
) -> Iterator[Deployment]:
    """A deployment that gives calls one second to end in when a host stops."""
    with closing(Deployment(tmp_path, certificates, request.param, "--graceful-timeout", "1")) as deployment:
        yield deployment


def test_stream_that_is_longer_than_grace_is_cut(hasty_deployment: Deployment) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(hasty_deployment.client())
        streams = open_streams(stack, hasty_deployment, client)
        for host in hasty_deployment.hosts:
            host.send_signal(signal.SIGTERM)
        for responses, _ in streams:
            with pytest.raises(ConnectError) as raised:
                next(responses)
            assert raised.value.code is Code.UNAVAILABLE
        for host in hasty_deployment.hosts:
            assert host.wait_for_end() == 0


def test_client_stream_that_is_longer_than_grace_is_cut(
    hasty_deployment: Deployment, channel: Channel
) -> None:
    def endless() -> Iterator[EchoRequest]:
        yield EchoRequest(payload=b"x")
        assert channel.next_event() == "called"
        assert channel.next_event() == "got x"
        for host in hasty_deployment.hosts:
            host.send_signal(signal.SIGTERM)
        # The handler has been killed.
        assert channel.next_event() == ""
        while True:
            yield EchoRequest(payload=b"x")

    with hasty_deployment.client() as client, pytest.raises(ConnectError) as raised:
        client.collect(endless(), headers=channel.headers)
    assert raised.value.code is Code.UNAVAILABLE


@pytest.fixture(params=[Nginx, Envoy], ids=["nginx", "Envoy"])
def impatient_deployment(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates
) -> Iterator[Deployment]:
    """A deployment that waits for one second for the answer to a GET."""
    with closing(Deployment(tmp_path, certificates, request.param, has_short_get_timeout=True)) as deployment:
        yield deployment


def test_no_get_is_lost_when_host_hangs(impatient_deployment: Deployment) -> None:
    first, second = impatient_deployment.hosts
    with impatient_deployment.client() as client:
        request = EchoRequest(payload=b"x")
        for number in range(20):
            client.echo_safely(request, headers={"call": f"before-{number}"}, use_get=True)
        assert first.calls()
        assert second.calls()
        first.send_signal(signal.SIGSTOP, to_all=True)
        for number in range(20):
            client.echo_safely(request, headers={"call": f"after-{number}"}, use_get=True)
    assert {f"after-{number}" for number in range(20)} <= {call.name for call in second.calls()}


def test_get_that_is_slow_is_made_three_times(impatient_deployment: Deployment) -> None:
    slow = {"call": "slow", "wait-until-inactive": "yes"}
    with impatient_deployment.client() as client:
        with pytest.raises(ConnectError) as raised:
            client.echo_safely(EchoRequest(), headers=slow, use_get=True)
        assert raised.value.code is Code.UNAVAILABLE
        assert client.echo(EchoRequest(payload=b"x")).payload == b"x"
    assert [call.name for call in impatient_deployment.arrivals()] == ["slow"] * 3


# It installs packages from PyPI twice.
@pytest.mark.timeout(600)
def test_image_serves_the_sample(tmp_path: Path) -> None:
    with closing(Image(tmp_path)) as image, urllib3.PoolManager() as manager:
        image.build()
        address = image.run()
        greeted = manager.request(
            "POST",
            f"{address}/greet.v1.GreetService/Greet",
            json={"name": "Jane"},
            headers={"authorization": "Bearer let-me-in", "content-type": "application/json"},
        )
        assert (greeted.status, greeted.json()) == (200, {"greeting": "Hello, Jane!"})
        checked = manager.request(
            "POST", f"{address}/grpc.health.v1.Health/Check", json={"service": "greet.v1.GreetService"}
        )
        assert (checked.status, checked.json()) == (200, {"status": "SERVING"})
        for page in ("healthz", "livez"):
            assert manager.request("GET", f"{address}/{page}").status == 200
        image.send_signal(signal.SIGTERM)
        assert image.wait_for_end() == 0


def test_dockerfile_passes_its_linter() -> None:
    command = [Path(sys.executable).with_name("hadolint"), SAMPLE / "Dockerfile"]
    linted = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert (linted.stdout, linted.returncode) == ("", 0)


MANIFESTS = sorted((SAMPLE / "kubernetes").glob("*.yaml"))


@pytest.mark.parametrize("version", ["1.30", "1.36"])
def test_manifests_have_the_form_that_kubernetes_wants(version: str) -> None:
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", "--quiet"]
    checked = subprocess.run(
        [*command, "--kubernetes-version", version, *MANIFESTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (checked.stdout, checked.returncode) == ("", 0)


def test_pods_are_given_the_time_that_gunicorn_takes_to_stop() -> None:
    deployment, _ = yaml.safe_load_all((SAMPLE / "kubernetes" / "deployment.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    configuration = runpy.run_path(str(SAMPLE / "gunicorn.conf.py"))
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + configuration["graceful_timeout"]


def assert_no_get_is_lost(load: Load) -> None:
    """Check that all succeeded, and that the client had to repeat none but those whose answer had begun."""
    assert load.failed["get"] == []
    assert [reason for reason in load.retries.reasons if "no valid answer" not in reason] == []


Streams = list[tuple[ResponseStream[EchoResponse], Channel]]


def open_streams(stack: ExitStack, deployment: Deployment, client: EchoServiceClient) -> Streams:
    """Return streams of three messages, of which one has come: some to each host."""
    streams: Streams = []
    while not all(host.calls() for host in deployment.hosts):
        channel = stack.enter_context(closing(Channel()))
        headers = {**channel.headers, "call": f"stream-{len(streams)}"}
        responses = client.repeat(EchoRequest(payload=b"x", times=3), headers=headers)
        next(stack.enter_context(responses))
        streams.append((responses, channel))
    return streams
