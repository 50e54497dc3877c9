"""How tests are shared out to processes: swarms one after another in one of them, all else a file at a time beside."""

import pytest

SWARM = "swarm"


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Swarms have their deadlines: they never run two at a time. They take the longest, and so come first."""
    for item in items:
        is_swarm = item.get_closest_marker("swarm") is not None
        item.add_marker(pytest.mark.xdist_group(SWARM if is_swarm else item.path.as_posix()))
    items.sort(key=lambda item: item.get_closest_marker("swarm") is None)
