"""Reading what a header promises, without believing it."""

from typing import IO

from .errors import DataError

_CHUNK_BYTES = 1 << 24


def read_exactly(stream: IO[bytes], size: int, where: str) -> bytearray:
    """The rest of `stream`, which must be `size` bytes.

    Memory grows with what is there, so that a header that lies about gigabytes costs nothing.
    """
    data = bytearray()
    while chunk := stream.read(min(_CHUNK_BYTES, size + 1 - len(data))):
        data += chunk
    if len(data) != size:
        found = "more follow" if len(data) > size else f"only {len(data)} are there"
        raise DataError(f"{where}: the header promises {size} bytes of data, {found}")
    return data
