"""What the generated modules hold, and that they work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, get_args, get_type_hints

import pytest

from connect_sync import Code, ConnectClient, ConnectError, IdempotencyLevel, Method, StreamKind
from connect_sync.testing import InMemoryTransport
from wsgi_adapters import ConnectWSGIApplication

Import = Callable[[str], ModuleType]

GREET = Path(__file__).parent / "expected" / "greet_connect.py.txt"


def methods(module: ModuleType, service: str) -> dict[str, Method[Any, Any]]:
    application: type[ConnectWSGIApplication[Any]] = getattr(module, f"{service}WSGIApplication")
    return dict(application.methods)


def connect(module: ModuleType, service: str, handlers: object) -> Any:
    """Return a client of ``service`` whose calls ``handlers`` answers."""
    application = getattr(module, f"{service}WSGIApplication")(handlers)
    client: type[ConnectClient] = getattr(module, f"{service}Client")
    return client("http://test", transport=InMemoryTransport(application.service))


def test_greet_module_is_as_expected(generated: Path) -> None:
    assert (generated / "greet/v1/greet_connect.py").read_text() == GREET.read_text()


def test_only_files_with_services_have_a_module(generated: Path) -> None:
    assert (generated / "no_services_pb2.py").exists()
    assert not (generated / "no_services_connect.py").exists()


def test_every_module_imports(generated: Path, import_generated: Import) -> None:
    # Another greet.v1 may be imported already: that of the sample.
    paths = [path for path in generated.rglob("*_connect.py") if path.name != "greet_connect.py"]
    assert len(paths) > 10
    for path in paths:
        import_generated(".".join(path.relative_to(generated).with_suffix("").parts))


# The classes


def test_classes_of_a_service(import_generated: Import) -> None:
    module = import_generated("shapes.v1.types_connect")
    assert Protocol in module.Types.__bases__
    assert issubclass(module.TypesWSGIApplication, ConnectWSGIApplication)
    assert issubclass(module.TypesClient, ConnectClient)
    assert module.TypesWSGIApplication.path == "/shapes.v1.Types"


def test_several_services_in_a_file(import_generated: Import) -> None:
    module = import_generated("shapes.v1.shape_service_connect")
    assert {"ShapeService", "Bidi", "BidiTwice", "Empty"} <= vars(module).keys()


def test_module_exports_its_classes_in_their_order(import_generated: Import) -> None:
    for name in ("shapes.v1.shape_service_connect", "names.v1.names_connect"):
        module = import_generated(name)
        defined = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
        assert module.__all__ == defined


def test_service_without_methods(import_generated: Import) -> None:
    module = import_generated("shapes.v1.shape_service_connect")
    assert methods(module, "Empty") == {}
    connect(module, "Empty", object()).close()


def test_service_without_package(import_generated: Import) -> None:
    module = import_generated("root_connect")
    assert module.RootWSGIApplication.path == "/Root"
    assert methods(module, "Root")["ping"].path == "/Root/Ping"


# The methods


def test_method_describes_the_rpc(import_generated: Import) -> None:
    module = import_generated("shapes.v1.types_connect")
    types_pb2 = import_generated("shapes.v1.types_pb2")
    method = methods(module, "Types")["get"]
    assert (method.service, method.name) == ("shapes.v1.Types", "Get")
    assert method.input is types_pb2.Circle.Arc.Point
    assert method.output is types_pb2.Circle.Arc
    assert method.kind is StreamKind.UNARY
    assert method.idempotency is IdempotencyLevel.UNKNOWN


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("import_", StreamKind.UNARY),
        ("float_", StreamKind.CLIENT_STREAM),
        ("print_", StreamKind.SERVER_STREAM),
        ("Iterator", StreamKind.BIDI_STREAM),
    ],
)
def test_stream_kinds(import_generated: Import, name: str, kind: StreamKind) -> None:
    module = import_generated("names.v1.names_connect")
    assert methods(module, "Methods")[name].kind is kind


def test_idempotency_levels(import_generated: Import) -> None:
    names = import_generated("names.v1.names_connect")
    old = import_generated("editions.v1.proto2_connect")
    assert methods(names, "Method")["get"].idempotency is IdempotencyLevel.NO_SIDE_EFFECTS
    assert methods(old, "OldService")["get"].idempotency is IdempotencyLevel.IDEMPOTENT


def options_of(call: Callable[..., Any]) -> set[str]:
    """Return the names of the options that a client's method declares."""
    options = get_type_hints(call)["options"]
    # Python 3.10 has no Unpack to wrap the type in.
    return set(get_type_hints(next(iter(get_args(options)), options)))


def test_methods_of_a_client_take_the_options_of_a_call(import_generated: Import) -> None:
    module = import_generated("names.v1.names_connect")
    for name in methods(module, "Methods"):
        assert options_of(vars(module.MethodsClient)[name]) == {"headers", "timeout_ms", "cancellation"}


def test_only_methods_without_side_effects_take_use_get(import_generated: Import) -> None:
    module = import_generated("names.v1.names_connect")
    assert "use_get" in options_of(module.MethodClient.get)
    assert "use_get" not in options_of(module.GreetClient_.client_call)


def test_signature_of_a_call(import_generated: Import) -> None:
    module = import_generated("acme.v1.user_connect")
    fetch = inspect.signature(module.UserServiceClient.fetch)
    assert str(fetch) == "(self, request: 'Message', **options: 'Unpack[CallOptions]') -> 'library_pb2.Book'"
    swap = inspect.signature(module.UserServiceClient.swap)
    assert list(swap.parameters) == ["self", "requests", "options"]


def test_messages_come_from_the_modules_that_define_them(import_generated: Import) -> None:
    service = methods(import_generated("shapes.v1.shape_service_connect"), "ShapeService")
    assert service["same"].input is import_generated("shapes.v2.types_pb2").Circle
    assert service["same"].output is import_generated("shapes.v10.types_pb2").Circle
    assert service["unpackaged"].input is import_generated("root_pb2").Pong
    well_known = import_generated("google.protobuf.timestamp_pb2").Timestamp
    assert service["well_known"].output is well_known


def test_every_syntax_and_edition(import_generated: Import) -> None:
    old = import_generated("editions.v1.proto2_pb2").Old
    newer = import_generated("editions.v1.edition2023_pb2").Newer
    newest = import_generated("editions.v1.edition2024_pb2")
    service = methods(import_generated("editions.v1.proto2_connect"), "OldService")
    assert (service["get"].input, service["get"].output) == (old, old.Part)
    service = methods(import_generated("editions.v1.edition2023_connect"), "NewerService")
    assert (service["get"].input, service["get"].output) == (newer, old)
    service = methods(import_generated("editions.v1.edition2024_connect"), "NewestService")
    assert (service["get"].input, service["get"].output) == (newest.Newest, newer)
    assert service["put"].input is newest.Internal
    assert methods(import_generated("editions.v1.proto3_connect"), "MaybeService").keys() == {"get"}


def test_messages_below_a_folder_named_by_a_keyword(import_generated: Import) -> None:
    things_pb2 = import_generated("acme.import.v1.things_pb2")
    inside = methods(import_generated("acme.import.v1.things_connect"), "ThingService")
    outside = methods(import_generated("acme.v1.user_connect"), "UserService")
    assert inside["get"].input is outside["fetch"].input is things_pb2.Thing


def test_messages_named_by_keywords(import_generated: Import) -> None:
    keywords_pb2 = import_generated("messages.v1.keywords_pb2")
    none = vars(keywords_pb2)["None"]
    service = methods(import_generated("messages.v1.keywords_connect"), "Keywords")
    assert (service["plain"].input, service["plain"].output) == (none, vars(none)["True"])
    assert service["deep"].input is vars(keywords_pb2.Outer2)["lambda"].Deep


# The names


def test_names_of_methods(import_generated: Import) -> None:
    module = import_generated("names.v1.names_connect")
    names = {method.name: name for name, method in methods(module, "Methods").items()}
    assert names == {
        "Import": "import_",
        "None": "none",
        "lambda": "lambda_",
        "Print": "print_",
        "float": "float_",
        "List": "list_",
        "type": "type_",
        "Close": "close_",
        "CallUnary": "call_unary_",
        "GetFoo": "GetFoo",
        "get_foo": "get_foo",
        "GetFOO": "GetFOO",
        "Open": "Open",
        "open": "open_",
        "GetHTTPStatus": "get_http_status",
        "V1Beta": "v1_beta",
        "GetV2Foo": "get_v2_foo",
        "List_Things": "list_things",
        "__init__": "init",
        "__private": "private",
        "_1": "rpc_1",
        "_": "rpc_",
        "NamesPb2": "names_pb2",
        "Warnings": "warnings",
        "Iterator": "Iterator",
        "iterator": "iterator",
        "Iterable": "Iterable",
        "iterable": "iterable",
        "Self": "self",
        "Request": "request",
        "Requests": "requests",
        "Headers": "headers",
        "Ctx": "ctx",
        "Methods": "methods",
        "Path": "path",
    }


def test_service_and_client_have_the_names_of_the_application(import_generated: Import) -> None:
    module = import_generated("names.v1.names_connect")
    for name, method in methods(module, "Methods").items():
        assert callable(vars(module.MethodsClient)[name])
        assert (name in vars(module.Methods)) is (method.kind is not StreamKind.BIDI_STREAM)


@pytest.mark.parametrize(
    ("path", "protocol", "application", "client"),
    [
        ("Iterator", "Iterator", "IteratorWSGIApplication", "IteratorClient"),
        ("ConnectClient", "ConnectClient", "ConnectClientWSGIApplication", "ConnectClientClient"),
        ("Greet", "Greet", "GreetWSGIApplication", "GreetClient_"),
        ("GreetClient", "GreetClient", "GreetClientWSGIApplication", "GreetClientClient"),
        ("None", "None__", "NoneWSGIApplication", "NoneClient"),
        ("None_", "None_", "None_WSGIApplication", "None_Client"),
        ("list", "list_", "listWSGIApplication", "listClient"),
        ("TimeoutError", "TimeoutError_", "TimeoutErrorWSGIApplication", "TimeoutErrorClient"),
        ("names_pb2", "names_pb2", "names_pb2WSGIApplication", "names_pb2Client"),
        ("_Hidden", "_Hidden", "_HiddenWSGIApplication", "_HiddenClient"),
    ],
)
def test_names_of_classes(
    import_generated: Import, path: str, protocol: str, application: str, client: str
) -> None:
    module = vars(import_generated("names.v1.names_connect"))
    assert module[application].path == f"/names.v1.{path}"
    assert get_args(module[application].__orig_bases__[0]) == (module[protocol],)
    assert issubclass(module[client], ConnectClient)


# The docstrings


def doc(import_generated: Import, name: str, service: str = "Comments") -> str | None:
    module = import_generated("text.v1.comments_connect")
    texts = {vars(vars(module)[cls])[name].__doc__ for cls in (service, f"{service}Client")}
    assert len(texts) == 1
    return inspect.cleandoc(texts.pop())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("quote_first", '"Quoted" at the start.'),
        ("quote_last", 'Quoted at the "end" '),
        ("quote_lines", '"Quoted"\n\nat both "ends"'),
        ("triple", 'Three: """ and \'\'\' and """"four"""" and "" '),
        ("only_triple", '""" '),
        ("backslash", r"A backslash: \d+ and \N{x} and \" and at the end " + "\\"),
        ("only_backslash", "\\"),
        ("tabs", "A tab,  and     more.\nindented"),
        ("blank", "Blank lines around, and indented.\n  More so.\nLess so."),
        ("unicode", "Ünïcödé: 你好, 👩‍👩‍👧, naïve “quotes”."),
        ("hanging", "First.\nSecond, which Python cannot keep indented."),
        ("example", "An example:\n\n    client.example(\n      1\n    )\n\nand more."),
        ("trailing", "Says it behind."),
        ("braces", "{braces} and %s and $x"),
    ],
)
def test_comment_is_the_docstring(import_generated: Import, name: str, text: str) -> None:
    assert doc(import_generated, name) == text


def test_method_without_comment_says_what_it_is(import_generated: Import) -> None:
    module = import_generated("text.v1.comments_connect")
    assert module.Comments.nothing.__doc__ == "Handle text.v1.Comments.Nothing."
    assert module.CommentsClient.nothing.__doc__ == "Call text.v1.Comments.Nothing."


@pytest.mark.parametrize(
    ("service", "text"),
    [
        ("Comments", "Comments of every sort."),
        ("Slashes", "Three slashes.\nA second line."),
        ("Javadoc", "Javadoc's asterisks.\n\n- a list\n  that goes on"),
        ("Block", "A block\nwithout asterisks."),
    ],
)
def test_comment_of_a_service(import_generated: Import, service: str, text: str) -> None:
    module = import_generated("text.v1.comments_connect")
    assert inspect.getdoc(vars(module)[service]) == text


def test_service_says_which_methods_it_lacks(import_generated: Import) -> None:
    module = import_generated("shapes.v1.shape_service_connect")
    assert "Talk is not among its methods: WSGI cannot" in module.Bidi.__doc__
    assert "Talk and Chat are not among its methods: WSGI cannot" in module.BidiTwice.__doc__


# Deprecation


def test_deprecated_method_says_so(import_generated: Import) -> None:
    module = import_generated("text.v1.deprecated_connect")
    assert inspect.getdoc(module.Partly.old) == "Was once the way to do it.\n\nDeprecated."
    assert inspect.getdoc(module.Partly.new) == "Handle text.v1.Partly.New."


def test_comment_that_speaks_of_deprecation_needs_no_more(import_generated: Import) -> None:
    module = import_generated("text.v1.deprecated_connect")
    assert module.PartlyClient.noted.__doc__.count("Deprecated") == 1


@pytest.mark.parametrize(
    ("module", "service", "method"),
    [
        ("deprecated", "Partly", "Old"),
        ("deprecated", "Wholly", "Get"),
        ("deprecated_file", "Gone", "Get"),
    ],
)
def test_call_of_deprecated_method_warns_its_caller(
    import_generated: Import, module: str, service: str, method: str
) -> None:
    connect_module = import_generated(f"text.v1.{module}_connect")
    message = import_generated("text.v1.deprecated_pb2").T()
    implementation = type("Unimplemented", (vars(connect_module)[service],), {})()
    client = connect(connect_module, service, implementation)
    text = f"^text.v1.{service}.{method} is deprecated$"
    with pytest.warns(DeprecationWarning, match=text) as warnings, pytest.raises(ConnectError):
        getattr(client, method.lower())(message)
    assert [warning.filename for warning in warnings] == [__file__]


def test_service_and_client_of_deprecated_service_say_so(import_generated: Import) -> None:
    module = import_generated("text.v1.deprecated_connect")
    assert module.Wholly.__doc__.rstrip().endswith("Deprecated.")
    assert module.WhollyClient.__doc__.rstrip().endswith("Deprecated.")
    assert "Deprecated" not in module.Partly.__doc__


# Calls


def test_calls_of_each_kind(import_generated: Import) -> None:
    module = import_generated("acme.v1.user_connect")
    names = import_generated("names.v1.names_connect")
    message = import_generated("names.v1.names_pb2").M()
    thing, book = (
        import_generated("acme.import.v1.things_pb2").Thing(),
        import_generated("acme.v1.library_pb2").Book(),
    )

    class Users(module.UserService):  # type: ignore[misc, name-defined]
        def fetch(self, request: Any, ctx: Any) -> Any:
            assert request == thing
            return book

        def swap(self, request: Iterator[Any], ctx: Any) -> Any:
            assert list(request) == [thing, thing]
            return thing

    class Iterate(names.Protocol):  # type: ignore[misc, name-defined]
        def iterate(self, request: Any, ctx: Any) -> Iterator[Any]:
            yield from [request, request, request]

    with connect(module, "UserService", Users()) as client:
        assert client.fetch(thing) == book
        assert client.swap([thing, thing]) == thing
    with connect(names, "Protocol", Iterate()) as client:
        assert list(client.iterate(message)) == [message, message, message]


@pytest.mark.parametrize("name", ["fetch", "swap", "send"])
def test_unknown_option_is_named_in_the_error(import_generated: Import, name: str) -> None:
    module = import_generated("acme.v1.user_connect")
    client = module.UserServiceClient("http://test")
    with pytest.raises(TypeError, match=r"call_\w+\(\) got an unexpected keyword argument 'timeout'"):
        getattr(client, name)(None, timeout=500)


def test_get_request_without_side_effects(import_generated: Import) -> None:
    module = import_generated("names.v1.names_connect")
    message = import_generated("names.v1.names_pb2").M()

    class Handlers(module.Method):  # type: ignore[misc, name-defined]
        def get(self, request: Any, ctx: Any) -> Any:
            ctx.response_headers()["http-method"] = ctx.http_method()
            assert ctx.http_method() == "GET"
            return request

    with connect(module, "Method", Handlers()) as client:
        assert client.get(message, use_get=True) == message


def test_method_that_is_not_implemented_answers_so(import_generated: Import) -> None:
    module = import_generated("root_connect")
    other_pb2 = import_generated("other_root_pb2")

    class Handlers(module.Root):  # type: ignore[misc, name-defined]
        pass

    with connect(module, "Root", Handlers()) as client, pytest.raises(ConnectError) as caught:
        client.pang(other_pb2.Other())
    assert caught.value.code is Code.UNIMPLEMENTED
    assert caught.value.message == "Root.Pang is not implemented"


def test_misspelt_handler_is_refused(import_generated: Import) -> None:
    module = import_generated("names.v1.names_connect")
    implementation = type("Misspelt", (module.Methods,), {"list": lambda self, request, ctx: request})()
    error = r"^Misspelt\.list looks like the handler of names\.v1\.Methods\.List: name it 'list_'$"
    with pytest.raises(TypeError, match=error):
        module.MethodsWSGIApplication(implementation)


def test_bidi_call_raises_unimplemented(import_generated: Import) -> None:
    module = import_generated("shapes.v1.shape_service_connect")

    class Handlers(module.Bidi):  # type: ignore[misc, name-defined]
        pass

    with connect(module, "Bidi", Handlers()) as client, pytest.raises(ConnectError) as caught:
        client.talk([])
    assert caught.value.code is Code.UNIMPLEMENTED
