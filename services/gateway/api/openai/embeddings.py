"""POST /v1/embeddings"""

import asyncio
import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.contracts.tokens import unpack_vector
from libs.common.errors import InvalidRequest
from services.gateway.api.answer import whole_answer, whole_answers
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.embed import MOST_INPUTS, check_size
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.wire import encode
from services.gateway.api.openai import wire
from services.gateway.api.openai.texts import Tokens, read_texts

FORMATS: Final = ("float", "base64")


async def embeddings(call: Call) -> Response:
    body = Fields(call.body, "EmbedRequest")
    wire.refuse_what_is_not_here(body, {"stream": (False,)})
    shape, dimensions = body.text("encoding_format") or "float", body.integer("dimensions")
    if shape not in FORMATS:
        raise InvalidRequest(f"encoding_format must be one of {', '.join(FORMATS)}", param="encoding_format")
    if dimensions is not None and dimensions < 1:
        raise InvalidRequest("dimensions must be positive", param="dimensions")
    given = read_texts(body.raw("input"), "input", MOST_INPUTS)
    model = await wire.find_model(call, body.text("model"))
    inputs = await _as_texts(call, model, given)
    check_size(model, inputs)
    task = InferenceTask(kind="embed", inputs=inputs, dimensions=dimensions, options=resolve_options(model, {}))
    _, end = await whole_answer(call, model, task)
    vectors = await asyncio.to_thread(_vectors, end.embeddings, shape)
    asked = end.usage.prompt_tokens
    rest = {"model": body.text("model"), "usage": {"prompt_tokens": asked, "total_tokens": asked}}
    return Response(b'{"object":"list","data":%b,%b' % (vectors, encode(rest)[1:]), media_type="application/json")


async def _as_texts(call: Call, model: ModelRef, given: Sequence[str] | Sequence[Tokens]) -> tuple[str, ...]:
    """Ids are those of the model's own vocabulary, which its engine knows."""
    texts = tuple(item for item in given if isinstance(item, str))
    if texts:
        return texts
    options = resolve_options(model, {})
    tasks = [
        InferenceTask(kind="detokenize", context=item, options=options) for item in given if isinstance(item, tuple)
    ]
    return tuple(end.rendered or "" for _, end in await whole_answers(call, model, tasks))


def _vectors(packed: Sequence[bytes], shape: str) -> bytes:
    show = _as_base64 if shape == "base64" else unpack_vector
    items = (
        encode({"object": "embedding", "index": index, "embedding": show(vector)})
        for index, vector in enumerate(packed)
    )
    return b"[" + b",".join(items) + b"]"


def _as_base64(vector: bytes) -> str:
    """32-bit floats, little-endian."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
