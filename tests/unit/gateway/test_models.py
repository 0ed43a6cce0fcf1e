import pytest

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import ResolveModel
from libs.common.errors import Forbidden, InvalidModelName, InvalidRequest, ModelNotFound
from services.gateway.models import REMOTE_DETAILS, display_name, local_name
from tests.fixtures.builders import a_model, an_identity
from tests.fixtures.gateway import a_gateway

CALLER = an_identity()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("foo", "foo:latest"),
        ("foo:1b", "foo:1b"),
        ("library/foo", "foo:latest"),
        ("registry.ollama.ai/library/foo:q4", "foo:q4"),
        ("Registry.Ollama.AI/me/foo", "me/foo:latest"),
        ("localhost:5000/me/foo", "localhost:5000/me/foo:latest"),
        ("library/me/foo", "library/me/foo:latest"),
        ("library/library/foo", "library/library/foo:latest"),
        ("registry.ollama.ai/foo", "registry.ollama.ai/foo:latest"),
    ],
)
def test_display_name(name: str, shown: str) -> None:
    assert display_name(name) == shown


async def test_all_spellings_share_one_answer_and_are_forgotten_together() -> None:
    async with a_gateway() as gateway:
        models, asked = gateway.ctx.models, gateway.bus.asked
        for name in ("m", "m:latest", "library/m", "M"):
            assert (await models.resolve(CALLER, name)).name == "m:latest"
        assert asked.total() == 1
        models.forget("M:latest")
        await models.resolve(CALLER, "m")
        assert asked.total() == 2


async def test_each_organization_has_its_own_answer() -> None:
    acme, globex = (an_identity(organization_id=name) for name in ("acme", "globex"))
    async with a_gateway() as gateway:
        models, asked = gateway.ctx.models, gateway.bus.asked
        for caller in (acme, globex, acme, globex):
            await models.resolve(caller, "m")
        assert asked.total() == 2
        models.forget("m", "acme")
        for caller in (acme, globex):
            await models.resolve(caller, "m")
        assert asked.total() == 3
        models.forget("m")
        for caller in (acme, globex):
            await models.resolve(caller, "m")
        assert asked.total() == 5


@pytest.mark.parametrize("name", ["m", "M:latest", "library/m", "http://registry.ollama.ai/library/m", " m "])
async def test_what_a_caller_may_not_know_of_is_not_even_asked_for(name: str) -> None:
    caller = an_identity(models=(("tools*",),))
    async with a_gateway() as gateway:
        with pytest.raises(ModelNotFound):
            await gateway.ctx.models.resolve(caller, name)
        assert gateway.bus.asked.total() == 0
        assert (await gateway.ctx.models.resolve(caller, "tools")).name == "tools:latest"


@pytest.mark.parametrize("bad", ["http:// m", "library/library/m", "registry.ollama.ai/m", "m/", "\u212a"])
async def test_a_bad_name_is_not_taken_for_a_good_one(bad: str) -> None:
    def resolve(question: ResolveModel) -> ModelRef:
        if question.name not in ("m", "k"):
            raise InvalidModelName
        return a_model(name=question.name)

    async with a_gateway() as gateway:
        gateway.bus.answers[ResolveModel] = resolve
        with pytest.raises(InvalidModelName):
            await gateway.ctx.models.resolve(CALLER, bad)
        for good in ("m", "k"):
            await gateway.ctx.models.resolve(CALLER, good)


async def test_a_name_of_any_length_does_not_reach_the_registry() -> None:
    async with a_gateway() as gateway:
        with pytest.raises(InvalidModelName):
            await gateway.ctx.models.resolve(CALLER, "x" * 10_000)
        assert gateway.bus.asked.total() == 0


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("m", "m"),
        (" m:7b ", "m:7b"),
        ("m:local", "m"),
        ("m:7b:LOCAL", "m:7b"),
        ("m :local", "m"),
        ("host:5000/ns/m-cloud", "host:5000/ns/m-cloud"),
        ("localhost:cloudy", "localhost:cloudy"),
        ("cloud", "cloud"),
    ],
)
def test_a_local_name(name: str, local: str) -> None:
    assert local_name(name) == local


@pytest.mark.parametrize("name", ["m:cloud", "m:7b-cloud", "ns/m:7B-Cloud ", "m: cloud"])
def test_cloud_names_are_refused(name: str) -> None:
    with pytest.raises(Forbidden, match="ollama cloud is disabled: remote model is unavailable"):
        local_name(name)
    with pytest.raises(Forbidden, match="remote model details are unavailable"):
        local_name(name, REMOTE_DETAILS)


@pytest.mark.parametrize("name", ["m:local:cloud", "m:7b-cloud:local", "m:cloud:cloud"])
def test_one_source_is_enough(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        local_name(name)
    assert refused.value.message == f'use either :local or :cloud, not both: "{name}"'


async def test_a_local_source_does_not_matter_to_the_registry() -> None:
    async with a_gateway() as gateway:
        assert (await gateway.ctx.models.resolve(CALLER, "m:local")).name == "m:latest"
