"""What goes wrong with kept states, as errors that reach a client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from wingbeat.server.errors import ApiError, bad_request
from wingbeat.services.database import StorageError
from wingbeat.services.state_files import StateRefusedError
from wingbeat.services.state_shelf import NameTakenError, StatesFullError


@contextlib.contextmanager
def state_errors(param: str) -> Iterator[None]:
    """Raises ApiError for what the block raises; `param` is the field at fault where it is the client's."""
    try:
        yield
    except NameTakenError as error:
        raise ApiError(409, f"{param}: {error}.", param=param, code="name_taken") from None
    except StateRefusedError as error:
        raise bad_request(f"{param}: {error}.", param, "state_refused") from None
    except StatesFullError as error:
        raise ApiError(413, f"{param}: {error}.", param=param, code="states_full") from None
    except StorageError as error:
        message = f"States cannot be kept or found now: {error}."
        raise ApiError(503, message, param=param, code="states_unavailable") from None


def state_not_found(reference: str, param: str) -> ApiError:
    """404, also for what belongs to another key."""
    message = f"{param}: there is no state {reference[:100]!r}; GET /v1/states lists those there are."
    return ApiError(404, message, param=param, code="state_not_found")
