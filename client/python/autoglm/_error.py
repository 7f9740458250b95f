"""The exceptions, and how they come from what the library returns."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ._abi import DoneReason
from ._library import lib

if TYPE_CHECKING:
    from ._request import RequestBase
    from ._values import Done


class Error(OSError):
    """Something that libautoglm or the daemon could not do.

    errno     as in the module errno: what happened
    strerror  a sentence for it
    detail    what exactly was wrong: names the file, field or value; maybe empty

    The subclasses are for what programs tell apart. Each is also the exception of Python that fits.
    """

    def __init__(self, number: int, detail: str = ""):
        super().__init__(number, lib.agl_strerror(number).decode())
        self.detail = detail

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno, self.errno)
        return f"{self.strerror}{': ' if self.detail else ''}{self.detail} [{name}]"

    def __reduce__(self):
        return _again, (type(self), self.errno, self.detail)


def _again(kind: type[Error], number: int, detail: str) -> Error:
    """For pickle and copy; what belongs to a request of this process is left behind."""
    error = kind.__new__(kind, number, detail)
    Error.__init__(error, number, detail)
    return error


class InvalidArgument(Error, ValueError):
    """An argument, or a file, that makes no sense; the detail names it."""


class NotFound(Error, FileNotFoundError):
    """No such daemon, model, request, file or token."""


class NotAllowed(Error, PermissionError):
    """The daemon does not serve this user."""


class ConnectionRefused(Error, ConnectionRefusedError):
    """There is a socket, and nobody behind it."""


class NoRoom(Error, BlockingIOError):
    """A ring or the arena is full, or max_requests are in flight or kept: read events, try
    again."""


class TimedOut(Error, TimeoutError):
    """It did not happen in time."""


class DaemonGone(Error, BrokenPipeError):
    """The daemon has died or has ended the session: connect again."""


class BrokenContract(Error):
    """The daemon did what no daemon does; the session is over."""


class Closed(Error, ValueError):
    """The client was closed by this program."""


class RequestError(Error):
    """A request did not end as it should: raised where its tokens are read, behind the last one.

    request  the Request
    done     its Done event: reason, times, counts
    """

    request: RequestBase | None = None
    done: Done | None = None


class Refused(RequestError):
    """The daemon did not start it. errno says why: EAGAIN (queue full), EDQUOT (the user's budget),
    EMSGSIZE (longer than the context), EINVAL (an id beyond the vocabulary), ENOENT (the sequence
    to continue is gone), ESHUTDOWN, EIO.

    retry_after  seconds after which trying again may help; None: the daemon does not say
    """

    @property
    def retry_after(self) -> float | None:
        after_ns = self.done.retry_after_ns if self.done else 0
        return after_ns / 1e9 if after_ns else None


class Failed(RequestError):
    """It was accepted and could not end; errno says why: EIO, the device; ESHUTDOWN, the daemon
    stopped."""


class DeadlinePassed(RequestError, TimeoutError):
    """Its deadline came before its end."""


class Cancelled(RequestError):
    """It was cancelled, and not by this client's cancel()."""


class ReadTooSlowly(RequestError):
    """This program did not read its events for so long that the daemon gave the request up."""


_KINDS = {
    errno.EINVAL: InvalidArgument,
    errno.ENOENT: NotFound,
    errno.EACCES: NotAllowed,
    errno.ECONNREFUSED: ConnectionRefused,
    errno.EAGAIN: NoRoom,
    errno.ETIMEDOUT: TimedOut,
    errno.EPIPE: DaemonGone,
    errno.EPROTO: BrokenContract,
    errno.EBADF: Closed,
}


def make_error(number: int, detail: str) -> Error:
    """The exception of the class that belongs to an errno (positive)."""
    return _KINDS.get(number, Error)(number, detail)


def last_error(returned: int) -> Error:
    """The exception for a negative errno that a function has just returned to this thread."""
    return make_error(-returned, lib.agl_error_detail().decode(errors="replace"))


def check(returned: int) -> int:
    """Passes on 0 or a count; raises for a negative errno."""
    if returned < 0:
        raise last_error(returned)
    return returned


def invalid(detail: str) -> InvalidArgument:
    return InvalidArgument(errno.EINVAL, detail)


# ---- the end of a request ----------------------------------------------------------------------

_ENDS = {
    DoneReason.DEADLINE: (DeadlinePassed, errno.ETIMEDOUT, "its deadline passed"),
    DoneReason.CANCELLED: (Cancelled, errno.ECANCELED, "it was cancelled"),
    DoneReason.REFUSED: (Refused, 0, "the daemon refused it"),
    DoneReason.FAILED: (Failed, 0, "it failed"),
    DoneReason.OVERFLOW: (ReadTooSlowly, errno.ENOBUFS, "its tokens were read too slowly"),
}


def end_error(request: RequestBase, done: Done) -> RequestError | None:
    """The exception for the end of a request; None if it ended as it should."""
    if done.reason in (DoneReason.STOP, DoneReason.LENGTH):
        return None
    if done.reason == DoneReason.CANCELLED and request.is_cancelled:
        return None
    unknown = (RequestError, errno.EPROTONOSUPPORT, f"its end has a new reason, {done.reason}")
    kind, number, text = _ENDS.get(done.reason, unknown)
    detail = f"request {request.id}: {text} after {done.generated_tokens} tokens"
    if kind is Refused:
        detail = f"request {request.id}: {text}{_figures(request, done)}"
    error = kind(done.error or number, detail)
    error.request = request
    error.done = done
    return error


def _figures(request: RequestBase, done: Done) -> str:
    """What was too much, for the refusals that depend on the model's figures or the load."""
    if done.retry_after_ns:
        return f": try again in {done.retry_after_ns / 1e6:.1f} ms"
    try:
        model = request.model
    except Error:  # the client is closed
        return ""
    if done.error == errno.EMSGSIZE:
        return (
            f": {request.prompt_tokens} tokens of prompt, model {model.name} holds"
            f" {model.context_tokens} tokens of prompt and answer together"
        )
    if done.error == errno.EINVAL:
        return f": model {model.name} knows the ids below {model.vocab_size}"
    return ""
