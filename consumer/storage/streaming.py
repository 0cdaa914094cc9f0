"""What both adapters do around a stream: it is checked at its end, and read in the store's own threads."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import closing

from consumer.storage import ObjectInfo
from consumer.storage.checksum import crc32c_of_more, written
from consumer.storage.threads import CallThreads
from pipeline_steps.errors import StoreUnavailable


def verified(info: ObjectInfo, pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """Yield the pieces, then compare what they were with what the store knows of the object.

    A checksum that the store does not know, of a file dropped by hand, is not compared.

    Raises:
        StoreUnavailable: too much or too little came, or other bytes.
    """
    arrived, checksum = 0, 0
    with closing(pieces):
        for piece in pieces:
            arrived += len(piece)
            checksum = crc32c_of_more(checksum, piece)
            if arrived > info.size:
                break
            yield piece
    if arrived != info.size or info.crc32c not in {"", written(checksum)}:
        came = f"{arrived} bytes of CRC-32C {written(checksum)} came"
        raise StoreUnavailable(f"reading {info.url}: {came}, not {info.size} of {info.crc32c or 'any'}")


async def in_threads(
    threads: CallThreads, pieces: Generator[bytes, None, None]
) -> AsyncGenerator[bytes, None]:
    """Yield what a blocking generator yields; it runs, and is closed, in the store's threads."""
    # Who is cancelled leaves a thread inside the generator, which cannot be closed before it has come out.
    inside = threading.Lock()

    def following() -> bytes | None:
        with inside:
            return next(pieces, None)

    def close() -> None:
        with inside:
            pieces.close()

    try:
        while (piece := await threads.run(following)) is not None:
            yield piece
    finally:
        await threads.run(close)
