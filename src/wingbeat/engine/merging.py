"""The outputs of several steps, or of several tokens in one, put together."""

from __future__ import annotations

from wingbeat.engine.messages import RowExtras, RowOutput


def merge(outputs: list[RowOutput]) -> list[RowOutput]:
    """One for each row, in the order in which the rows first occur. It holds what came for that row, in order."""
    by_row: dict[tuple[int, int], list[RowOutput]] = {}
    for output in outputs:
        by_row.setdefault((output.request, output.row), []).append(output)
    if len(by_row) == len(outputs):
        return outputs
    return [_join(parts) for parts in by_row.values()]


def _join(parts: list[RowOutput]) -> RowOutput:
    last = parts[-1]
    extras = [part.extras for part in parts if part.extras is not None]
    logprobs = [entry for part in parts for entry in part.logprobs or ()]
    return RowOutput(
        request=last.request,
        row=last.row,
        text="".join(part.text for part in parts),
        token_ids=[token for part in parts for token in part.token_ids],
        logprobs=logprobs or None,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        error=last.error,
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        extras=_join_extras(extras),
        cached_tokens=last.cached_tokens,
    )


def _join_extras(extras: list[RowExtras]) -> RowExtras | None:
    """Each field occurs once in a row's life; together they come when its steps are merged."""
    if len(extras) < 2:
        return extras[0] if extras else None
    return RowExtras(
        prompt_logprobs=next((e.prompt_logprobs for e in extras if e.prompt_logprobs is not None), None),
        prompt_state=next((e.prompt_state for e in extras if e.prompt_state is not None), None),
        state=next((e.state for e in extras if e.state is not None), None),
        reply=next((e.reply for e in extras if e.reply is not None), None),
        embedding=next((e.embedding for e in extras if e.embedding is not None), None),
    )
