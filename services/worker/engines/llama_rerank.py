"""How well documents answer a query, as a cross-encoder sees it: a model that reads both at once and gives a number."""

from typing import Any

from libs.common.contracts.inference import InferenceTask
from libs.common.errors import ContextExceeded
from services.worker.engines.base import Ranks
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.llama_tokens import detokenize, tokenize

# A text that was cut between two tokens may have some more when it is read again.
SPARE_TOKENS = 8


async def rank(process: LlamaProcess, task: InferenceTask, limit: int, at_once: int) -> Ranks:
    """Scores as the model gives them, mostly logits: the server does not normalise them.

    Documents are cut to what query and document may have together, ``limit`` tokens. Raises ``ContextExceeded``.
    """
    documents = await _fit(process, task, limit)
    scores: list[float] = []
    tokens = 0
    for at in range(0, len(documents), at_once):
        answer = await _ask(process, task.prompt, documents[at : at + at_once])
        scores += [row["relevance_score"] for row in sorted(answer["results"], key=lambda row: int(row["index"]))]
        tokens += answer["usage"]["prompt_tokens"]
    return Ranks(scores, tokens)


async def _fit(process: LlamaProcess, task: InferenceTask, limit: int) -> list[str]:
    longest, query_bytes = limit - SPARE_TOKENS, len(task.prompt.encode())
    if all(query_bytes + len(text.encode()) < longest // 2 for text in task.inputs):
        return list(task.inputs)  # a token is a byte or more, and no model writes that much around them
    around = (await _ask(process, "", [""]))["usage"]["prompt_tokens"]
    room = longest - around - len(await tokenize(process, task.prompt, special=False))
    if room <= 0:
        raise ContextExceeded("the query length exceeds the context length")
    return [await _cut(process, text, room, may_cut=task.truncate) for text in task.inputs]


async def _cut(process: LlamaProcess, text: str, room: int, *, may_cut: bool) -> str:
    if len(text.encode()) <= room:
        return text
    ids = await tokenize(process, text, special=False)
    if len(ids) <= room:
        return text
    if not may_cut:
        raise ContextExceeded("the input length exceeds the context length")
    return await detokenize(process, ids[:room])


async def _ask(process: LlamaProcess, query: str, documents: list[str]) -> dict[str, Any]:
    body = {"query": query, "documents": documents}
    answer: dict[str, Any] = await process.work("/rerank", body, process.silence_seconds * len(documents))
    return answer
