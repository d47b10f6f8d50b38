"""protoc-gen-connect-sync: writes services, applications and clients from proto files.

``plugin`` speaks protoc's plugin protocol, ``schema`` reads descriptors into plain values,
``names`` turns proto names into Python's, and ``generator`` writes one module out of them, with
``docs``, ``imports`` and ``layout`` for its docstrings, its import block and its line breaks.
"""
