import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFWriter

from libs.common.bus.base import Bus
from libs.common.contracts.inference import ChatMessage
from libs.common.contracts.registry import CreateModel, DescribeModel, ListVersions, Progress, ResolveModel
from libs.common.errors import InvalidModelName, InvalidRequest
from services.registry import catalog, holdings, imports, layers, names
from services.registry.context import Context
from services.registry.conversion import safetensors
from services.registry.create import create
from tests.fixtures.gguf_files import split, write_adapter, write_projector
from tests.fixtures.minilm import minilm_directory
from tests.fixtures.tiny_rank_gguf import write_tiny_rank_gguf

TEMPLATE = "{{ if .System }}{{ .System }} {{ end }}{{ .Prompt }}"
TOOL_TEMPLATE = "{{ range .Messages }}{{ .Content }}{{ end }}{{ if .Tools }}{{ .Tools }}{{ end }}"


async def upload(ctx: Context, path: Path) -> str:
    return (await holdings.add_file(ctx, path)).digest


async def make(ctx: Context, **wanted: Any) -> list[Progress]:
    """What is told meanwhile."""
    told: list[Progress] = []
    await create(ctx, CreateModel(operation_id="o1", **({"name": "made"} | wanted)), told.append)
    return told


@pytest.fixture
async def tiny(ctx: Context, tiny_gguf: Path) -> str:
    """A stored model's name."""
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    return "tiny"


async def test_from_a_model_with_everything_on_top(ctx: Context, bus: Bus, tiny: str) -> None:
    told = await make(
        ctx,
        base=tiny,
        template=TEMPLATE,
        system="You are small.",
        license=("MIT", "Apache"),
        parameters={"temperature": 0.5, "num_ctx": 128.0, "stop": "<|im_end|>"},
        messages=(ChatMessage(role="user", content="hi"), ChatMessage(role="assistant", content="ho")),
        requires="0.14.0",
    )
    base, made = [await bus.ask(ResolveModel(name=name)) for name in (tiny, "made")]
    assert (made.weights, made.runner) == (base.weights, base.runner)
    assert (made.template, made.system) == (TEMPLATE, "You are small.")
    assert made.parameters == {"num_ctx": 128, "stop": ["<|im_end|>"], "temperature": 0.5}
    assert [message.content for message in made.messages] == ["hi", "ho"]
    assert made.details.parent_model == "tiny"
    shown = await bus.ask(DescribeModel(name="made"))
    assert (shown.license, shown.requires, shown.template) == ("MIT\nApache", "0.14.0", TEMPLATE)
    statuses = [progress.status for progress in told]
    assert statuses[0] == f"using existing layer {base.weights}"
    assert [status.rpartition(" ")[0] for status in statuses[1:7]] == ["creating new layer"] * 6
    assert statuses[7:] == ["writing manifest", "success"]


async def test_what_is_not_given_is_inherited(ctx: Context, bus: Bus, tiny: str) -> None:
    await make(ctx, base=tiny, system="first", license=("MIT",), parameters={"temperature": 0.5, "top_k": 3})
    await make(ctx, name="second", base="made", parameters={"top_k": 4}, license=("Apache",))
    second = await bus.ask(ResolveModel(name="second"))
    assert (second.system, second.parameters) == ("first", {"temperature": 0.5, "top_k": 4})
    assert (await bus.ask(DescribeModel(name="second"))).license == "MIT\nApache"


async def test_creating_again_changes_nothing_and_differently_keeps_a_version(
    ctx: Context, bus: Bus, tiny: str, changes: list[str]
) -> None:
    for system in ("a", "a", "b"):
        await make(ctx, base=tiny, system=system)
    versions = await bus.ask(ListVersions(name="made"))
    assert len(versions) == 2
    assert changes.count("made:latest") == 2


async def test_from_files(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    digest = await upload(ctx, tiny_gguf)
    told = await make(ctx, files={"weights": digest.replace(":", "-")}, system="hello")
    made = await bus.ask(ResolveModel(name="made"))
    assert (made.weights, made.system, made.details.family) == (digest, "hello", "llama")
    assert [progress.status for progress in told[:2]] == ["parsing GGUF", f"using existing layer {digest}"]


async def test_shards_become_one_file(ctx: Context, bus: Bus, tiny_gguf: Path, tmp_path: Path) -> None:
    shards = split(tiny_gguf, tmp_path, 3)
    await make(ctx, files={path.name: await upload(ctx, path) for path in shards})
    made = await bus.ask(ResolveModel(name="made"))
    assert made.weights is not None
    merged, original = GGUFReader(ctx.blobs.path(made.weights)), GGUFReader(tiny_gguf)
    assert {tensor.name: tensor.data.tobytes() for tensor in merged.tensors} == {
        tensor.name: tensor.data.tobytes() for tensor in original.tensors
    }
    assert [name for name in merged.fields if not name.startswith("GGUF.")] == [
        name for name in original.fields if not name.startswith("GGUF.")
    ]


async def test_a_missing_shard(ctx: Context, tiny_gguf: Path, tmp_path: Path) -> None:
    shards = split(tiny_gguf, tmp_path, 3)[1:]
    with pytest.raises(InvalidRequest, match="not all the shards"):
        await make(ctx, files={path.name: await upload(ctx, path) for path in shards})


async def test_a_shard_whose_number_is_no_number(ctx: Context, tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_string("split.no", "first")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InvalidRequest, match="not all the shards"):
        await make(ctx, files={"odd.gguf": await upload(ctx, tmp_path / "odd.gguf")})


async def test_projector_and_adapter(ctx: Context, bus: Bus, tiny_gguf: Path, tmp_path: Path) -> None:
    projector = await upload(ctx, write_projector(tmp_path / "mmproj.gguf"))
    adapter = await upload(ctx, write_adapter(tmp_path / "adapter.gguf"))
    files = {"a-mmproj.gguf": projector, "b.gguf": await upload(ctx, tiny_gguf)}
    await make(ctx, files=files, adapters={"adapter.gguf": adapter})
    made = await bus.ask(ResolveModel(name="made"))
    assert (made.projector, made.adapters) == (projector, (adapter,))
    assert made.capabilities == ("completion", "vision")
    assert made.details.families == ("llama", "clip")
    shown = await bus.ask(DescribeModel(name="made"))
    assert shown.projector_info["general.architecture"] == "clip"


@pytest.mark.parametrize("wanted", ["F16", "bf16", "Q8_0", "q4_K", "Q4_K_S"])
async def test_quantize(ctx: Context, bus: Bus, tiny: str, wanted: str) -> None:
    told = await make(ctx, base=tiny, quantize=wanted)
    file_type = {"bf16": "BF16", "q4_K": "Q4_K_M"}.get(wanted, wanted)
    made = await bus.ask(ResolveModel(name="made"))
    assert made.details.quantization_level == file_type
    assert made.size < (await bus.ask(ResolveModel(name=tiny))).size
    quantizing = [progress for progress in told if progress.status == f"quantizing F32 model to {file_type}"]
    assert {progress.digest for progress in quantizing} == {"0000000000000000000"}
    assert quantizing[-1].completed == quantizing[-1].total > 0
    assert told[len(quantizing)].status == "verifying conversion"
    assert f"creating new layer {made.weights}" in {progress.status for progress in told}
    assert not list(ctx.settings.data_dir.rglob("*-partial"))


async def test_what_is_quantized_already(ctx: Context, tiny: str) -> None:
    await make(ctx, base=tiny, quantize="Q8_0")
    told = await make(ctx, name="same", base="made", quantize="Q8_0")
    assert not [progress for progress in told if progress.status.startswith("quantizing")]
    with pytest.raises(InvalidRequest, match=r"^quantization is only supported for F16, BF16 and F32 models$"):
        await make(ctx, base="made", quantize="Q4_K_M")


async def test_a_go_template_decides_what_the_model_can(ctx: Context, bus: Bus, tiny: str) -> None:
    await make(ctx, base=tiny, template=TOOL_TEMPLATE)
    assert (await bus.ask(ResolveModel(name="made"))).capabilities == ("completion", "tools")
    await make(ctx, base="made", template="{{ .Prompt }}<fim>{{ .Suffix }}")
    assert (await bus.ask(ResolveModel(name="made"))).capabilities == ("completion", "insert")


async def install_other(ctx: Context, base: str, **config: Any) -> None:
    """The base with more in its config."""
    manifest = await catalog.find_manifest(ctx, base)
    own = json.loads(ctx.blobs.path(manifest.config.blob.digest).read_bytes())
    blob = await holdings.add_bytes(ctx, layers.as_json(own | config))
    document = json.loads(manifest.text)
    document["config"] |= {"digest": blob.digest, "size": blob.size}
    await catalog.install(ctx, names.parse("other"), layers.as_json(document))


async def test_a_cross_encoder_only_ranks(ctx: Context, bus: Bus, tmp_path: Path) -> None:
    await imports.import_gguf(ctx, "ranker", write_tiny_rank_gguf(tmp_path / "ranker.gguf"))
    await install_other(ctx, "ranker", capabilities=["embedding"])
    for name in ("ranker", "other"):
        assert (await bus.ask(ResolveModel(name=name))).capabilities == ("rerank",)


async def test_what_others_need_of_the_config_is_kept(ctx: Context, bus: Bus, tiny: str) -> None:
    await install_other(ctx, tiny, renderer="qwen3", capabilities=["tools"])
    assert (await bus.ask(ResolveModel(name="other"))).capabilities == ("tools",)
    await make(ctx, base="other", system="x")
    made = await catalog.find_manifest(ctx, "made")
    config = json.loads(ctx.blobs.path(made.config.blob.digest).read_bytes())
    assert (config["renderer"], config["capabilities"]) == ("qwen3", ["tools"])


@pytest.mark.skipif(safetensors.converter() is not None, reason="the extra is installed")
async def test_safetensors_without_the_converter(ctx: Context) -> None:
    digest = (await holdings.add_bytes(ctx, b"anything")).digest
    with pytest.raises(InvalidRequest, match="safetensors cannot be converted here"):
        await make(ctx, files={"model.safetensors": digest})


@pytest.mark.skipif(safetensors.converter() is None, reason="the extra is not installed")
async def test_safetensors(ctx: Context, bus: Bus) -> None:
    root = minilm_directory()
    paths = [path for path in root.rglob("*") if path.is_file()]
    files = {str(path.relative_to(root)): await upload(ctx, path) for path in paths}
    told = await make(ctx, files=files)
    made = await bus.ask(ResolveModel(name="made"))
    assert (made.details.family, made.capabilities, made.details.embedding_length) == ("bert", ("embedding",), 384)
    assert told[0].status == "converting model"
    with pytest.raises(InvalidRequest, match="the model cannot be converted"):
        await make(ctx, files=files | {"config.json": (await holdings.add_bytes(ctx, b"{}")).digest})


NOWHERE = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({}, "neither 'from' or 'files' was specified"),
        ({"files": {"x": "nonsense"}}, "invalid digest format"),
        ({"files": {"../x": NOWHERE}}, "file path must be relative"),
        ({"files": {"/x": NOWHERE}}, "file path must be relative"),
        ({"files": {"x": NOWHERE}}, f"blob {NOWHERE} not found"),
        ({"base": "tiny", "template": "{{ .Prompt"}, "template error: "),
        ({"base": "tiny", "parameters": {"num_ctx": "many"}}, 'option "num_ctx" must be of type integer'),
        ({"base": "tiny", "parameters": {"stop": [1]}}, 'option "stop" must be of an array of strings'),
        (
            {"base": "tiny", "quantize": "Q9"},
            "unsupported quantization type Q9 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0",
        ),
    ],
)
async def test_what_cannot_be_made(ctx: Context, tiny: str, wanted: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await make(ctx, **wanted)
    assert raised.value.message.startswith(text)


async def test_files_of_a_wrong_kind(ctx: Context, tiny_gguf: Path, tmp_path: Path) -> None:
    garbage = (await holdings.add_bytes(ctx, b"garbage")).digest
    tiny, adapter = await upload(ctx, tiny_gguf), await upload(ctx, write_adapter(tmp_path / "a.gguf"))
    for wanted, text in (
        ({"files": {"x": garbage}}, "unknown type"),
        ({"files": {"x.gguf": garbage}}, "supplied file was not in GGUF format"),
        ({"files": {"x.gguf": adapter}}, "the files have no model"),
        ({"files": {"x": tiny}, "adapters": {"a": adapter, "b": adapter}}, "only one adapter is currently supported"),
        ({"files": {"x": tiny}, "adapters": {"a": tiny}}, "the file is not an adapter"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{text}$"):
            await make(ctx, **wanted)


@pytest.mark.parametrize("wanted", [{"name": "a:b:c"}, {"base": "a:b:c"}])
async def test_what_is_not_a_name(ctx: Context, wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidModelName, match=r"^invalid model name$"):
        await make(ctx, **wanted)
