"""The benchmark: ``python -m benchmarks.run --help``. Not part of the package or of its tests."""
