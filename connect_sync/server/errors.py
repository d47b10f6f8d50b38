"""Errors of the application: how exceptions of handlers and interceptors are reported to clients."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from connect_sync.code import Code
from connect_sync.errors import ConnectError, ContractError, ErrorMapping, ErrorTarget, UnansweredError
from connect_sync.method import Method
from connect_sync.signatures import is_async, is_generator, mismatch

_logger = logging.getLogger("connect_sync.server")


class ErrorMapper:
    """Turns exceptions into the errors that clients receive, by the mapping of an application."""

    __slots__ = ("_targets",)

    def __init__(self, errors: ErrorMapping) -> None:
        """Map exceptions by ``errors``.

        Raises:
            TypeError: ``errors`` is not a mapping; a key is not a class derived from Exception, or is derived
                from ConnectError; a value is neither a Code nor a plain function of one argument.
        """
        if not isinstance(errors, Mapping):
            raise TypeError(f"errors must be a mapping of exception classes, got {errors!r}")
        for key, target in errors.items():
            _check_key(key)
            _check_target(key, target)
        self._targets = dict(errors)

    def to_connect_error(self, error: BaseException, method: Method[Any, Any]) -> ConnectError:
        """Return the error that the client receives from a call of ``method`` that raised ``error``.

        A ConnectError is returned as it is, except that of a client call that the other service has not
        answered: its code remains, and the rest is logged. The cause of any other result is ``error``, or
        what a function of the mapping raised instead.

        An Exception is mapped by the first class in its MRO that is in the mapping. An unmapped one is logged
        and becomes ``internal``, and so does a `ContractError`, or an Exception whose function fails. What is
        not an Exception becomes ``internal`` without being logged: it also propagates to the server.
        """
        if isinstance(error, UnansweredError):
            _logger.error("%s failed", method.full_name, exc_info=error)
            return _caused(ConnectError(error.code, in_words(error.code)), error)
        if isinstance(error, ConnectError):
            return error
        if not isinstance(error, Exception):
            return _caused(_internal_error(), error)
        cause = error
        target = self._find_target(error)
        if target is not None:
            traceback = error.__traceback__
            try:
                return _caused(_apply(target, error), error)
            except Exception as failure:
                if failure is error:
                    # The function's own frames say nothing about the fault.
                    failure.__traceback__ = traceback
                elif failure.__context__ is None:
                    failure.__context__ = error
                cause = failure
        _logger.error("%s failed", method.full_name, exc_info=cause)
        return _caused(_internal_error(), cause)

    def _find_target(self, error: Exception) -> ErrorTarget | None:
        targets = self._targets
        if not targets or isinstance(error, ContractError):
            return None
        return next((targets[key] for key in type(error).__mro__ if key in targets), None)


def in_words(code: Code) -> str:
    """Return the name of ``code`` in words, such as ``not found``."""
    name: str = code.value
    return name.replace("_", " ")


def _apply(target: ErrorTarget, error: Exception) -> ConnectError:
    if isinstance(target, Code):
        return ConnectError(target, in_words(target))
    try:
        mapped = target(error)
    except ConnectError as raised:
        return raised
    if not isinstance(mapped, ConnectError):
        raise TypeError(f"{target!r} must return a ConnectError, got {mapped!r}")
    return mapped


def _internal_error() -> ConnectError:
    return ConnectError(Code.INTERNAL, "internal error")


def _caused(error: ConnectError, cause: BaseException) -> ConnectError:
    if error.__cause__ is None:
        error.__cause__ = cause
    return error


def _check_key(key: object) -> None:
    if not isinstance(key, type) or not issubclass(key, Exception):
        reason = ""
        if isinstance(key, type) and issubclass(key, BaseException):
            reason = ": exceptions outside Exception always propagate"
        raise TypeError(f"the keys of errors must be classes derived from Exception, got {key!r}{reason}")
    if issubclass(key, ConnectError):
        raise TypeError(f"errors must not map {key!r}: a ConnectError is sent as it is")


def _makes_error(function: type) -> bool:
    # ConnectError itself takes a Code, not an exception.
    return issubclass(function, ConnectError) and function is not ConnectError


def _check_target(key: type[Exception], target: object) -> None:
    expected = (
        f"errors[{key.__name__}] must be a Code, such as Code.NOT_FOUND, or a function of the exception "
        "that returns a ConnectError"
    )
    if isinstance(target, Code):
        return
    if not callable(target) or (isinstance(target, type) and not _makes_error(target)):
        raise TypeError(f"{expected}, got {target!r}")
    if is_async(target):
        raise TypeError(f"{expected}: {target!r} is async")
    if is_generator(target):
        raise TypeError(f"{expected}: {target!r} is a generator")
    problem = mismatch(target, "error")
    if problem:
        raise TypeError(f"{expected}: {target!r} does not take the exception alone: {problem}")
