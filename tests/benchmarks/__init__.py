"""Benchmarks: what the library costs, as ratios to the least that the same work can cost.

Each module runs alone (``python -m tests.benchmarks.server_unary``), and all by ``make bench``.
"""
