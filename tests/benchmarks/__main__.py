"""Runs every benchmark."""

from tests.benchmarks import client, in_process, liveness, memory, startup, throughput

if __name__ == "__main__":
    throughput.check_programs("wrk", "h2load")
    in_process.main()
    client.main()
    throughput.main()
    liveness.main()
    memory.main()
    startup.main()
