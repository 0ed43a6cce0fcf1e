"""Between text and the token ids of a loaded model."""

from collections.abc import Iterable, Sequence

from libs.common.errors import InvalidRequest
from services.worker.engines.llama_process import LlamaProcess


async def tokenize(process: LlamaProcess, text: str, *, special: bool) -> list[int]:
    """``special``: add what the model wants at the start, and read ``<|...|>`` as control tokens."""
    return await _tokenize(process, text, add_special=special, parse_special=special)


async def tokenize_inside(process: LlamaProcess, text: str, *, special: bool) -> list[int]:
    """Of a text that follows another: nothing is added at the start.

    Tokenized after a line break, because some vocabularies put a space in front of a text.
    """
    lead = await _tokenize(process, "\n", add_special=False, parse_special=special)
    ids = await _tokenize(process, "\n" + text, add_special=False, parse_special=special)
    if ids[: len(lead)] == lead:
        return ids[len(lead) :]
    return await _tokenize(process, text, add_special=False, parse_special=special)


async def check_tokens(process: LlamaProcess, ids: Iterable[int]) -> None:
    """Raises ``InvalidRequest`` for one that is not in the vocabulary."""
    size = await process.vocabulary_size()
    for number in ids:
        if not 0 <= number < size:
            raise InvalidRequest(f"{number} is no token of this model: it has {size}")


async def detokenize(process: LlamaProcess, ids: Sequence[int]) -> str:
    """Bytes that are no character become U+FFFD."""
    text: str = (await process.ask("/detokenize", {"tokens": ids}))["content"]
    return text


async def _tokenize(process: LlamaProcess, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    body = {"content": text, "add_special": add_special, "parse_special": parse_special}
    ids: list[int] = (await process.ask("/tokenize", body))["tokens"]
    return ids
