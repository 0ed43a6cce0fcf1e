"""From what is asked to what the model is to do: with what was said before, images, and what the model can."""

from dataclasses import replace

from libs.common.contracts.inference import ChatMessage, InferenceTask, ModelRef
from services.gateway.api.door import Call
from services.gateway.api.ollama.capabilities import check_model
from services.gateway.api.openai import wire
from services.gateway.api.openai.messages import have_images, with_images
from services.gateway.api.openai.responses.items import read_messages
from services.gateway.api.openai.responses.request import Asked
from services.gateway.responses.conversation import earlier_items, with_references


async def resolved(call: Call, asked: Asked) -> Asked:
    """With the items that its input only names. Raises ``InvalidRequest``."""
    return replace(asked, input=await with_references(call.ctx, call.caller, asked.input))


async def prepare(call: Call, asked: Asked) -> tuple[ModelRef, InferenceTask]:
    """Raises ``InvalidRequest``, ``PreviousResponseNotFound``, and what ``find_model`` raises."""
    earlier = await earlier_items(call.ctx, call.caller, asked.previous)
    messages = read_messages(earlier, asked.input, urls=call.ctx.settings.image_urls)
    if asked.instructions:
        messages = (ChatMessage(role="system", content=asked.instructions), *messages)
    images = await have_images(messages)
    tools = asked.tools.use
    model = await wire.find_model(call, asked.model)
    check_model(model, asked.model, "chat", thinking=bool(asked.think), tools=bool(tools.offered), images=images)
    return model, InferenceTask(
        kind="chat",
        messages=await with_images(call, messages),
        tools=tools.offered,
        tool_choice=tools.choice,
        parallel_tool_calls=tools.parallel,
        format=asked.format,
        think=asked.think,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        truncate=asked.truncate,
        options=wire.sampling(model, asked.options, ()),
    )
