"""Headers: metadata by case-insensitive name, each name with one value or several.

A name or value that HTTP could not carry is refused when it is written, so that what is later put on
the wire needs no second look. What came from the wire was parsed by an HTTP library and is taken as it is.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias, TypeVar, cast, overload

HeadersInput: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""What callers may pass where headers are wanted: a mapping, or pairs of name and value."""

NameTuple: TypeAlias = tuple[str, str, str, str]
"""The names of the headers by which a protocol frames its requests: with just four, no loop is needed."""
ValueTuple: TypeAlias = "tuple[str | None, str | None, str | None, str | None]"
"""Their values, None for those that are not there."""

_DefaultT = TypeVar("_DefaultT")

# Connect reference, "ASCII-Metadata": the names and values that every protocol can carry.
_is_name = re.compile(r"[0-9A-Za-z_\-.]+").fullmatch
_is_value = re.compile(r"[\x20-\x7e]*").fullmatch


class Headers(MutableMapping[str, str]):
    """A case-insensitive, multi-valued mapping of header names to values, in order of insertion.

    As a mapping, a name's values are joined by ``", "`` (RFC 9110, section 5.3); ``get_all`` and
    ``multi_items`` tell them apart. Names are kept and given in lower case.
    """

    __slots__ = ("_values",)

    _values: dict[str, list[str]]

    def __init__(self, initial: HeadersInput = ()) -> None:
        """Copy the headers of ``initial``.

        Raises:
            ValueError: A name or a value cannot be sent: see ``add``.
        """
        self._values = {}
        if not initial:
            return
        # Also those of other headers are checked: they may have come from the wire.
        if isinstance(initial, Headers):
            pairs: Iterable[tuple[str, str]] = initial.multi_items()
        else:
            pairs = cast("Mapping[str, str]", initial).items() if isinstance(initial, Mapping) else initial
        for name, value in pairs:
            self.add(name, value)

    @classmethod
    def from_wire(cls, pairs: Iterable[tuple[str, str]]) -> Headers:
        """Make headers of pairs that an HTTP library has parsed: nothing is checked."""
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name.lower(), []).append(value)
        headers = cls()
        headers._values = values
        return headers

    def copy(self) -> Headers:
        """Return headers with the same values, which change on their own."""
        headers = Headers()
        headers._values = {name: values.copy() for name, values in self._values.items()}
        return headers

    def add(self, name: str, value: str) -> None:
        """Add a value to those that ``name`` has.

        Raises:
            ValueError: The name has other characters than ``0-9 A-Z a-z _ - .``, or the value others
                than printable ASCII and space.
        """
        _check(name, value)
        self._values.setdefault(name.lower(), []).append(value)

    def get_all(self, name: str) -> list[str]:
        """Return the values of ``name``, each alone; an empty list where there is none."""
        return list(self._values.get(name.lower(), ()))

    def multi_items(self) -> list[tuple[str, str]]:
        """Return every pair of name and value, a name with two values twice, in a new list."""
        pairs = []
        for name, values in self._values.items():
            for value in values:
                pairs.append((name, value))
        return pairs

    def add_binary(self, name: str, value: bytes) -> None:
        """Add a binary value, as unpadded base64, to those that ``name`` has.

        Raises:
            ValueError: The name does not end in ``-bin``, or is no header name.
        """
        if not name.lower().endswith("-bin"):
            raise ValueError(f"header {name!r}: the name of a binary value ends in -bin")
        self.add(name, encode_base64(value))

    def get_binary(self, name: str) -> list[bytes]:
        """Return the values of the binary header ``name``, decoded; empty where there is none.

        Several values may have been joined by commas on their way.

        Raises:
            ValueError: A value is not base64.
        """
        return [decode_base64(part.strip()) for value in self.get_all(name) for part in value.split(",")]

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, /, default: str | _DefaultT) -> str | _DefaultT: ...

    def get(self, name: str, /, default: Any = None) -> Any:
        """Return the values of ``name``, joined by ``", "``; ``default`` where there is none."""
        values = self._values.get(name.lower())
        if values is None:
            return default
        return values[0] if len(values) == 1 else ", ".join(values)

    def get_many(self, names: NameTuple) -> ValueTuple:
        """Return what ``get`` returns for each of ``names``, which do not change from call to call."""
        first, second, third, fourth = names
        return self.get(first), self.get(second), self.get(third), self.get(fourth)

    def __getitem__(self, name: str) -> str:
        """Return the values of ``name``, joined by ``", "``. Raises KeyError where there is none."""
        values = self._values[name.lower()]
        return values[0] if len(values) == 1 else ", ".join(values)

    def __setitem__(self, name: str, value: str) -> None:
        """Replace the values of ``name`` by ``value``. Raises ValueError as ``add`` does."""
        _check(name, value)
        key = name.lower()
        # Removed first, so that the new value has its place where it was written.
        self._values.pop(key, None)
        self._values[key] = [value]

    def __delitem__(self, name: str) -> None:
        """Remove ``name`` with all its values. Raises KeyError where there is none."""
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
    if not _is_name(name):
        raise ValueError(f"{name!r} is not a header name: 0-9 A-Z a-z _ - . are allowed")
    if not _is_value(value):
        raise ValueError(f"header {name!r}: the value has characters other than printable ASCII")


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
