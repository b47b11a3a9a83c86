"""The benchmarks: `python -m tests.bench`. Never part of the tests."""
