"""Whether a function that an application gives can be called as this library calls it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any


def check_function(function: object, name: str, arguments: Sequence[str]) -> Callable[..., Any]:
    """Return ``function``, which is called with ``arguments`` by position.

    Args:
        function: The function, or any other callable.
        name: What to call it in errors.
        arguments: The names of the arguments that it is given.

    Raises:
        TypeError: It is not callable, is async, or does not take these arguments.
    """
    if not callable(function):
        raise TypeError(f"{name} must be a function, got {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} is async: write a plain function, with def")
    try:
        # The signature of a decorated function is its decorator's: the function inside may take others.
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:
        # Some callables have none, and Python 3.14 evaluates annotations, whose names may be missing.
        return function
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{name} must take ({', '.join(arguments)}): {error}") from error
    return function
