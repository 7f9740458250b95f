"""What the daemon says, as Python values: models, its state, tokens, events."""

from __future__ import annotations

import errno
from ctypes import byref
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from . import _abi
from ._abi import DoneReason, State
from ._error import check, invalid
from ._library import lib

if TYPE_CHECKING:
    from ._request import RequestBase

# ---- models and the daemon's state -------------------------------------------------------------


@dataclass
class Model:
    """A model that the daemon holds, as it was when asked for.

    index             its number in the daemon
    name              what requests call it
    architecture      as in its config.json or GGUF file, or "echo"
    folder            where the daemon read it from, a folder or a GGUF file; its tokenizer is
                      there too
    vocab_size        prompt ids must be below it
    context_tokens    prompt and answer together
    eos_ids           the ids that end its answers
    weights_bytes     size of its weights in memory
    bytes_per_token   weights read to decode one token alone
    block_tokens      tokens of one cache block
    blocks            cache blocks in all
    blocks_free       of these; this and what follows changes while the daemon works
    prompt_tokens     computed since the daemon's start
    generated_tokens  likewise
    steps             likewise
    busy_ns           spent in those steps
    """

    index: int
    name: str
    architecture: str
    folder: str
    vocab_size: int
    context_tokens: int
    eos_ids: tuple[int, ...]
    weights_bytes: int
    bytes_per_token: int
    block_tokens: int
    blocks: int
    blocks_free: int
    prompt_tokens: int
    generated_tokens: int
    steps: int
    busy_ns: int


@dataclass
class Status:
    """The daemon's state. Times are those of time.monotonic_ns().

    instance          names its board, /autoglm.INSTANCE
    daemon_version    of autoglmd
    backend           what computes
    daemon_pid        its process
    state             a State
    start_ns          when it started
    heartbeat_ns      the engine's last sign of life: at most a second or two ago
    steps             completed by all models
    model_count       models held
    sessions          clients connected
    requests_queued   taken, not started
    requests_running  started, not ended
    sessions_total    since the start, as all that follow
    sessions_broken   broke the contract; or, rarely, were ended for another error
    requests_total    taken or refused
    requests_refused  never started
    requests_done     ended
    sessions_refused  connections that were sent away, for whatever reason
    """

    instance: str
    daemon_version: str
    backend: str
    daemon_pid: int
    state: State
    start_ns: int
    heartbeat_ns: int
    steps: int
    model_count: int
    sessions: int
    requests_queued: int
    requests_running: int
    sessions_total: int
    sessions_broken: int
    requests_total: int
    requests_refused: int
    requests_done: int
    sessions_refused: int


def _text(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def known(kind, number: int):
    """A member of an enum; a number that only a newer library knows stays one."""
    try:
        return kind(number)
    except ValueError:
        return number


def make_model(index: int, raw: _abi.agl_model) -> Model:
    fields = {name: _text(getattr(raw, name)) for name in Model.__annotations__ if name != "index"}
    fields["eos_ids"] = tuple(raw.eos_ids[: raw.eos_count])
    return Model(index=index, **fields)


def make_status(raw: _abi.agl_status) -> Status:
    fields = {name: _text(getattr(raw, name)) for name in Status.__annotations__}
    fields["state"] = known(State, raw.state)
    return Status(**fields)


def status_of(instance: str | None = None) -> tuple[Status, list[Model]]:
    """The state and the models of a daemon by its instance's name (None: "default"), without a
    connection; up to a second old.

    NotFound: no such daemon; NotAllowed: not in its group; BrokenContract: not a board that this
    library understands; Error with errno EPROTONOSUPPORT: one of another version. A heartbeat of
    long ago tells of a daemon that was killed or is stuck.
    """
    if instance is not None and "\0" in instance:
        raise invalid("instance has a NUL in it")
    name = None if instance is None else instance.encode()
    status = _abi.agl_status()
    check(lib.agl_status_of(name, byref(status), None, 0))
    models = (_abi.agl_model * max(status.model_count, 1))()
    check(lib.agl_status_of(name, byref(status), models, len(models)))
    count = min(status.model_count, len(models))  # another daemon may have come in between
    return make_status(status), [make_model(index, models[index]) for index in range(count)]


# ---- tokens and events -------------------------------------------------------------------------


class Token(NamedTuple):
    """A token of an answer: a pair, so that `for id, logprob in request` works too.

    id       what a tokenizer turns into text
    logprob  natural logarithm of its probability before temperature and filters
    logits   what it was chosen from, if the request asked for logits: a memoryview of floats,
             [vocab_size], a copy of its own; else None
    """

    id: int
    logprob: float

    logits = None


class TokenWithLogits(Token):
    """Has room for its logits."""


@dataclass
class Event:
    """Something that happened to a request; None: to the session."""

    request: RequestBase | None


@dataclass
class Accepted(Event):
    """The daemon has taken the prompt.

    prompt_tokens  how many it has
    taken_ns       when the engine's turn began; with times=True, when it left the ring
    published_ns   with times=True, when this event was stored; else 0
    """

    prompt_tokens: int
    taken_ns: int
    published_ns: int


@dataclass
class Tokens(Event):
    """Tokens of the answer; the first is its number `index`."""

    index: int
    tokens: tuple[Token, ...]


@dataclass
class Logits(Event):
    """The logits that token number `index` will be chosen from, which follows.

    A read-only memoryview of floats, [vocab_size]. From poll() and wait() it is the daemon's shared
    memory itself, and is released, so that nothing can be read from it any more, by the next poll()
    or wait(), and by close(). What was made from it (a slice, a numpy array) stays readable, but
    the daemon writes other logits there: make a copy of what is to stay.
    """

    index: int
    logits: memoryview


@dataclass
class Done(Event):
    """The last event of a request.

    reason            a DoneReason
    error             errno (positive) of a refusal or failure, else 0
    retry_after_ns    of a refusal: when trying again may help; 0: the daemon does not say
    prompt_tokens     of the whole sequence, kept history included
    cached_tokens     of these, how many needed no computation
    generated_tokens  by this request
    taken_ns          when the engine took it
    queued_ns         taken until first scheduled
    prompt_ns         first scheduled until first token
    generate_ns       first token until last token
    """

    reason: DoneReason
    error: int
    retry_after_ns: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    taken_ns: int
    queued_ns: int
    prompt_ns: int
    generate_ns: int


@dataclass
class Overflow(Event):
    """This program read too slowly: the request stood still for parked_ns."""

    parked_ns: int


@dataclass
class Shutdown(Event):
    """The daemon ends the session; calls from now on raise DaemonGone.

    error  errno (positive): ESHUTDOWN, it stops; EPROTO, this client broke the contract
    """

    error: int


def _negated(error: int) -> int:
    return -error if error < 0 else error


def make_done(request: RequestBase | None, raw: _abi.agl_event) -> Done:
    return Done(
        request,
        known(DoneReason, raw.reason),
        _negated(raw.error),
        raw.retry_after_ns,
        raw.prompt_tokens,
        raw.cached_tokens,
        raw.generated_tokens,
        raw.taken_ns,
        raw.queued_ns,
        raw.prompt_ns,
        raw.generate_ns,
    )


def make_shutdown(raw: _abi.agl_event) -> Shutdown:
    return Shutdown(None, _negated(raw.error) or errno.ESHUTDOWN)
