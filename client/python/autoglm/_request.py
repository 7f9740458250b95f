"""A request as this process knows it, and its tokens on their way to whoever reads them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from . import _abi
from ._error import NotFound, end_error
from ._values import Done, Event, Logits, Model, Token, Tokens, TokenWithLogits

if TYPE_CHECKING:
    from ._session import Session


class RequestBase:
    """What requests of both forms have in common.

    id             its number in this session, more than 0
    done           its Done event once that has been read, else None
    is_cancelled   this client has asked to cancel it
    prompt_tokens  of its own prompt
    """

    def __init__(self, session: Session):
        self._session = session
        self._events: deque[Event] = deque()  # read from the ring, not yet by the reader
        self._tokens: deque[Token] = deque()  # of the events taken out of there
        self._rows: deque[Logits] = deque()  # logits whose token has not come yet
        self._is_dropped = False  # nobody will read it
        self.id = 0
        self.done: Done | None = None
        self.is_cancelled = False
        self.prompt_tokens = 0
        self._model_index = 0

    def __repr__(self) -> str:
        reason = self.done.reason if self.done else None
        state = "in flight" if self.done is None else getattr(reason, "name", str(reason)).lower()
        return f"<autoglm.{type(self).__name__} {self.id}, {state}>"

    def submitted(self, number: int, raw: _abi.agl_request) -> None:
        self.id = number
        self.prompt_tokens = raw.prompt_tokens
        self._model_index = raw.model

    @property
    def model(self) -> Model:
        """A fresh description of its model."""
        return self._session.model(self._model_index)

    @property
    def state(self) -> _abi.RequestState | int | None:
        """What this client knows of it; None: it is done and not kept. Also behind the daemon's
        end."""
        try:
            return self._session.request_state(self.id)[0]
        except NotFound:
            return None

    @property
    def tokens_received(self) -> int:
        """How many tokens have come so far, those included that wait to be read here."""
        if self.done is not None:
            return self.done.generated_tokens
        return self._session.request_state(self.id)[1]

    def cancel(self) -> None:
        """Asks the daemon to end it. Tokens that are there, or on their way, still come; then the
        reading ends without an error. Does nothing if it is done."""
        if self.done is None:
            self._session.cancel(self.id)

    def set_priority(self, priority: _abi.Priority | int | str) -> None:
        """Changes its class. NotFound: it is done."""
        self._session.set_priority(self.id, priority)

    def forget(self) -> None:
        """Gives up the kept sequence. NotFound: it has not ended, or is not kept (any more)."""
        self._session.forget(self.id)

    # ---- its events ------------------------------------------------------------------------

    def put(self, event: Event) -> None:
        """Keeps an event until the reader comes."""
        if self._is_dropped:
            return
        if isinstance(event, Logits):
            # A copy: the next event takes the daemon's memory away.
            try:
                row = memoryview(bytes(event.logits)).cast("f")
            except ValueError:  # a handler of a signal has closed the client since
                if self._session.is_closed:
                    return
                raise
            event = Logits(event.request, event.index, row)
        self._events.append(event)

    def drop(self) -> None:
        """Its reader is gone: cancelled, and what comes is thrown away."""
        self._is_dropped = True
        self._events.clear()
        self._tokens.clear()
        self._rows.clear()
        self._session.cancel_quietly(self)

    @property
    def is_dropped(self) -> bool:
        return self._is_dropped

    def take_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def take_token(self) -> Token | None:
        """The next one of those that are here; None: there is none here. Behind the last one of a
        request that is done, the error that it ended with is raised."""
        while not self._tokens and self._events:
            self._unpack(self._events.popleft())
        if self._tokens:
            return self._tokens.popleft()
        if self.done is not None:
            error = end_error(self, self.done)
            if error is not None:
                raise error
        return None

    def _unpack(self, event: Event) -> None:
        if isinstance(event, Logits):
            self._rows.append(event)
        elif isinstance(event, Tokens):
            tokens = event.tokens
            if self._rows:
                tokens = map(
                    self._with_logits, tokens, range(event.index, event.index + len(tokens))
                )
            self._tokens.extend(tokens)

    def _with_logits(self, token: Token, index: int) -> Token:
        if not self._rows or self._rows[0].index != index:
            return token
        full = TokenWithLogits(*token)
        full.logits = self._rows.popleft().logits
        return full
