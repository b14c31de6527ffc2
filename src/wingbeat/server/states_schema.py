"""Bodies and replies of /v1/states."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from wingbeat.server.dialects.openai_replies import Exact
from wingbeat.server.errors import bad_request
from wingbeat.services.state_index import Kind, StateRecord

MAX_PAGE = 100
Text = Annotated[str, Field(min_length=1, max_length=255)]


class SaveBody(BaseModel):
    """What to keep: a file in base64, or another kept state or a session's state under a name. Exactly one of them."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"state_id": "st_0123", "name": "tavern"}]}
    )

    state: str | None = Field(None, min_length=1, description="A file in base64.")
    kind: Kind = Field("snapshot", description="Of `state`: what the file holds.")
    filename: Text | None = Field(None, description="Of `state`, for an initial one: tells its format by its ending.")
    state_id: Text | None = Field(None, description="The id or the name of a kept state.")
    session_id: Text | None = Field(None, description="A session, as far as it has come.")
    name: Text | None = Field(None, description="What to call it. Without a name it is kept for a while only.")

    def check(self) -> None:
        """Raises ApiError unless it says one thing to keep."""
        given = [name for name in ("state", "state_id", "session_id") if getattr(self, name) is not None]
        if len(given) != 1:
            problem = "state: one of state, state_id and session_id is wanted" + (
                f", not {', '.join(given)}" * bool(given)
            )
            raise bad_request(f"{problem}.", "state")


class RenameBody(BaseModel):
    """A new name."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"examples": [{"name": "tavern"}]})

    name: Text | None = Field(description="null: it has none from now on, and is kept for a while only.")


class LoadStateBody(BaseModel):
    """Which file of a tuned initial state to load: one that was uploaded, or, where the server allows it, one in its
    folders of states and of models."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"state_id": "st_0123", "name": "poet"}]}
    )

    state_id: Text | None = Field(None, description="The id or the name of an uploaded initial state.")
    file: Text | None = Field(None, description="A file's name. Needs --allow-load.")
    name: Text | None = Field(None, description="What requests call it in `state`. Default: the file's name.")
    default: bool = Field(False, description="Requests that name no state begin from it.")

    def check(self) -> None:
        """Raises ApiError unless it names one file."""
        if (self.state_id is None) == (self.file is None):
            raise bad_request("state_id: either state_id or file is wanted.", "state_id")


class StateObject(Exact):
    """A kept state. Times are seconds since 1970."""

    id: str
    object: Literal["state"]
    name: str | None
    kind: Kind
    model: str | None
    """That made it; null for an initial state, whose file does not tell."""
    fingerprint: str | None
    position: int
    """Tokens that it has seen."""
    bytes: int
    checksum: str
    """SHA-256 of its file."""
    created_at: int
    last_used_at: int
    expires_at: int | None
    """null: it stays until it is deleted."""


class StateList(Exact):
    """The newest first."""

    object: Literal["list"]
    data: list[StateObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StateDeleted(Exact):
    id: str
    object: Literal["state"]
    deleted: Literal[True]


class InitialState(Exact):
    """An initial state that requests can name in `state`."""

    name: str
    object: Literal["initial_state"]
    default: bool
    """Requests that name none begin from it."""
    state_id: str | None
    """The uploaded file that it was loaded from."""
    file: str | None
    """The server's file that it was loaded from while it runs."""


class InitialStateList(Exact):
    object: Literal["list"]
    data: list[InitialState]


class InitialStateDropped(Exact):
    name: str
    object: Literal["initial_state"]
    deleted: Literal[True]


def shown(record: StateRecord) -> dict[str, Any]:
    """A record as `StateObject`."""
    return {
        "id": record.id,
        "object": "state",
        "name": record.name,
        "kind": record.kind,
        "model": record.model or None,
        "fingerprint": record.fingerprint or None,
        "position": record.position,
        "bytes": record.bytes,
        "checksum": record.checksum,
        "created_at": int(record.created),
        "last_used_at": int(record.used),
        "expires_at": None if record.expires is None else int(record.expires),
    }
