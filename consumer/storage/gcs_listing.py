"""One page of a bucket's objects, by Google's client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.cloud import storage


@dataclass(frozen=True, slots=True)
class Listing:
    """What is listed."""

    bucket: str
    prefix: str
    after: str = ""
    """Only names that follow this one; Cloud Storage itself begins with it."""
    size: int = 1000
    """Of a page."""


def page_of(
    client: storage.Client, listing: Listing, token: str | None, **options: Any
) -> tuple[Sequence[storage.Blob], str | None]:
    """Return the page that `token` stands for, the first without one, and the next page's token."""
    found = client.list_blobs(
        listing.bucket,
        prefix=listing.prefix,
        start_offset=listing.after or None,
        page_token=token,
        page_size=listing.size,
        **options,
    )
    page = [blob for blob in next(found.pages, ()) if blob.name != listing.after]
    return page, found.next_page_token
