"""Event ids that sort by the time they were made (RFC 9562, version 7); Python 3.11 has none of its own."""

import secrets
import time
from uuid import UUID


def uuid7(milliseconds: int | None = None) -> UUID:
    """Return a UUID that begins with the milliseconds since 1970 (now, unless given) and ends with 74 random bits."""
    moment = time.time_ns() // 1_000_000 if milliseconds is None else milliseconds
    random = secrets.randbits(74)
    version, variant = 7 << 76, 2 << 62
    return UUID(int=(moment & (1 << 48) - 1) << 80 | version | (random >> 62) << 64 | variant | random & (1 << 62) - 1)
