"""Django's exceptions, and those of Django REST Framework, as errors of calls."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import (
    NON_FIELD_ERRORS,
    BadRequest,
    ObjectDoesNotExist,
    PermissionDenied,
    SuspiciousOperation,
    ValidationError,
)
from django.http import Http404

from connect_sync.code import Code
from connect_sync.errors import ConnectError, ErrorMapping
from connect_sync.rpc import bad_request, retry_info
from connect_sync.server.errors import in_words
from wsgi_adapters.http_errors import from_status


def _from_suspicious_operation(error: SuspiciousOperation) -> ConnectError:
    # As in a view: Django has one logger per class.
    logger = logging.getLogger(f"django.security.{type(error).__name__}")
    logger.error("%s", error, exc_info=error)
    return ConnectError(Code.INVALID_ARGUMENT, in_words(Code.INVALID_ARGUMENT))


def _from_validation_error(error: ValidationError) -> ConnectError:
    if hasattr(error, "error_dict"):
        violations = [
            ("" if field == NON_FIELD_ERRORS else field, message)
            for field, messages in error.message_dict.items()
            for message in messages
        ]
    else:
        violations = [("", message) for message in error.messages]
    return from_status(error, 400, _describe(violations), [bad_request(violations)])


def _rest_framework_errors() -> ErrorMapping:
    try:
        from rest_framework.exceptions import APIException  # type: ignore[import-untyped]
    except ImportError:
        return {}
    return {APIException: _from_api_exception}


def _from_api_exception(error: Any) -> ConnectError:
    from rest_framework.exceptions import Throttled

    detail = error.detail
    violations = list(_violations(detail))
    text = _describe(violations)
    details = []
    if error.status_code in (400, 422):
        if isinstance(detail, dict | list):
            details.append(bad_request(violations))
    elif isinstance(detail, dict) and "detail" in detail:
        # DRF's own key for a text that belongs to no field.
        text = str(detail["detail"])
    if isinstance(error, Throttled) and error.wait is not None:
        details.append(retry_info(error.wait))
    return from_status(error, error.status_code, text, details)


def _violations(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path of the field and the text of each message in the detail of an exception of DRF."""
    from rest_framework.settings import api_settings  # type: ignore[import-untyped]

    if isinstance(detail, dict):
        for key, inner in detail.items():
            if key == api_settings.NON_FIELD_ERRORS_KEY:
                inner_path = path
            elif isinstance(key, int):
                inner_path = f"{path}[{key}]"
            else:
                inner_path = f"{path}.{key}" if path else str(key)
            yield from _violations(inner, inner_path)
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            # A list holds either messages of one field, or the errors of each of its items.
            yield from _violations(inner, path if isinstance(inner, str) else f"{path}[{index}]")
    else:
        yield path, str(detail)


def _describe(violations: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{field}: {message}" if field else message for field, message in violations)


ERRORS: ErrorMapping = {
    Http404: Code.NOT_FOUND,
    ObjectDoesNotExist: Code.NOT_FOUND,
    PermissionDenied: Code.PERMISSION_DENIED,
    BadRequest: Code.INVALID_ARGUMENT,
    SuspiciousOperation: _from_suspicious_operation,
    ValidationError: _from_validation_error,
    **_rest_framework_errors(),
}
"""How the exceptions of Django and of Django REST Framework are reported to clients.

- ``Http404`` and ``ObjectDoesNotExist`` are ``not_found``, ``PermissionDenied`` is ``permission_denied``;
  ``BadRequest`` and ``SuspiciousOperation``, which Django answers with 400, are ``invalid_argument``. The
  message is the name of the code in words: unless ``DEBUG`` is set, Django's own pages do not show the text
  of these exceptions either. Suspicious operations are logged by ``django.security``, as in a view.
- ``ValidationError`` is ``invalid_argument``. Its messages are meant for users: they are the message of the
  error, and are also sent by field, as a ``google.rpc.BadRequest``. Messages that belong to no field have an
  empty one.
- ``APIException`` of Django REST Framework, if that is installed, has the code of its ``status_code``. The
  message is its detail, which is also sent as a ``google.rpc.BadRequest`` if the status is 400 or 422, with
  paths such as ``emails[0].address``. ``Throttled`` has a ``google.rpc.RetryInfo``. With a status from 501 to
  504, the message is the name of the status.

Others stay unmapped, among them ``MultipleObjectsReturned``, ``IntegrityError``, and an ``APIException`` with
status 500: they are logged and become ``internal``.

To extend the mapping of an application: ``errors={**ERRORS, KeyError: Code.NOT_FOUND}``.
"""
