"""The second factor: codes from an app (TOTP), recovery codes, and the roles that must have one.

What is "the caller's own" needs a login session: ``Forbidden`` for API keys, and for a wrong password or code.
"""

from pydantic import Field

from libs.common.contracts.message import Query, Value


class SecondFactor(Value):
    active: bool = Field(description="a code is asked for at each login")
    required: bool = Field(description="by the organization, for the caller's role")
    activated_at: float | None = Field(None, description="seconds since the epoch")
    recovery_codes_left: int = 0


class OfferedTotp(Value):
    """A secret for the user's app; no code is asked for until one has come back."""

    secret: str = Field(repr=False, description="base32, to be typed in where there is no camera")
    uri: str = Field(repr=False, description="otpauth://totp/...")
    qr_svg: str = Field(repr=False, description="the uri as a QR code: an SVG document")
    qr_png: str = Field(repr=False, description="the same as PNG, in base64")


class RecoveryCodes(Value):
    """Each is good once, instead of a code from the app. Shown once, stored only as hashes."""

    codes: tuple[str, ...] = Field(repr=False)


class SecondFactorPolicy(Value):
    """Members with one of these roles may do nothing but set up a second factor until they have one."""

    roles: tuple[str, ...]
    version: int = Field(description="of the organization")


class GetSecondFactor(Query[SecondFactor]):
    """The caller's own."""


class OfferTotp(Query[OfferedTotp]):
    """The caller's own; replaces what was offered before. ``Conflict`` if one is active."""

    password: str = Field(repr=False)


class ActivateTotp(Query[RecoveryCodes]):
    """The caller's own. ``NotFound`` if nothing was offered, ``Conflict`` if it is active already."""

    code: str = Field(repr=False)


class RenewRecoveryCodes(Query[RecoveryCodes]):
    """The caller's own; the old ones are good for nothing then. ``NotFound`` without a second factor."""

    password: str = Field(repr=False)
    code: str = Field(repr=False)


class RemoveTotp(Query[None]):
    """The caller's own. ``NotFound`` if there is none."""

    password: str = Field(repr=False)
    code: str = Field(repr=False)


class ResetTotp(Query[None]):
    """Of a member who has lost it. ``NotFound``; ``Forbidden`` for one who belongs elsewhere too, or may do more."""

    user_id: str


class GetSecondFactorPolicy(Query[SecondFactorPolicy]):
    """``NotFound`` for an organization that is not the caller's to manage."""

    organization_id: str


class PutSecondFactorPolicy(Query[SecondFactorPolicy]):
    """``NotFound``, ``InvalidRequest`` for an unknown role, ``PreconditionFailed`` if the version is another."""

    organization_id: str
    roles: tuple[str, ...]
    expected_version: int | None = None
