"""An answer as OpenAI tells it: one event after the other, and the items that they make up.

It is a function of the request and the frames alone: whoever reads them again tells the same.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from libs.common.contracts.tokens import Frame, Logprob, StreamEnd
from libs.common.errors import ServiceError
from services.gateway.api.openai import wire
from services.gateway.api.openai.responses.items import Item
from services.gateway.api.openai.responses.shown import Reply
from services.gateway.api.openai.responses.tools import Function

Event = dict[str, Any]

PREFIX: Final = "resp_"


class Story:
    def __init__(self, reply: Reply) -> None:
        self.output: list[Item] = []
        self.response: dict[str, Any] = {}
        """Once it has ended."""

        self._reply = reply
        self._open: _Thought | _Said | None = None
        self._thought, self._told = 0, 0
        """Characters."""

        self._runs = False

    def begin(self) -> Iterator[Event]:
        asked = self._reply.asked
        begun = self._reply.shown("queued" if asked.background else "in_progress", [])
        yield {"type": "response.created", "response": begun}
        if asked.background:
            yield {"type": "response.queued", "response": begun}

    def add(self, frame: Frame) -> Iterator[Event]:
        if not self._runs and frame.seq:  # without a number it is of no log, and only opens the stream
            self._runs = True
            yield {"type": "response.in_progress", "response": self._reply.shown("in_progress", [])}
        if frame.thinking:
            self._thought += len(frame.thinking)
            yield from self._think(frame.thinking)
        if frame.text:
            self._told += len(frame.text)
            yield from self._say(frame.text, [] if frame.thinking else frame.logprobs)
        for call in frame.tool_calls:
            yield from self._call(call)

    def end(self, end: StreamEnd) -> Iterator[Event]:
        if not self.output and self._open is None:
            yield from self._say("", [])
        yield from self._close("incomplete" if end.done_reason == "length" else "completed")
        self.response = self._reply.ended(self.output, end, self._thinking_share)
        yield {"type": f"response.{self.response['status']}", "response": self.response}

    @property
    def _thinking_share(self) -> float:
        """Of all that was generated, in characters: nobody counts its tokens."""
        return self._thought / max(1, self._thought + self._told)

    def hear(self, frame: Frame) -> None:
        """Without telling it."""
        for _event in self.add(frame):
            pass
        for _event in self.end(frame.end) if frame.end is not None else ():
            pass

    def fail(self, error: ServiceError) -> Iterator[Event]:
        """What was open stays so: no event ends an item that has no end."""
        for _event in self._close("incomplete"):
            pass
        self.response = self._reply.failed(self.output, error)
        yield {"type": "response.failed", "response": self.response}

    def _think(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, _Thought):
            yield from self._close()
            self._open = _Thought(self._id("rs"), len(self.output), encrypted=self._reply.asked.encrypted)
            yield from self._open.begin()
        yield self._open.grow(text)

    def _say(self, text: str, logprobs: list[Logprob]) -> Iterator[Event]:
        if not isinstance(self._open, _Said):
            yield from self._close()
            self._open = _Said(self._id("msg"), len(self.output))
            yield from self._open.begin()
        if text:
            yield self._open.grow(text, [wire.logprob(each) for each in logprobs])

    def _close(self, status: str = "completed") -> Iterator[Event]:
        if self._open is not None:
            yield from self._open.end(status)
            self.output.append(self._open.item)
            self._open = None

    def _call(self, call: dict[str, Any]) -> Iterator[Event]:
        """Whole: that is how they come."""
        yield from self._close()
        item = self._called(call)
        self._told += len(item["name"]) + len(item["arguments"])
        where = {"item_id": item["id"], "output_index": len(self.output)}
        index, arguments = {"output_index": len(self.output)}, item["arguments"]
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield {"type": "response.output_item.added", **index, "item": begun}
        yield {"type": "response.function_call_arguments.delta", **where, "delta": arguments}
        yield {"type": "response.function_call_arguments.done", **where, "name": item["name"], "arguments": arguments}
        yield {"type": "response.output_item.done", **index, "item": item}
        self.output.append(item)

    def _called(self, call: dict[str, Any]) -> Item:
        function, item_id = call["function"], self._id("fc")
        known = self._reply.asked.tools.in_namespaces.get(function["name"]) or Function(function["name"])
        return {
            "id": item_id,
            "type": "function_call",
            "status": "completed",
            "call_id": call.get("id") or item_id.replace("fc", "call", 1),
            "name": known.name,
            **({"namespace": known.namespace} if known.namespace else {}),
            "arguments": json.dumps(function.get("arguments") or {}, ensure_ascii=False),
        }

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._reply.id.removeprefix(PREFIX)}_{len(self.output)}"


class _Thought:
    """A reasoning item under way. It has no other text than what the model thinks, so that is its summary."""

    def __init__(self, item_id: str, index: int, *, encrypted: bool) -> None:
        self.item: Item = {"id": item_id, "type": "reasoning", "status": "in_progress", "summary": []}
        self._index = {"output_index": index}
        self._where = {"item_id": item_id, **self._index, "summary_index": 0}
        self._encrypted = encrypted
        self._texts: list[str] = []

    def begin(self) -> Iterator[Event]:
        yield {"type": "response.output_item.added", **self._index, "item": self.item}
        part = {"type": "summary_text", "text": ""}
        yield {"type": "response.reasoning_summary_part.added", **self._where, "part": part}

    def grow(self, text: str) -> Event:
        self._texts.append(text)
        return {"type": "response.reasoning_summary_text.delta", **self._where, "delta": text}

    def end(self, status: str) -> Iterator[Event]:
        text = "".join(self._texts)
        part = {"type": "summary_text", "text": text}
        yield {"type": "response.reasoning_summary_text.done", **self._where, "text": text}
        yield {"type": "response.reasoning_summary_part.done", **self._where, "part": part}
        encrypted = {"encrypted_content": text} if self._encrypted else {}
        self.item = {**self.item, "status": status, "summary": [part], **encrypted}
        yield {"type": "response.output_item.done", **self._index, "item": self.item}


class _Said:
    """A message under way."""

    def __init__(self, item_id: str, index: int) -> None:
        self.item: Item = {
            "id": item_id,
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self._index = {"output_index": index}
        self._where = {"item_id": item_id, **self._index, "content_index": 0}
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def begin(self) -> Iterator[Event]:
        yield {"type": "response.output_item.added", **self._index, "item": self.item}
        yield {"type": "response.content_part.added", **self._where, "part": self._part("", [])}

    def grow(self, text: str, logprobs: list[dict[str, Any]]) -> Event:
        self._texts.append(text)
        self._logprobs += logprobs
        return {"type": "response.output_text.delta", **self._where, "delta": text, "logprobs": logprobs}

    def end(self, status: str) -> Iterator[Event]:
        text, logprobs = "".join(self._texts), self._logprobs
        part = self._part(text, logprobs)
        yield {"type": "response.output_text.done", **self._where, "text": text, "logprobs": logprobs}
        yield {"type": "response.content_part.done", **self._where, "part": part}
        self.item = {**self.item, "status": status, "content": [part]}
        yield {"type": "response.output_item.done", **self._index, "item": self.item}

    @staticmethod
    def _part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
