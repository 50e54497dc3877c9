"""What a node says of its operator, and of privacy, when it joins."""

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from osai.core.errors import SetupError
from osai.core.identity import Identity
from osai.core.manifest import public_key_pem
from osai.core.operators import LIFE_S, check_operator
from osai.core.records import NODES_KEY, unseal
from osai.node.cli import _say_ready, main
from osai.node.operator import read_operator, seal_record
from osai.node.record import NodeFacts, write_record
from osai.proto import record_pb2

NODE, OPERATOR = Identity.generate(), Identity.generate()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "me.pem"
    path.write_bytes(OPERATOR.to_pem())
    return path


def facts(key_file: Path | None, *, is_private: bool = False) -> NodeFacts:
    operator = read_operator(key_file, NODE.node_id)
    return NodeFacts(
        node_id=NODE.node_id, edge_address="h:1", name="oak", device="cpu", memory_bytes=1, started_at_s=1.0,
        is_private=is_private, operator=operator,
    )  # fmt: skip


def test_the_record_carries_the_operators_word(key_file: Path) -> None:
    told = facts(key_file)
    record = write_record(told, "ready", [], num_sessions=0, sequence=1)
    assert record.operator == OPERATOR.public_key
    assert told.operator is not None
    check_operator(told.operator, NODE.node_id, time.time())
    check_operator(told.operator, NODE.node_id, time.time() + LIFE_S - 60)
    assert record.operator_not_after_s == told.operator.not_after_s
    assert record.operator_signature == told.operator.signature
    assert write_record(facts(None), "ready", [], num_sessions=0, sequence=1).operator == b""


def test_the_node_signs_the_record_for_its_control_stream_where_that_matters(key_file: Path) -> None:
    record = write_record(facts(key_file), "ready", [], num_sessions=0, sequence=1)
    sealed = seal_record(record, facts(key_file), NODE, 30.0)
    assert record_pb2.NodeRecord.FromString(unseal(sealed, NODES_KEY, NODE.node_id, 29.0)) == record
    assert seal_record(record, facts(key_file, is_private=True), NODE, 30.0) == b""
    assert seal_record(record, facts(None), NODE, 30.0) == b""


def test_a_file_that_holds_no_private_key_is_refused(tmp_path: Path) -> None:
    public = tmp_path / "me.pub"
    public.write_bytes(public_key_pem(OPERATOR.public_key))
    with pytest.raises(SetupError, match=r"--operator .*me\.pub: not a private key"):
        read_operator(public, NODE.node_id)
    with pytest.raises(SetupError, match=r"--operator .*gone\.pem: it can't be read"):
        read_operator(tmp_path / "gone.pem", NODE.node_id)
    refused = CliRunner().invoke(main, ["join", "127.0.0.1:1", "--operator", str(tmp_path / "gone.pem")])
    assert refused.exit_code == 2
    assert "does not exist" in refused.output


@pytest.mark.parametrize(("is_private", "said"), [(False, "This swarm is public"), (True, "This swarm is private")])
def test_a_node_that_serves_says_what_nodes_can_see(
    *, is_private: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _say_ready(facts(None, is_private=is_private), (), as_json=False)
    told = capsys.readouterr().out
    assert told.startswith(said)
    assert "can still probably" if is_private else "can probably" in told
    assert "See docs/privacy.md." in told
