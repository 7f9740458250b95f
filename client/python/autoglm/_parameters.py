"""What a request may ask for, as keyword arguments: one list for every function that takes them."""

from __future__ import annotations

import ctypes
import errno
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import _abi
from ._abi import UINT64_MAX, Priority, RequestFlags
from ._error import InvalidArgument, invalid
from ._library import lib
from ._request import RequestBase
from ._session import check_uint, choose, seconds_to_ns
from ._values import Model

if TYPE_CHECKING:
    from ._session import Session

REFERENCE = """
    prompt                token ids: a list or any other iterable of integers, or a buffer of
                          integers. One of 32 bits each (array("I"), numpy.uint32) is copied
                          straight to where the daemon reads it, others number by number; bytes are
                          refused, since nobody can tell what they hold
    model                 name, index or Model; None: the first
    max_tokens            generate at most so many; cut to what the context holds
    temperature           0: always the most likely token
    top_k, top_p, min_p   keep the most likely ids only: the k best (0: all); those that reach the
                          sum p; those at least this fraction as likely as the best
    seed                  same seed, same request: same tokens, whatever else runs
    stop_ids              up to 4 ids that end the answer; they are not among its tokens
    ignore_eos            the model's own end tokens do not end it
    keep                  keep the sequence when the answer ends, to continue it
    continues             a request that ended with keep (or its id): the prompt goes on behind its
                          answer, and the history is neither sent nor computed again
    priority              a Priority, or its name
    timeout               seconds for the whole answer; deadline_ns: the same as an absolute time
    first_token_timeout   seconds until the first token; first_token_deadline_ns likewise
    logits                each token brings its logits; needs Client(output_bytes=...)
    times                 the Accepted event tells exact times
"""


def make_request(
    session: Session,
    *,
    model: str | int | Model | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    stop_ids: Iterable[int] = (),
    ignore_eos: bool = False,
    keep: bool = False,
    continues: RequestBase | int | None = None,
    priority: Priority | int | str = Priority.NORMAL,
    timeout: float | None = None,
    deadline_ns: int = 0,
    first_token_timeout: float | None = None,
    first_token_deadline_ns: int = 0,
    logits: bool = False,
    times: bool = False,
) -> _abi.agl_request:
    if model is None and isinstance(continues, RequestBase):
        index = continues._model_index
    else:
        index = session.find_model(model)
    raw = _abi.agl_request(
        size_bytes=ctypes.sizeof(_abi.agl_request),
        model=index,
        max_tokens=check_uint("max_tokens", max_tokens),
        flags=_flags(keep=keep, ignore_eos=ignore_eos, logits=logits, times=times),
        continues=_parent(session, continues),
        priority=choose(Priority, "priority", priority),
        temperature=_number("temperature", temperature),
        top_p=_number("top_p", top_p),
        min_p=_number("min_p", min_p),
        top_k=check_uint("top_k", top_k),
        seed=check_uint("seed", seed, UINT64_MAX),
        deadline_ns=_deadline("timeout", timeout, deadline_ns),
        first_token_deadline_ns=_deadline(
            "first_token_timeout", first_token_timeout, first_token_deadline_ns
        ),
    )
    _set_stop_ids(raw, stop_ids)
    return raw


def takes_parameters(function):
    """Shows the list above in the signature and the documentation of a function that passes its
    **parameters on."""
    own = list(inspect.signature(function).parameters.values())[:-1]
    shared = list(inspect.signature(make_request).parameters.values())[1:]
    function.__signature__ = inspect.signature(function).replace(parameters=own + shared)
    function.__doc__ = inspect.cleandoc(function.__doc__) + "\n" + REFERENCE
    return function


def _flags(**wished: bool) -> int:
    flags = RequestFlags(0)
    for name, is_wished in wished.items():
        if is_wished:
            flags |= RequestFlags[name.upper()]
    return flags


def _parent(session: Session, continues: RequestBase | int | None) -> int:
    if not isinstance(continues, RequestBase):
        return 0 if continues is None else check_uint("continues", continues)
    if continues._session is not session:
        raise invalid("continues is a request of another client")
    return continues.id


def _number(field: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidArgument(errno.EINVAL, f"{field} is {value!r}, must be a number") from None


def _deadline(field: str, timeout: float | None, deadline_ns: int) -> int:
    if timeout is None:
        return check_uint(field.replace("timeout", "deadline_ns"), deadline_ns, UINT64_MAX)
    if deadline_ns:
        raise invalid(f"{field} and an absolute deadline: must be one of them")
    timeout_ns = seconds_to_ns(field, _number(field, timeout))
    return 0 if timeout_ns == UINT64_MAX else lib.agl_now_ns() + timeout_ns


def _set_stop_ids(raw: _abi.agl_request, stop_ids: Iterable[int]) -> None:
    ids = [check_uint("a stop id", value) for value in stop_ids]
    if len(ids) > _abi.AGL_STOP_IDS_MAX:
        raise invalid(f"stop_ids has {len(ids)}, must be at most {_abi.AGL_STOP_IDS_MAX}")
    raw.stop_ids[: len(ids)] = ids
    raw.stop_count = len(ids)
