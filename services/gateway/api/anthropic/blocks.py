"""``messages`` and ``system``: turns made of blocks, which become messages as models know them."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from libs.common.contracts.inference import ChatMessage, ToolCall, ToolFunction
from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import MOST_OBJECTS, Fields, nodes_of
from services.gateway.api.ollama.chat import bounded
from services.gateway.api.openai.messages import read_image

BETWEEN_BLOCKS: Final = "\n\n"
"""In a text made of several. The model's own are put together as they were: citations cut them anywhere."""

_UNREADABLE: Final = ("document", "search_result", "container_upload")
"""Of other kinds that are not known here the model needs to see nothing: they are passed over."""


def read_messages(body: Fields, *, urls: bool) -> tuple[ChatMessage, ...]:
    """The system prompt is the first. Images are base64 or, where ``urls`` are allowed, addresses.

    Raises ``InvalidRequest``.
    """
    given = body.objects("messages", "MessageParam")
    if not given:
        raise InvalidRequest("messages is required", param="messages")
    for _node in nodes_of(body.raw("messages"), "messages"):
        pass  # all of it together is bounded, arguments of calls too: it is read on the event loop
    conversation = _Conversation(urls)
    return bounded([*_system(conversation, body), *conversation.messages(given)])


def _system(conversation: "_Conversation", body: Fields) -> Iterator[ChatMessage]:
    if body.raw("system"):
        yield conversation.system(conversation.blocks(body, "system"))


class _Conversation:
    """What was read so far: the names of called tools by the ids of their calls, and how many blocks there were."""

    def __init__(self, urls: bool) -> None:
        self._urls = urls
        self._tool_names: dict[str, str] = {}
        self._block_count = 0

    def messages(self, given: Iterable[Fields]) -> Iterator[ChatMessage]:
        """Neighbours of one role are one turn."""
        for role, turn in groupby(given, key=lambda message: message.text("role")):
            blocks = (block for message in turn for block in self.blocks(message, "content"))
            match role:
                case "user":
                    yield from self._user(blocks)
                case "assistant":
                    yield self._assistant(blocks)
                case "system":
                    yield self.system(blocks)
                case other:
                    raise InvalidRequest(f"messages: unexpected role {other[:50]!r}", param="messages")

    def blocks(self, within: Fields, name: str) -> Iterator[Fields]:
        """Of a content, which may be a text."""
        content = within.raw(name)
        if isinstance(content, str):
            yield Fields({"type": "text", "text": content}, "ContentBlock")
            return
        if not isinstance(content, list):
            raise InvalidRequest(f"{name} must be a text or a list of blocks", param=name)
        for block in within.objects(name, "ContentBlock"):
            self._block_count += 1
            if self._block_count > MOST_OBJECTS:
                raise InvalidRequest(f"a request must not have more than {MOST_OBJECTS} blocks", param=name)
            yield block

    def system(self, blocks: Iterable[Fields]) -> ChatMessage:
        return ChatMessage(role="system", content=BETWEEN_BLOCKS.join(_texts(blocks)))

    def _user(self, blocks: Iterable[Fields]) -> Iterator[ChatMessage]:
        """Results of tools come first. Their images are the user's: models look for none in a result."""
        texts: list[str] = []
        images: list[str] = []
        results: list[ChatMessage] = []
        for block in blocks:
            match block.text("type"):
                case "text":
                    texts.append(block.text("text"))
                case "image":
                    images.append(self._image(block))
                case "tool_result":
                    results.append(self._result(block, images))
                case kind:
                    _pass_over(kind)
        yield from results
        if texts or images or not results:
            yield ChatMessage(role="user", content=BETWEEN_BLOCKS.join(texts), images=tuple(images))

    def _result(self, result: Fields, images: list[str]) -> ChatMessage:
        """Its images are added to ``images``."""
        texts: list[str] = []
        for block in self.blocks(result, "content") if result.raw("content") else ():
            match block.text("type"):
                case "text":
                    texts.append(block.text("text"))
                case "image":
                    images.append(self._image(block))
                case kind:
                    _pass_over(kind)
        text = BETWEEN_BLOCKS.join(texts)
        call_id = result.text("tool_use_id")
        return ChatMessage(
            role="tool",
            content=f"Error: {text}" if result.flag("is_error", False) else text,
            tool_call_id=call_id,
            tool_name=self._tool_names.get(call_id, ""),
        )

    def _assistant(self, blocks: Iterable[Fields]) -> ChatMessage:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        for block in blocks:
            match block.text("type"):
                case "text":
                    texts.append(block.text("text"))
                case "thinking":
                    thoughts.append(block.text("thinking"))
                case "tool_use":
                    calls.append(self._call(block))
                case kind:
                    _pass_over(kind)
        return ChatMessage(
            role="assistant", content="".join(texts), thinking=BETWEEN_BLOCKS.join(thoughts), tool_calls=tuple(calls)
        )

    def _image(self, block: Fields) -> str:
        source = block.object("source", "ImageSource")
        match source.text("type"):
            case "base64":
                return read_image(f"data:;base64,{source.text('data')}", urls=False)
            case "url":
                return read_image(source.text("url"), urls=self._urls)
            case other:
                raise InvalidRequest(f"an image source of type {other[:50]!r} is not supported here", param="messages")

    def _call(self, block: Fields) -> ToolCall:
        call_id, name = block.text("id"), block.text("name")
        if not call_id or not name:
            raise InvalidRequest("messages: a tool_use block needs an id and a name", param="messages")
        self._tool_names[call_id] = name
        return ToolCall(id=call_id, function=ToolFunction(name=name, arguments=block.mapping("input")))


def _texts(blocks: Iterable[Fields]) -> Iterator[str]:
    for block in blocks:
        if block.text("type") == "text":
            yield block.text("text")
        else:
            _pass_over(block.text("type"))


def _pass_over(kind: str) -> None:
    """Raises ``InvalidRequest`` for what the model would have to see."""
    if not kind:
        raise InvalidRequest("a block must have a type", param="messages")
    if kind in _UNREADABLE:
        raise InvalidRequest(
            f"a block of type {kind!r} is not supported here: send what is in it as text", param="messages"
        )
