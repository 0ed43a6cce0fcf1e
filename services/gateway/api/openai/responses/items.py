"""Items, of which conversations and answers are made, as the messages that a model is told."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from libs.common.contracts.inference import ChatMessage, ToolCall, ToolFunction
from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import MOST_OBJECTS, Fields
from services.gateway.api.ollama.chat import bounded
from services.gateway.api.openai.messages import check_arguments, grouped, read_arguments, read_image
from services.gateway.api.openai.responses.tools import Function

Item = dict[str, Any]

ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def read_input(value: Any) -> list[Item]:
    """A text is what the user says. Raises ``InvalidRequest``."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if not isinstance(value, list):
        raise InvalidRequest("input is required: text, or a list of items", param="input")
    if len(value) > MOST_OBJECTS:
        raise InvalidRequest(f"input must not have more than {MOST_OBJECTS} items", param="input")
    return value


def read_messages(earlier: Sequence[Item], given: Sequence[Item], *, urls: bool) -> tuple[ChatMessage, ...]:
    """``given``: the request's own items, which errors are about. Images as in a chat. Raises ``InvalidRequest``."""
    return bounded(check_arguments(_Conversation(urls=urls).messages([*earlier, *given], first=-len(earlier))))


class _Conversation:
    """What the model says in one go, be it several items, is one message."""

    def __init__(self, *, urls: bool) -> None:
        self._urls = urls
        self._names: dict[str, str] = {}
        """Of the functions that were called, by the id of the call."""

        self._turn: dict[str, Any] = {}
        self._parts = 0

    def messages(self, items: Iterable[Any], first: int) -> Iterator[ChatMessage]:
        """``first``: the number of the first item."""
        for number, item in enumerate(items, first):
            try:
                yield from self._read(Fields(item, "ResponseItem"))
            except InvalidRequest as error:
                where = f"input[{number}]"
                raise InvalidRequest(f"{where}: {error.message}", param=where) from None
        yield from self._end_turn()

    def _read(self, item: Fields) -> Iterator[ChatMessage]:
        match item.text("type") or ("message" if item.text("role") else ""):
            case "message":
                yield from self._message(item)
            case "reasoning":
                if self._turn.keys() - {"thinking"}:
                    yield from self._end_turn()
                self._turn["thinking"] = self._turn.get("thinking", "") + _thoughts(item)
            case "function_call":
                self._turn.setdefault("tool_calls", []).append(self._call(item))
            case "function_call_output":
                yield from self._end_turn()
                yield from self._output(item)
            case "web_search_call":
                pass  # what was found there is in the message that follows
            case other:
                raise InvalidRequest(f'unknown input item type: "{other[:50]}"')

    def _message(self, item: Fields) -> Iterator[ChatMessage]:
        role = ROLES.get(item.text("role"))
        if role is None:
            raise InvalidRequest(f"role must be one of {', '.join(ROLES)}")
        messages = self._contents(item, "content")
        if role == "assistant" and len(messages) == 1 and not messages[0].get("images"):
            if self._turn.keys() - {"thinking"}:
                yield from self._end_turn()
            self._turn["content"] = messages[0]["content"]
        else:
            yield from self._end_turn()
            for message in messages:
                yield ChatMessage(role=role, **message)

    def _call(self, item: Fields) -> ToolCall:
        name = Function(item.text("name"), item.text("namespace")).called
        self._names[item.text("call_id")] = name
        arguments = read_arguments(item.text("arguments"))
        return ToolCall(id=item.text("call_id"), function=ToolFunction(name=name, arguments=arguments))

    def _output(self, item: Fields) -> Iterator[ChatMessage]:
        call_id = item.text("call_id")
        for message in self._contents(item, "output"):
            yield ChatMessage(role="tool", tool_call_id=call_id, tool_name=self._names.get(call_id, ""), **message)

    def _contents(self, item: Fields, name: str) -> list[dict[str, Any]]:
        """Of one message or several, as in a chat."""
        given = item.raw(name)
        if isinstance(given, str):
            return [{"content": given}]
        if not isinstance(given, list):
            raise InvalidRequest(f"{name} must be text, or a list of parts")
        self._parts += len(given)
        if self._parts > MOST_OBJECTS:
            raise InvalidRequest(f"a conversation must not have more than {MOST_OBJECTS} parts")
        return grouped([self._part(part) for part in item.objects(name, "ContentPart")])

    def _part(self, part: Fields) -> tuple[str, str]:
        """(image, text)"""
        match part.text("type"):
            case "input_text" | "output_text" | "text":
                return "", part.text("text")
            case "refusal":
                return "", part.text("refusal")
            case "input_image" if part.text("image_url"):
                return read_image(part.text("image_url"), urls=self._urls), ""
            case "input_image":
                raise InvalidRequest("input_image needs image_url: files are not supported here")
            case other:
                raise InvalidRequest(f"content of type {other[:50]!r} is not supported here")

    def _end_turn(self) -> Iterator[ChatMessage]:
        if self._turn:
            turn, self._turn = self._turn, {}
            yield ChatMessage(role="assistant", **{**turn, "tool_calls": tuple(turn.get("tool_calls", ()))})


def _thoughts(item: Fields) -> str:
    """Whatever of the three forms is there: the text itself, what stands for it, or its summary."""
    content = "".join(part.text("text") for part in item.objects("content", "ReasoningContent"))
    return content or item.text("encrypted_content") or "".join(
        part.text("text") for part in item.objects("summary", "ReasoningSummary")
    )  # fmt: skip
