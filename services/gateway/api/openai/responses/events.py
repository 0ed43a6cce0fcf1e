"""A response on its way to the client: its story as numbered server-sent events."""

from collections.abc import Callable, Iterable

from libs.common.contracts.tokens import Frame, StreamEnd
from libs.common.errors import ServiceError
from services.gateway.api import sse
from services.gateway.api.ollama.wire import encode
from services.gateway.api.openai.responses.shown import Reply
from services.gateway.api.openai.responses.story import Event, Story


class Events:
    """``reply_of``: by the request's id. ``after``: the number of the last event that the client has; -1: none."""

    media_type = sse.MEDIA_TYPE
    silence = sse.KEEP_ALIVE

    def __init__(self, reply_of: Callable[[str], Reply], after: int = -1) -> None:
        self._reply_of = reply_of
        self._after = after
        self._number = 0
        self._story: Story

    def opening(self, request_id: str) -> bytes:
        self._story = Story(self._reply_of(request_id))
        return self._told(self._story.begin())

    def chunk(self, frame: Frame, _choice: int) -> bytes:
        return self._told(self._story.add(frame))

    def last(self, frame: Frame, end: StreamEnd, _choice: int) -> bytes:
        return self._told(self._story.add(frame)) + self._told(self._story.end(end))

    def closing(self) -> bytes:
        return b""

    def broken(self, error: ServiceError) -> bytes:
        return self._told(self._story.fail(error))

    def _told(self, events: Iterable[Event]) -> bytes:
        written = []
        for event in events:
            if self._number > self._after:
                data = encode({"type": event["type"], "sequence_number": self._number, **event})
                written.append(sse.event(data, event["type"].encode()))
            self._number += 1
        return b"".join(written)
