"""What the pages on Flask and Django have in common: they begin where the README ends, and make a site."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import urllib3

from tests.integration.newcomer import README, Newcomer, read_blocks, sort_blocks
from tests.integration.wire import PATIENCE


def follow_readme(folder: Path) -> Path:
    """Follow the README to where its service can be served, and return the folder."""
    readme = sort_blocks([block for block in read_blocks(README) if block.section != "Install"])
    newcomer = Newcomer(folder)
    newcomer.save(readme.files)
    newcomer.run(next(block.text for block in readme.preparations if "protoc" in block.text))
    return folder


class Site:
    """A site that somebody has made by the page, as it runs."""

    def __init__(self, newcomer: Newcomer) -> None:
        self.newcomer = newcomer
        self.address = f"http://{newcomer.address}"

    def call(self, path: str, name: str, **headers: str) -> urllib3.BaseHTTPResponse:
        body = json.dumps({"name": name}).encode()
        headers["content-type"] = "application/json"
        return self.request("POST", f"{path}/greet.v1.GreetService/Greet", body, headers)

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        headers = {"connection": "close", **(headers or {})}
        with urllib3.PoolManager(timeout=PATIENCE, retries=False) as manager:
            return manager.request(method, self.address + path, body=body, headers=headers)
