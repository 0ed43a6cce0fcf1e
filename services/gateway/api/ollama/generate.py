"""POST /api/generate"""

import time

from starlette.responses import Response

from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.capabilities import check_model
from services.gateway.api.ollama.images import check_images
from services.gateway.api.ollama.lines import Lines, generated_text
from services.gateway.api.ollama.options import LARGEST_INT32
from services.gateway.api.ollama.request import find_model, load, read_common, respond, unload

LONGEST_CONTEXT = 2**20
"""In tokens; no model here has more."""


async def generate(call: Call, lines_of: type[Lines] = Lines) -> Response:
    started_ns = time.perf_counter_ns()
    body = Fields(call.body, "GenerateRequest")
    common = read_common(body)
    prompt, suffix, system = body.text("prompt"), body.text("suffix"), body.text("system")
    raw, template, context = body.flag("raw", False), body.text("template"), _context(body)
    images = body.texts("images")
    await check_images(images)
    model = await find_model(call, common.model)
    lines = lines_of(common.model, generated_text, started_ns, with_context=not raw)
    if not prompt and common.keep_alive_seconds == 0:
        return await unload(call, model, lines)
    if raw and (system or template or context):
        raise InvalidRequest("raw mode does not support template, system, or context")
    check_model(model, common.model, "generate", thinking=common.thinking, images=bool(images), suffix=bool(suffix))
    if not prompt:
        return await load(call, model, common, lines)
    task = common.task(
        model,
        kind="generate",
        prompt=prompt,
        suffix=suffix,
        images=images,
        system=system or None,
        template=template or None,
        context=context,
        raw=raw,
    )
    return await respond(call, model, task, lines, stream=common.stream)


def _context(body: Fields) -> tuple[int, ...]:
    """Token ids of an earlier answer."""
    tokens = body.integers("context")
    if len(tokens) > LONGEST_CONTEXT or any(not 0 <= token <= LARGEST_INT32 for token in tokens):
        raise InvalidRequest("context must be token ids of an earlier answer")
    return tokens
