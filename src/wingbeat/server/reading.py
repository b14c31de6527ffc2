"""Runs requests that sample nothing to their end."""

from __future__ import annotations

from starlette.requests import Request

from wingbeat.engine.client import Generation
from wingbeat.engine.messages import RowOutput
from wingbeat.server.dialects.openai_answer import check_row, ended_early
from wingbeat.server.registry import ServedModel
from wingbeat.server.streaming import collect


async def read_rows(request: Request, generation: Generation, model: ServedModel) -> list[RowOutput]:
    """The last outputs of all rows, in order.

    Raises ApiError: 500 or 503 when one failed, 499 when the client left.
    """
    ended: dict[int, RowOutput] = {}

    def take(rows: list[RowOutput]) -> None:
        for row in rows:
            check_row(row, model)
            if row.finish_reason is not None:
                ended[row.row] = row

    await collect(request, generation, take)
    if len(ended) < len(generation.request.rows):
        raise ended_early()
    return [ended[row] for row in range(len(ended))]
