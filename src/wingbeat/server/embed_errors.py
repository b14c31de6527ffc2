"""What goes wrong with the embedding model, as errors that reach a client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from wingbeat.server.errors import ApiError, unavailable
from wingbeat.services.embedder import EmbedderBusyError, EmbedderUnavailableError


@contextlib.contextmanager
def embed_errors() -> Iterator[None]:
    """Raises ApiError for what the block raises: 429, 501 where there will be no model, 503 while it is loaded."""
    try:
        yield
    except EmbedderBusyError as error:
        raise ApiError(429, f"{error} Try again.", code="queue_full", headers={"Retry-After": "1"}) from None
    except EmbedderUnavailableError as error:
        if error.ever:
            raise unavailable(str(error)) from None
        raise ApiError(501, str(error), param="model", code="embedding_model_unavailable") from None
