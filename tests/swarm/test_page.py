"""The health page over a real swarm, in a real browser: a node that is killed is off the page within ten seconds."""

import shutil
import signal
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from families.fixtures import Checkpoints
from swarm.programs import Hosted, Publisher, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

PROMPT = "Once upon a time"


def test_a_killed_node_is_off_the_page_within_ten_seconds(tmp_path: Path, checkpoints: Checkpoints) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "there is no Chromium on this machine: install Debian's package, `apt-get install chromium`"
    publisher = Publisher(tmp_path)
    signed = publisher.sign("test/llama", checkpoints("llama"))
    with TestSwarm(tmp_path, publisher.public_key) as swarm, sync_playwright() as playwright:
        swarm.serve([signed])
        swarm.add_nodes([[Hosted(model=signed, span=span)] for span in ("0:3", "3:6")])
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(swarm.http)
        nodes = page.locator("[data-part=nodes]")
        expect(page.get_by_text("The model is servable")).to_be_visible()
        for name, node_id in swarm.ids.items():
            expect(nodes.get_by_text(f"{name} {node_id[:8]}")).to_be_visible()
        body = {"prompt": PROMPT, "max_tokens": 8, "ignore_eos": True}
        assert httpx.post(f"{swarm.http}/v1/completions", json=body, timeout=30).status_code == 200
        expect(page.get_by_role("row", name="node-0 1 8 8")).to_be_visible(
            timeout=10_000
        )  # it serves, as who serves says

        swarm.nodes["node-1"].signal(signal.SIGKILL)
        killed_s = time.monotonic()
        expect(nodes.get_by_text("node-1")).to_have_count(0, timeout=10_000)
        expect(page.get_by_text("No ready node hosts layers 3:6")).to_be_visible(timeout=10_000)
        assert time.monotonic() - killed_s < 10
        health = httpx.get(f"{swarm.http}/api/v1/health").json()
        browser.close()
    assert (health["models"][0]["state"], health["models"][0]["num_tokens_24h"]) == ("down", 8)
    assert {one["name"] for one in health["contributors"]} == {"node-0", "node-1"}
    assert health["history"]["kept"]
    assert (tmp_path / "coordinator" / "history.sqlite3").is_file()
    assert swarm.coordinator is not None
    assert "Traceback" not in swarm.coordinator.log()
