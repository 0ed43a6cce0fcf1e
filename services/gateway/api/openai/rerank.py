"""POST /v1/rerank: which OpenAI does not have, as Jina and Cohere do, whose clients are pointed here."""

from typing import Any, Final

from starlette.responses import Response

from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.guard import REQUEST_ID
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.rerank import read_ranking
from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.api.openai import wire

HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    **dict.fromkeys(
        ("rank_fields", "max_chunks_per_doc", "max_tokens_per_doc", "max_query_length", "max_doc_length"), ()
    ),
    "return_embeddings": (False,),
}
"""What cuts documents otherwise than the model does would change their order."""


async def rerank(call: Call) -> Response:
    body = Fields(call.body, "RerankRequest")
    wire.refuse_what_is_not_here(body, HARMLESS)
    name, ranking, truncate = body.text("model"), read_ranking(body), body.flag("truncation", True)
    model = await wire.find_model(call, name)
    _, end = await whole_answer(call, model, ranking.task(model, name, {}, truncate=truncate))
    asked = end.usage.prompt_tokens
    return JsonAnswer(
        {
            "id": f"rerank-{call.scope[REQUEST_ID]}",
            "object": "list",
            "model": name,
            "results": ranking.results(end),
            "usage": {"prompt_tokens": asked, "total_tokens": asked},
        }
    )
