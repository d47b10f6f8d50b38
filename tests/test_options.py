"""The options of a call, beside the calls that take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from connect_sync import CallOptions, ConnectClient, GetCallOptions
from connect_sync.health import HealthCheckRequest, HealthClient


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (ConnectClient.call_unary, GetCallOptions),
        (ConnectClient.call_client_stream, CallOptions),
        (ConnectClient.call_server_stream, CallOptions),
        (ConnectClient.call_bidi_stream, CallOptions),
    ],
)
def test_options_are_the_keyword_arguments_of_a_call(call: Callable[..., Any], options: type) -> None:
    parameters = inspect.signature(call).parameters.values()
    keywords = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    types = get_type_hints(call)
    assert {name: types[name] for name in keywords} == get_type_hints(options)


def test_every_option_may_be_left_out() -> None:
    assert CallOptions.__required_keys__ | GetCallOptions.__required_keys__ == set()


@pytest.mark.parametrize("name", ["check", "watch"])
def test_unknown_option_of_a_call_is_named_in_the_error(name: str) -> None:
    with pytest.raises(TypeError, match=r"call_\w+\(\) got an unexpected keyword argument 'timeout'"):
        getattr(HealthClient("http://test"), name)(HealthCheckRequest(), timeout=500)
