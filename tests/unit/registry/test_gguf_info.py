import os
import shutil
from pathlib import Path

import pytest

from libs.common.errors import InvalidRequest
from services.registry import gguf_info
from services.registry.gguf_info import capabilities, human_number
from tests.fixtures.tiny_gguf import CHAT_TEMPLATE, CONTEXT_LENGTH, EMBEDDING_LENGTH, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


async def test_facts_of_a_file(tiny: Path) -> None:
    info = await gguf_info.read(tiny)
    assert info.details.format == "gguf"
    assert info.details.family == "llama"
    assert info.details.families == ("llama",)
    assert info.details.quantization_level == "F32"
    assert info.details.context_length == CONTEXT_LENGTH
    assert info.details.embedding_length == EMBEDDING_LENGTH
    assert info.details.parameter_size.endswith("K")
    assert info.capabilities == ("completion",)
    assert info.template == CHAT_TEMPLATE


async def test_model_info_hides_arrays_name_and_template(tiny: Path) -> None:
    model_info = (await gguf_info.read(tiny)).model_info
    assert model_info["general.architecture"] == "llama"
    assert model_info["llama.context_length"] == CONTEXT_LENGTH
    assert model_info["general.parameter_count"] > 0
    assert model_info["tokenizer.ggml.tokens"] is None
    assert not {"general.name", "tokenizer.chat_template", "GGUF.version"} & model_info.keys()


async def test_in_full_there_are_arrays_and_tensors(tiny: Path) -> None:
    model_info, tensors = await gguf_info.read_in_full(tiny)
    assert model_info["tokenizer.ggml.tokens"][0] == "<|endoftext|>"
    by_name = {tensor["name"]: tensor for tensor in tensors}
    assert by_name["output_norm.weight"] == {"name": "output_norm.weight", "type": "F32", "shape": [EMBEDDING_LENGTH]}


@pytest.mark.parametrize("keep", [0, 3, 4, 24, 100, 3000, 20_000])
async def test_what_is_not_a_whole_gguf_is_refused(tiny: Path, tmp_path: Path, keep: int) -> None:
    cut = Path(shutil.copyfile(tiny, tmp_path / "cut.gguf"))
    os.truncate(cut, keep)
    with pytest.raises(InvalidRequest, match=r"cut\.gguf"):
        await gguf_info.read(cut)


async def test_garbage_is_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + b"\x03\x00\x00\x00" + b"\xff" * 200)
    with pytest.raises(InvalidRequest):
        await gguf_info.read(garbage)


@pytest.mark.parametrize(
    ("values", "template", "expected"),
    [
        ({"general.architecture": "bert", "bert.pooling_type": 1}, "", ("embedding",)),
        ({"general.architecture": "bert", "bert.pooling_type": 4}, "", ("rerank",)),
        ({"general.architecture": "llama"}, "", ("completion",)),
        ({}, "{% if tools %}{{ tools | tojson }}{% endif %}", ("completion", "tools")),
        ({}, "{{ 'you have no tools' }} tools", ("completion",)),
        ({}, "{% if enable_thinking %}<think>{% endif %}", ("completion", "thinking")),
        ({"tokenizer.ggml.fim_pre_token_id": 3}, "", ("completion", "insert")),
        ({}, "{% if 'tools %}{{ tools }}", ("completion", "tools")),
        # Each of these would be looked at for hours if every begin of it looked for its end anew.
        ({}, "{{" * 500_000, ("completion",)),
        ({}, "{{" + "\\'" * 500_000 + "}}", ("completion",)),
        ({"general.architecture": "gemma3", "gemma3.vision.block_count": 27}, "", ("completion", "vision")),
    ],
)
def test_capabilities(values: dict[str, object], template: str, expected: tuple[str, ...]) -> None:
    assert capabilities(values, template) == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [(134_515_008, "134.52M"), (1_235_814_432, "1.2B"), (7_000_000_000, "7B"), (36_000, "36K"), (999, "999")],
)
def test_human_number(count: int, text: str) -> None:
    assert human_number(count) == text
