"""Finds and loads libautoglm; its functions become attributes of `lib`.

The library is what $AUTOGLM_LIBRARY names, or else libautoglm.so.0 where the dynamic loader finds
it (installed, or in $LD_LIBRARY_PATH).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from types import SimpleNamespace

from . import _abi
from ._version import __version__

SONAME = "libautoglm.so.0"


def _candidates() -> Iterator[str]:
    chosen = os.environ.get("AUTOGLM_LIBRARY")
    if chosen:
        yield chosen  # and no other one behind the back of whoever chose
        return
    yield SONAME  # another number is another interface


def _load() -> tuple[ctypes.CDLL, str]:
    tried = []
    for name in _candidates():
        try:
            return ctypes.CDLL(name), name
        except OSError as error:
            tried.append(f"{name} ({error})")
    raise ImportError(
        "autoglm: cannot load libautoglm; tried " + ", ".join(tried) + ". Install the library and"
        " run ldconfig, or let AUTOGLM_LIBRARY name its file."
    )


def _declare(name: str, slow: ctypes.CDLL, quick: ctypes.PyDLL, path: str):
    returns, arguments = _abi.FUNCTIONS[name]
    try:
        function = getattr(slow if name in _abi.BLOCKING else quick, name)
    except AttributeError:
        raise ImportError(
            f"autoglm: {path} lacks {name}(): it is older than this package"
        ) from None
    function.restype = returns
    function.argtypes = arguments
    return function


def _check_version(path: str) -> None:
    """Within one major version a newer library serves an older package."""
    version = lib.agl_version().decode()
    if version.split(".")[0] != __version__.split(".")[0]:
        raise ImportError(f"autoglm: {path} is version {version}, this package {__version__}")


def _open() -> SimpleNamespace:
    slow, path = _load()
    quick = ctypes.PyDLL(path)  # the same library; these calls keep the interpreter's lock
    return SimpleNamespace(
        **{name: _declare(name, slow, quick, path) for name in _abi.FUNCTIONS}, path=path
    )


lib = _open()
_check_version(lib.path)
