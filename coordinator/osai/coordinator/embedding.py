"""Vectors of prompts, as they come from a tail. Pure."""

import math
import struct

from osai.core.errors import InternalError, InvalidRequestError, OsaiError, PeerError, UnavailableError

ATTEMPTS = 3  # pipelines on which a vector is tried: it is one prefill, and nobody has seen anything of it
MAX_ERROR = 0.01  # of a vector's length: float32's own is far below


def read_vector(data: bytes, hidden_size: int) -> tuple[float, ...]:
    """Read float32 [hidden_size], little-endian, of length 1.

    Raises:
        PeerError: if it is another number of bytes, or no such vector.
    """
    if len(data) != 4 * hidden_size:
        raise PeerError(f"the tail sent a vector of {len(data)} bytes; {4 * hidden_size} were due")
    vector = struct.unpack(f"<{hidden_size}f", data)
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not abs(length - 1) <= MAX_ERROR:  # also NaN
        raise PeerError(f"the tail sent a vector of length {length}; it must be 1")
    return vector


def verdict(error: UnavailableError, attempt: int) -> OsaiError | None:
    """What a request ends with whose session has failed; None where it is worth another attempt, of ATTEMPTS."""
    cause = error.__cause__
    if type(cause) is InternalError or isinstance(cause, InvalidRequestError):  # the same anywhere
        return cause
    if attempt < ATTEMPTS:
        return None
    reason = cause.message if isinstance(cause, OsaiError) else error.message
    return UnavailableError(f"{attempt} pipelines in a row gave no vector: {reason}; try again")
