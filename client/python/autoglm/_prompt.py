"""Token ids of any kind, as the bytes that the daemon reads."""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Iterable
from typing import Union

from ._error import invalid

ID_BYTES = 4

#: What prompts may be: bytes and the like hold ids of 32 bits in the machine's order.
Ids = Union[Iterable[int], bytes, bytearray, memoryview, array]

_NATIVE = ("@", "=", "<" if sys.byteorder == "little" else ">")


def _view_bytes(view: memoryview) -> memoryview | None:
    """The bytes of a buffer that holds ids as the daemon wants them; None: it does not."""
    kind = view.format[1:] if view.format[0] in _NATIVE else view.format
    if view.ndim != 1:
        raise invalid(f"the prompt has {view.ndim} dimensions, must have 1")
    if not view.c_contiguous:
        return None
    if view.itemsize == 1 and kind in "Bbc":
        if len(view) % ID_BYTES:
            raise invalid(f"the prompt has {len(view)} bytes, must be a multiple of {ID_BYTES}")
        return view.cast("B")
    return view.cast("B") if view.itemsize == ID_BYTES and kind in "IiLl" else None


def as_bytes(prompt: Ids) -> memoryview:
    """A view of a buffer that holds ids of 32 bits; whatever else has integers is copied."""
    if isinstance(prompt, str):
        raise TypeError("a prompt is token ids, not text: Tokenizer.encode() or .chat() makes them")
    try:
        view = memoryview(prompt)
    except TypeError:
        view = None
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
