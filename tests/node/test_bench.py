import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from osai.core.embedded import model_dir
from osai.node.bench_parts import PartTimer
from osai.node.bench_report import AROUND, PARTS
from osai.node.cli import main
from osai.node.engine.kv_cache import KVCache

FEW = ("--threads", "1", "--context", "16", "--steps", "4")


@pytest.fixture(autouse=True)
def environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT"):  # so that they are undone
        monkeypatch.setenv(name, "1")


def bench(*args: str) -> Result:
    return CliRunner().invoke(main, ["bench", *FEW, *args])


def report(*args: str) -> dict[str, Any]:
    result = bench("--json", *args)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.output))


def check_step(step: dict[str, Any]) -> None:
    assert set(step["parts_s"]) == set(PARTS)
    assert set(step["around_s"]) == set(AROUND)
    assert sum(step["parts_s"].values()) == pytest.approx(step["step_s"], rel=0.01)
    assert all(value > 0 for value in step["around_s"].values())
    assert step["parts_s"]["attention"] > 0
    assert step["parts_s"]["linear"] > 0
    assert step["parts_s"]["experts"] == 0


def test_the_embedded_model_whole() -> None:
    attend = KVCache.attend
    found = report("--sessions", "1,3")
    assert (found["model"], found["layers"], found["dtype"]) == ("osai/shakespeare", "0:6", "bfloat16")
    assert (found["num_threads"], found["context"]) == (1, 16)
    assert [step["num_sessions"] for step in found["steps"]] == [1, 3]
    for step in found["steps"]:
        check_step(step)
        assert step["parts_s"]["sampling"] > 0
        assert step["weight_bytes_per_s"] == pytest.approx(found["weight_bytes"] / step["step_s"])
    assert KVCache.attend is attend, "the hooks are gone"


def test_a_quantised_span_from_the_middle_of_a_folder() -> None:
    folder = str(model_dir())
    plain, int8 = (
        report("--weights", folder, "--span", "2:4", "--sessions", "2", "--quantize", name) for name in ("none", "int8")
    )
    assert (int8["model"], int8["layers"], int8["dtype"]) == (folder, "2:4", "bfloat16+int8")
    assert int8["weight_bytes"] < 0.6 * plain["weight_bytes"]
    for found in (plain, int8):
        check_step(found["steps"][0])
        assert found["steps"][0]["parts_s"]["sampling"] == 0


def test_a_table_for_people() -> None:
    result = bench("--sessions", "1")
    assert result.exit_code == 0, result.output
    for word in (*PARTS, *AROUND, "1 session", "weights read, GB/s"):
        assert word in result.output


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--model", "org/model"), "--weights"),
        (("--weights", "/nowhere"), "no config.json"),
        (("--sessions", "1,x"), "whole numbers"),
        (("--sessions", "0"), "whole numbers"),
        (("--span", "4:9"), "6"),
        (("--span", "four"), "four"),
        (("--context", "1000"), "smaller --context"),
        (("--quantize", "int4"), "needs a GPU"),
        (("--dtype", "float8"), "--dtype"),
        (("--device", "tpu"), "is no device"),
        (("--numa", "77"), "no NUMA node 77"),
    ],
)
def test_what_can_not_be_measured_is_refused(args: tuple[str, ...], reason: str) -> None:
    result = bench(*args)
    assert result.exit_code != 0
    assert reason in result.output


def test_a_folder_whose_weights_are_broken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((model_dir() / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    result = bench("--weights", str(tmp_path))
    assert result.exit_code == 1
    assert str(tmp_path) in result.output


def test_what_runs_within_a_part_counts_for_it() -> None:
    waits: list[int] = []
    timer = PartTimer(lambda: waits.append(1))
    linear = timer.timed(lambda: sum(range(1000)), "linear")
    assert timer.timed(lambda: linear() + linear(), "experts")() == 2 * sum(range(1000))
    assert set(timer.seconds) == {"experts"}
    linear()
    assert timer.seconds["linear"] > 0
    assert len(waits) == 4, "the device is waited for at the ends of parts alone"

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        timer.timed(fails, "linear")()
    before = timer.seconds["attention"]
    timer.timed(lambda: None, "attention")()
    assert timer.seconds["attention"] > before
