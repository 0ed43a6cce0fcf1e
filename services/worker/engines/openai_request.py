"""A job as a request to an OpenAI-compatible server.

Only what OpenAI defines is sent: of the sampling options temperature, top_p, the penalties, seed, stop, logit_bias and
max_tokens. The one exception is whether to think: vLLM, SGLang and llama-server all know it as an argument of the chat
template.
"""

import asyncio
from typing import Any

from libs.common.errors import UnsupportedByModel
from services.worker.engines.base import Job
from services.worker.engines.conversation import conversation, think_level
from services.worker.engines.images import check_images
from services.worker.engines.openai_wire import tool_rules, wire_messages


async def openai_request(job: Job, name: str) -> tuple[str, dict[str, Any]]:
    """Path and body; ``name`` is the upstream's for the model.

    Raises ``UnsupportedByModel`` for what only an engine that renders the prompt itself can do.
    """
    task = job.task
    for what, wanted in (("template", task.template), ("_debug_render_only", task.debug_render_only)):
        if wanted:
            raise UnsupportedByModel(f'"{job.model.name}" does not support {what}')
    body = {"model": name, "stream": True, "stream_options": {"include_usage": True}} | _sampling(job)
    if task.raw or task.suffix:
        more = {"suffix": task.suffix} if task.suffix else {}
        prompt = list(task.context) if task.raw and task.context else task.prompt
        return "completions", body | {"prompt": prompt} | more
    messages = conversation(task, job.model)
    await asyncio.to_thread(check_images, messages)
    body["messages"] = await asyncio.to_thread(wire_messages, messages, reasoning=False)
    return "chat/completions", body | _chat_features(job)


def _sampling(job: Job) -> dict[str, Any]:
    options = job.task.options
    body: dict[str, Any] = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": options.seed,
    }
    if options.num_predict > 0:
        body["max_tokens"] = options.num_predict
    if options.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in options.logit_bias}
    if options.stop:
        body["stop"] = options.stop
    if job.task.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif job.task.format is not None:
        schema = {"name": "answer", "schema": job.task.format}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _chat_features(job: Job) -> dict[str, Any]:
    task = job.task
    body: dict[str, Any] = {}
    if task.tools:
        body |= {"tools": task.tools} | tool_rules(task)
    if task.logprobs:
        body |= {"logprobs": True, "top_logprobs": task.top_logprobs}
    if level := think_level(task):
        body["reasoning_effort"] = level
    elif task.think is not None and "thinking" in job.model.capabilities:
        body["chat_template_kwargs"] = {"enable_thinking": task.think}
    return body
