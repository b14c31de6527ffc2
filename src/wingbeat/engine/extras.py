"""What goes out beside tokens: scores, states, the answer's own tokens."""

from __future__ import annotations

import msgspec
import numpy as np

from wingbeat.engine.messages import Embed, RowExtras, RowOutput
from wingbeat.engine.origin import NOTHING, Wanted
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.engine.state_pool import StatePool
from wingbeat.ops.table import FloatArray

TOKEN_SHIFT = "blocks.{}.att.shift"
"""The field of every version's state that keeps a layer's last input."""


class Extras:
    """Adds what was asked for to outputs, while the slots of ``pool`` hold the states."""

    def __init__(self, pool: StatePool, fingerprint: str) -> None:
        self._pool, self._fingerprint = pool, fingerprint

    def attach(self, output: RowOutput, sequence: Sequence, logits: FloatArray | None, *, state: bool = True) -> None:
        """``logits`` [V] are what the state predicts, if known. ``state`` False: the slot holds none that is of use."""
        wanted, ended = sequence.wanted, output.finish_reason is not None
        prompt_state, end_state = wanted.prompt_state and state, wanted.state and ended and state
        if not (prompt_state or end_state or (wanted.reply and ended) or sequence.scores is not None):
            return
        snapshot = self._snapshot(sequence, logits) if prompt_state or end_state else None
        output.extras = RowExtras(
            sequence.scores,
            snapshot if prompt_state else None,
            snapshot if end_state else None,
            sequence.reply if wanted.reply and ended else None,
        )
        sequence.scores = None
        left = Wanted(state=wanted.state, reply=wanted.reply)
        sequence.wanted = NOTHING if left == NOTHING else left

    def attach_reading(self, output: RowOutput, sequence: Sequence) -> None:
        """Add what a sequence that samples nothing was read for. Raises FloatingPointError for a vector that is not
        finite."""
        embed = sequence.wanted.embed
        embedding = None if embed is None else self._embedding(sequence, embed)
        output.extras = RowExtras(sequence.scores, embedding=embedding)

    def _embedding(self, sequence: Sequence, embed: Embed) -> bytes:
        if embed.pooling == "shift":
            vector = self._pool.views(sequence.slot)[TOKEN_SHIFT.format(embed.layer)]
        else:
            assert sequence.hidden_sum is not None
            vector = sequence.hidden_sum / sequence.fed
        if not np.isfinite(vector).all():
            raise FloatingPointError("the vector is not finite")
        return vector.astype("<f4").tobytes()

    def _snapshot(self, sequence: Sequence, logits: FloatArray | None) -> StateSnapshot:
        arrays = self._pool.views(sequence.slot)
        return StateSnapshot.from_arrays(self._fingerprint, sequence.position, arrays, logits, sequence.continuation)


def without_end(output: RowOutput) -> tuple[RowOutput, RowOutput]:
    """What an output brings, and its end, to be sent later."""
    end = msgspec.structs.replace(output, text="", token_ids=[], logprobs=None)
    news = RowOutput(output.request, output.row, text=output.text, token_ids=output.token_ids, logprobs=output.logprobs)
    return news, end
