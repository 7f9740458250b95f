"""One connection as the library sees it: struct agl_client, and its calls in terms of Python.

Client and AsyncClient stand on this; it knows no queues and no loops. What keeps the interpreter
safe is here: no call after the end, none beside another thread's wait, and no memory of the session
is given back while something can still read from it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
import threading
import time
import weakref
from ctypes import POINTER, byref
from typing import TYPE_CHECKING

from . import _abi
from ._abi import UINT32_MAX, UINT64_MAX, EventKind
from ._error import Closed, InvalidArgument, TimedOut, check, invalid, last_error
from ._library import lib
from ._prompt import ID_BYTES, write
from ._values import (
    Accepted,
    Event,
    Logits,
    Model,
    Overflow,
    Status,
    Token,
    Tokens,
    known,
    make_done,
    make_model,
    make_shutdown,
    make_status,
)

if TYPE_CHECKING:
    from ._request import RequestBase

#: A wait is cut into pieces, since a signal that comes just before the sleep, or while the library
#: spins, does not end it: Ctrl-C is seen after so long at the latest.
SLICE_NS = 250_000_000

_TOKEN = struct.Struct("=If")
_TOKENS_OFFSET = _abi.agl_event.tokens.offset


def seconds_to_ns(field: str, seconds: float | None) -> int:
    """None and infinity: for ever."""
    if seconds is None or seconds >= UINT64_MAX / 1e9:
        return UINT64_MAX
    if seconds != seconds:
        raise invalid(f"{field} is {seconds}, must be a number of seconds")
    return max(0, int(seconds * 1e9))


def check_uint(field: str, value: int, most: int = UINT32_MAX) -> int:
    """ctypes would silently cut a number that does not fit."""
    try:
        number = value.__index__()
    except AttributeError:
        raise InvalidArgument(errno.EINVAL, f"{field} is {value!r}, must be an integer") from None
    if not 0 <= number <= most:
        raise invalid(f"{field} is {number}, must be 0 to {most}")
    return number


def encode_path(field: str, value: str | os.PathLike | None) -> bytes | None:
    if value is None:
        return None
    path = os.fsencode(value)
    if b"\0" in path:
        raise invalid(f"{field} has a NUL in it")
    return path


def make_options(
    socket_path: str | os.PathLike | None,
    name: str | None,
    timeout: float | None,
    max_requests: int | None,
    prompt_tokens: int | None,
    output_bytes: int,
    wait_mode: int | str,
    spin_ns: int | None,
) -> _abi.agl_options:
    if timeout is not None and timeout <= 0:
        raise invalid(f"timeout is {timeout}, must be more than 0")
    if name is None:
        name = os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else "python")
    return _abi.agl_options(
        size_bytes=ctypes.sizeof(_abi.agl_options),
        socket_path=encode_path("socket_path", socket_path),
        name=encode_path("name", name),
        timeout_ns=0 if timeout is None else max(1, seconds_to_ns("timeout", timeout)),
        max_requests=check_uint("max_requests", max_requests or 0),
        prompt_tokens=check_uint("prompt_tokens", prompt_tokens or 0),
        output_bytes=check_uint("output_bytes", output_bytes),
        wait_mode=choose(_abi.WaitMode, "wait_mode", wait_mode),
        spin_ns=check_uint("spin_ns", spin_ns or 0, UINT64_MAX),
    )


def choose(kind, field: str, value: int | str) -> int:
    """A member of an enum, by itself, its number or its name."""
    try:
        return kind[value.upper()] if isinstance(value, str) else kind(value)
    except (KeyError, ValueError):
        names = ", ".join(member.name.lower() for member in kind)
        raise invalid(f"{field} is {value!r}, must be one of {names}") from None


def encode_text(field: str, text: str) -> bytes:
    """A string of C."""
    if "\0" in text:
        raise invalid(f"{field} has a NUL in it")
    return text.encode()


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In the child of a fork. It would share rings that have one writer, and its copy of the socket
    would keep the session open beyond the parent's death."""
    for session in list(_sessions):
        session.end_in_child()


os.register_at_fork(after_in_child=_leave_to_parent)


def uses_client(method):
    """For methods that call the library: until the outermost of them comes back the client stays,
    and what it maps, though a handler of a signal or another thread closes it meanwhile."""

    @functools.wraps(method)
    def call(self, *arguments):
        me = threading.get_ident()
        depth = self._users.get(me, 0)  # a thread touches its own entry only
        try:  # a handler may raise behind any line
            self._users[me] = depth + 1
            return method(self, *arguments)
        finally:
            if depth:
                self._users[me] = depth
            else:
                self._users.pop(me, None)
            if self._pointer is None and not self._users:
                self._give_back()

    return call


class Session:
    """Open from its creation on, which blocks, until close() or until it is forgotten."""

    def __init__(self, options: _abi.agl_options):
        pointer = POINTER(_abi.agl_client)()
        check(lib.agl_connect(byref(pointer), byref(options)))
        self._pointer = pointer  # None: closed
        self._lock = threading.RLock()  # between looking what others do and doing something
        self._users: dict[int, int] = {}  # threads that are in a call, and how deep
        self._is_submitting = False
        self._close = weakref.finalize(self, lib.agl_close, pointer)
        self._close.atexit = False  # some who use it may come later; the system closes it anyway
        self._waiter: int | None = None  # the thread that is in agl_wait()
        self._raw = _abi.agl_event()  # kind 0: what was in it has been passed on
        self._given: memoryview | None = None  # logits of the last event
        self._rows: list[weakref.ref] = []  # ctypes arrays over logits which may still be read
        self._late: list[int] = []  # ids which could not be cancelled at once
        self.requests: dict[int, RequestBase] = {}  # not done yet, by id
        _sessions.add(self)

    # ---- the end ---------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        # A collected cycle calls weakref's finalizers first, and then those that may still use us.
        return self._pointer is None or not self._close.alive

    def close(self) -> None:
        with self._lock:
            if self.is_closed:
                return
            self._check_thread()
            self._pointer = None
            self._raw.kind = 0  # what a handler of a signal closes behind, nobody reads any more
            self.requests.clear()
            if not self._users:
                self._give_back()

    def _give_back(self) -> None:
        """What close() does once nobody is in a call any more; may be called again."""
        self._release_logits()
        rows = self._live_rows()
        if not rows:
            self._close()
        for row in rows:
            weakref.finalize(row, self._close_behind_rows)

    def _close_behind_rows(self) -> None:
        if not self._live_rows():
            self._close()

    def _live_rows(self) -> list[ctypes.Array]:
        return [row for row in (ref() for ref in self._rows) if row is not None]

    def end_in_child(self) -> None:
        me = threading.get_ident()
        self._waiter = None  # no other thread is there any more
        self._users = {me: self._users[me]} if me in self._users else {}
        self._lock = threading.RLock()  # which one of them may have had
        self.close()

    def _check_thread(self) -> None:
        if self._waiter is not None and self._waiter != threading.get_ident():
            raise RuntimeError("another thread is waiting with this client: one thread at a time")

    def _open(self):
        """Before each call: the library's client."""
        self._check_thread()
        client = self._pointer  # read once: a handler of a signal may close behind any line
        if client is None or not self._close.alive:
            raise Closed(errno.EBADF, "this client is closed")
        return client

    # ---- what the daemon holds -------------------------------------------------------------

    @uses_client
    def model(self, index: int) -> Model:
        raw = _abi.agl_model()
        check(lib.agl_model(self._open(), check_uint("model", index), byref(raw)))
        return make_model(index, raw)

    @uses_client
    def models(self) -> list[Model]:
        return [self.model(index) for index in range(lib.agl_model_count(self._open()))]

    @uses_client
    def find_model(self, model: str | int | Model | None) -> int:
        """The index of a model by its name, index or description; None: the first."""
        if isinstance(model, Model):
            model = model.name
        if model is None or isinstance(model, str):
            name = None if model is None else encode_text("model", model)
            return check(lib.agl_model_find(self._open(), name))
        return check_uint("model", model)

    @uses_client
    def status(self) -> Status:
        raw = _abi.agl_status()
        check(lib.agl_status(self._open(), byref(raw)))
        return make_status(raw)

    @uses_client
    def fileno(self) -> int:
        return check(lib.agl_fd(self._open()))

    # ---- requests --------------------------------------------------------------------------

    @uses_client
    def submit(self, raw: _abi.agl_request, ids: memoryview, request: RequestBase) -> None:
        """Makes `request` one in flight; NoRoom changes nothing."""
        with self._lock:  # there is one place at a time
            if self._is_submitting:
                raise RuntimeError("a handler of a signal cannot submit while its thread does")
            try:
                self._is_submitting = True
                self._submit(raw, ids, request)
            finally:
                self._is_submitting = False

    def _submit(self, raw: _abi.agl_request, ids: memoryview, request: RequestBase) -> None:
        client = self._open()
        raw.prompt_tokens = len(ids) // ID_BYTES
        if raw.prompt_tokens:
            place = POINTER(ctypes.c_uint32)()
            check(lib.agl_prompt(client, raw.prompt_tokens, byref(place)))
            write(place, ids)
        number = ctypes.c_uint32()
        check(lib.agl_submit(client, byref(raw), byref(number)))
        request.submitted(number.value, raw)
        self.requests[request.id] = request

    @uses_client
    def cancel(self, number: int) -> None:
        check(lib.agl_cancel(self._open(), check_uint("request", number)))
        request = self.requests.get(number)
        if request is not None:
            request.is_cancelled = True

    @uses_client
    def cancel_quietly(self, request: RequestBase) -> None:
        """For those who cannot be told that it fails: finalizers, and tasks that are cancelled. Any
        thread may call."""
        with self._lock:
            if self.is_closed or self.requests.get(request.id) is not request:
                return
            request.is_cancelled = True
            self._late.append(request.id)
            client = self._pointer
            if client is not None and self._waiter in (None, threading.get_ident()):
                self._cancel_late(client)

    def _cancel_late(self, client) -> None:
        late, self._late = self._late, []
        for number in late:
            if lib.agl_cancel(client, number) == -errno.EAGAIN:
                self._late.append(number)

    @uses_client
    def set_priority(self, number: int, priority: int | str) -> None:
        number = check_uint("request", number)
        priority = choose(_abi.Priority, "priority", priority)
        check(lib.agl_set_priority(self._open(), number, priority))

    @uses_client
    def forget(self, number: int) -> None:
        check(lib.agl_forget(self._open(), check_uint("request", number)))

    @uses_client
    def request_state(self, number: int) -> tuple[_abi.RequestState | int, int]:
        tokens = ctypes.c_uint32()
        number = check_uint("request", number)
        state = check(lib.agl_request_state(self._open(), number, byref(tokens)))
        return known(_abi.RequestState, state), tokens.value

    # ---- events ----------------------------------------------------------------------------

    def _prepare(self):
        client = self._open()
        self._release_logits()
        if self._late:
            self._cancel_late(client)
        return client

    @uses_client
    def poll(self) -> Event | None:
        client = self._prepare()
        if not self._raw.kind:
            got = lib.agl_poll(client, byref(self._raw))
            if got < 0:
                raise last_error(got)
        return self._take_raw()

    @uses_client
    def wait(self, timeout_ns: int) -> Event:
        event = self.poll()  # which lets no other thread of Python in
        until_ns = time.monotonic_ns() + timeout_ns
        while event is None:
            left_ns = max(0, until_ns - time.monotonic_ns())
            event = self._wait_slice(min(left_ns, SLICE_NS))
            if event is None and time.monotonic_ns() >= until_ns:
                raise TimedOut(errno.ETIMEDOUT, "no event came in time")
        return event

    def _wait_slice(self, timeout_ns: int) -> Event | None:
        with self._lock:
            client = self._prepare()
            self._waiter = threading.get_ident()
        try:
            got = lib.agl_wait(client, byref(self._raw), timeout_ns)
        finally:
            self._waiter = None
        if got < 0 and got not in (-errno.ETIMEDOUT, -errno.EINTR):
            raise last_error(got)
        return self._take_raw()

    def _take_raw(self) -> Event | None:
        """What the library has filled in. A handler of a signal runs right behind the library's
        call: if it raises, the event is still there for the next one; if it reads events itself, it
        has taken this one first."""
        if not self._raw.kind:
            return None
        event = self._translate(self._raw)
        self._raw.kind = 0
        return event

    def _translate(self, raw: _abi.agl_event) -> Event:
        kind = raw.kind
        request = self.requests.get(raw.request)
        if kind == EventKind.TOKENS:
            pairs = memoryview(raw).cast("B")[_TOKENS_OFFSET:]
            pairs = _TOKEN.iter_unpack(pairs[: _TOKEN.size * raw.token_count])
            return Tokens(request, raw.index, tuple(map(Token._make, pairs)))
        if kind == EventKind.ACCEPTED:
            return Accepted(request, raw.prompt_tokens, raw.taken_ns, raw.published_ns)
        if kind == EventKind.DONE:
            self.requests.pop(raw.request, None)
            done = make_done(request, raw)
            if request is not None:
                request.done = done
            return done
        if kind == EventKind.LOGITS:
            return Logits(request, raw.index, self._give_logits(raw))
        if kind == EventKind.OVERFLOW:
            return Overflow(request, raw.parked_ns)
        if kind == EventKind.SHUTDOWN:
            return make_shutdown(raw)
        return Event(request)  # of a newer library

    # ---- logits ----------------------------------------------------------------------------

    def _give_logits(self, raw: _abi.agl_event) -> memoryview:
        """A view of the shared memory. What is made from it keeps the row alive, and the row the
        session, so that the memory stays mapped."""
        address = ctypes.addressof(raw.logits.contents)
        row = (ctypes.c_float * raw.logit_count).from_address(address)
        row.session = self
        self._rows = [ref for ref in self._rows if ref() is not None] + [weakref.ref(row)]
        self._given = memoryview(row).cast("B").cast("f").toreadonly()
        return self._given

    def _release_logits(self) -> None:
        given, self._given = self._given, None
        if given is not None:
            try:
                given.release()
            except BufferError:
                pass  # a buffer was made from it: its row is among those alive
