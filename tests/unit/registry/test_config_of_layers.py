"""What a config says is told in every list of models, so it must be short."""

import pytest
from pydantic import ValidationError

from services.registry.layers import Config


@pytest.mark.parametrize(
    "config",
    [{"capabilities": ["x" * 1_000_000]}, {"capabilities": ["x"] * 1_000}, {"requires": "x" * 1_000}],
    ids=["a long capability", "many capabilities", "a long version"],
)
def test_long_words_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(config)
