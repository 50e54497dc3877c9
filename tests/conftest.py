"""How tests are shared out to processes: swarms one after another in one of them, all else a file at a time beside."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from osai.core.logs import StderrHandler

SWARM = "tests/swarm/"

# A machine that is slow, or busy with the other tests, is no fault.
settings.register_profile("osai", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("osai")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Swarms take the longest, and so come first."""
    items.sort(key=lambda item: not item.nodeid.startswith(SWARM))


@pytest.fixture(autouse=True)
def logs_go_nowhere_afterwards() -> Iterator[None]:
    """A command that ran in this process has set up its log; it would write into the next test's standard error."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if isinstance(handler, StderrHandler) and handler not in before:
            root.removeHandler(handler)
            root.setLevel(level)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:  # noqa: ANN401 - xdist has no types
    """Swarms have their deadlines: they never run two at a time."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Shared(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return SWARM if nodeid.startswith(SWARM) else nodeid.split("::", 1)[0]

    return Shared(config, log)
