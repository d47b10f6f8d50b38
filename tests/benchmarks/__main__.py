"""Runs every benchmark."""

from tests.benchmarks import client, in_process

if __name__ == "__main__":
    in_process.main()
    client.main()
