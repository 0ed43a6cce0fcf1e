from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, quants

from services.registry.conversion.rewrite import rewrite
from tests.fixtures.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_one_file_with_its_own_types_is_the_same_file(tiny: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    rewrite(tmp_path / "same.gguf", None, [tiny], lambda done, total: told.append((done, total)))
    assert (tmp_path / "same.gguf").read_bytes() == tiny.read_bytes()
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0


@pytest.mark.parametrize(
    ("file_type", "error"), [("F32", 0.0), ("F16", 0.002), ("BF16", 0.02), ("Q8_0", 0.03), ("Q4_K_M", 0.2)]
)
def test_weights_are_nearly_what_they_were(tiny: Path, tmp_path: Path, file_type: str, error: float) -> None:
    target = tmp_path / "quantized.gguf"
    rewrite(target, file_type, [tiny], lambda _done, _total: None)
    before = {tensor.name: tensor.data for tensor in GGUFReader(tiny).tensors}
    for tensor in GGUFReader(target).tensors:
        after = quants.dequantize(tensor.data, tensor.tensor_type).reshape(before[tensor.name].shape)
        assert np.abs(after - before[tensor.name]).max() <= error, tensor.name
