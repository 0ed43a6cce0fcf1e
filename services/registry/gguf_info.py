"""What a GGUF file says about its model. Reading one costs seconds for a large vocabulary, so always in a thread."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, LlamaFileType
from pydantic import BaseModel, ConfigDict

from libs.common.contracts.inference import ModelDetails
from libs.common.errors import InvalidRequest

# Told elsewhere in ``show``, or about the file rather than the model.
HIDDEN_KEYS = frozenset({"general.name", "tokenizer.chat_template"})

# What a Jinja template reads in its tags, quoted text left aside.
TEMPLATE_TAG = re.compile(r"{[{%].*?[%}]}", re.DOTALL)
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
THINKING_MARKS = ("<think>", "reasoning_content", "enable_thinking")
INFILL_KEYS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")


class GgufInfo(BaseModel):
    """The facts the registry keeps about a model. ``model_info`` has None for arrays."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    details: ModelDetails
    capabilities: tuple[str, ...]
    template: str = ""
    model_info: dict[str, Any]


async def read(path: Path) -> GgufInfo:
    """Raises ``InvalidRequest`` if the file is not a GGUF, ``OSError`` if it cannot be read."""
    return await asyncio.to_thread(_read, path)


async def read_in_full(path: Path) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """``model_info`` with its arrays, and the tensors as ``{name, type, shape}``."""
    return await asyncio.to_thread(_read_in_full, path)


def _read(path: Path) -> GgufInfo:
    with _understood(path):
        return _info(GGUFReader(path))


def _read_in_full(path: Path) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    with _understood(path):
        reader = GGUFReader(path)
        tensors = tuple(
            {"name": tensor.name, "type": tensor.tensor_type.name, "shape": [int(side) for side in tensor.shape]}
            for tensor in reader.tensors
        )
        return _shown(_values(reader, arrays=True), _parameter_count(reader)), tensors


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """The package raises whatever the bytes lead it to; all of that means: not a GGUF."""
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise InvalidRequest(f"{path.name} is not a GGUF file that can be read: {error}") from error


def _info(reader: GGUFReader) -> GgufInfo:
    values = _values(reader, arrays=False)
    parameters = _parameter_count(reader)
    architecture = str(values.get("general.architecture") or "unknown")
    template = str(values.get("tokenizer.chat_template") or "")
    return GgufInfo(
        details=ModelDetails(
            format="gguf",
            family=architecture,
            families=(architecture,),
            parameter_size=human_number(parameters),
            quantization_level=_quantization(values.get("general.file_type")),
            context_length=int(values.get(f"{architecture}.context_length") or 0),
            embedding_length=int(values.get(f"{architecture}.embedding_length") or 0),
        ),
        capabilities=capabilities(values, template),
        template=template,
        model_info=_shown(values, parameters),
    )


def _values(reader: GGUFReader, *, arrays: bool) -> dict[str, Any]:
    """Keys and values, without the package's own ``GGUF.*`` entries."""
    return {
        key: field.contents() if arrays or field.types[0] is not GGUFValueType.ARRAY else None
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }


def _shown(values: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    shown = {key: value for key, value in values.items() if key not in HIDDEN_KEYS}
    return {**shown, "general.parameter_count": parameters}


def _parameter_count(reader: GGUFReader) -> int:
    return sum(int(tensor.n_elements) for tensor in reader.tensors)


def capabilities(values: Mapping[str, Any], template: str) -> tuple[str, ...]:
    """In the order Ollama tells them; never empty."""
    architecture = values.get("general.architecture")
    if f"{architecture}.pooling_type" in values:
        return ("embedding",)
    read_by_template = QUOTED.sub("", " ".join(TEMPLATE_TAG.findall(template)))
    found = {
        "completion": True,
        "vision": f"{architecture}.vision.block_count" in values,
        "tools": re.search(r"\btools\b", read_by_template) is not None,
        "insert": any(key in values for key in INFILL_KEYS),
        "thinking": any(mark in template for mark in THINKING_MARKS),
    }
    return tuple(name for name, present in found.items() if present)


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
