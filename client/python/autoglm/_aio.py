"""The form for asyncio: the session's descriptor in the loop, and tasks that wait for tokens."""

from __future__ import annotations

import asyncio
import errno
import functools
from collections.abc import AsyncIterator

from ._base import OPTIONS, ClientBase
from ._error import Closed, Error, NoRoom, invalid, make_error
from ._parameters import make_request, takes_parameters
from ._prompt import Ids, as_bytes
from ._request import RequestBase
from ._session import Session
from ._values import Done, Token

#: After so many events in a row the loop's other tasks get their turn.
EVENTS_PER_TURN = 256


class AsyncRequest(RequestBase):
    """A request in flight: an asynchronous iterator over its tokens, for one task at a time.

    The iteration ends, and raises, as that of Request. It goes on when a task that reads it is
    cancelled: cancel() ends it. Tokens, and their logits, wait in memory until they are read.
    """

    def __init__(self, session: Session, client: AsyncClient):
        super().__init__(session)
        self._client = client
        self._news: set[asyncio.Future] = set()  # of tasks that wait for events of this request

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        while True:
            token = self.take_token()
            if token is not None:
                return token
            if self.done is not None:
                raise StopAsyncIteration
            await self._client._news_of(self._news)

    def forget(self) -> None:
        super().forget()
        _wake(self._client._room)

    async def wait(self) -> Done:
        """Waits for its end, without reading its tokens: they can still be iterated over."""
        while self.done is None:
            await self._client._news_of(self._news)
        return self.done


class AsyncAnswer:
    """An asynchronous iterator over the tokens of one request, which is submitted when the first
    one is asked for, and cancelled when the task is, when the answer is closed, left by an
    `async with`, or forgotten before the end.

    request  the AsyncRequest; None: not submitted yet
    """

    def __init__(self, submit):
        self._submit = submit
        self._is_closed = False
        self.request: AsyncRequest | None = None

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        if self._is_closed:
            raise StopAsyncIteration
        try:
            if self.request is None:
                self.request = await self._submit()
                if self._is_closed:  # meanwhile, by another task
                    self.request.drop()
            return await self.request.__anext__()
        except asyncio.CancelledError:
            self.close()
            raise

    @property
    def done(self) -> Done | None:
        """The request's Done event once it has been read: reason, counts, times."""
        return None if self.request is None else self.request.done

    def close(self) -> None:
        """Cancels what is not done; may be called again. The request can still be continued, if it
        was to be kept."""
        self._is_closed = True
        if self.request is not None and not self.request.is_dropped:
            self.request.drop()

    async def aclose(self) -> None:
        """The same, for contextlib.aclosing()."""
        self.close()

    async def __aenter__(self) -> AsyncAnswer:
        return self

    async def __aexit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncClient(ClientBase):
    __doc__ = f"""A session with the daemon for one event loop. `async with AsyncClient() as client`
    connects (in a thread) and closes.
{OPTIONS}
    Nothing here sleeps or spins in the library: the loop waits for the session's descriptor, and
    every task for the events of its own request."""

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = -1
        self._connecting: object | None = None  # the connect() that is on its way
        self._end: Error | None = None  # what every wait raises from now on
        self._room: set[asyncio.Future] = set()  # of the one that waits for room
        self._gate: asyncio.Lock | None = None  # who submits: first come, first served

    async def connect(self) -> AsyncClient:
        """For those who do not use `async with`. Once a client; again if it has failed."""
        if self._session is not None or self._connecting is not None:
            raise invalid("this client was connected before, or is being connected")
        loop = asyncio.get_running_loop()
        mine = self._connecting = object()
        try:
            session = await loop.run_in_executor(None, functools.partial(Session, self._options))
            if self._connecting is not mine:
                session.close()
                raise make_error(errno.EBADF, "this client was closed while it connected")
            self._session = session
        finally:
            if self._connecting is mine:
                self._connecting = None
        self._loop = loop
        self._gate = asyncio.Lock()
        self._fd = self._session.fileno()
        loop.add_reader(self._fd, self._read_events)
        self._read_events()  # until there is none, as the descriptor wants it
        return self

    def close(self) -> None:
        """Ends the session: the daemon cancels what still runs, and tasks that wait get Closed. May
        be called again."""
        self._connecting = None
        if not self.closed:
            self._finish(make_error(errno.EBADF, "this client was closed"))
            self._session.close()

    async def aclose(self) -> None:
        """The same, for contextlib.aclosing()."""
        self.close()

    async def __aenter__(self) -> AsyncClient:
        return await self.connect()

    async def __aexit__(self, *_) -> None:
        self.close()

    # ---- requests --------------------------------------------------------------------------

    def forget(self, request: AsyncRequest | int) -> None:
        """Gives up the kept sequence of an ended request, which makes room for another one. Errors
        as cancel()."""
        super().forget(request)
        _wake(self._room)

    @takes_parameters
    async def submit(self, prompt: Ids, **parameters) -> AsyncRequest:
        """Hands a prompt to the daemon. Waits for room as long as requests are in flight, first
        come, first served; the deadlines count from the call.

        NoRoom: max_requests are kept; other errors as Client.submit().
        """
        session = self._live()
        raw, ids = make_request(session, **parameters), as_bytes(prompt)
        request = AsyncRequest(session, self)
        async with self._gate:
            await self._settle(parameters.get("continues"))
            while True:
                try:
                    session.submit(raw, ids, request)
                    return request
                except NoRoom:
                    if not session.requests:
                        raise
                await self._news_of(self._room)

    @takes_parameters
    def generate(self, prompt: Ids, **parameters) -> AsyncAnswer:
        """An asynchronous iterator over the tokens of an answer:

            async for token in client.generate([1, 403, 407], max_tokens=50):
                print(token.id, token.logprob)

        The request is submitted with the first step, and cancelled when the task is cancelled or
        the iteration left early. Errors as submit() and of the iteration.
        """
        return AsyncAnswer(functools.partial(self.submit, prompt, **parameters))

    async def _settle(self, parent: object) -> None:
        """What was cancelled can be continued as soon as its end has been read."""
        if isinstance(parent, AsyncRequest) and parent.done is None:
            if not parent.is_cancelled:
                raise invalid(f"continues: request {parent.id} has not ended")
            await parent.wait()

    # ---- events ----------------------------------------------------------------------------

    def _read_events(self) -> None:
        """Called by the loop. The descriptor is meaningful only behind a poll() that found nothing,
        so it goes on in the next turn if there is more."""
        if self.closed or self._end is not None:
            return
        try:
            for _ in range(EVENTS_PER_TURN):
                event = self._session.poll()
                if event is None:
                    return
                if event.request is not None:
                    event.request.put(event)
                    _wake(event.request._news)
                _wake(self._room)
        except Error as error:
            self._finish(error)
        else:
            self._loop.call_soon(self._read_events)

    def _finish(self, error: Error) -> None:
        """No event will come any more: everybody who waits learns why. Once, since the descriptor's
        number may soon be another one's."""
        if self._end is not None:
            return
        self._end = error
        if self._loop.is_closed():
            return  # and nobody can wait any more
        self._loop.remove_reader(self._fd)
        for request in self._session.requests.values():
            _wake(request._news)
        _wake(self._room)

    async def _news_of(self, futures: set[asyncio.Future]) -> None:
        """Sleeps until _wake() of the same set; raises when there will be nothing any more."""
        if self._end is not None:
            raise make_error(self._end.errno, self._end.detail)  # each task needs one of its own
        if self.closed:
            raise Closed(errno.EBADF, "this client is closed")
        future = self._loop.create_future()
        futures.add(future)
        try:
            await future
        finally:
            futures.discard(future)


def _wake(futures: set[asyncio.Future]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
