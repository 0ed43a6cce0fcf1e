"""Frames of a token log. msgspec arrays, encoded once by the worker, stored and published as they are."""

from array import array
from collections.abc import Iterable
from typing import Any, Final

import msgspec


class Usage(msgspec.Struct, array_like=True, frozen=True):
    """Counts in tokens, durations in nanoseconds. Billed once, however many attempts it took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    completion_ns: int = 0


class StreamError(msgspec.Struct, array_like=True, frozen=True):
    """A ``ServiceError`` on the wire: its code in the error registry and its message."""

    code: str
    message: str
    retry_after: float | None = None
    """Seconds until trying again may help."""


class Queued(msgspec.Struct, array_like=True, frozen=True):
    """A request's place in the queue when it came."""

    position: int
    """1 is next."""

    estimated_wait_seconds: float | None


class TopLogprob(msgspec.Struct, array_like=True, frozen=True):
    """One alternative. ``data`` holds the token's bytes, which need not be whole characters."""

    token: str
    logprob: float
    data: bytes = b""


class Logprob(msgspec.Struct, array_like=True, frozen=True):
    """The generated token and, most likely first, the alternatives that were asked for."""

    token: str
    logprob: float
    data: bytes = b""
    top: list[TopLogprob] = []


class StreamEnd(msgspec.Struct, array_like=True, frozen=True):
    """How a request ended. ``error`` is None for a complete answer."""

    done_reason: str = "stop"
    usage: Usage = Usage()
    error: StreamError | None = None
    context: list[int] = []
    embeddings: list[bytes] = []
    """Packed vectors, see ``pack_vector``."""

    rendered: str | None = None
    """The prompt, where only that was asked for; or the text of token ids."""

    image_count: int = 0
    token_ids: list[int] = []
    """Of a text that was to be tokenized. Nothing is billed for it."""

    prompt_length: int = 0
    """In tokens, of a rendered prompt, for which nothing is billed."""

    scores: list[float] = []
    """Of ranked documents, in their order: the higher, the more relevant."""

    stop_sequence: str = ""
    """The stop string that ended the answer, of the caller or of the model, where the engine tells it."""


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """One flush of one request: text and the ids of exactly the tokens it is made of.

    ``seq`` counts frames of the request from 1 without gaps, across epochs. (epoch, seq) is also the
    frame's id in the Redis stream, so that Redis itself refuses an order that goes back.
    """

    request_id: str
    epoch: int
    seq: int
    text: str = ""
    token_ids: list[int] = []
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []
    end: StreamEnd | None = None
    logprobs: list[Logprob] = []
    """One for each generated token."""

    queued: Queued | None = None
    """Only in the frame with ``seq`` 0, which is in no log: the gateway is told once of a request that has to wait."""

    @property
    def least_tokens(self) -> int:
        """So many tokens it was made of, or more: what can only be replayed has no ids."""
        has_content = bool(self.text or self.thinking or self.tool_calls)
        return max(len(self.token_ids), len(self.logprobs), int(has_content))


def pack_vector(vector: Iterable[float]) -> bytes:
    """As 32-bit floats, which is all that engines compute: a batch of vectors is many megabytes otherwise."""
    return array("f", vector).tobytes()


def unpack_vector(packed: bytes) -> list[float]:
    return array("f", packed).tolist()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode_frame(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def decode_frame(data: bytes) -> Frame:
    """Raises ``msgspec.DecodeError`` if the bytes are not a frame."""
    return _decoder.decode(data)


FIRST_EPOCH: Final = 1
