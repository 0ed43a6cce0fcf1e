"""POST /api/generate"""

import time

from starlette.responses import Response

from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.lines import Lines, generated_text
from services.gateway.api.ollama.request import check_model, find_model, load, read_common, respond, unload


async def generate(call: Call) -> Response:
    started_ns = time.perf_counter_ns()
    body = Fields(call.body, "GenerateRequest")
    common = read_common(body)
    prompt, suffix, template = body.text("prompt"), body.text("suffix"), body.text("template")
    system, raw, context = body.text("system"), body.flag("raw", False), body.integers("context")
    images = body.items("images", "[]api.ImageData")
    model = await find_model(call, common.model)
    lines = Lines(common.model, generated_text, started_ns, with_context=not raw)
    if not prompt and common.keep_alive_seconds == 0:
        return await unload(call, model, lines)
    if raw and (system or template or context):
        raise InvalidRequest("raw mode does not support template, system, or context")
    check_model(model, common, "generate", tools=False, images=bool(images), suffix=bool(suffix))
    if template:
        raise InvalidRequest("a template in the request is not supported yet")
    if not prompt:
        return await load(call, model, common, lines)
    task = common.task(model, kind="generate", prompt=prompt, system=system or None, context=context, raw=raw)
    return await respond(call, model, task, lines, stream=common.stream)
