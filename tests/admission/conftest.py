"""A private swarm's authority, made once, and members that have joined it."""

from random import Random

import pytest

from admission.members import NOW_S, Member, sealed_list
from osai.core.admission import Authority, Gate, Role


@pytest.fixture
def random() -> Random:
    return Random(7)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.create(NOW_S, Random(1).randbytes)


@pytest.fixture(scope="session")
def other_authority() -> Authority:
    """Of another swarm."""
    return Authority.create(NOW_S, Random(2).randbytes)


@pytest.fixture
def gate(authority: Authority) -> Gate:
    return Gate.opened(authority.anchor, sealed_list(authority), NOW_S)


@pytest.fixture(scope="session")
def node(authority: Authority) -> Member:
    return Member.of(authority, Role.NODE)


@pytest.fixture(scope="session")
def coordinator(authority: Authority) -> Member:
    return Member.of(authority, Role.COORDINATOR)


@pytest.fixture(scope="session")
def client(authority: Authority) -> Member:
    return Member.of(authority, Role.CLIENT)
