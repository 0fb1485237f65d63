"""Payload buffers: several texts in one, each with its length in characters in front.

Because packed texts can be joined end to end, the service packs a stored function and the caller's
arguments by plain concatenation. Also the identifiers of the serialization strategies: each
buffer begins with two characters and a newline. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable

from cep.errors import WireError

# Source: globus-compute-sdk 4.19, serialize.concretes.
IDENTIFIER_LENGTH = 3
DILL_DATA = "00\n"
JSON_DATA = "11\n"
ALL_DATA = "13\n"
DILL_CODE = "01\n"
PICKLE_CODE = "02\n"
TEXT_INSPECT_CODE = "03\n"
DILL_SOURCE_CODE = "04\n"
COMBINED_CODE = "10\n"
ALL_CODE = "12\n"
PURE_TEXT_INSPECT_CODE = "st\n"
PURE_DILL_SOURCE_CODE = "sd\n"

_LONGEST_LENGTH = 19  # digits; beyond any text that fits into memory


def pack_buffers(buffers: Iterable[str]) -> str:
    """Join texts so that `unpack_buffers` gives them back."""
    return "".join([f"{len(one)}\n{one}" for one in buffers])


def unpack_buffers(packed: str) -> list[str]:
    """Split a packed text into its buffers, in one pass.

    Raises:
        WireError: A length is missing, not a plain decimal number, or larger than what follows.
    """
    buffers = []
    at = 0
    end = len(packed)
    while at < end:
        newline = packed.find("\n", at, at + _LONGEST_LENGTH + 1)
        if newline < 0:
            raise WireError(f"The packed buffers have no length at character {at}.")
        digits = packed[at:newline]
        if not (digits.isascii() and digits.isdigit()):
            raise WireError(
                f"The packed buffers have {digits!r} where a length is due, at character {at}."
            )
        start = newline + 1
        at = start + int(digits)
        if at > end:
            raise WireError(
                f"The packed buffers are cut off: {digits} characters are announced at character "
                f"{start} and {end - start} are there."
            )
        buffers.append(packed[start:at])
    return buffers
