"""Which coordinators a client knows. Pure."""

from collections.abc import Sequence

from osai.core.errors import InvalidRequestError

MAX_LEARNED = 32  # addresses that coordinators tell of; more than a client would live to try
MAX_ADDRESS_CHARS = 255  # what a host name may have, and a port


class Roster:
    """The coordinators that a client was given, and those that they told of, in the order in which they are tried.

    Args:
        given: HOST:PORT of at least one.

    Attributes:
        preferred: the one to ask first: that answered last.

    Raises:
        InvalidRequestError: if there is none, or an address has another form.
    """

    def __init__(self, given: Sequence[str]) -> None:
        if not given:
            raise InvalidRequestError("no coordinator is given; name at least one, as HOST:PORT")
        for address in given:
            if not _is_address(address):
                raise InvalidRequestError(
                    f"{address!r} is no coordinator's address; write HOST:PORT, as in 127.0.0.1:7070"
                )
        self._given = tuple(dict.fromkeys(given))
        self._learned: tuple[str, ...] = ()
        self.preferred = self._given[0]

    @property
    def given(self) -> tuple[str, ...]:
        """Those that it was given."""
        return self._given

    @property
    def learned(self) -> tuple[str, ...]:
        """Those that coordinators told of."""
        return self._learned

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them."""
        return (*self._given, *self._learned)

    def learn(self, told: Sequence[str]) -> None:
        """A coordinator told of all that it knows, itself first: by another name perhaps, and known already."""
        fresh = [address for address in told[1:] if _is_address(address) and address not in self._given]
        # the preferred one may be known by an earlier word alone
        kept = dict.fromkeys([*fresh[:MAX_LEARNED], *self._learned])
        self._learned = tuple(kept)[:MAX_LEARNED]
        if self.preferred not in self.addresses:
            self.preferred = self._given[0]

    def ring(self, first: str) -> tuple[str, ...]:
        """All of them, from `first` on and around; from the preferred one if `first` is not known any more."""
        addresses = self.addresses
        at = addresses.index(first if first in addresses else self.preferred)
        return addresses[at:] + addresses[:at]


class GivenCoordinators(Roster):
    """Those of another roster that it was given: what coordinators tell of others is not believed (O7)."""

    def __init__(self, roster: Roster) -> None:
        super().__init__(roster.given)
        if roster.preferred in self.given:
            self.preferred = roster.preferred

    def learn(self, told: Sequence[str]) -> None:
        """Nothing is learned."""


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal() and len(text) <= MAX_ADDRESS_CHARS
