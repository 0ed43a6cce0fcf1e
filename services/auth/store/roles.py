"""The SQL of an organization's own roles."""

from dataclasses import dataclass

from psycopg.rows import class_row

from libs.common.database import Transaction


@dataclass(frozen=True)
class Role:
    """``permissions``: None for one of those that are always there."""

    name: str
    description: str = ""
    permissions: list[str] | None = None
    models: tuple[str, ...] | list[str] = ()
    version: int = 1


async def role_of_name(tx: Transaction, organization_id: str, name: str) -> Role | None:
    async with tx.cursor(row_factory=class_row(Role)) as cursor:
        await cursor.execute(
            """
            select name, description, permissions, models, version from roles
            where organization_id = %s and name = %s
            """,
            [organization_id, name],
        )
        return await cursor.fetchone()


async def own_roles(tx: Transaction, organization_id: str) -> list[Role]:
    """All of them: there are few."""
    async with tx.cursor(row_factory=class_row(Role)) as cursor:
        await cursor.execute(
            "select name, description, permissions, models, version from roles where organization_id = %s",
            [organization_id],
        )
        return await cursor.fetchall()


async def put_role(tx: Transaction, organization_id: str, role: Role) -> None:
    """Makes or replaces it. Whoever calls has locked the organization."""
    await tx.execute(
        """
        insert into roles (organization_id, name, description, permissions, models, version)
        values (%s, %s, %s, %s, %s, %s)
        on conflict (organization_id, name) do update
        set description = excluded.description, permissions = excluded.permissions, models = excluded.models,
            version = excluded.version
        """,
        [organization_id, role.name, role.description, role.permissions, list(role.models), role.version],
    )


async def delete_role(tx: Transaction, organization_id: str, name: str) -> None:
    await tx.execute("delete from roles where organization_id = %s and name = %s", [organization_id, name])


async def has_bearers(tx: Transaction, organization_id: str, name: str) -> bool:
    """Whether a member has this role, or is invited to it."""
    rows = await tx.execute(
        """
        select exists (select from memberships where organization_id = %(organization)s and role = %(role)s)
            or exists (select from invitations where organization_id = %(organization)s and role = %(role)s
                       and expires_at > now())
        """,
        {"organization": organization_id, "role": name},
    )
    row = await rows.fetchone()
    return row is not None and bool(row[0])
