"""POST /api/rerank: which Ollama does not have, in the shape that was proposed there; and what /v1/rerank shares."""

import time
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.contracts.tokens import StreamEnd
from libs.common.errors import InvalidRequest, UnsupportedByModel
from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.durations import keep_alive_seconds
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.request import find_model
from services.gateway.api.ollama.wire import JsonAnswer, metrics

MOST_DOCUMENTS: Final = 1000
"""As many as Cohere advises: a worker has the embeddings of all at once."""

CAPABLE: Final = frozenset({"rerank", "embedding", "completion"})
"""Who was not made for it compares embeddings."""

_COUNTED: Final = ("total_duration", "load_duration", "prompt_eval_count")


@dataclass(frozen=True)
class Ranking:
    """What is asked for, as all shapes of it have it."""

    query: str
    documents: tuple[str, ...]
    top_n: int | None
    return_documents: bool

    def task(self, model: ModelRef, asked_as: str, options: dict[str, Any], **fields: Any) -> InferenceTask:
        """Raises ``UnsupportedByModel``."""
        if not CAPABLE & set(model.capabilities):
            raise UnsupportedByModel(f'"{asked_as}" does not support rerank')
        resolved = resolve_options(model, options)
        return InferenceTask(kind="rerank", prompt=self.query, inputs=self.documents, options=resolved, **fields)

    def results(self, end: StreamEnd) -> list[dict[str, Any]]:
        """The most relevant first."""
        scored = sorted(enumerate(end.scores), key=lambda pair: pair[1], reverse=True)
        return [self._result(index, score) for index, score in scored[: self.top_n]]

    def _result(self, index: int, score: float) -> dict[str, Any]:
        document = {"document": {"text": self.documents[index]}} if self.return_documents else {}
        return {"index": index, "relevance_score": score, **document}


def read_ranking(body: Fields) -> Ranking:
    """Raises ``InvalidRequest``."""
    query, top_n = body.text("query"), body.integer("top_n")
    if not query:
        raise InvalidRequest("query is required", param="query")
    if top_n is not None and top_n < 1:
        raise InvalidRequest("top_n must be positive", param="top_n")
    given = body.items("documents", "[]string")
    if not given:
        raise InvalidRequest("documents is required", param="documents")
    if len(given) > MOST_DOCUMENTS:
        raise InvalidRequest(f"documents must not have more than {MOST_DOCUMENTS} items", param="documents")
    return Ranking(query, tuple(map(_document, given)), top_n, body.flag("return_documents", False))


def _document(value: Any) -> str:
    text = Fields(value, "Document", "documents").raw("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InvalidRequest("documents must be texts, or objects with a text", param="documents")
    return text


async def rerank(call: Call) -> Response:
    started_ns = time.perf_counter_ns()
    body = Fields(call.body, "RerankRequest")
    name, ranking = body.text("model"), read_ranking(body)
    keep_alive, options, truncate = (
        keep_alive_seconds(body.raw("keep_alive")),
        body.mapping("options"),
        body.flag("truncate", True),
    )
    model = await find_model(call, name)
    task = ranking.task(model, name, options, keep_alive_seconds=keep_alive, truncate=truncate)
    _, end = await whole_answer(call, model, task)
    counted = metrics(end.usage, started_ns)
    return JsonAnswer({"model": name, "results": ranking.results(end), **{key: counted[key] for key in _COUNTED}})
