"""`osai models` and `osai status`: what they print."""

import json

from click.testing import CliRunner, Result

from client.fake_coordinator import FakeCoordinator, example_swarm, serving
from osai.client.cli import main
from osai.client.terminal import harmless


def osai(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_control_characters_of_peers_are_replaced_and_nothing_else() -> None:
    assert harmless("\x1b[0m\x9b\r\x00\x7f|") == "\ufffd[0m\ufffd\ufffd\ufffd\ufffd|"
    text = "tab\tline\n\u00e9 \u00a0 \U0001f469\u200d\U0001f680"
    assert harmless(text) == text


def test_models_and_status_show_gaps_failures_and_trust() -> None:
    with serving(FakeCoordinator(swarm=example_swarm())) as address:
        models = osai("models", "--coordinator", address)
        status = osai("status", "--coordinator", address)
    assert (models.exit_code, status.exit_code) == (0, 0)
    for output in (models.stdout, status.stdout):
        assert "acme/whole" in output
        assert "no: 1 layers have no node, the first is 1" in output
        assert "UNSIGNED" in output
    for word in ("c0ffee", "http://127.0.0.1:8080", "n" * 32, "oak", "8.0 GiB", "1.0 h", "[0:4] bfloat16",
                 "[0:1] float32 (failed; unverified; tensor x is corrupt)", "joining"):  # fmt: skip
        assert word in status.stdout


def test_status_names_the_coordinators_where_there_are_several() -> None:
    swarm = example_swarm()
    swarm.coordinators.extend(["here:1", "there:2"])
    with serving(FakeCoordinator(swarm=swarm)) as address:
        assert "coordinators here:1, there:2\n" in osai("status", "--coordinator", address).stdout


def test_models_and_status_as_json() -> None:
    with serving(FakeCoordinator(swarm=example_swarm())) as address:
        models = json.loads(osai("models", "--coordinator", address, "--json").stdout)
        status = json.loads(osai("status", "--coordinator", address, "--json").stdout)
    assert models["models"] == status["models"]
    assert models["models"][1]["replicas"] == [1, 0]
    assert status["nodes"][0]["spans"][0]["span"] == {"start": 0, "end": 4}


def test_names_of_peers_cannot_drive_the_terminal() -> None:
    swarm = example_swarm()
    swarm.nodes[0].name = "\x1b[31mred\x1b[0m [bold]loud[/bold]"
    with serving(FakeCoordinator(swarm=swarm)) as address:
        result = osai("status", "--coordinator", address)
    assert "\x1b" not in result.stdout
    assert "[bold]loud[/bold]" in result.stdout
