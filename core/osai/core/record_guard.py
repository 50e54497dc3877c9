"""What a member lets into its part of the DHT."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from osai.core.errors import TrustError
from osai.core.records import MAX_RECORD_BYTES, Admit, unseal
from osai.proto import record_pb2

log = logging.getLogger(__name__)


class RecordGuard:
    """Keeps records that nobody could believe out of this member's part of the DHT (hivemind's RecordValidatorBase).

    The DHT keeps the record with the latest expiry under a key and subkey. So a forged one, or a genuine one with its
    expiry put off, would hide the member that it names until then: it must not be stored in the first place.

    Args:
        keys: names of the keys that are stored at all, by their place in the DHT.
        loads: hivemind's deserializer.
        admit: judges certificates, in a private swarm; None in a public one.
    """

    def __init__(self, keys: Mapping[bytes, str], loads: Callable[[bytes], object], admit: Admit | None = None) -> None:
        self._keys = keys
        self._admit = admit
        self._loads = loads

    def validate(self, record: Any) -> bool:  # noqa: ANN401 - hivemind's DHTRecord
        """Whether the member that `record.subkey` names has signed the record with this key and expiry."""
        key = self._keys.get(record.key)
        if key is None or len(record.value) > 2 * MAX_RECORD_BYTES:
            return False
        try:
            subkey, sealed = self._loads(record.subkey), self._loads(record.value)
            if not isinstance(subkey, str) or not isinstance(sealed, bytes):
                return False
            unseal(sealed, key, subkey, float("-inf"), self._admit)  # the DHT lets go of expired records by itself
            return bool(record_pb2.SignedRecord.FromString(sealed).expiry_s == record.expiration_time)
        except (TrustError, DecodeError, ValueError, TypeError) as e:
            log.debug("refused a DHT record under %s: %s", key, e)  # anyone may send any number of them
            return False

    def sign_value(self, record: Any) -> bytes:  # noqa: ANN401 - hivemind's DHTRecord
        """The value as it is: it comes sealed."""
        return bytes(record.value)

    def strip_value(self, record: Any) -> bytes:  # noqa: ANN401 - hivemind's DHTRecord
        """The value as it is: `Directory.read` unseals it."""
        return bytes(record.value)
