"""Token ids of any kind, as the bytes that the daemon reads."""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Iterable
from typing import Union

from ._error import invalid

ID_BYTES = 4

#: What prompts may be: each integer is an id, whatever its size.
Ids = Union[Iterable[int], memoryview, array]

_NATIVE = ("@", "=", "<" if sys.byteorder == "little" else ">")


def _view_bytes(view: memoryview) -> memoryview | None:
    """The bytes of a buffer of integers as the daemon wants them; None: it has others."""
    kind = view.format[1:] if view.format[0] in _NATIVE else view.format
    if view.ndim != 1:
        raise invalid(f"the prompt has {view.ndim} dimensions, must have 1")
    if view.itemsize != ID_BYTES or kind not in "IiLl" or not view.c_contiguous:
        return None
    return view.cast("B")


def as_bytes(prompt: Ids) -> memoryview:
    """A view of a buffer that holds ids of 32 bits; whatever else has integers is copied."""
    if isinstance(prompt, str):
        raise TypeError("a prompt is token ids, not text: Tokenizer.encode() or .chat() makes them")
    try:
        view = memoryview(prompt)
    except TypeError:
        view = None
    # Text, ids of 8 bits or ids of 32 bits: nobody can tell.
    if view is not None and view.itemsize == 1 and isinstance(view.obj, (bytes, bytearray)):
        raise TypeError(
            "a prompt is token ids, not bytes: list(prompt) makes an id of each byte,"
            " memoryview(prompt).cast('I') one of each four"
        )
    direct = _view_bytes(view) if view is not None else None
    if direct is not None:
        return direct
    try:
        return memoryview(array("I", prompt)).cast("B")
    except OverflowError as error:
        raise invalid(f"the prompt holds a number that is no token id: {error}") from None


def write(place, ids: memoryview) -> None:
    """Copies them to a POINTER(c_uint32) in one piece."""
    room = (ctypes.c_ubyte * ids.nbytes).from_address(ctypes.addressof(place.contents))
    memoryview(room).cast("B")[:] = ids
