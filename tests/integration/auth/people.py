"""Organizations and their members, made by SQL; and whom a test acts for."""

from dataclasses import dataclass
from uuid import UUID

from libs.common import actor
from libs.common.database import EVERY_ORGANIZATION, Database


@dataclass(frozen=True)
class Person:
    """A user in one organization."""

    id: UUID
    organization_id: str
    email: str

    def acts(self, *, key_id: str = "") -> None:
        """From here on this task works for them, as after a gateway's door."""
        actor.become(actor.Actor(organization_id=self.organization_id, user_id=str(self.id), key_id=key_id))

    def elsewhere(self, organization_id: str) -> "Person":
        return Person(self.id, organization_id, self.email)


async def an_organization(db: Database, organization_id: str) -> None:
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into organizations (id, name) values (%s, %s) on conflict do nothing",
            [organization_id, organization_id.title()],
        )


async def a_person(db: Database, organization_id: str, role: str, name: str = "") -> Person:
    """``name``: of the address; the role's, if none is given."""
    email = f"{name or role}@{organization_id}.example"
    await an_organization(db, organization_id)
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await tx.execute(
            "insert into users (organization_id, email, password_hash) values (%s, %s, 'none') returning id",
            [organization_id, email],
        )
        row = await rows.fetchone()
        assert row is not None
    person = Person(row[0], organization_id, email)
    await joins(db, person, role)
    return person


async def joins(db: Database, person: Person, role: str) -> None:
    await an_organization(db, person.organization_id)
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into memberships (organization_id, user_id, role) values (%s, %s, %s)",
            [person.organization_id, person.id, role],
        )


async def a_role(
    db: Database, organization_id: str, name: str, permissions: list[str], models: list[str] | None = None
) -> None:
    await an_organization(db, organization_id)
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into roles (organization_id, name, permissions, models) values (%s, %s, %s, %s)",
            [organization_id, name, permissions, models or []],
        )
