"""Debian's Chromium, one for the module, and where screenshots are kept."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

NAMES = ("chromium", "chromium-browser")
LAUNCH_DEADLINE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail("there is no Chromium on this machine: install Debian's package, `apt-get install chromium`")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=arguments, timeout=LAUNCH_DEADLINE_MS)
        except Error as e:
            pytest.fail(f"{path} does not start; is Debian's package `chromium` whole? {e}")
        yield found
        found.close()


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: OSAI_ARTEFACTS, else a folder of this run."""
    given = os.environ.get("OSAI_ARTEFACTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("artefacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
