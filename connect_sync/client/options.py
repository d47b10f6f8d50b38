"""The options of a call: what a caller may give besides the message.

Generated methods take them as ``**options: Unpack[CallOptions]`` (PEP 692), so that code which was generated
before an option was added takes it too.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypedDict

from connect_sync.client.lifetime import Cancellation
from connect_sync.headers import HeadersInput

if TYPE_CHECKING:
    from typing_extensions import Unpack  # bundled with type checkers, not a dependency
elif sys.version_info >= (3, 11):
    from typing import Unpack
else:

    class Unpack:
        """Lets ``Unpack[CallOptions]`` be evaluated, by `typing.get_type_hints` for example."""

        def __class_getitem__(cls, options: Any) -> Any:
            """Return ``options``."""
            return options


__all__ = ["CallOptions", "GetCallOptions", "Unpack"]


class CallOptions(TypedDict, total=False):
    """The options of every call, each a keyword argument: ``client.greet(request, timeout_ms=500)``.

    A function that passes them on takes ``**options: Unpack[CallOptions]``.
    """

    headers: HeadersInput | None
    """Metadata to send. Headers that HTTP or the protocol frames the call with are left out."""
    timeout_ms: float | None
    """How long the whole call may take, in milliseconds; the client's own ``timeout_ms`` if None."""
    cancellation: Cancellation | None
    """A handle by which another thread cancels the call."""


class GetCallOptions(CallOptions, total=False):
    """The options of a call that may be a GET: of a unary method that is declared free of side effects."""

    use_get: bool
    """Whether to send a GET, which caches can answer. A message too long for a URL goes as a POST."""
