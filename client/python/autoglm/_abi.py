"""autoglm.h in ctypes: its enums, structs and functions, under their own names.

Nothing here does anything. tests/python/test_abi.py compares every line with the header through a C
compiler.
"""

from __future__ import annotations

import enum
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_size_t,
    c_uint32,
    c_uint64,
)

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1

# ---- enums -------------------------------------------------------------------------------------


class WaitMode(enum.IntEnum):
    """How a client waits for events.

    ADAPTIVE  spin as long as an event is likely to come soon, then sleep
    SPIN      never sleep: a whole core for the shortest latency
    SLEEP     never spin
    """

    ADAPTIVE = 0
    SPIN = 1
    SLEEP = 2


class State(enum.IntEnum):
    """What the daemon is doing."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2


class Priority(enum.IntEnum):
    """The class of a request: a higher one starts before a lower one."""

    BATCH = 0
    NORMAL = 1
    HIGH = 2
    REALTIME = 3


class DoneReason(enum.IntEnum):
    """Why a request ended.

    STOP       an end or stop token; it is not among the tokens
    LENGTH     max_tokens, or the context is full
    DEADLINE   its deadline passed
    CANCELLED  somebody asked for it
    REFUSED    never started
    FAILED     something broke, or the daemon stops
    OVERFLOW   this program read too slowly for too long
    """

    STOP = 1
    LENGTH = 2
    DEADLINE = 3
    CANCELLED = 4
    REFUSED = 5
    FAILED = 6
    OVERFLOW = 7


class RequestState(enum.IntEnum):
    """What a client knows of a request from the events that it has read.

    SUBMITTED  not accepted yet: of a dead daemon nobody knows if it was seen
    RUNNING    accepted, its end has not been read yet
    KEPT       done, and kept to be continued
    """

    SUBMITTED = 1
    RUNNING = 2
    KEPT = 3


class EventKind(enum.IntEnum):
    ACCEPTED = 1
    TOKENS = 2
    LOGITS = 3
    DONE = 4
    OVERFLOW = 5
    SHUTDOWN = 6


class RequestFlags(enum.IntFlag):
    KEEP = 1 << 0
    IGNORE_EOS = 1 << 1
    LOGITS = 1 << 2
    TIMES = 1 << 3


class ChatFlags(enum.IntFlag):
    GENERATE = 1 << 0
    CONTINUE = 1 << 1


#: Which enum of the header is which class here; the header's names begin with the prefix.
ENUMS = {
    "agl_wait_mode": ("AGL_WAIT_", WaitMode),
    "agl_state": ("AGL_STATE_", State),
    "agl_priority": ("AGL_PRIORITY_", Priority),
    "agl_done_reason": ("AGL_DONE_", DoneReason),
    "agl_request_state": ("AGL_REQUEST_", RequestState),
    "agl_event_kind": ("AGL_EVENT_", EventKind),
    "agl_request_flags": ("AGL_", RequestFlags),
    "agl_chat_flags": ("AGL_CHAT_", ChatFlags),
}

AGL_EOS_MAX = 8
AGL_STOP_IDS_MAX = 4
AGL_EVENT_TOKENS_MAX = 6

# ---- structs -----------------------------------------------------------------------------------


class agl_client(Structure):
    """Opaque."""


class agl_tokenizer(Structure):
    """Opaque."""


class agl_detokenizer(Structure):
    """Opaque."""


class agl_options(Structure):
    _fields_ = [
        ("size_bytes", c_size_t),
        ("socket_path", c_char_p),
        ("name", c_char_p),
        ("timeout_ns", c_uint64),
        ("max_requests", c_uint32),
        ("prompt_tokens", c_uint32),
        ("output_bytes", c_uint32),
        ("wait_mode", c_uint32),
        ("spin_ns", c_uint64),
    ]


class agl_model(Structure):
    _fields_ = [
        ("name", c_char * 64),
        ("architecture", c_char * 32),
        ("folder", c_char * 256),
        ("vocab_size", c_uint32),
        ("context_tokens", c_uint32),
        ("eos_ids", c_uint32 * AGL_EOS_MAX),
        ("eos_count", c_uint32),
        ("weights_bytes", c_uint64),
        ("bytes_per_token", c_uint64),
        ("block_tokens", c_uint32),
        ("blocks", c_uint32),
        ("blocks_free", c_uint32),
        ("prompt_tokens", c_uint64),
        ("generated_tokens", c_uint64),
        ("steps", c_uint64),
        ("busy_ns", c_uint64),
        ("reserved", c_uint64 * 8),
    ]


class agl_status(Structure):
    _fields_ = [
        ("instance", c_char * 32),
        ("daemon_version", c_char * 16),
        ("backend", c_char * 32),
        ("daemon_pid", c_uint32),
        ("state", c_uint32),
        ("start_ns", c_uint64),
        ("heartbeat_ns", c_uint64),
        ("steps", c_uint64),
        ("model_count", c_uint32),
        ("sessions", c_uint32),
        ("requests_queued", c_uint32),
        ("requests_running", c_uint32),
        ("sessions_total", c_uint64),
        ("sessions_broken", c_uint64),
        ("requests_total", c_uint64),
        ("requests_refused", c_uint64),
        ("requests_done", c_uint64),
        ("sessions_refused", c_uint64),
        ("reserved", c_uint64 * 8),
    ]


class agl_request(Structure):
    _fields_ = [
        ("size_bytes", c_size_t),
        ("model", c_uint32),
        ("prompt_tokens", c_uint32),
        ("max_tokens", c_uint32),
        ("flags", c_uint32),
        ("continues", c_uint32),
        ("priority", c_uint32),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("top_k", c_uint32),
        ("seed", c_uint64),
        ("first_token_deadline_ns", c_uint64),
        ("deadline_ns", c_uint64),
        ("stop_ids", c_uint32 * AGL_STOP_IDS_MAX),
        ("stop_count", c_uint32),
        ("reserved", c_uint32),
    ]


class agl_token(Structure):
    _fields_ = [("id", c_uint32), ("logprob", c_float)]


class agl_event(Structure):
    _fields_ = [
        ("kind", c_uint32),
        ("request", c_uint32),
        ("index", c_uint32),
        ("token_count", c_uint32),
        ("tokens", agl_token * AGL_EVENT_TOKENS_MAX),
        ("logit_count", c_uint32),
        ("logits", POINTER(c_float)),
        ("reason", c_uint32),
        ("error", c_int),
        ("retry_after_ns", c_uint64),
        ("prompt_tokens", c_uint32),
        ("cached_tokens", c_uint32),
        ("generated_tokens", c_uint32),
        ("taken_ns", c_uint64),
        ("queued_ns", c_uint64),
        ("prompt_ns", c_uint64),
        ("generate_ns", c_uint64),
        ("parked_ns", c_uint64),
        ("published_ns", c_uint64),
        ("reserved", c_uint64 * 4),
    ]


class agl_message(Structure):
    _fields_ = [("role", c_char_p), ("content", c_char_p)]


#: Structs whose fields the header shows.
STRUCTS = {
    struct.__name__: struct
    for struct in (
        agl_options,
        agl_model,
        agl_status,
        agl_request,
        agl_token,
        agl_event,
        agl_message,
    )
}

# ---- functions ---------------------------------------------------------------------------------

_client = POINTER(agl_client)
_tokenizer = POINTER(agl_tokenizer)
_detokenizer = POINTER(agl_detokenizer)
_ids = POINTER(c_uint32)
_ret_text = POINTER(POINTER(c_char))
_ret_bytes = POINTER(c_size_t)

#: name: (what it returns, its arguments)
FUNCTIONS = {
    "agl_strerror": (c_char_p, [c_int]),
    "agl_error_detail": (c_char_p, []),
    "agl_version": (c_char_p, []),
    "agl_now_ns": (c_uint64, []),
    "agl_connect": (c_int, [POINTER(_client), POINTER(agl_options)]),
    "agl_close": (None, [_client]),
    "agl_model_count": (c_int, [_client]),
    "agl_model": (c_int, [_client, c_uint32, POINTER(agl_model)]),
    "agl_model_find": (c_int, [_client, c_char_p]),
    "agl_status": (c_int, [_client, POINTER(agl_status)]),
    "agl_status_of": (c_int, [c_char_p, POINTER(agl_status), POINTER(agl_model), c_uint32]),
    "agl_prompt": (c_int, [_client, c_uint32, POINTER(_ids)]),
    "agl_submit": (c_int, [_client, POINTER(agl_request), POINTER(c_uint32)]),
    "agl_cancel": (c_int, [_client, c_uint32]),
    "agl_set_priority": (c_int, [_client, c_uint32, c_uint32]),
    "agl_forget": (c_int, [_client, c_uint32]),
    "agl_request_state": (c_int, [_client, c_uint32, POINTER(c_uint32)]),
    "agl_poll": (c_int, [_client, POINTER(agl_event)]),
    "agl_wait": (c_int, [_client, POINTER(agl_event), c_uint64]),
    "agl_fd": (c_int, [_client]),
    "agl_reason_name": (c_char_p, [c_uint32]),
    "agl_tokenizer_open": (c_int, [POINTER(_tokenizer), c_char_p]),
    "agl_tokenizer_close": (None, [_tokenizer]),
    "agl_tokenizer_size": (c_uint32, [_tokenizer]),
    "agl_encode": (c_int, [_tokenizer, c_char_p, c_size_t, _ids, c_size_t]),
    "agl_special_id": (c_int, [_tokenizer, c_char_p]),
    "agl_token_bytes": (c_int, [_tokenizer, c_uint32, _ret_text, _ret_bytes]),
    "agl_token_is_special": (c_int, [_tokenizer, c_uint32]),
    "agl_decode": (c_int, [_tokenizer, _ids, c_size_t, POINTER(c_char), c_size_t]),
    "agl_detokenizer_open": (c_int, [POINTER(_detokenizer), _tokenizer]),
    "agl_detokenizer_close": (None, [_detokenizer]),
    "agl_detokenizer_push": (c_int, [_detokenizer, c_uint32, _ret_text, _ret_bytes]),
    "agl_detokenizer_finish": (c_int, [_detokenizer, _ret_text, _ret_bytes]),
    "agl_chat_encode": (
        c_int,
        [_tokenizer, POINTER(agl_message), c_size_t, c_uint32, _ids, c_size_t],
    ),
    "agl_chat_format": (c_char_p, [_tokenizer]),
    "agl_chat_set_format": (c_int, [_tokenizer, c_char_p]),
}

#: Those that may sleep or compute for long: only they let other threads of Python run meanwhile.
#: For the others giving up the interpreter's lock, and getting it back, would cost more than the
#: call.
BLOCKING = {
    "agl_connect",
    "agl_close",
    "agl_wait",
    "agl_status_of",
    "agl_tokenizer_open",
    "agl_tokenizer_close",
    "agl_encode",
    "agl_decode",
    "agl_chat_encode",
}
