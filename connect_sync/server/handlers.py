"""The handlers of a service: found on its implementation, and checked before any call.

A class that inherits from the generated Protocol may leave handlers out. A misspelt one would go unnoticed,
and its method answer ``unimplemented``, so public methods with a similar name are refused.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any, cast

from connect_sync.interceptor import Call
from connect_sync.method import Method, StreamKind
from connect_sync.signatures import is_async, is_generator, mismatch, signature_of

_ARGUMENTS = ("request", "ctx")

_TYPO_RATIO = 0.85
"""How similar a misspelt name is to the right one, by `difflib.SequenceMatcher`."""

# Names that differ only in these are not typos: get_user and get_users, list_v1 and list_v2.
_NUMBER_OR_PLURAL = re.compile(r"\d+|s$")


def find_handlers(
    implementation: object, methods: Mapping[str, Method[Any, Any]]
) -> dict[str, Call[Any, Any]]:
    """Return the handlers of a service by their names. Bidirectional methods have none.

    Args:
        implementation: The object whose methods are the handlers.
        methods: The methods of the service, by the names of their handlers.

    Raises:
        TypeError: ``implementation`` is a class; a handler is missing, is async, does not take a request and
            a context, or yields where its method returns a single response; or a handler is left to the
            generated base, and a public method has nearly its name.
    """
    if isinstance(implementation, type):
        raise TypeError(f"{implementation.__qualname__} is a class: pass an instance of it")
    handlers: dict[str, Call[Any, Any]] = {}
    for name, method in methods.items():
        if method.kind is StreamKind.BIDI_STREAM:
            continue
        owner = type(implementation).__name__
        handler = getattr(implementation, name, None)
        if not callable(handler):
            other = _misspelling(name, implementation, methods)
            hint = f": rename {other}, which looks like it" if other else ""
            raise TypeError(f"{owner} has no method {name!r} to handle {method.full_name}{hint}")
        _check(handler, f"{owner}.{name}", method)
        if _is_left_to_base(handler, name, implementation):
            other = _misspelling(name, implementation, methods)
            if other:
                raise TypeError(f"{other} looks like the handler of {method.full_name}: name it {name!r}")
        handlers[name] = cast(Call[Any, Any], handler)
    return handlers


def _check(handler: Callable[..., Any], label: str, method: Method[Any, Any]) -> None:
    """Check what kind of function a handler is, and its arguments."""
    if is_async(handler):
        raise TypeError(f"{label} is async: write the handler of {method.full_name} as a plain def")
    if method.kind is not StreamKind.SERVER_STREAM and is_generator(handler):
        raise TypeError(
            f"{label} yields, but {method.full_name} is {method.kind.value}: "
            "return the response rather than yield it"
        )
    if mismatch(handler, *_ARGUMENTS):
        raise TypeError(
            f"{label} must take a request and a context to handle {method.full_name}, "
            f"got {label.rpartition('.')[2]}{signature_of(handler)}"
        )


# Names that are nearly those of handlers


def _is_left_to_base(handler: Callable[..., Any], name: str, implementation: object) -> bool:
    """Whether a handler is the one that the generated Protocol has."""
    function = getattr(handler, "__func__", handler)
    return any(vars(cls).get(name) is function for cls in _protocols(implementation))


def _misspelling(name: str, implementation: object, methods: Mapping[str, Method[Any, Any]]) -> str | None:
    """Return the public method whose name is nearly ``name``, with its class; None if there is none."""
    others = list(_other_methods(implementation, methods))
    for other in others:
        if _normalized(other) == _normalized(name):
            return f"{type(implementation).__name__}.{other}"
    for other in others:
        # Unlike a name in another case, a similar one may be that of a helper, with arguments of its own.
        if _is_typo(_normalized(other), _normalized(name)) and not mismatch(
            getattr(implementation, other), *_ARGUMENTS
        ):
            return f"{type(implementation).__name__}.{other}"
    return None


def _other_methods(implementation: object, methods: Mapping[str, Method[Any, Any]]) -> Iterator[str]:
    """Yield the names of public methods that are not handlers, of this service or of another one."""
    protocols = _protocols(implementation)
    declared = {*methods, *(name for cls in protocols for name in vars(cls))}
    scopes: list[Mapping[str, Any]] = [
        vars(cls) for cls in type(implementation).__mro__ if cls not in protocols
    ]
    scopes.append(getattr(implementation, "__dict__", {}))
    for name in dict.fromkeys(name for scope in scopes for name in scope):
        if name.startswith("_") or name in declared:
            continue
        # A property is not evaluated.
        value = inspect.getattr_static(implementation, name, None)
        if isinstance(value, classmethod) or (callable(value) and not isinstance(value, type)):
            yield name


def _protocols(implementation: object) -> list[type]:
    return [cls for cls in type(implementation).__mro__ if vars(cls).get("_is_protocol")]


def _normalized(name: str) -> str:
    return name.replace("_", "").lower()


def _is_typo(name: str, intended: str) -> bool:
    """Whether one name is a misspelling of the other, and not another word.

    A typo keeps the first letter, unlike ``set`` beside ``get``, or ``unlock`` beside ``lock``.
    """
    return (
        name[:1] == intended[:1]
        and _NUMBER_OR_PLURAL.sub("", name) != _NUMBER_OR_PLURAL.sub("", intended)
        and SequenceMatcher(None, name, intended).ratio() >= _TYPO_RATIO
    )
