"""Swarms of real processes under faults: what `scripts/chaos` and the tests of recovery run."""
