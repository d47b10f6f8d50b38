"""The command protoc-gen-connect-sync: protoc's plugin protocol on standard input and output.

https://protobuf.dev/reference/other/#plugins: protoc sends a CodeGeneratorRequest and takes a
CodeGeneratorResponse, in whose ``error`` a fault of the schema or of an option is told.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from dataclasses import dataclass

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition
from google.protobuf.message import DecodeError

from connect_sync.codegen.generator import generate
from connect_sync.codegen.names import is_usable
from connect_sync.codegen.schema import SchemaError, index_messages, read_file

_COMMAND = "protoc-gen-connect-sync"

_DESCRIPTION = """\
A plugin of protoc, which starts it: it writes greet_connect.py, with the services, WSGI
applications and clients of greet.proto, to stand beside protoc's greet_pb2.py.

  protoc --python_out=gen --pyi_out=gen --connect-sync_out=gen greet/v1/greet.proto
"""

_OPTIONS = """\
options of the plugin:
  --connect-sync_opt=package_prefix=gen.python
                 the Python package that the generated modules are imported from
"""


class OptionError(Exception):
    """An option of the plugin that it does not have, or a value that the option cannot take."""


@dataclass(frozen=True)
class Options:
    """What ``--connect-sync_opt`` sets."""

    package_prefix: str = ""

    @classmethod
    def parse(cls, parameter: str) -> Options:
        """Read protoc's parameter, ``name=value`` pairs with commas between them."""
        values = {}
        for option in filter(None, parameter.split(",")):
            name, _, value = option.partition("=")
            if name != "package_prefix":
                raise OptionError(f"unknown option {name!r}; there is package_prefix")
            if not all(map(is_usable, value.split("."))):
                raise OptionError(f"package_prefix: {value!r} is not the name of a Python package")
            values[name] = value
        return cls(**values)


def respond(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Return the modules for the files that protoc asks for, or what is wrong with them."""
    response = CodeGeneratorResponse(
        supported_features=(
            CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
        ),
        minimum_edition=Edition.EDITION_PROTO2,
        maximum_edition=Edition.EDITION_2024,
    )
    try:
        response.file.extend(_generated_files(request))
    except (OptionError, SchemaError) as error:
        response.error = str(error)
    return response


def _generated_files(request: CodeGeneratorRequest) -> list[CodeGeneratorResponse.File]:
    options = Options.parse(request.parameter)
    messages = index_messages(request.proto_file)
    descriptors = {file.name: file for file in request.proto_file}
    files: dict[str, CodeGeneratorResponse.File] = {}
    for name in request.file_to_generate:
        if name not in descriptors:
            raise SchemaError(f"{name}: protoc sent no descriptor of it")
        file = read_file(descriptors[name], messages)
        if file.services:
            module = generate(file, options.package_prefix)
            if module.path in files:
                raise SchemaError(f"{name}: another file's module is also {module.path}")
            files[module.path] = CodeGeneratorResponse.File(name=module.path, content=module.text)
    return list(files.values())


def main() -> None:
    """Answer protoc, or the person who started the command by hand."""
    parser = argparse.ArgumentParser(
        prog=_COMMAND,
        description=_DESCRIPTION,
        epilog=_OPTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    if parser.parse_args().version:
        sys.stdout.write(f"{_COMMAND} {importlib.metadata.version('connect-sync')}\n")
        return
    if sys.stdin.isatty():
        parser.print_help(sys.stderr)
        sys.exit(2)
    try:
        request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    except DecodeError:
        sys.exit(f"{_COMMAND}: standard input is not a request of protoc's; see --help")
    sys.stdout.buffer.write(respond(request).SerializeToString())
