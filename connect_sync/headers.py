"""Headers: metadata by case-insensitive name, each name with one value or several.

A name or value that HTTP cannot carry is refused when it is written, so that nothing has to be checked when
headers are sent. Headers from the wire were parsed by an HTTP library and are not checked again. Errors name
the header and never show its value, which may be a credential.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias, TypeVar, cast, overload

HeadersInput: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""What callers may pass as headers: a mapping, or pairs of name and value."""

NameTuple: TypeAlias = tuple[str, str, str, str]
"""The names of the headers with which a protocol frames its requests: exactly four, to need no loop."""
ValueTuple: TypeAlias = "tuple[str | None, str | None, str | None, str | None]"
"""Their values, None for those that are absent."""

_DefaultT = TypeVar("_DefaultT")

# Connect reference, "ASCII-Metadata": the names and values that every protocol can carry.
_is_name = re.compile(r"[0-9A-Za-z_\-.]+").fullmatch
_is_value = re.compile(r"[\x20-\x7e]*").fullmatch


class Headers(MutableMapping[str, str]):
    """A case-insensitive, multi-valued mapping of header names to values, in order of insertion.

    As a mapping, a name's values are joined with ``", "`` (RFC 9110, section 5.3); ``get_all`` and
    ``multi_items`` return them one by one. Names are stored and returned in lower case.
    """

    __slots__ = ("_values",)

    _values: dict[str, list[str]]

    def __init__(self, initial: HeadersInput = ()) -> None:
        """Copy the headers of ``initial``.

        Raises:
            TypeError: ``initial`` is neither a mapping nor an iterable of pairs, or as ``add`` raises it.
            ValueError: A name or a value cannot be sent: see ``add``.
        """
        self._values = {}
        if not initial:
            return
        # Those of other headers are checked too: they may have come from the wire.
        if isinstance(initial, Headers):
            pairs: Iterable[tuple[str, str]] = initial.multi_items()
        elif isinstance(initial, Mapping):
            pairs = cast("Mapping[str, str]", initial).items()
        else:
            pairs = _check_pairs(initial)
        for name, value in pairs:
            self.add(name, value)

    @classmethod
    def from_wire(cls, pairs: Iterable[tuple[str, str]]) -> Headers:
        """Make headers from pairs that an HTTP library has parsed: nothing is checked."""
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name.lower(), []).append(value)
        headers = cls()
        headers._values = values
        return headers

    def copy(self) -> Headers:
        """Return an independent copy."""
        headers = Headers()
        headers._values = {name: values.copy() for name, values in self._values.items()}
        return headers

    def select(self, is_selected: Callable[[str], bool]) -> Headers:
        """Return an independent copy of the headers whose names, in lower case, are selected."""
        headers = Headers()
        headers._values = {name: values.copy() for name, values in self._values.items() if is_selected(name)}
        return headers

    def add(self, name: str, value: str) -> None:
        """Add a value to those that ``name`` has.

        Raises:
            TypeError: The name or the value is not a ``str``.
            ValueError: The name has characters other than ``0-9 A-Z a-z _ - .``, or the value characters
                other than printable ASCII and space.
        """
        _check(name, value)
        self._values.setdefault(name.lower(), []).append(value)

    def get_all(self, name: str) -> list[str]:
        """Return the values of ``name`` one by one; an empty list if it is absent."""
        return list(self._values.get(name.lower(), ()))

    def multi_items(self) -> list[tuple[str, str]]:
        """Return a new list of all pairs of name and value; a name with two values is in it twice."""
        pairs = []
        for name, values in self._values.items():
            for value in values:
                pairs.append((name, value))
        return pairs

    def add_binary(self, name: str, value: bytes) -> None:
        """Add a binary value, as unpadded base64, to those that ``name`` has.

        Raises:
            TypeError: The name is not a ``str``, or the value is not bytes.
            ValueError: The name does not end in ``-bin``, or is not a header name.
        """
        _check(name, "")
        if not name.lower().endswith("-bin"):
            raise ValueError(f"the name of a binary header must end in -bin, got {name!r}")
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"header {name!r} must be bytes, got {type(value).__name__}")
        self.add(name, encode_base64(value))

    def get_binary(self, name: str) -> list[bytes]:
        """Return the decoded values of the binary header ``name``; an empty list if it is absent.

        Several values may have been joined with commas on the way.

        Raises:
            ValueError: A value is not base64.
        """
        return [decode_base64(part.strip()) for value in self.get_all(name) for part in value.split(",")]

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, /, default: str | _DefaultT) -> str | _DefaultT: ...

    def get(self, name: str, /, default: Any = None) -> Any:
        """Return the values of ``name``, joined with ``", "``; ``default`` if it is absent."""
        values = self._values.get(name.lower())
        if values is None:
            return default
        return values[0] if len(values) == 1 else ", ".join(values)

    def get_many(self, names: NameTuple) -> ValueTuple:
        """Return what ``get`` returns for each of ``names``."""
        first, second, third, fourth = names
        return self.get(first), self.get(second), self.get(third), self.get(fourth)

    def __getitem__(self, name: str) -> str:
        """Return the values of ``name``, joined with ``", "``. Raises KeyError if it is absent."""
        values = self._values[name.lower()]
        return values[0] if len(values) == 1 else ", ".join(values)

    def __setitem__(self, name: str, value: str) -> None:
        """Replace the values of ``name`` with ``value``. Raises TypeError and ValueError as ``add`` does."""
        _check(name, value)
        key = name.lower()
        # Removed first: the new value moves to the end of the order.
        self._values.pop(key, None)
        self._values[key] = [value]

    def __delitem__(self, name: str) -> None:
        """Remove ``name`` with all its values. Raises KeyError if it is absent."""
        del self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        """Tell whether ``name`` has a value."""
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        """Yield the names, each once, in lower case."""
        return iter(self._values)

    def __len__(self) -> int:
        """Count the names."""
        return len(self._values)

    def __repr__(self) -> str:
        """Show the pairs."""
        return f"Headers({self.multi_items()!r})"


def _check(name: str, value: str) -> None:
    try:
        if _is_name(name) and _is_value(value):
            return
    except TypeError:  # not a str
        pass
    raise _bad_header(name, value)


def _bad_header(name: object, value: object) -> TypeError | ValueError:
    if not isinstance(name, str):
        return TypeError(f"a header name must be a str, got {name!r} ({type(name).__name__})")
    binary_name = name if name.lower().endswith("-bin") else f"{name}-bin"
    add_binary = f"Headers.add_binary({binary_name!r}, …)"
    if isinstance(value, bytes | bytearray):
        kind = type(value).__name__
        return TypeError(
            f"header {name!r} must be a str, got {kind}: decode it, or send it with {add_binary}"
        )
    if not isinstance(value, str):
        return TypeError(f"header {name!r} must be a str, got {type(value).__name__}")
    if not _is_name(name):
        return ValueError(f"{name!r} is not a header name: 0-9 A-Z a-z _ - . are allowed")
    return ValueError(f"header {name!r} must be printable ASCII: send other values with {add_binary}")


def _check_pairs(pairs: object) -> Iterator[tuple[str, str]]:
    expected = "headers must be a mapping, or pairs of name and value"
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise TypeError(f"{expected}, got {type(pairs).__name__}")
    for pair in pairs:
        # A str of two characters would make a pair, too.
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{expected}, got {type(pair).__name__} as an element")
        yield pair[0], pair[1]


def encode_base64(data: bytes) -> str:
    """Write ``data`` as base64 without padding, as metadata and error details carry it."""
    return b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64(text: str) -> bytes:
    """Read base64, padded or not.

    Raises:
        ValueError: ``text`` is not base64.
    """
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
