"""Make a model: from another one or from uploaded files, with layers of its own on top."""

import asyncio
from dataclasses import dataclass, field

from libs.common import go_template
from libs.common.contracts.registry import CreateModel, Progress
from libs.common.errors import InvalidRequest, ModelNotFound
from services.registry import blobs, catalog, holdings, layers, manifests, names, parameters, pull, uploaded
from services.registry.blobs import Blob
from services.registry.context import Context
from services.registry.conversion import quantization
from services.registry.layers import (
    LICENSE_TYPE,
    MESSAGES_TYPE,
    MODEL_TYPE,
    OLD_TEMPLATE_TYPE,
    PARAMETERS_TYPE,
    PROJECTOR_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Config,
)
from services.registry.manifests import Layer, Manifest
from services.registry.progress import Report

NO_DIGEST = "0000000000000000000"
"""What Ollama tells while a layer that has no digest yet is made."""


@dataclass
class Draft:
    """The layers so far, and the statuses that are told about them at the end."""

    layers: list[Layer]
    config: Config = field(default_factory=Config)
    made: set[str] = field(default_factory=set)
    """Digests that were not here before."""

    def replace(self, *media_types: str, by: Layer | None) -> None:
        self.layers = [layer for layer in self.layers if layer.media_type not in media_types]
        if by is not None:
            self.layers.append(by)

    def statuses(self) -> list[str]:
        return [
            f"{'creating new' if layer.blob.digest in self.made else 'using existing'} layer {layer.blob.digest}"
            for layer in self.layers
        ]


async def create(ctx: Context, command: CreateModel, report: Report) -> None:
    """Running it again makes the same model. Raises ``InvalidRequest`` and what ``pull`` raises, in Ollama's words."""
    name = names.parse(command.name)
    draft = await _base(ctx, command, report)
    if command.adapters:
        draft.layers += await uploaded.adapter_layers(ctx, command.adapters, report)
    if command.quantize:
        await _quantize(ctx, draft, command.quantize, report)
    await _prompt(ctx, draft, command)
    await _parameters(ctx, draft, command)
    manifest = await _finished(ctx, draft, command.requires)
    for status in draft.statuses():
        report(Progress(status=status))
    report(Progress(status="writing manifest"))
    await catalog.install(ctx, name, manifest.text.encode())
    report(Progress(status="success"))


async def _base(ctx: Context, command: CreateModel, report: Report) -> Draft:
    if command.base:
        manifest = await _base_manifest(ctx, command.base, report)
        source = names.parse(command.base).short
        taken = [Layer(layer.media_type, layer.blob, source) for layer in manifest.layers[1:]]
        return Draft(taken, await layers.read_config(ctx.blobs, manifest))
    if not command.files:
        raise InvalidRequest("neither 'from' or 'files' was specified")
    made = await uploaded.model_layers(ctx, command.files, report)
    if not any(layer.media_type == MODEL_TYPE for layer in made):
        raise InvalidRequest("the files have no model")
    return Draft(made)


async def _base_manifest(ctx: Context, name: str, report: Report) -> Manifest:
    try:
        return await catalog.find_manifest(ctx, name)
    except ModelNotFound:
        await pull.pull(ctx, name, insecure=False, report=_without_success(report))
        return await catalog.find_manifest(ctx, name)


def _without_success(report: Report) -> Report:
    """That of the pull is not the end."""
    return lambda progress: None if progress.status == "success" else report(progress)


async def _quantize(ctx: Context, draft: Draft, wanted: str, report: Report) -> None:
    target_type = quantization.target_type(wanted)
    weights = next(layer for layer in draft.layers if layer.media_type == MODEL_TYPE)
    present = (await catalog.facts_of(ctx, weights.blob)).details.quantization_level
    if present == target_type:
        return
    if present not in quantization.QUANTIZABLE:
        raise InvalidRequest("quantization is only supported for F16, BF16 and F32 models")
    status = f"quantizing {present} model to {target_type}"

    def on_progress(done: int, total: int) -> None:
        report(Progress(status=status, digest=NO_DIGEST, total=total, completed=done))

    on_progress(0, weights.blob.size)
    async with ctx.converting, ctx.blobs.scratch() as target:
        await quantization.rewrite([ctx.blobs.path(weights.blob.digest)], target, target_type, on_progress)
        report(Progress(status="verifying conversion"))
        blob = await holdings.add_file(ctx, target)
    draft.made.add(blob.digest)
    draft.layers[draft.layers.index(weights)] = Layer(MODEL_TYPE, blob, weights.source)


async def _prompt(ctx: Context, draft: Draft, command: CreateModel) -> None:
    """Template, system, messages and licenses."""
    if command.template:
        await asyncio.to_thread(_check_template, command.template)
        layer = await _layer(ctx, draft, TEMPLATE_TYPE, command.template.encode())
        draft.replace(TEMPLATE_TYPE, OLD_TEMPLATE_TYPE, by=layer)
    if command.system:
        draft.replace(SYSTEM_TYPE, by=await _layer(ctx, draft, SYSTEM_TYPE, command.system.encode()))
    for text in command.license:
        draft.layers.append(await _layer(ctx, draft, LICENSE_TYPE, text.encode()))
    if command.messages:
        messages = [message.model_dump(exclude_defaults=True) for message in command.messages]
        draft.replace(MESSAGES_TYPE, by=await _layer(ctx, draft, MESSAGES_TYPE, layers.as_json(messages)))


def _check_template(source: str) -> None:
    try:
        go_template.parse(source)
    except go_template.TemplateError as error:
        raise InvalidRequest(f"template error: {error.message}") from None


async def _parameters(ctx: Context, draft: Draft, command: CreateModel) -> None:
    inherited = [layer for layer in draft.layers if layer.media_type == PARAMETERS_TYPE]
    base = await layers.read_parameters(ctx.blobs, inherited[-1]) if inherited else {}
    values = parameters.merged(base, command.parameters)
    if values != base:
        content = layers.as_json(dict(sorted(values.items())))
        draft.replace(PARAMETERS_TYPE, by=await _layer(ctx, draft, PARAMETERS_TYPE, content))


async def _finished(ctx: Context, draft: Draft, requires: str) -> Manifest:
    weights = next(layer for layer in draft.layers if layer.media_type == MODEL_TYPE)
    details = (await catalog.facts_of(ctx, weights.blob)).details
    projectors = [layer for layer in draft.layers if layer.media_type == PROJECTOR_TYPE]
    families = [(await catalog.facts_of(ctx, layer.blob)).details.family for layer in projectors]
    details = details.model_copy(update={"families": (*details.families, *families)})
    kept = draft.config.model_copy(update={"requires": requires or draft.config.requires})
    content = layers.config_blob(details, [layer.blob for layer in draft.layers], kept)
    config = await _layer(ctx, draft, manifests.CONFIG_TYPE, content)
    return manifests.build(config.blob, tuple(draft.layers))


async def _layer(ctx: Context, draft: Draft, media_type: str, content: bytes) -> Layer:
    if len(content) > layers.LARGEST_TEXT_BYTES:
        raise InvalidRequest(f"{media_type.rpartition('.')[2]} is too large")
    digest = blobs.digest_of(content)
    blob = await holdings.renew(ctx, digest)
    if blob is None:
        draft.made.add(digest)
        blob = await holdings.add_bytes(ctx, content)
    return Layer(media_type, Blob(digest, blob.size))
