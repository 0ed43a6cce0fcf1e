"""Answers that do not stream: they come whole, in the end of their log."""

import asyncio
import time

from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import StreamEnd, Usage, pack_vector
from services.worker.engines.base import LoadedEngine


async def whole_answer(loaded: LoadedEngine, task: InferenceTask, load_ns: int) -> StreamEnd:
    """To every kind of task but those that generate. Reading tokens is not billed: the model does nothing for it."""
    began = time.perf_counter_ns()

    def usage(prompt_tokens: int = 0) -> Usage:
        return Usage(prompt_tokens, 0, load_ns, time.perf_counter_ns() - began, 0)

    match task.kind:
        case "embed":
            embedded = await loaded.embed(task)
            packed = await asyncio.to_thread(lambda: [pack_vector(vector) for vector in embedded.vectors])
            return StreamEnd(usage=usage(embedded.prompt_tokens), embeddings=packed)
        case "rerank":
            ranks = await loaded.rerank(task)
            return StreamEnd(usage=usage(ranks.prompt_tokens), scores=ranks.scores)
        case "tokenize":
            token_ids = await loaded.tokenize(task.prompt, special=not task.raw)
            return StreamEnd(usage=usage(), token_ids=token_ids)
        case "detokenize":
            text = await loaded.detokenize(task.context)
            return StreamEnd(usage=usage(), rendered=text)
        case _:
            return StreamEnd("load", Usage(load_ns=load_ns))
