"""The details of google.rpc, read by the official classes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo  # type: ignore[import-untyped]

from connect_sync.rpc import bad_request, retry_info


def test_official_class_reads_a_bad_request() -> None:
    detail = bad_request(
        [("name", "is taken"), ("", "wrong together"), ("emails[0].address", "größer\ud800")]
    )

    assert detail.value(BadRequest) == BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field="name", description="is taken"),
            BadRequest.FieldViolation(description="wrong together"),
            BadRequest.FieldViolation(field="emails[0].address", description="größer?"),
        ]
    )


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(0, 0), (30, 30_000), (0.0001, 1), (1.5, 1500), (86_400 * 400, 34_560_000_000)],
)
def test_official_class_reads_a_retry_info(seconds: float, milliseconds: int) -> None:
    delay = retry_info(seconds).value(RetryInfo).retry_delay

    assert delay.ToMilliseconds() == milliseconds


def test_json_shows_what_is_in_a_detail_where_the_official_classes_are_not_loaded() -> None:
    program = """
from connect_sync import Code, ConnectError
from connect_sync.protocols.connect import encode_error
from connect_sync.rpc import bad_request

detail = bad_request([("name", "is taken")])
print(encode_error(ConnectError(Code.INVALID_ARGUMENT, details=[detail])).decode())
"""
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout

    (detail,) = json.loads(output)["details"]
    assert detail["debug"] == {"fieldViolations": [{"field": "name", "description": "is taken"}]}
