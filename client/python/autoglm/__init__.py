"""Language models held by autoglmd, through lock-free rings in shared memory.

    import autoglm

    with autoglm.Client() as client:
        tokenizer = autoglm.Tokenizer(client.model().folder)
        prompt = tokenizer.chat([("user", "Tell me a story about a little fox.")])
        for text in tokenizer.stream(client.generate(prompt, temperature=0.7)):
            print(text, end="", flush=True)

Client is a session with the daemon. Client.generate() is one answer as an iterator over tokens,
each an id and a log-probability; Client.submit() puts several requests in flight, each a Request
that is iterated over in any order; Client.poll() and Client.wait() give the events of all of them,
and Client.fileno() a descriptor for an own event loop. AsyncClient is the form for asyncio:

    async with autoglm.AsyncClient() as client:
        async for token in client.generate(prompt, timeout=2.0):
            ...

A conversation keeps its sequence, so that each turn sends and computes its own tokens only:

    first = client.generate(tokenizer.chat([("user", "My name is Tom.")]), keep=True)
    print(tokenizer.decode(first))
    turn = tokenizer.chat([("user", "What is my name?")], continues=True)
    print(tokenizer.decode(client.generate(turn, continues=first.request)))

Tokenizer and Detokenizer turn text into ids and back; the daemon deals in ids alone.

What fails raises autoglm.Error, an OSError whose `detail` tells what exactly was wrong, or one of
its subclasses. When the daemon dies, every call that waits raises DaemonGone within a fraction of a
second, and a new client can be made. Timeouts are seconds; names that end in _ns are nanoseconds,
and absolute times those of time.monotonic_ns().

This package is a layer of ctypes over libautoglm.so.0: $AUTOGLM_LIBRARY names its file where it is
not installed, $AUTOGLM_SOCKET the daemon's socket. libautoglm(7) and autoglm.h tell more.
"""

from ._abi import DoneReason, Priority, RequestState, State, WaitMode
from ._aio import AsyncAnswer, AsyncClient, AsyncRequest
from ._client import Answer, Client, Request
from ._error import (
    BrokenContract,
    Cancelled,
    Closed,
    ConnectionRefused,
    DaemonGone,
    DeadlinePassed,
    Error,
    Failed,
    InvalidArgument,
    NoRoom,
    NotAllowed,
    NotFound,
    ReadTooSlowly,
    Refused,
    RequestError,
    TimedOut,
)
from ._library import lib as _lib
from ._text import Detokenizer, Tokenizer
from ._values import (
    Accepted,
    Done,
    Event,
    Logits,
    Model,
    Overflow,
    Shutdown,
    Status,
    Token,
    Tokens,
    status_of,
)
from ._version import __version__


def now_ns() -> int:
    """CLOCK_MONOTONIC now, for deadlines; as time.monotonic_ns()."""
    return _lib.agl_now_ns()


def library_version() -> str:
    """The version of the loaded libautoglm; that of this package is __version__."""
    return _lib.agl_version().decode()


__all__ = [
    "__version__",
    "Accepted",
    "Answer",
    "AsyncAnswer",
    "AsyncClient",
    "AsyncRequest",
    "BrokenContract",
    "Cancelled",
    "Client",
    "Closed",
    "ConnectionRefused",
    "DaemonGone",
    "DeadlinePassed",
    "Detokenizer",
    "Done",
    "DoneReason",
    "Error",
    "Event",
    "Failed",
    "InvalidArgument",
    "Logits",
    "Model",
    "NoRoom",
    "NotAllowed",
    "NotFound",
    "Overflow",
    "Priority",
    "ReadTooSlowly",
    "Refused",
    "Request",
    "RequestError",
    "RequestState",
    "Shutdown",
    "State",
    "Status",
    "TimedOut",
    "Token",
    "Tokenizer",
    "Tokens",
    "WaitMode",
    "library_version",
    "now_ns",
    "status_of",
]

for _name in __all__:  # what people see in tracebacks and help() is what they import
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
del _name
