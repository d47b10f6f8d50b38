"""The Python module for one proto file: for each service a Protocol, an application, a client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from connect_sync.codegen import docs, names
from connect_sync.codegen.imports import Imports
from connect_sync.codegen.layout import assigned_call, assignment, bracketed, docstring
from connect_sync.codegen.schema import File, MessageType, Method, SchemaError, Service


@dataclass(frozen=True)
class Module:
    """A generated module: its path under the output directory, and its text."""

    path: str
    text: str


def generate(file: File, package_prefix: str) -> Module:
    """Write the module for a proto file that has services."""
    path = names.module_name(file.name, "_connect", "").replace(".", "/") + ".py"
    return Module(path, _ModuleWriter(file, package_prefix).text())


@dataclass(frozen=True)
class _PythonMethod:
    """A method with what Python calls it, and the constant that describes it."""

    schema: Method
    name: str
    constant: str


@dataclass(frozen=True)
class _PythonService:
    """A service with the names of its three classes."""

    schema: Service
    name: str
    application: str
    client: str
    methods: tuple[_PythonMethod, ...]


def _python_services(file: File) -> list[_PythonService]:
    """Name all that the module declares."""
    declared = [service.name for service in file.services]
    class_names = {name: names.service_name(name, declared) for name in declared}
    constants: set[str] = set()

    def constant(service: Service, method_name: str) -> str:
        words = f"{names.snake_case(service.name)}_{names.snake_case(method_name)}"
        name = names.free_name(f"_{words.upper()}", {*class_names.values(), *constants})
        constants.add(name)
        return name

    return [
        _PythonService(
            schema=service,
            name=class_names[service.name],
            application=names.free_name(f"{service.name}WSGIApplication", class_names.values()),
            client=names.free_name(f"{service.name}Client", class_names.values()),
            methods=tuple(
                _PythonMethod(method, name, constant(service, name))
                for method, name in zip(service.methods, _method_names(file, service), strict=True)
            ),
        )
        for service in file.services
    ]


def _method_names(file: File, service: Service) -> list[str]:
    method_names = names.method_names([method.name for method in service.methods])
    first: dict[str, Method] = {}
    for method, name in zip(service.methods, method_names, strict=True):
        if other := first.get(name):
            raise SchemaError(
                f"{file.name}: method {method.full_name}: its name in Python, {name}, "
                f"is also that of {other.name}; rename one of them"
            )
        first[name] = method
    return method_names


class _ModuleWriter:
    """Writes the module: first the body, and then the imports that the body turned out to need."""

    def __init__(self, file: File, package_prefix: str) -> None:
        self._file = file
        self._prefix = package_prefix
        self._services = _python_services(file)
        self._taken = {name for service in self._services for name in _declared(service)}
        own = names.module_name(file.name, "_pb2", package_prefix)
        modules = {self._module_of(message) for message in _messages(file)}
        aliases = names.module_aliases(modules, own, package_prefix, self._taken)
        self._imports = Imports(own.rpartition(".")[0], aliases, self._taken)
        # Messages that no expression names for a type checker, and the constants they are kept in.
        self._untyped: dict[MessageType, str] = {}

    def text(self) -> str:
        """Return the module's source."""
        services = [line for service in self._services for line in self._service(service)]
        untyped = [line for message in self._untyped for line in self._untyped_constant(message)]
        return _joined(
            [
                *docstring(docs.of_module(self._file)),
                "",
                *self._imports.lines(),
                "",
                *self._public_names(),
                *(["", *untyped] if untyped else []),
                *services,
            ]
        )

    def _public_names(self) -> list[str]:
        classes = [f'"{name}"' for service in self._services for name in _classes(service)]
        return bracketed("__all__ = ", classes, brackets="[]")

    def _service(self, service: _PythonService) -> Iterator[str]:
        if service.methods:
            yield from [""] if service is self._services[0] else ["", ""]
        for method in service.methods:
            yield from self._method_constant(service, method)
        for lines in (self._protocol(service), self._application(service), self._client(service)):
            yield from ("", "")
            yield from lines

    def _method_constant(self, service: _PythonService, method: _PythonMethod) -> list[str]:
        schema = method.schema
        arguments = [
            f'service="{service.schema.full_name}"',
            f'name="{schema.name}"',
            f"input={self._message_class(schema.input)}",
            f"output={self._message_class(schema.output)}",
            f"kind={self._runtime('StreamKind')}.{schema.kind}",
        ]
        if schema.idempotency != "UNKNOWN":
            level = f"{self._runtime('IdempotencyLevel')}.{schema.idempotency}"
            arguments.append(f"idempotency={level}")
        return assigned_call(method.constant, self._runtime("Method"), arguments)

    # The service's protocol

    def _protocol(self, service: _PythonService) -> Iterator[str]:
        base = self._imports.name("typing", "Protocol")
        yield from bracketed(f"class {service.name}", [base], ":")
        yield from docstring(docs.of_protocol(service.schema), 4)
        for method in service.methods:
            if not method.schema.is_bidi:
                yield ""
                yield from self._handler(method)

    def _handler(self, method: _PythonMethod) -> Iterator[str]:
        schema = method.schema
        request, response = self._message_type(schema.input), self._message_type(schema.output)
        if schema.streams_requests:
            request = self._iterator_of(request)
        if schema.streams_responses:
            response = self._iterator_of(response)
        context = self._runtime("RequestContext")
        parameters = ["self", f"request: {request}", f"ctx: {context}"]
        yield from bracketed(f"def {method.name}", parameters, f" -> {response}:", indent=4)
        yield from docstring(docs.of_handler(schema), 8)
        error = [
            f"{self._runtime('Code')}.UNIMPLEMENTED",
            f'"{schema.full_name} is not implemented"',
        ]
        yield from bracketed(f"raise {self._runtime('ConnectError')}", error, indent=8)

    # The WSGI application

    def _application(self, service: _PythonService) -> Iterator[str]:
        base = self._imports.name("wsgi_adapters", "ConnectWSGIApplication")
        yield from bracketed(f"class {service.application}", [f"{base}[{service.name}]"], ":")
        yield from docstring(docs.of_application(service.schema), 4)
        yield ""
        yield from assignment("path", f'"/{service.schema.full_name}"', indent=4)
        entries = [f'"{method.name}": {method.constant}' for method in service.methods]
        yield from bracketed("methods = ", entries, indent=4, brackets="{}")

    # The client

    def _client(self, service: _PythonService) -> Iterator[str]:
        yield from bracketed(f"class {service.client}", [self._runtime("ConnectClient")], ":")
        yield from docstring(docs.of_client(service.schema), 4)
        for method in service.methods:
            yield ""
            yield from self._call(method)

    def _call(self, method: _PythonMethod) -> Iterator[str]:
        schema = method.schema
        request, response = self._message_type(schema.input), self._message_type(schema.output)
        argument = "request"
        if schema.streams_requests:
            argument = "requests"
            request = f"{self._imports.name('collections.abc', 'Iterable')}[{request}]"
        if schema.streams_responses:
            response = f"{self._runtime('ResponseStream')}[{response}]"
        options = self._runtime("GetCallOptions" if schema.allows_get else "CallOptions")
        unpacked = f"**options: {self._runtime('Unpack')}[{options}]"
        parameters = ["self", f"{argument}: {request}", unpacked]

        yield from bracketed(f"def {method.name}", parameters, f" -> {response}:", indent=4)
        yield from docstring(docs.of_call(schema), 8)
        if schema.deprecated:
            yield from self._deprecation_warning(schema)
        call = f"return self.call_{schema.kind.lower()}"
        yield from bracketed(call, [method.constant, argument, "**options"], indent=8)

    def _deprecation_warning(self, method: Method) -> list[str]:
        arguments = [f'"{method.full_name} is deprecated"', "DeprecationWarning", "stacklevel=2"]
        return bracketed(f"{self._imports.module('warnings')}.warn", arguments, indent=8)

    # What the parts above name

    def _runtime(self, name: str) -> str:
        return self._imports.name("connect_sync", name)

    def _iterator_of(self, message: str) -> str:
        return f"{self._imports.name('collections.abc', 'Iterator')}[{message}]"

    def _module_of(self, message: MessageType) -> str:
        return names.module_name(message.file, "_pb2", self._prefix)

    def _message_class(self, message: MessageType) -> str:
        """Return the expression for a message class."""
        if self._is_typed(message):
            return ".".join([self._imports.module(self._module_of(message)), *message.names])
        if message not in self._untyped:
            taken = {*self._taken, *self._untyped.values()}
            self._untyped[message] = names.free_name(f"_{message.names[-1]}", taken)
        return self._untyped[message]

    def _message_type(self, message: MessageType) -> str:
        """Return the annotation for a message: protobuf's base class if no other can be named."""
        if self._is_typed(message):
            return self._message_class(message)
        return self._imports.name("google.protobuf.message", "Message")

    def _is_typed(self, message: MessageType) -> bool:
        module = self._module_of(message)
        return self._imports.is_static(module) and all(map(names.is_usable, message.names))

    def _untyped_constant(self, message: MessageType) -> list[str]:
        """Write the constant for a message that has a keyword in its name or its module's."""
        value = self._imports.module(self._module_of(message))
        *outer, name = message.names
        for part in outer:
            value = _attribute(value, part)
        base = self._imports.name("google.protobuf.message", "Message")
        target = f"{self._untyped[message]}: type[{base}]"
        if names.is_usable(name):
            return assignment(target, f"{value}.{name}")
        return bracketed(f"{target} = getattr", [value, f'"{name}"'])


def _attribute(value: str, name: str) -> str:
    return f"{value}.{name}" if names.is_usable(name) else f'getattr({value}, "{name}")'


def _classes(service: _PythonService) -> tuple[str, str, str]:
    return service.name, service.application, service.client


def _declared(service: _PythonService) -> Iterator[str]:
    yield from _classes(service)
    for method in service.methods:
        yield from (method.name, method.constant)


def _messages(file: File) -> Iterator[MessageType]:
    for service in file.services:
        for method in service.methods:
            yield from (method.input, method.output)


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
