"""Runs every benchmark."""

from tests.benchmarks import client, server

server.main()
client.main()
