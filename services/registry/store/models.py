"""The SQL of models: a row is what a name points to, in one organization.

An organization sees its own and the shared ones of the operating organization; a name of its own comes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString

from psycopg.rows import class_row

from libs.common.database import Transaction
from services.registry import manifests
from services.registry.gguf_info import GgufInfo
from services.registry.layers import Contents
from services.registry.manifests import Manifest
from services.registry.names import ModelName


@dataclass(frozen=True)
class Content:
    """A manifest, understood: everything that is saved about a model but its name."""

    manifest: Manifest
    weights: str
    """The digest of their blob."""

    facts: GgufInfo
    contents: Contents


SEEN: Final[LiteralString] = """
    select id, host, namespace, model, tag, digest, size, manifest as manifest_text, weights, facts::text as facts_json,
    contents::text as contents_json, modified_at, organization_id, sees(organization_id) as own, shared, created_by,
    created_at, tags, description, version
    from models
"""


@dataclass(frozen=True)
class Saved:
    """What was changed by saving."""

    id: int
    shared: bool


@dataclass(frozen=True)
class StoredModel:
    id: int
    host: str
    namespace: str
    model: str
    tag: str
    digest: str
    size: int
    manifest_text: str
    weights: str
    facts_json: str
    contents_json: str
    modified_at: datetime
    organization_id: str
    own: bool
    """Of the organization that the transaction works for."""

    shared: bool
    created_by: str
    created_at: datetime
    tags: list[str]
    description: str
    version: int

    @property
    def name(self) -> ModelName:
        return ModelName(self.host, self.namespace, self.model, self.tag)

    @property
    def content(self) -> Content:
        return content_of(self.manifest_text, self.weights, self.facts_json, self.contents_json)


def content_of(manifest: str, weights: str, facts: str, contents: str) -> Content:
    """From what the columns hold."""
    return Content(
        manifests.parse(manifest.encode()),
        weights,
        GgufInfo.model_validate_json(facts),
        Contents.model_validate_json(contents),
    )


async def find_model(tx: Transaction, name: ModelName) -> StoredModel | None:
    """Whatever the spelling of ``name``."""
    async with tx.cursor(row_factory=class_row(StoredModel)) as cursor:
        await cursor.execute(
            SEEN
            + """
            where (lower(host), lower(namespace), lower(model), lower(tag))
                = (lower(%s), lower(%s), lower(%s), lower(%s))
            order by own desc limit 1
            """,
            [name.host, name.namespace, name.model, name.tag],
        )
        return await cursor.fetchone()


async def list_models(tx: Transaction) -> list[StoredModel]:
    """Shared ones that a name of the organization's own hides come before it."""
    async with tx.cursor(row_factory=class_row(StoredModel)) as cursor:
        await cursor.execute(SEEN + "order by own, modified_at, id desc")
        return await cursor.fetchall()


async def names_of(tx: Transaction, digest: str) -> list[ModelName]:
    """Models that have this blob (``sha256:``), in any version, or whose manifest it is."""
    rows = await tx.execute(
        """
        select host, namespace, model, tag from models
        where digest = %(hex)s
           or exists (select from model_layers where model_id = models.id and model_layers.digest = %(digest)s)
           or exists (select from model_versions kept where model_id = models.id
                      and (%(digest)s = any (layers) or kept.digest = %(hex)s))
        """,
        {"digest": digest, "hex": digest.removeprefix("sha256:")},
    )
    return [ModelName(*parts) for parts in await rows.fetchall()]


async def find_facts(tx: Transaction, weights: str) -> GgufInfo | None:
    """What is known of this blob already, so that nobody has to read gigabytes again."""
    rows = await tx.execute("select facts::text from models where weights = %s limit 1", [weights])
    row = await rows.fetchone()
    return GgufInfo.model_validate_json(row[0]) if row else None


async def lock_name(tx: Transaction, organization: str, name: ModelName) -> None:
    """Until the transaction ends nobody else saves this name, on any replica; its file and its row stay one."""
    await tx.execute("select pg_advisory_xact_lock(hashtext(%s))", [f"{organization}/{name.display}".lower()])


async def spelling(tx: Transaction, organization: str, name: ModelName) -> ModelName:
    """With the spelling that its parts have already in this organization, part by part from the left."""
    rows = await tx.execute(
        """
        select host, namespace, model, tag from models
        where organization_id = %(organization)s and lower(host) = lower(%(host)s)
        order by lower(namespace) = lower(%(namespace)s) desc, lower(model) = lower(%(model)s) desc,
                 lower(tag) = lower(%(tag)s) desc, id
        limit 1
        """,
        {
            "organization": organization,
            "host": name.host,
            "namespace": name.namespace,
            "model": name.model,
            "tag": name.tag,
        },
    )
    existing = await rows.fetchone()
    if existing is None:
        return name
    parts = [name.host, name.namespace, name.model, name.tag]
    for index, spelled in enumerate(existing):
        if spelled.lower() != parts[index].lower():
            break
        parts[index] = spelled
    return ModelName(*parts)


async def save_model(
    tx: Transaction, organization: str, name: ModelName, content: Content, *, created_by: str, shared: bool
) -> Saved | None:
    """None if the name pointed to this manifest already: then nothing changes, not even the time.

    Who made it and who sees it is said when it is new, and stays.
    """
    manifest = content.manifest
    rows = await tx.execute(
        """
        insert into models (organization_id, created_by, shared,
                            host, namespace, model, tag, digest, manifest, size, weights, facts, contents)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (organization_id, lower(host), lower(namespace), lower(model), lower(tag)) do update set
            digest = excluded.digest, manifest = excluded.manifest, size = excluded.size, weights = excluded.weights,
            facts = excluded.facts, contents = excluded.contents, modified_at = now()
        where models.digest <> excluded.digest
        returning id, shared
        """,
        [
            *(organization, created_by, shared),
            *(name.host, name.namespace, name.model, name.tag, manifest.digest, manifest.text, manifest.size),
            *(content.weights, content.facts.model_dump_json(), content.contents.model_dump_json()),
        ],
    )
    row = await rows.fetchone()
    if row is None:
        return None
    saved = Saved(*row)
    await _save_layers(tx, saved.id, manifest)
    return saved


async def change_model(
    tx: Transaction, model_id: int, tags: Sequence[str], description: str, *, shared: bool, expected_version: int | None
) -> bool:
    """False if its version is another."""
    changed = await tx.execute(
        """
        update models set tags = %(tags)s, description = %(description)s, shared = %(shared)s, version = version + 1
        where id = %(id)s and (%(expected)s::integer is null or version = %(expected)s)
        """,
        {
            "id": model_id,
            "tags": list(tags),
            "description": description,
            "shared": shared,
            "expected": expected_version,
        },
    )
    return changed.rowcount == 1


async def models_of(tx: Transaction, organization: str) -> list[tuple[int, ModelName]]:
    """All that belong to it."""
    rows = await tx.execute(
        "select id, host, namespace, model, tag from models where organization_id = %s", [organization]
    )
    return [(number, ModelName(*parts)) for number, *parts in await rows.fetchall()]


async def delete_model(tx: Transaction, model_id: int) -> None:
    """And its versions."""
    await tx.execute("delete from models where id = %s", [model_id])


async def _save_layers(tx: Transaction, model_id: int, manifest: Manifest) -> None:
    """So that a blob that no model needs can be told from one that is needed."""
    await tx.execute("delete from model_layers where model_id = %s", [model_id])
    layers = {(layer.blob.digest, layer.media_type): layer.blob.size for layer in manifest.layers}
    async with tx.cursor() as cursor:
        await cursor.executemany(
            "insert into blobs (digest, size) values (%s, %s) on conflict do nothing",
            [(digest, size) for (digest, _), size in layers.items()],
        )
        await cursor.executemany(
            "insert into model_layers (model_id, digest, media_type) values (%s, %s, %s)",
            [(model_id, digest, media_type) for digest, media_type in layers],
        )
