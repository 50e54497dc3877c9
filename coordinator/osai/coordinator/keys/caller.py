"""Whoever asks a front door, and what he may do."""

from osai.coordinator.api import Generations
from osai.coordinator.keys.api_key import ApiKey, Scope
from osai.coordinator.keys.generations import KeyedGenerations
from osai.coordinator.keys.keyring import Keyring


class Caller:
    """Somebody where no keys are asked for: he may do everything."""

    def check(self, scope: Scope) -> None:
        """Raise a ForbiddenError if he may not do that (A4)."""

    def generations(self, inner: Generations) -> Generations:
        """The coordinator as he may use it."""
        return inner


class KeyHolder(Caller):
    """Somebody who has shown a key that is good."""

    def __init__(self, key: ApiKey, keyring: Keyring) -> None:
        self._key = key
        self._keyring = keyring

    def check(self, scope: Scope) -> None:
        """Raise a ForbiddenError if his key may not do that (A4)."""
        self._key.check_scope(scope)

    def generations(self, inner: Generations) -> Generations:
        """The coordinator as his key may use it."""
        return KeyedGenerations(inner, self._key, self._keyring)


def caller_of(keyring: Keyring | None, authorization: str | None) -> Caller:
    """Who sends that `Authorization` header; None where there is none.

    Args:
        keyring: None where no keys are asked for.
        authorization: the header, or gRPC's metadata of that name.

    Raises:
        UnauthenticatedError: if a key is asked for, and there is none that is good.
    """
    return Caller() if keyring is None else KeyHolder(keyring.key_of(authorization), keyring)
