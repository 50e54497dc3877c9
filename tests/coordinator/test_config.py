"""What a coordinator refuses to be told."""

from pathlib import Path

import pytest

from osai.coordinator.config import CoordinatorConfig
from osai.core.errors import SetupError
from osai.core.manifest import TrustPolicy


def config(http: str, *, private: bool, keys: bool = False) -> CoordinatorConfig:
    return CoordinatorConfig(
        listen="127.0.0.1:0",
        http_listen=http,
        dht_listen="127.0.0.1:0",
        announce="",
        dht_peers=(),
        state_dir=Path(),
        models=(),
        trust=TrustPolicy(),
        allow_unsigned=False,
        swarm_dir=Path() if private else None,
        keys_file=Path("keys") if keys else None,
    )


@pytest.mark.parametrize("http", ["0.0.0.0:8080", "[::]:8080", "10.0.0.5:80", "example.org:80", ":8080"])
def test_a_private_swarms_http_is_not_open_to_everybody(http: str) -> None:
    with pytest.raises(SetupError, match="open to whoever reaches it"):
        config(http, private=True).check()
    config(http, private=True, keys=True).check()
    config(http, private=False).check()


@pytest.mark.parametrize("http", ["127.0.0.1:8080", "[::1]:8080", "localhost:8080"])
def test_on_loopback_it_may_be(http: str) -> None:
    config(http, private=True).check()


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(SetupError, match="no address"):
        config("127.0.0.1", private=False).check()
