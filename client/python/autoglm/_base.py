"""What Client and AsyncClient have in common: the calls that never wait."""

from __future__ import annotations

import errno
import os

from ._abi import Priority, RequestState, WaitMode
from ._error import Closed
from ._request import RequestBase
from ._session import Session, make_options
from ._values import Model, Status

OPTIONS = """
    socket_path     None: $AUTOGLM_SOCKET, else /run/autoglm/autoglm.sock
    name            for the daemon's log; None: the program's name
    timeout         seconds for the whole of connecting; None: 5
    max_requests    in flight or kept at once, rounded up to a power of two; None: 16
    prompt_tokens   room for prompts not yet taken by the daemon; None: 32,768
    output_bytes    room for logits; 0: none can be asked for
    wait_mode       a WaitMode, or its name
    spin_ns         spin no longer than this (WaitMode.ADAPTIVE); None: 50 us

    Connecting raises NotFound or ConnectionRefused (no daemon there), DaemonGone (it has just
    died), NotAllowed, TimedOut, InvalidArgument, or Error with errno EPROTONOSUPPORT (versions
    differ), EUSERS or EDQUOT (no session left for this user), ENOMEM.
"""


def _number(request: RequestBase | int) -> int:
    return request.id if isinstance(request, RequestBase) else request


class ClientBase:
    """A session with the daemon."""

    def __init__(
        self,
        socket_path: str | os.PathLike | None = None,
        *,
        name: str | None = None,
        timeout: float | None = None,
        max_requests: int | None = None,
        prompt_tokens: int | None = None,
        output_bytes: int = 0,
        wait_mode: WaitMode | int | str = WaitMode.ADAPTIVE,
        spin_ns: int | None = None,
    ):
        self._options = make_options(
            socket_path,
            name,
            timeout,
            max_requests,
            prompt_tokens,
            output_bytes,
            wait_mode,
            spin_ns,
        )
        self._session: Session | None = None
        self._begin()

    def _begin(self) -> None:
        """What a form does when its client is made."""

    def _live(self) -> Session:
        if self._session is None:
            raise Closed(errno.EBADF, "this client is not connected")
        return self._session

    @property
    def closed(self) -> bool:
        """Whether it was closed, or has never been connected."""
        return self._session is None or self._session.is_closed

    def models(self) -> list[Model]:
        """The models that the daemon holds."""
        return self._live().models()

    def model(self, model: str | int | None = None) -> Model:
        """One model, by name or index; None: the first. NotFound: the detail lists them."""
        session = self._live()
        return session.model(session.find_model(model))

    def status(self) -> Status:
        """The daemon's state as of now, read from memory that it shares; no system call."""
        return self._live().status()

    def cancel(self, request: RequestBase | int) -> None:
        """Asks to end a request; its Done event still comes. NotFound: it is not in flight; NoRoom:
        the ring is full, read events and try again."""
        self._live().cancel(_number(request))

    def set_priority(self, request: RequestBase | int, priority: Priority | int | str) -> None:
        """Changes the class of a request in flight. Errors as cancel()."""
        self._live().set_priority(_number(request), priority)

    def forget(self, request: RequestBase | int) -> None:
        """Gives up the kept sequence of an ended request. Errors as cancel()."""
        self._live().forget(_number(request))

    def request_state(self, request: RequestBase | int) -> tuple[RequestState, int]:
        """What this client knows of a request from the events that it has read, and the number of
        its tokens received so far; also behind the daemon's end. NotFound: none, or it is done."""
        return self._live().request_state(_number(request))
