"""Whether a function that an application gives can be called as this library calls it.

A callable object is judged by its ``__call__``, a decorated function by its decorator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable


def is_async(function: Callable[..., object]) -> bool:
    """Tell whether calling ``function`` only makes a coroutine, or an asynchronous generator."""
    return _is_any(function, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


def is_generator(function: Callable[..., object]) -> bool:
    """Tell whether ``function`` yields."""
    return _is_any(function, inspect.isgeneratorfunction)


def signature_of(function: Callable[..., object]) -> inspect.Signature | None:
    """Return the signature of ``function``; None if it has none that can be known."""
    try:
        return inspect.signature(function, follow_wrapped=False)
    except Exception:
        # Some callables have none, and Python 3.14 evaluates annotations, whose names may be missing.
        return None


def mismatch(function: Callable[..., object], *arguments: str) -> str | None:
    """Return why ``function`` cannot be called with ``arguments`` by position, None if it can be."""
    signature = signature_of(function)
    if signature is None:
        return None
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return str(error)
    names = list(signature.parameters)[: len(arguments)]
    for place, argument in enumerate(arguments):
        if argument in names and names.index(argument) != place:
            return f"{argument!r} is in another place"
    return None


def _is_any(function: Callable[..., object], *kinds: Callable[[object], bool]) -> bool:
    return any(is_kind(part) for part in (function, type(function).__call__) for is_kind in kinds)
