"""Which of a publisher's key lists is believed, and whether one follows another. The K, H are docs/manifest.md's."""

from collections.abc import Iterable, Mapping

from osai.core.errors import TrustError
from osai.core.manifest.key_list import KnownList, SignedKeyList
from osai.core.manifest.key_list_file import KEYS_CONTEXT
from osai.core.manifest.signatures import split_valid


def current_lists(lists: Iterable[SignedKeyList], known: Mapping[str, KnownList], /) -> tuple[SignedKeyList, ...]:
    """The newest list of each publisher, once every step to it is checked.

    Args:
        lists: in any order; several of one publisher lead from an earlier version to a later one.
        known: by publisher, the list that was believed last.

    Raises:
        TrustError: if a list is not signed by enough of its own keys or of its predecessor's, is older than one that
            was believed, or differs from one of the same version.
    """
    by_publisher: dict[str, list[SignedKeyList]] = {}
    for signed in lists:
        by_publisher.setdefault(signed.listed.publisher, []).append(signed)
    return tuple(
        _newest(sorted(chain, key=lambda signed: signed.listed.version), known.get(publisher))
        for publisher, chain in sorted(by_publisher.items())
    )


def _newest(chain: list[SignedKeyList], known: KnownList | None) -> SignedKeyList:
    newest, before = chain[-1], known
    if known is not None and newest.listed.version < known.version:  # H3
        raise TrustError(
            f"{_name(newest)} is older than version {known.version}, which was believed before: somebody may be "
            "holding back what it revokes; get the newest one from the publisher"
        )
    for signed in chain:
        refuse_unsigned(signed)
        if before is None or signed.listed.version > before.version:
            if before is not None:
                refuse_unfollowing(signed, before)
            before = KnownList.of(signed)
        elif signed.listed.version == before.version and signed.digest != before.digest:  # K7, H3
            raise TrustError(f"{_name(signed)} exists with two contents: ask the publisher which one is right")
    return newest


def refuse_unsigned(signed: SignedKeyList) -> None:
    """Refuse a list that its own keys have not signed.

    Raises:
        TrustError: if there are fewer valid signatures than its threshold.
    """
    count = num_signed(signed, signed.listed.keys)
    if count < signed.listed.threshold:  # K7
        raise TrustError(
            f"{_name(signed)} has {count} of the {signed.listed.threshold} signatures that it requires of its own "
            "keys: add the others with `osai trust sign`"
        )


def refuse_unfollowing(signed: SignedKeyList, before: KnownList) -> None:
    """Refuse a list that its predecessor's keys have not signed.

    Raises:
        TrustError: if there are fewer valid signatures than the predecessor's threshold.
    """
    count = num_signed(signed, before.keys)
    if count < before.threshold:  # K8
        raise TrustError(
            f"{_name(signed)} does not follow version {before.version}: it has {count} of the {before.threshold} "
            "signatures that this one's keys must give; get the versions between them from the publisher, and name "
            "them all with --trust"
        )


def num_signed(signed: SignedKeyList, keys: tuple[bytes, ...]) -> int:
    """How many of `keys` have signed the list."""
    valid, _ = split_valid(KEYS_CONTEXT, signed.signed_part, signed.signatures, keys)
    return len(valid)


def _name(signed: SignedKeyList) -> str:
    return f"version {signed.listed.version} of the key list of {signed.listed.publisher}"
