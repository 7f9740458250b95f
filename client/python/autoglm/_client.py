"""The synchronous form: calls that wait, and iterators."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator

from ._abi import UINT64_MAX
from ._base import OPTIONS, ClientBase
from ._error import NoRoom, invalid
from ._parameters import make_request, takes_parameters
from ._prompt import Ids, as_bytes
from ._request import RequestBase
from ._session import Session, seconds_to_ns
from ._values import Done, Event, Shutdown, Token


class Request(RequestBase):
    """A request in flight: an iterator over its tokens, which come as the daemon publishes them.

    The iteration ends when the answer does (a stop token, max_tokens, or cancel()); an answer that
    ended otherwise raises Refused, DeadlinePassed, Failed, Cancelled or ReadTooSlowly behind its
    last token. `done` has the reason and the figures then. Several requests may be in flight, and
    may be read in any order.
    """

    def __init__(self, session: Session, client: Client):
        super().__init__(session)
        self._client = client

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        while True:
            token = self.take_token()
            if token is not None:
                return token
            if self.done is not None:
                raise StopIteration
            self._client._advance(UINT64_MAX)

    def wait(self, timeout: float | None = None) -> Done:
        """Waits for its end, without reading its tokens: they can still be iterated over. TimedOut:
        it is still in flight."""
        deadline = self._client._deadline(timeout)
        while self.done is None:
            self._client._advance(deadline())
        return self.done


class Answer:
    """An iterator over the tokens of one request, which owns it: when it is closed, left by a
    `with`, or forgotten before the end (a `for` that breaks), the request is cancelled.

    request  the Request
    """

    def __init__(self, request: Request):
        self.request = request

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        return next(self.request)

    @property
    def done(self) -> Done | None:
        """The request's Done event once it has been read: reason, counts, times."""
        return self.request.done

    def close(self) -> None:
        """Cancels what is not done; may be called again. The request can still be continued, if it
        was to be kept."""
        if not self.request.is_dropped:
            self.request.drop()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Client(ClientBase):
    __doc__ = f"""A session with the daemon; connects when it is made, and closes with `with`.
{OPTIONS}
    One client is used by one thread at a time; while a thread waits with it, the calls of others
    raise RuntimeError. Several clients are independent. A process that is forked off has none: its
    copies of clients are closed."""

    def _begin(self) -> None:
        self._session = Session(self._options)
        # With events that came while others were read, by id. Those of a request that is done and
        # forgotten go with it.
        self._queued: weakref.WeakValueDictionary[int, Request] = weakref.WeakValueDictionary()
        self._shutdown: Shutdown | None = None  # came likewise, behind all of them

    def close(self) -> None:
        """Ends the session: the daemon cancels what still runs. May be called again."""
        self._session.close()
        self._queued.clear()
        self._shutdown = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # ---- requests --------------------------------------------------------------------------

    @takes_parameters
    def submit(self, prompt: Ids, **parameters) -> Request:
        """Hands a prompt to the daemon, and returns at once; only if `continues` names one that was
        cancelled and has not ended yet, it waits for that. It is its reader who is told how it
        ends, so keep the Request.

        NoRoom: the ring is full, max_requests are in flight or kept, or earlier prompts fill the
        room: read events and try again. Error with errno EMSGSIZE: the prompt is longer than
        Client(prompt_tokens=...). InvalidArgument: the detail names the field. NotFound: no such
        model, or `continues` names nothing kept. DaemonGone.
        """
        self._settle(parameters.get("continues"))
        request = Request(self._session, self)
        raw, ids = make_request(self._session, **parameters), as_bytes(prompt)
        try:
            self._session.submit(raw, ids, request)
        except NoRoom:
            self._read_all()  # ends that are there already make room
            self._session.submit(raw, ids, request)
        return request

    @takes_parameters
    def generate(self, prompt: Ids, **parameters) -> Answer:
        """Submits a prompt and returns an iterator over the tokens of the answer, which cancels the
        request when it is left early:

            for token in client.generate([1, 403, 407], max_tokens=50):
                print(token.id, token.logprob)

        Errors as submit(), but it waits for room as long as requests are in flight.
        """
        self._settle(parameters.get("continues"))
        request = Request(self._session, self)
        raw, ids = make_request(self._session, **parameters), as_bytes(prompt)
        while True:
            try:
                self._session.submit(raw, ids, request)
                return Answer(request)
            except NoRoom:
                if not self._session.requests:
                    raise
                self._advance(UINT64_MAX)

    def _settle(self, parent: object) -> None:
        """What was cancelled can be continued as soon as its end has been read."""
        if isinstance(parent, Request) and parent.done is None:
            if not parent.is_cancelled:
                raise invalid(f"continues: request {parent.id} has not ended")
            parent.wait()

    # ---- events ----------------------------------------------------------------------------

    def poll(self) -> Event | None:
        """The next event of any request without waiting; None: there is none. Events that came
        while another request was read come first.

        DaemonGone: behind the last event of a session that has ended.
        """
        while True:
            event = self._next_queued() or self._session.poll()
            if event is None or event.request is None or not event.request.is_dropped:
                return event

    def wait(self, timeout: float | None = None) -> Event:
        """The same, waiting for at most `timeout` seconds (None: for ever, though never beyond the
        life of the daemon). TimedOut."""
        deadline = self._deadline(timeout)
        while True:
            event = self._next_queued() or self._session.wait(deadline())
            if event.request is None or not event.request.is_dropped:
                return event

    def fileno(self) -> int:
        """A descriptor for select, poll and epoll: readable when events may be there or the daemon
        is gone. Read events with poll() until it returns None, and only then sleep on it; never
        read from it."""
        return self._session.fileno()

    def _deadline(self, timeout: float | None):
        """A function that tells how many nanoseconds are left."""
        timeout_ns = seconds_to_ns("timeout", timeout)
        if timeout_ns == UINT64_MAX:
            return lambda: UINT64_MAX
        until_ns = time.monotonic_ns() + timeout_ns
        return lambda: max(0, until_ns - time.monotonic_ns())

    def _next_queued(self) -> Event | None:
        while self._queued:
            number, request = next(iter(self._queued.items()))
            event = request.take_event()
            if event is not None:
                return event
            self._queued.pop(number, None)
        event, self._shutdown = self._shutdown, None
        return event

    def _advance(self, timeout_ns: int) -> None:
        """Waits for one event and puts it to its request."""
        self._put(self._session.wait(timeout_ns))

    def _read_all(self) -> None:
        event = self._session.poll()
        while event is not None:
            self._put(event)
            event = self._session.poll()

    def _put(self, event: Event) -> None:
        request = event.request
        if request is not None:
            request.put(event)
            self._queued[request.id] = request
        elif isinstance(event, Shutdown):
            self._shutdown = event
