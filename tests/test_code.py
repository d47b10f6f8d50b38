from __future__ import annotations

import pytest

from connect_sync import Code

# Wire name, number, HTTP status: the Connect protocol reference, and gRPC's numbers.
TABLE = [
    ("canceled", 1, 499),
    ("unknown", 2, 500),
    ("invalid_argument", 3, 400),
    ("deadline_exceeded", 4, 504),
    ("not_found", 5, 404),
    ("already_exists", 6, 409),
    ("permission_denied", 7, 403),
    ("resource_exhausted", 8, 429),
    ("failed_precondition", 9, 400),
    ("aborted", 10, 409),
    ("out_of_range", 11, 400),
    ("unimplemented", 12, 501),
    ("internal", 13, 500),
    ("unavailable", 14, 503),
    ("data_loss", 15, 500),
    ("unauthenticated", 16, 401),
]


@pytest.mark.parametrize(("name", "number", "http_status"), TABLE)
def test_code_has_its_wire_name_number_and_http_status(name: str, number: int, http_status: int) -> None:
    code = Code[name.upper()]

    assert (code.value, code.number, code.http_status) == (name, number, http_status)


@pytest.mark.parametrize("name", [name for name, _, _ in TABLE])
def test_code_is_found_by_its_wire_name(name: str) -> None:
    assert Code(name) is Code[name.upper()]


def test_there_are_sixteen_codes() -> None:
    assert [code.value for code in Code] == [name for name, _, _ in TABLE]


@pytest.mark.parametrize("name", ["ok", "", "NOT_FOUND", "cancelled", "5"])
def test_other_names_are_no_codes(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid Code"):
        Code(name)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (429, Code.UNAVAILABLE),
        (502, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
        (504, Code.UNAVAILABLE),
    ],
)
def test_http_status_without_an_error_has_its_code(status: int, code: Code) -> None:
    assert Code.from_http_status(status) is code


@pytest.mark.parametrize("status", [0, 101, 204, 301, 402, 405, 409, 415, 499, 500, 501, 505, 800])
def test_other_http_statuses_are_unknown(status: int) -> None:
    assert Code.from_http_status(status) is Code.UNKNOWN


@pytest.mark.parametrize("code", Code, ids=lambda code: code.value)
def test_number_of_a_code_leads_back_to_it(code: Code) -> None:
    assert Code.from_number(code.number) is code


@pytest.mark.parametrize("number", [-1, 0, 17, 999_999_999])
def test_other_numbers_are_unknown(number: int) -> None:
    assert Code.from_number(number) is Code.UNKNOWN
