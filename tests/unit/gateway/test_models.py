import pytest

from libs.common.errors import InvalidModelName
from services.gateway.models import display_name
from tests.fixtures.gateway import a_gateway


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("foo", "foo:latest"),
        (" foo ", "foo:latest"),
        ("foo:1b", "foo:1b"),
        ("library/foo", "foo:latest"),
        ("registry.ollama.ai/library/foo:q4", "foo:q4"),
        ("Registry.Ollama.AI/me/foo", "me/foo:latest"),
        ("localhost:5000/me/foo", "localhost:5000/me/foo:latest"),
    ],
)
def test_display_name(name: str, shown: str) -> None:
    assert display_name(name) == shown


async def test_all_spellings_share_one_answer_and_are_forgotten_together() -> None:
    async with a_gateway() as gateway:
        models, asked = gateway.ctx.models, gateway.bus.asked
        for name in ("m", "m:latest", "library/m", "M"):
            assert (await models.resolve(name)).name == "m:latest"
        assert asked.total() == 1
        models.forget("M:latest")
        await models.resolve("m")
        assert asked.total() == 2


async def test_a_name_of_any_length_does_not_reach_the_registry() -> None:
    async with a_gateway() as gateway:
        with pytest.raises(InvalidModelName):
            await gateway.ctx.models.resolve("x" * 10_000)
        assert gateway.bus.asked.total() == 0
