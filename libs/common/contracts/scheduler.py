"""What the scheduler obeys and announces."""

from pydantic import Field

from libs.common.contracts.inference import Kind, ModelRef, Priority
from libs.common.contracts.message import Command


class RequestInference(Command):
    """Run this when it is its turn. Answered in the token log of ``request_id``, never here."""

    request_id: str
    organization_id: str
    user_id: str | None = None
    key_id: str | None = None
    model: ModelRef
    kind: Kind
    num_ctx: int = Field(0, description="context it asks for, in tokens; 0: it does not say")
    priority: Priority = "interactive"
    accepted_at: float = Field(description="seconds since the epoch")
    deadline: float = Field(description="seconds since the epoch; not started or not finished by then, it fails")
    channel: str = Field(description="pub/sub channel of the gateway that follows")
    task_json: str | None = Field(None, description="an InferenceTask as JSON; None if it is stored by reference")
