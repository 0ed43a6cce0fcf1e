"""What a GGUF file says about its model. Reading one costs seconds for a large vocabulary, so always in a thread."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gguf import LlamaFileType, PoolingType
from pydantic import BaseModel, ConfigDict

from libs.common.contracts.inference import ModelDetails
from libs.common.errors import InvalidRequest
from services.registry import gguf_file
from services.registry.attention import kv_bytes_per_token
from services.registry.gguf_file import Header

# Told elsewhere in ``show``, or about the file rather than the model.
HIDDEN_KEYS = frozenset({"general.name", "tokenizer.chat_template"})

LONGEST_ARCHITECTURE = 100

# What a Jinja template reads in its tags, quoted text left aside. A quote that is not closed lasts to the end of its
# tag, so that no template makes us look for the same end again and again.
TAG_BEGIN, TAG_END = re.compile(r"{[{%]"), re.compile(r"[%}]}")
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*+'?|\"(?:[^\"\\]|\\.)*+\"?", re.DOTALL)
THINKING_MARKS = ("<think>", "reasoning_content", "enable_thinking")
INFILL_KEYS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")


class GgufInfo(BaseModel):
    """The facts the registry keeps about a model. ``model_info`` has None for arrays."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    details: ModelDetails
    capabilities: tuple[str, ...]
    template: str = ""
    model_info: dict[str, Any]
    kv_bytes: int | None = None
    """None of a file that was read by an earlier version."""

    @property
    def kv_bytes_per_token(self) -> int:
        return kv_bytes_per_token(self.model_info) if self.kv_bytes is None else self.kv_bytes


async def read(path: Path) -> GgufInfo:
    """Raises ``InvalidRequest`` if the file is not a GGUF, ``OSError`` if it cannot be read."""
    return await asyncio.to_thread(_read, path)


async def read_in_full(path: Path) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """``model_info`` with its arrays, and the tensors as ``{name, type, shape}``."""
    return await asyncio.to_thread(_read_in_full, path)


def _read(path: Path) -> GgufInfo:
    with _understood(path):
        return _info(gguf_file.read(path, arrays=False))


def _read_in_full(path: Path) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    with _understood(path):
        header = gguf_file.read(path, arrays=True)
    tensors = tuple(
        {"name": tensor.name, "type": tensor.type.name, "shape": list(tensor.shape)} for tensor in header.tensors
    )
    return _shown(header), tensors


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OverflowError) as error:  # also of values that are no numbers
        raise InvalidRequest(f"{path.name} is not a GGUF file that can be read: {error}") from error


def _info(header: Header) -> GgufInfo:
    values = header.values
    architecture = str(values.get("general.architecture") or "unknown")
    if len(architecture) > LONGEST_ARCHITECTURE:  # it is told in every list of models
        raise ValueError("its architecture has too long a name")
    template = str(values.get("tokenizer.chat_template") or "")
    return GgufInfo(
        details=ModelDetails(
            format="gguf",
            family=architecture,
            families=(architecture,),
            parameter_size=human_number(_parameter_count(header)),
            quantization_level=_quantization(values.get("general.file_type")),
            context_length=int(values.get(f"{architecture}.context_length") or 0),
            embedding_length=int(values.get(f"{architecture}.embedding_length") or 0),
        ),
        capabilities=capabilities(values, template),
        template=template,
        model_info={key: None if isinstance(value, list) else value for key, value in _shown(header).items()},
        kv_bytes=kv_bytes_per_token(values),
    )


def _shown(header: Header) -> dict[str, Any]:
    shown = {key: value for key, value in header.values.items() if key not in HIDDEN_KEYS}
    return {**shown, "general.parameter_count": _parameter_count(header)}


def _parameter_count(header: Header) -> int:
    return sum(tensor.elements for tensor in header.tensors)


def capabilities(values: Mapping[str, Any], template: str) -> tuple[str, ...]:
    """In the order Ollama tells them; never empty."""
    architecture = values.get("general.architecture")
    if (pooling := values.get(f"{architecture}.pooling_type")) is not None:
        return ("rerank",) if pooling == PoolingType.RANK else ("embedding",)
    read_by_template = " ".join(QUOTED.sub("", tag) for tag in _tags(template))
    found = {
        "completion": True,
        "vision": f"{architecture}.vision.block_count" in values,
        "tools": re.search(r"\btools\b", read_by_template) is not None,
        "insert": any(key in values for key in INFILL_KEYS),
        "thinking": any(mark in template for mark in THINKING_MARKS),
    }
    return tuple(name for name, present in found.items() if present)


def _tags(template: str) -> Iterator[str]:
    end = 0
    while begins := TAG_BEGIN.search(template, end):
        ends = TAG_END.search(template, begins.end())
        if ends is None:
            return
        end = ends.end()
        yield template[begins.start() : end]


def human_number(count: int) -> str:
    """As Ollama writes the size of a model: 134.52M, 1.2B, 7B."""
    for unit, letter, decimals in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else decimals}f}{letter}"
    return str(count)


def _quantization(file_type: Any) -> str:
    try:
        name = LlamaFileType(file_type).name
    except ValueError:
        return "unknown"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")
