"""Who may call and send what. The table is held against the protos: nothing may be forgotten in it."""

from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

import osai.proto.common_pb2 as any_proto
from osai.core.admission import Peer, Role, check_answer, check_call, check_greeting, check_sent
from osai.core.admission.access import DIALLER_SENDS, METHODS, NODE_ANSWERS, Caller
from osai.core.errors import TrustError
from osai.proto import edge_pb2

CALLERS: tuple[Caller, ...] = (*Role, None)
KINDS = [field.name for field in edge_pb2.LinkMessage.DESCRIPTOR.oneofs_by_name["kind"].fields]


def services() -> Iterator[Any]:
    """The descriptor of every service of every proto, and of health."""
    for file in sorted(Path(any_proto.__file__).parent.glob("*_pb2.py")):
        yield from import_module(f"osai.proto.{file.stem}").DESCRIPTOR.services_by_name.values()
    yield from health_pb2.DESCRIPTOR.services_by_name.values()


def offered() -> dict[str, set[str]]:
    """Methods, as gRPC names them, service by service."""
    return {each.full_name: {f"/{each.full_name}/{method.name}" for method in each.methods} for each in services()}


def may_call(method: str, caller: Caller) -> bool:
    try:
        check_call(method, caller)
    except TrustError:
        return False
    return True


def test_the_walk_finds_the_services() -> None:
    assert {"osai.v1.Coordinator", "osai.v1.Control", "osai.v1.Edge", "grpc.health.v1.Health"} <= offered().keys()


def test_every_method_of_every_service_is_listed() -> None:
    assert not [method for methods in offered().values() for method in methods if method not in METHODS]


def test_no_method_is_listed_that_does_not_exist() -> None:
    known = offered()
    listed = {method for method in METHODS if method.split("/")[1] in known}
    assert listed == {method for methods in known.values() for method in methods}
    assert {method.split("/")[1] for method in METHODS} - known.keys() <= {"osai.v1.Admission"}


@pytest.mark.parametrize(
    ("method", "callers"),
    [
        ("/osai.v1.Coordinator/Greet", {Role.CLIENT}),
        ("/osai.v1.Coordinator/Generate", {Role.CLIENT}),
        ("/osai.v1.Control/Membership", {Role.NODE}),
        ("/osai.v1.Edge/Link", {Role.NODE, Role.COORDINATOR}),
        ("/osai.v1.Admission/Enrol", set(CALLERS)),
        ("/osai.v1.Admission/Renew", set(Role)),
        ("/osai.v1.Admission/Revocations", set(Role)),
        ("/grpc.health.v1.Health/Check", set(Role)),
    ],
)
def test_who_may_call(method: str, callers: set[Caller]) -> None:
    assert {caller for caller in CALLERS if may_call(method, caller)} == callers


@pytest.mark.parametrize(
    "method",
    [
        "",
        "/",
        "Edge/Link",
        "/osai.v1.Edge/Link/",
        "/osai.v1.edge/link",
        "/osai.v1.Edge/Linked",
        "/osai.v2.Edge/Link",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_what_is_not_listed_is_refused_to_all(method: str) -> None:
    assert not [caller for caller in CALLERS if may_call(method, caller)]


def test_without_a_certificate_nothing_but_joining_is_open() -> None:
    assert [method for method in METHODS if may_call(method, None)] == ["/osai.v1.Admission/Enrol"]


def test_the_refusal_says_who_may() -> None:
    with pytest.raises(
        TrustError, match=r"a client may not call /osai\.v1\.Edge/Link: it is for a coordinator or a node"
    ):
        check_call("/osai.v1.Edge/Link", Role.CLIENT)
    with pytest.raises(TrustError, match="join this swarm with a token"):
        check_call("/osai.v1.Coordinator/Generate", None)


SENT = {
    Role.COORDINATOR: {"hello", "open", "resume", "follow", "close", "frames"},
    Role.NODE: {"hello", "frames", "probe"},
    Role.CLIENT: set(),
}
ANSWERED = {
    Role.COORDINATOR: {"hello", "opened", "tokens", "progress", "failed"},
    Role.NODE: {"hello", "echo", "failed"},
    Role.CLIENT: set(),
}


@pytest.mark.parametrize(("role", "kind"), list(product(Role, KINDS)))
def test_each_kind_of_message_comes_from_who_may_send_it(role: Role, kind: str) -> None:
    for check, allowed in ((check_sent, SENT), (check_answer, ANSWERED)):
        if kind in allowed[role]:
            check(kind, role)
        else:
            with pytest.raises(TrustError, match="may not"):
                check(kind, role)


def test_every_kind_of_message_is_listed_and_no_other() -> None:
    listed = frozenset[str]().union(*DIALLER_SENDS.values(), *NODE_ANSWERS.values())
    assert listed == set(KINDS)
    assert DIALLER_SENDS.keys() == NODE_ANSWERS.keys() == set(Role)


@pytest.mark.parametrize("role", list(Role))
def test_a_message_of_no_known_kind_is_refused(role: Role) -> None:
    for kind in (None, "", "Hello", "shutdown"):
        with pytest.raises(TrustError):
            check_sent(kind, role)
        with pytest.raises(TrustError):
            check_answer(kind, role)


@pytest.mark.parametrize("role", list(Role))
def test_a_peer_greets_as_who_it_is(role: Role) -> None:
    peer = Peer(role=role, member_id="ab" * 16, serial=1, not_after_s=5)
    check_greeting(peer, "ab" * 16)
    with pytest.raises(TrustError, match=f"{role} {'ab' * 16} greets as"):
        check_greeting(peer, "cd" * 16)


def test_a_client_alone_may_greet_without_an_id() -> None:
    for role in Role:
        peer = Peer(role=role, member_id="ab" * 16, serial=1, not_after_s=5)
        if role is Role.CLIENT:
            check_greeting(peer, "")
        else:
            with pytest.raises(TrustError):
                check_greeting(peer, "")
