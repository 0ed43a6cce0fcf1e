"""What llama.cpp's own quantizer chooses."""

import pytest
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from services.registry.conversion.tensor_types import plan

SHAPES = {
    "token_embd.weight": [512, 100],
    "output_norm.weight": [512],
    "output.weight": [512, 100],
    **{f"blk.{layer}.attn_v.weight": [512, 512] for layer in range(16)},
    **{f"blk.{layer}.attn_q.weight": [512, 512] for layer in range(16)},
    **{f"blk.{layer}.ffn_down.weight": [1024, 512] for layer in range(16)},
    "blk.0.attn_q_norm.weight": [512, 4],
    "blk.0.ffn_gate_inp.weight": [512, 8],
    "blk.0.attn_q.bias": [512],
}
PRESENT = dict.fromkeys(SHAPES, Type.F32)
MORE_BITS = {0, 1, 4, 7, 10, 13, 14, 15}
"""The first and the last eighth, and every third between."""


def test_q4_k_m() -> None:
    types = plan(SHAPES, PRESENT, LlamaFileType.MOSTLY_Q4_K_M)
    assert (types["token_embd.weight"], types["output.weight"]) == (Type.Q4_K, Type.Q6_K)
    for kind in ("attn_v", "ffn_down"):
        assert {layer for layer in range(16) if types[f"blk.{layer}.{kind}.weight"] is Type.Q6_K} == MORE_BITS
    assert {types[f"blk.{layer}.attn_q.weight"] for layer in range(16)} == {Type.Q4_K}


def test_q4_k_s() -> None:
    types = plan(SHAPES, PRESENT, LlamaFileType.MOSTLY_Q4_K_S)
    assert [layer for layer in range(16) if types[f"blk.{layer}.attn_v.weight"] is Type.Q5_K] == [0, 1, 2, 3]
    assert [layer for layer in range(16) if types[f"blk.{layer}.ffn_down.weight"] is Type.Q5_K] == [0, 1]


@pytest.mark.parametrize(
    ("file_type", "expected"),
    [
        (LlamaFileType.MOSTLY_Q8_0, Type.Q8_0),
        (LlamaFileType.MOSTLY_F16, Type.F16),
        (LlamaFileType.MOSTLY_BF16, Type.BF16),
        (LlamaFileType.MOSTLY_Q4_K_M, Type.Q4_K),
    ],
)
def test_what_is_small_stays_as_it_is(file_type: LlamaFileType, expected: Type) -> None:
    types = plan(SHAPES, PRESENT, file_type)
    assert types["blk.2.attn_q.weight"] is expected
    kept = ("output_norm.weight", "blk.0.attn_q_norm.weight", "blk.0.ffn_gate_inp.weight", "blk.0.attn_q.bias")
    assert {types[name] for name in kept} == {Type.F32}


def test_embeddings_that_are_the_output_too_get_more_bits() -> None:
    shapes = {"token_embd.weight": [512, 100]}
    assert plan(shapes, {}, LlamaFileType.MOSTLY_Q4_K_M) == {"token_embd.weight": Type.Q6_K}


@pytest.mark.parametrize(
    ("row", "file_type", "expected"),
    [
        (96, LlamaFileType.MOSTLY_Q4_K_M, Type.Q5_0),
        (100, LlamaFileType.MOSTLY_Q4_K_M, Type.F16),
        (100, LlamaFileType.MOSTLY_Q8_0, Type.F16),
        (100, LlamaFileType.ALL_F32, Type.F32),
    ],
)
def test_rows_that_are_no_whole_blocks(row: int, file_type: LlamaFileType, expected: Type) -> None:
    shapes = {"blk.0.attn_q.weight": [row, 8], "output.weight": [256, 8]}
    assert plan(shapes, {}, file_type)["blk.0.attn_q.weight"] is expected
