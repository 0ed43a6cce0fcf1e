"""The stream of a response in the background, read from its log: the same bytes, whoever reads it and whenever."""

from libs.common.contracts.tokens import Frame
from services.gateway.api.answer import Requests, StreamedAnswer
from services.gateway.api.openai.responses.events import Events
from services.gateway.api.openai.responses.shown import Reply
from services.gateway.context import Context
from services.gateway.responses.reading import Reading
from services.gateway.store.responses import StoredResponse


async def follow(ctx: Context, row: StoredResponse, reply: Reply, after: int = -1) -> StreamedAnswer:
    """It begins at once, with an empty frame: the first of the answer may be hours away."""
    requests = Requests([Reading(ctx, row)])
    opening = Frame(row.request_id, 0, 0)
    answer = StreamedAnswer(requests, (0, opening), requests.frames(), Events(lambda _id: reply, after))
    answer.headers["Cache-Control"] = "no-cache"
    return answer
