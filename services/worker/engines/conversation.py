"""What a task asks to be answered: the model's own words first, tool results matched to the calls they answer."""

from collections.abc import Sequence

from libs.common.contracts.inference import ChatMessage, InferenceTask, ModelRef, ToolCall


def conversation(task: InferenceTask, model: ModelRef) -> tuple[ChatMessage, ...]:
    """The messages to answer. The model's own system prompt goes first unless the task brings one."""
    if task.kind == "generate":
        system = model.system if task.system is None else task.system
        stored = () if task.context else model.messages
        question = ChatMessage(role="user", content=task.prompt, images=task.images)
        return _matched((*_system(system), *stored, question))
    brings_one = bool(task.messages) and task.messages[0].role == "system"
    return _matched(_one_system((*(() if brings_one else _system(model.system)), *model.messages, *task.messages)))


def thinks(task: InferenceTask, model: ModelRef) -> bool:
    """Whether the answer begins with thinking that the caller wants to see."""
    return "thinking" in model.capabilities and task.think is not False


def think_level(task: InferenceTask) -> str:
    """``low``, ``medium``, ``high`` or ``max``; empty if none was asked for."""
    return task.think if isinstance(task.think, str) else ""


def _one_system(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Those of the system that stand at the beginning as one: many templates have a place for one alone."""
    count = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    if count < 2:
        return messages
    text = "\n\n".join(filter(None, (message.content for message in messages[:count])))
    return (messages[0].model_copy(update={"content": text}), *messages[count:])


def _system(text: str) -> tuple[ChatMessage, ...]:
    return (ChatMessage(role="system", content=text),) if text else ()


def _matched(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Give calls an id, and results the id and name of their call: some clients drop both. Order decides then."""
    if not any(message.tool_calls or message.role == "tool" for message in messages):
        return messages
    matched: list[ChatMessage] = []
    unanswered: list[ToolCall] = []
    for position, message in enumerate(messages):
        if message.tool_calls:
            unanswered = [
                call if call.id else call.model_copy(update={"id": f"call_{position}_{index}"})
                for index, call in enumerate(message.tool_calls)
            ]
            matched.append(message.model_copy(update={"tool_calls": tuple(unanswered)}))
        elif message.role == "tool" and (place := _answered_by(message, unanswered)) is not None:
            call = unanswered.pop(place)
            matched.append(message.model_copy(update={"tool_call_id": call.id, "tool_name": call.function.name}))
        else:
            matched.append(message)
    return tuple(matched)


def _answered_by(result: ChatMessage, calls: Sequence[ToolCall]) -> int | None:
    """The place of its call."""
    if result.tool_call_id:
        return next((i for i, call in enumerate(calls) if call.id == result.tool_call_id), None)
    if result.tool_name:
        return next((i for i, call in enumerate(calls) if call.function.name == result.tool_name), None)
    return 0 if calls else None
