"""What was asked and answered, for organizations that want it kept. Without images, and bounded."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import structlog

from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.scheduler.requests import Exchange, ExchangeMessage, StoreExchange
from libs.common.contracts.tokens import Frame
from libs.common.errors import ServiceError

if TYPE_CHECKING:
    from services.gateway.context import Context

log = structlog.get_logger(__name__)

LONGEST_ROLE: Final = 50
LONGEST_PROMPT: Final = 32_000
LONGEST_ANSWER: Final = 32_000
"""In characters, of text and of thinking each: with UTF-8 and JSON's escapes the broker's messages stay small."""


def is_exchange(task: InferenceTask) -> bool:
    """Whether a model answers it: who loads a model, reads its tokens or has a prompt rendered asks it nothing."""
    return task.kind in {"chat", "generate", "embed", "rerank"} and not task.debug_render_only


class _Text:
    """Gathers the beginning of a text."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._parts: list[str] = []
        self.truncated = False

    def add(self, text: str) -> str:
        """What of it is kept."""
        kept = text[: self._room]
        self._room -= len(kept)
        self.truncated = self.truncated or len(kept) < len(text)
        if kept:
            self._parts.append(kept)
        return kept

    def __str__(self) -> str:
        return "".join(self._parts)


class Transcript:
    def __init__(self, request: RequestInference, task: InferenceTask) -> None:
        self._request = request
        prompt = _Text(LONGEST_PROMPT)
        # The latest messages tell most: where not all have room, the oldest are left out.
        kept = [
            ExchangeMessage(role=role[:LONGEST_ROLE], content=prompt.add(text))
            for role, text in reversed(list(_asked(task)))
        ]
        self._messages = tuple(message for message in reversed(kept) if message.content or not prompt.truncated)
        self._prompt = prompt
        self._answer, self._thinking = _Text(LONGEST_ANSWER), _Text(LONGEST_ANSWER)

    def add(self, frame: Frame) -> None:
        self._answer.add(frame.text)
        self._thinking.add(frame.thinking)

    async def send(self, ctx: "Context") -> None:
        request = self._request
        exchange = Exchange(
            messages=self._messages,
            answer=str(self._answer),
            thinking=str(self._thinking),
            truncated=self._prompt.truncated or self._answer.truncated or self._thinking.truncated,
        )
        command = StoreExchange(
            request_id=request.request_id,
            organization_id=request.organization_id,
            user_id=request.user_id,
            exchange=exchange,
        )
        try:
            await ctx.bus.send(command, message_id=f"exchange-{request.request_id}")
        except ServiceError as error:
            log.warning("an exchange could not be kept", request_id=request.request_id, why=error.message)


def _asked(task: InferenceTask) -> Iterator[tuple[str, str]]:
    """(role, text), in order."""
    if task.system:
        yield "system", task.system
    for message in task.messages:
        yield message.role, message.content
    for text in (task.prompt, task.suffix, *task.inputs):
        if text:
            yield "user", text
