"""Python names for the names of a proto file.

A name that is not available (a keyword, a builtin, one already in use) gets a trailing underscore, as PEP 8
recommends.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

# Written out, so that a schema's API does not depend on the Python that the plugin runs on.
_BUILTIN_NAMES = """
abs aiter all anext any ascii bin bool breakpoint bytearray bytes callable chr classmethod
compile complex delattr dict dir divmod enumerate eval exec filter float format frozenset
getattr globals hasattr hash help hex id input int isinstance issubclass iter len list locals
map max memoryview min next object oct open ord pow print property range repr reversed round
set setattr slice sorted staticmethod str sum super tuple type vars zip

Ellipsis NotImplemented

ArithmeticError AssertionError AttributeError BaseException BaseExceptionGroup BlockingIOError
BrokenPipeError BufferError BytesWarning ChildProcessError ConnectionAbortedError
ConnectionError ConnectionRefusedError ConnectionResetError DeprecationWarning EOFError
EncodingWarning EnvironmentError Exception ExceptionGroup FileExistsError FileNotFoundError
FloatingPointError FutureWarning GeneratorExit IOError ImportError ImportWarning
IndentationError IndexError InterruptedError IsADirectoryError KeyError KeyboardInterrupt
LookupError MemoryError ModuleNotFoundError NameError NotADirectoryError NotImplementedError
OSError OverflowError PendingDeprecationWarning PermissionError ProcessLookupError
PythonFinalizationError RecursionError ReferenceError ResourceWarning RuntimeError
RuntimeWarning StopAsyncIteration StopIteration SyntaxError SyntaxWarning SystemError
SystemExit TabError TimeoutError TypeError UnboundLocalError UnicodeDecodeError
UnicodeEncodeError UnicodeError UnicodeTranslateError UnicodeWarning UserWarning ValueError
Warning ZeroDivisionError
"""
_BUILTINS = frozenset(_BUILTIN_NAMES.split())

# The public attributes of ConnectClient, which a generated client inherits.
CLIENT_ATTRIBUTES = frozenset(
    ["call_bidi_stream", "call_client_stream", "call_server_stream", "call_unary", "close"]
)


def is_usable(name: str) -> bool:
    """Whether ``name`` is valid in Python for a module, a class or an attribute."""
    return name.isidentifier() and not keyword.iskeyword(name)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return ``name``, with enough trailing underscores not to be in ``taken``."""
    while name in taken:
        name += "_"
    return name


def snake_case(name: str) -> str:
    """Return ``name`` in snake_case: ``GetHTTPStatus`` becomes ``get_http_status``.

    Leading and trailing underscores, which would make it private or special in Python, are removed.
    """
    words = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", words).lower().strip("_")
    return words if words[:1].isalpha() else f"rpc_{words}"


def service_name(name: str, services: Collection[str]) -> str:
    """Return the class name for the service ``name``, one of ``services``."""
    if keyword.iskeyword(name) or name in _BUILTINS or _is_special(name):
        return free_name(f"{name}_", services)
    return name


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def method_names(names: Sequence[str]) -> list[str]:
    """Return the Python names of a service's methods, in their order.

    Methods whose names are equal in snake_case keep the spelling of the proto file instead, so that no name
    depends on the order of the methods. The caller has to refuse names that are still equal.
    """
    uses = Counter(map(snake_case, names))
    return [
        _attribute(snake_case(name) if uses[snake_case(name)] == 1 or name[0] == "_" else name)
        for name in names
    ]


def _attribute(name: str) -> str:
    if keyword.iskeyword(name) or name in _BUILTINS or name in CLIENT_ATTRIBUTES:
        return f"{name}_"
    return name


def module_name(file: str, suffix: str, prefix: str) -> str:
    """Return the module that protoc writes for the proto file ``file``, with a suffix such as ``_pb2``.

    The rules are those of protoc's own Python generator. ``prefix`` is the package of the generated modules;
    it does not apply to protobuf's own.
    """
    stem = re.sub(r"\.(proto|protodevel)$", "", file)
    module = stem.replace("-", "_").replace("/", ".") + suffix
    return f"{prefix}.{module}" if prefix and not file.startswith("google/protobuf/") else module


def module_aliases(modules: Iterable[str], own: str, prefix: str, taken: Collection[str]) -> dict[str, str]:
    """Return an alias for each module: its last part, or its path if another module has the same.

    ``own``, the module that holds the messages of the generated file, always has the short name.
    """
    modules = sorted(modules, key=lambda module: (module != own, module))
    uses = Counter(module.rpartition(".")[2] for module in modules)
    aliases: dict[str, str] = {}
    for module in modules:
        alias = module.rpartition(".")[2]
        if module != own and uses[alias] > 1:
            alias = module.removeprefix(f"{prefix}.").replace(".", "_")
        aliases[module] = free_name(_identifier(alias), {*taken, *aliases.values()})
    return aliases


def _identifier(name: str) -> str:
    return re.sub(r"^(?=\d)|\W", "_", name)
