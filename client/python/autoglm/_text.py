"""Text to ids and back. Needs no daemon, only the files of a tokenizer."""

from __future__ import annotations

import ctypes
import os
import weakref
from array import array
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from ctypes import POINTER, byref
from typing import Union

from . import _abi
from ._abi import ChatFlags
from ._error import check, invalid
from ._library import lib
from ._prompt import ID_BYTES, Ids, as_bytes
from ._session import check_uint, encode_path, encode_text
from ._values import Token

#: ("user", "Hello!") or {"role": "user", "content": "Hello!"}
Message = Union[tuple, Mapping]


def _id(token: Token | int) -> int:
    return token.id if isinstance(token, Token) else check_uint("a token", token)


class Tokenizer:
    """A tokenizer of a model: `path` is a tokenizer.json (byte-level BPE), a GLM-4 tokenizer.model,
    a folder that holds one of them, or a GGUF file, which has its own: such as Model.folder.

    NotFound: nothing there; InvalidArgument: not understood, the detail names file and field. Many
    threads may use one at once. len() is one more than the highest id.
    """

    def __init__(self, path: str | os.PathLike):
        pointer = POINTER(_abi.agl_tokenizer)()
        check(lib.agl_tokenizer_open(byref(pointer), encode_path("path", path)))
        self._pointer = pointer
        # There is no close(): as long as anybody can call, there is something to be called.
        weakref.finalize(self, lib.agl_tokenizer_close, pointer).atexit = False

    def __len__(self) -> int:
        return lib.agl_tokenizer_size(self._pointer)

    # ---- text to ids -----------------------------------------------------------------------

    def encode(self, text: str | bytes) -> array:
        """The ids of a text, as an array("I"), which is a prompt. Nothing in the text ever becomes
        a special token."""
        raw = text.encode() if isinstance(text, str) else bytes(text)
        return _grow(
            lambda ids, room: lib.agl_encode(self._pointer, raw, len(raw), ids, room), len(raw)
        )

    def chat(
        self, messages: Iterable[Message], *, generate: bool = True, continues: bool = False
    ) -> array:
        """The ids of messages in the model's chat format, as an array("I"). A message is a pair of
        role ("system", "user", "assistant", "observation") and content, or a mapping with these
        keys. Contents stay plain text.

        generate   end with the header that the model's answer follows
        continues  these messages go on behind an answer (submit(continues=...))

        Error with errno ENOTSUP: no chat format is known for this tokenizer; InvalidArgument: a
        role that the format does not know.
        """
        pairs = [_pair(message) for message in messages]
        raw = (_abi.agl_message * len(pairs))(*pairs)
        flags = generate * ChatFlags.GENERATE | continues * ChatFlags.CONTINUE
        guess = 16 + sum(len(content) + 16 for _, content in pairs)
        return _grow(
            lambda ids, room: lib.agl_chat_encode(self._pointer, raw, len(pairs), flags, ids, room),
            guess,
        )

    @property
    def chat_format(self) -> str | None:
        """The name of the chat format in use ("glm4", "glm-edge", ...); None: none is known. May be
        set to another one, before other threads use the tokenizer."""
        name = lib.agl_chat_format(self._pointer)
        return None if name is None else name.decode()

    @chat_format.setter
    def chat_format(self, name: str) -> None:
        check(lib.agl_chat_set_format(self._pointer, encode_text("chat_format", name)))

    def special_id(self, text: str) -> int:
        """The id of a special or added token by its exact text ("<|user|>"). NotFound."""
        return check(lib.agl_special_id(self._pointer, encode_text("text", text)))

    # ---- ids to text -----------------------------------------------------------------------

    def decode(self, ids: Ids | Iterable[Token]) -> str:
        """The text of ids or tokens, special ones by their text, incomplete UTF-8 as U+FFFD."""
        if not isinstance(ids, (bytes, bytearray, memoryview, array)):
            ids = array("I", map(_id, ids))
        raw = as_bytes(ids)
        numbers = (ctypes.c_uint32 * (raw.nbytes // ID_BYTES)).from_buffer_copy(raw)
        room = 4 * len(numbers) + 16
        while True:
            text = ctypes.create_string_buffer(room)
            size = check(lib.agl_decode(self._pointer, numbers, len(numbers), text, room))
            if size <= room:
                return text.raw[:size].decode()
            room = size

    def token_bytes(self, token: Token | int) -> bytes:
        """The bytes of one id, maybe not whole UTF-8. InvalidArgument: no such id."""
        text, size = POINTER(ctypes.c_char)(), ctypes.c_size_t()
        check(lib.agl_token_bytes(self._pointer, _id(token), byref(text), byref(size)))
        return ctypes.string_at(text, size.value)

    def is_special(self, token: Token | int) -> bool:
        """Whether it is a special token, not for users' eyes."""
        return bool(lib.agl_token_is_special(self._pointer, _id(token)))

    def stream(self, tokens: Iterable[Token | int]) -> Iterator[str]:
        """Text as the tokens come, never half a character; special tokens give none.

        for text in tokenizer.stream(client.generate(prompt)):
            print(text, end="", flush=True)
        """
        detokenizer = Detokenizer(self)
        for token in tokens:
            text = detokenizer.push(token)
            if text:
                yield text
        text = detokenizer.finish()
        if text:
            yield text

    async def astream(self, tokens: AsyncIterable[Token | int]) -> AsyncIterator[str]:
        """The same over an asynchronous iterator."""
        detokenizer = Detokenizer(self)
        async for token in tokens:
            text = detokenizer.push(token)
            if text:
                yield text
        text = detokenizer.finish()
        if text:
            yield text


class Detokenizer:
    """Ids to text as they come: never gives out half a character. Special tokens give no text. One
    is used by one thread at a time."""

    def __init__(self, tokenizer: Tokenizer):
        pointer = POINTER(_abi.agl_detokenizer)()
        check(lib.agl_detokenizer_open(byref(pointer), tokenizer._pointer))
        self._pointer = pointer
        self._tokenizer = tokenizer  # the library's detokenizer reads from it
        weakref.finalize(self, lib.agl_detokenizer_close, pointer).atexit = False

    def push(self, token: Token | int) -> str:
        """The text that became whole with this token, maybe empty."""
        text, size = POINTER(ctypes.c_char)(), ctypes.c_size_t()
        check(lib.agl_detokenizer_push(self._pointer, _id(token), byref(text), byref(size)))
        return ctypes.string_at(text, size.value).decode()

    def finish(self) -> str:
        """What is left at the end of a text (incomplete UTF-8 as U+FFFD); starts anew."""
        text, size = POINTER(ctypes.c_char)(), ctypes.c_size_t()
        check(lib.agl_detokenizer_finish(self._pointer, byref(text), byref(size)))
        return ctypes.string_at(text, size.value).decode()


def _pair(message: Message) -> tuple[bytes, bytes]:
    try:
        if isinstance(message, Mapping):
            role, content = message["role"], message["content"]
        else:
            role, content = message
    except (KeyError, ValueError, TypeError):
        raise invalid(f"{message!r} is no message: must be a role and a content") from None
    if not (isinstance(role, str) and isinstance(content, str)):
        raise invalid(f"{message!r} is no message: role and content must be text")
    return encode_text("role", role), encode_text("content", content)


def _grow(function, room: int) -> array:
    """Calls until all ids have room."""
    while True:
        ids = (ctypes.c_uint32 * max(room, 1))()
        count = check(function(ids, room))
        if count <= room:
            return array("I", memoryview(ids).cast("B")[: count * ID_BYTES].tobytes())
        room = count
