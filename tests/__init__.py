"""The tests. They mirror the package; `tests.opdb` is the one table of operations."""
