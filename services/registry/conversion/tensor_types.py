"""Which type each tensor of a quantized model gets: the rules of llama.cpp's own quantizer. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

Type = GGMLQuantizationType

FILE_TYPES: Final = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_K_S": LlamaFileType.MOSTLY_Q4_K_S,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
}
BASE_TYPES: Final = {
    LlamaFileType.ALL_F32: Type.F32,
    LlamaFileType.MOSTLY_F16: Type.F16,
    LlamaFileType.MOSTLY_BF16: Type.BF16,
    LlamaFileType.MOSTLY_Q8_0: Type.Q8_0,
    LlamaFileType.MOSTLY_Q4_K_S: Type.Q4_K,
    LlamaFileType.MOSTLY_Q4_K_M: Type.Q4_K,
}
FALLBACKS: Final = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
"""For rows that are not a whole number of blocks."""

SMALL_BUT_SENSITIVE: Final = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|altup|laurel|per_layer_model_proj|^position_embd\.weight|^token_types\.weight"
    r"|ssm_conv1d|shortconv\.conv\.weight|time_mix_(first|[wvag][0-2]|decay_w[12]|lerp_fused)\.weight"
    r"|attn_rel_b\.weight|\.position_embd|\.rel_pos|\.patch_embd|\.patch_merger"
)
LAYER: Final = re.compile(r"blk\.(\d+)\.(attn_v|attn_qkv|ffn_down)\.weight")


def plan(shapes: Mapping[str, Sequence[int]], present: Mapping[str, Type], wanted: LlamaFileType) -> dict[str, Type]:
    """For every tensor. ``shapes`` begin with the length of a row."""
    layers = 1 + max((int(found[1]) for name in shapes if (found := re.match(r"blk\.(\d+)\.", name))), default=-1)
    tied = "output.weight" not in shapes
    return {
        name: _type(name, shape[0], wanted, layers, tied=tied) if _is_quantized(name, shape) else present[name]
        for name, shape in shapes.items()
    }


def _is_quantized(name: str, shape: Sequence[int]) -> bool:
    is_matrix = sum(side > 1 for side in shape[1:]) >= 1
    return is_matrix and name.endswith("weight") and SMALL_BUT_SENSITIVE.search(name) is None


def _type(name: str, row: int, wanted: LlamaFileType, layers: int, *, tied: bool) -> Type:
    base = BASE_TYPES[wanted]
    if base is not Type.Q4_K:
        return _that_fits(base, row)
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return _that_fits(Type.Q6_K, row)
    if (found := LAYER.fullmatch(name)) is None:
        return _that_fits(base, row)
    layer, is_value = int(found[1]), found[2] != "ffn_down"
    if wanted is LlamaFileType.MOSTLY_Q4_K_M:
        return _that_fits(Type.Q6_K if _deserves_more(layer, layers) else base, row)
    first_few = 4 if is_value else layers // 8
    return _that_fits(Type.Q5_K if layer < first_few else base, row)


def _deserves_more(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _that_fits(wanted: Type, row: int) -> Type:
    for candidate in (wanted, FALLBACKS.get(wanted, Type.F16)):
        if row % GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    return Type.F16
