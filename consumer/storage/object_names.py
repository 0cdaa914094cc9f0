"""Object names: which there can be, how they are written as file paths and read back; and buckets' names.

A path is what a person expects: `tenant/originals/x.jpg` is the file `x.jpg` in `tenant/originals`. Only
what a file system cannot hold is written differently, always so that it can be read back from the path alone
and a file dropped by hand under an ordinary name stands for exactly that name:

======================================  ===================================================
in the object name                      in the path
======================================  ===================================================
empty segment (`a//b`, `a/`)            `%-`
segment `.` or `..`                     `%2E`, `%2E%2E`
control character                       `%09` and so on
`%` that would read as one of these     `%25` (any other `%` stays: `100%.jpg`)
segment over 240 bytes                  folders `first part%+`, `next part%+`, then the rest
object `a` while a folder `a` exists    file `a%=`
======================================  ===================================================

The store compares names by their bytes; on a file system that ignores case `A` and `a` are one object.
"""

from __future__ import annotations

import re

from pipeline_steps.errors import InvalidInput

MAX_NAME_BYTES = 1024
"""Cloud Storage's own limit."""

_MAX_PIECE_BYTES = 240
"""File systems allow 255; the two marks need two."""

_EMPTY, _CONTINUES, _BESIDE_FOLDER = "%-", "%+", "%="
_ESCAPE = re.compile(r"%(25|2E|[01][0-9A-F]|7F)")
_AMBIGUOUS_PERCENT = re.compile(r"%(?=25|2E|[01][0-9A-F]|7F|[-+=])")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_bucket_name(bucket: str) -> None:
    """Refuse what could be read as a path, in a folder or in a URL.

    Raises:
        InvalidInput: it is not 3 to 222 of `a-z 0-9 . _ -`, beginning and ending with a letter or digit.
    """
    if not _BUCKET.fullmatch(bucket):
        raise InvalidInput(f"{bucket!r} is not a bucket's name: 3 to 222 of a-z, 0-9, '.', '_', '-'")


def check_object_name(name: str) -> None:
    """Refuse what no store can hold.

    Raises:
        InvalidInput: the name is empty, over 1024 bytes, not valid Unicode, or has a line break.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"object name {name!r} is not valid Unicode") from None
    if not 1 <= size <= MAX_NAME_BYTES:
        raise InvalidInput(f"an object name has 1 to {MAX_NAME_BYTES} bytes, {name[:80]!r} has {size}")
    if "\n" in name or "\r" in name:
        raise InvalidInput(f"an object name has no line breaks, {name[:80]!r} has")


def check_url_name(name: str) -> None:
    """Refuse what no store can hold, or what would lead a URL elsewhere: to the bucket itself.

    Raises:
        InvalidInput: as `check_object_name`, or the name is `.` or `..`.
    """
    check_object_name(name)
    if name in {".", ".."}:
        raise InvalidInput(f"{name!r} cannot name an object in Cloud Storage")


def path_of(name: str) -> tuple[str, ...]:
    """Return the folders and the file that hold object `name`; none of them is empty, `.` or `..`.

    Raises:
        InvalidInput: see `check_object_name`.
    """
    check_object_name(name)
    return tuple(piece for segment in name.split("/") for piece in _pieces(_encode(segment)))


def beside_folder(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return where the object of `path` lies when a folder has taken its name."""
    return (*path[:-1], path[-1] + _BESIDE_FOLDER)


def name_of(path: tuple[str, ...]) -> str | None:
    """Return the object that a file at `path` is; None if no object's bytes would be looked for there."""
    whole = path
    if path and path[-1].endswith(_BESIDE_FOLDER):
        path = (*path[:-1], path[-1].removesuffix(_BESIDE_FOLDER))
    segments: list[str] = []
    begun = ""
    for piece in path:
        if piece.endswith(_CONTINUES):
            begun += piece.removesuffix(_CONTINUES)
        else:
            segments.append(_decode(begun + piece))
            begun = ""
    name = "/".join(segments)
    try:
        written = path_of(name)
    except InvalidInput:  # a file name that is not UTF-8, or too deep to be an object
        return None
    return name if not begun and whole in (written, beside_folder(written)) else None


def _encode(segment: str) -> str:
    if not segment:
        return _EMPTY
    if segment in {".", ".."}:
        return segment.replace(".", "%2E")
    segment = _AMBIGUOUS_PERCENT.sub("%25", segment)
    return _CONTROL.sub(lambda found: f"%{ord(found[0]):02X}", segment)


def _decode(text: str) -> str:
    return "" if text == _EMPTY else _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def _pieces(encoded: str) -> list[str]:
    if len(encoded.encode()) <= _MAX_PIECE_BYTES:
        return [encoded]
    pieces, piece, size = [], "", 0
    for character in encoded:
        width = len(character.encode())
        if size + width > _MAX_PIECE_BYTES:
            pieces.append(piece + _CONTINUES)
            piece, size = "", 0
        piece += character
        size += width
    return [*pieces, piece]
