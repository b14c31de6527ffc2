"""One token for each row of a step, and the log-probabilities of given ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.penalties import Memory
from wingbeat.sampling.reference import ReferenceSampler
from wingbeat.sampling.results import Details, Masks, Report, SampleResult, ScoreResult

try:
    from wingbeat import _sampler
except ImportError:  # installed without a C++ compiler
    _sampler = None


def levels() -> list[str]:
    """The instruction sets that the C++ sampler can use on this machine, best first; all give the same tokens."""
    return [] if _sampler is None else _sampler.levels()


class _Core(Protocol):
    def start(
        self,
        slot: int,
        params: SamplingParams,
        prompt: NDArray[np.int32],
        seed: int,
        choice: int,
        generated: NDArray[np.int32],
        memory: Memory,
        /,
    ) -> None: ...
    def finish(self, slot: int, /) -> None: ...
    def prepare(self, rows: int, /) -> None: ...
    def sample(
        self,
        logits: NDArray[np.float32],
        slots: NDArray[np.int32],
        positions: NDArray[np.int64],
        tokens: NDArray[np.int32],
        report: Report | None,
        masks: Masks | None,
        /,
    ) -> None: ...
    def score(
        self,
        logits: NDArray[np.float32],
        targets: NDArray[np.int32],
        logprobs: NDArray[np.float32],
        top_tokens: NDArray[np.int32],
        top_logprobs: NDArray[np.float32],
        ranks: NDArray[np.int32],
        /,
    ) -> None: ...


class Sampler:
    """Samples for up to `slots` sequences at a time; one object for each engine, used by one thread at a time.

    A draw depends only on the seed, choice and position, the row of logits and the sequence's own history: never on
    the other rows, the slot, the thread or which implementation runs. Only the first `valid_vocab` logits of a row
    are looked at, for log-probabilities too; later ids are padding without text.

    Raises:
        ValueError: sizes that make no sense, or `native=True` where the extension is missing.
    """

    def __init__(
        self,
        slots: int,
        vocab_size: int,
        *,
        valid_vocab: int | None = None,
        native: bool | None = None,
        pool: object = None,
        level: str = "",
        end_of_text: int = -1,
    ) -> None:
        """`native`: None takes the C++ implementation where it is installed, False the NumPy twin. `pool`: a
        `wingbeat._kernels.ThreadPool` (as `CpuExecutable.pool`) whose threads share the rows of a step in C++; None:
        the caller's thread alone. `level`: one of `levels()`; "" is the best. `end_of_text`: the token that
        `min_tokens` holds back beside the stop tokens; -1: none."""
        valid = vocab_size if valid_vocab is None else valid_vocab
        if slots < 1 or not 1 <= valid <= vocab_size:
            raise ValueError(
                f"a sampler needs slots >= 1 and 1 <= valid_vocab <= vocab_size, "
                f"not {slots=}, {valid_vocab=}, {vocab_size=}"
            )
        if native and _sampler is None:
            raise ValueError("the native sampler is not installed: install wingbeat with a C++ compiler present")
        self.vocab_size = vocab_size
        self._valid = valid
        self.native = _sampler is not None and native is not False
        self._core: _Core
        if _sampler is not None and native is not False:
            self._core = _sampler.Sampler(slots, valid, pool, level, end_of_text)
        else:
            self._core = ReferenceSampler(slots, valid, end_of_text)
        self._slots = slots
        self._wants: dict[int, int] = {}  # by slot, of those that want details: how many of the most likely tokens

    def start(
        self,
        slot: int,
        params: SamplingParams,
        prompt: NDArray[np.int32],
        seed: int,
        choice: int,
        generated: Sequence[int] = (),
        memory: Memory | None = None,
    ) -> None:
        """A sequence begins in `slot`, replacing what was there.

        Args:
            params: as `SamplingParams.validate` accepts; bias on ids without text is ignored.
            prompt: int32 [T]: the tokens that the repetition penalty counts beside the generated ones.
            seed: 64 bits (a negative one is taken modulo 2^64); `params.seed` is the engine's business.
            choice: which of a request's `n` answers this is, 0 <= choice < 2^32.
            generated: the tokens that were drawn for it already, for a sequence that goes on.
            memory: what came before those, and mirostat's value after them. None: nothing but the prompt.

        Raises:
            IndexError: no such slot.
            ValueError: `prompt` is not one-dimensional, a token generated or remembered is outside the vocabulary, or
                `choice` is out of range.
        """
        self._check_slot(slot)
        prompt = np.ascontiguousarray(prompt, dtype=np.int32)
        if prompt.ndim != 1:
            raise ValueError(f"prompt must be a vector of token ids, not an array of shape {prompt.shape}")
        if not 0 <= choice < 2**32:
            raise ValueError(f"choice must be from 0 to 2^32 - 1, not {choice}")
        drawn = np.array(generated, np.int32)
        self._check_tokens("generated", drawn, self._valid)
        if memory is None:
            memory = Memory(last=int(prompt[-1]) if len(prompt) else -1)
        self._check_tokens("memory", np.array([*memory.counts, *memory.weights], np.int32), self._valid)
        self._core.start(slot, params, prompt, seed & 0xFFFF_FFFF_FFFF_FFFF, choice, drawn, memory)
        self._wants.pop(slot, None)
        if params.logprobs is not None or params.sampler.startswith("mirostat"):
            self._wants[slot] = params.logprobs or 0

    def finish(self, slot: int) -> None:
        """Forget the sequence in `slot`; nothing happens if there is none.

        Raises:
            IndexError: no such slot.
        """
        self._check_slot(slot)
        self._core.finish(slot)
        self._wants.pop(slot, None)

    def prepare(self, rows: int) -> None:
        """A call of `sample` with so many rows follows in a moment: threads that sleep wake up meanwhile."""
        self._core.prepare(rows)

    def sample(
        self,
        logits: NDArray[np.float32],
        slots: NDArray[np.int32],
        positions: NDArray[np.int64],
        masks: Masks | None = None,
    ) -> SampleResult:
        """Draw a token for each row and count it for the penalties of its sequence.

        Args:
            logits: float32 [R, V], unchanged afterwards, though not meanwhile; rows may be apart by more than V values.
            slots: int32 [R], each a different slot with a sequence.
            positions: int64 [R]: tokens that the sequence has consumed; with its seed and choice it fixes the draw.
            masks: tokens that are not allowed are at -inf before anything else; log-probabilities do not see that.

        Raises:
            IndexError: a slot that does not exist, a row of `masks.bits` that does not exist.
            ValueError: shapes or types that do not fit, a slot twice, a slot without a sequence.
        """
        rows = len(slots)
        if slots.ndim != 1 or positions.shape != slots.shape:
            raise ValueError(f"slots [R] and positions [R] must agree, not {slots.shape} and {positions.shape}")
        self._check_logits(logits, rows)
        masks = None if masks is None else self._checked_masks(masks, rows)
        if not logits.flags.writeable or (rows > 1 and logits.strides[0] < 4 * self.vocab_size):
            logits = logits.copy()  # penalties are made in the row itself, and taken back
        wanted = [self._wants.get(slot) for slot in slots.tolist()] if self._wants else None

        tokens = np.empty(rows, np.int32)
        report = None if wanted is None else _blank(wanted)
        self._core.sample(logits, slots, positions, tokens, report, masks)
        if wanted is None or report is None:
            return SampleResult(tokens, [None] * rows)
        drawn = (tokens >= 0).tolist()
        return SampleResult(tokens, [_details(report, row, k) if drawn[row] else None for row, k in enumerate(wanted)])

    def score(self, logits: NDArray[np.float32], targets: NDArray[np.int32], top: int) -> ScoreResult:
        """The log-probabilities that `sample` would report had it drawn these tokens. Needs no sequence.

        Args:
            logits: float32 [R, V], unchanged afterwards; rows may be apart by more than V values.
            targets: int32 [R]: the token to score in each row.
            top: how many of the most likely tokens to list for each row, from 0.

        Raises:
            ValueError: shapes or types that do not fit, a token outside the vocabulary.
        """
        targets = np.ascontiguousarray(targets, dtype=np.int32)
        rows = len(targets)
        if targets.ndim != 1 or top < 0:
            raise ValueError(f"targets must be a vector and top at least 0, not {targets.shape} and {top}")
        self._check_tokens("targets", targets, self.vocab_size)
        self._check_logits(logits, rows)
        logprobs = np.full(rows, np.nan, np.float32)
        top_tokens = np.full((rows, top), -1, np.int32)
        top_logprobs = np.empty(top_tokens.shape, np.float32)
        ranks = np.zeros(rows, np.int32)
        self._core.score(logits, targets, logprobs, top_tokens, top_logprobs, ranks)
        pairs = [_pairs(*row) for row in zip(top_tokens, top_logprobs, strict=True)]
        return ScoreResult(logprobs, pairs, ranks)

    def _check_logits(self, logits: NDArray[np.float32], rows: int) -> None:
        if logits.shape != (rows, self.vocab_size):
            raise ValueError(f"logits must be [{rows}, {self.vocab_size}], not {logits.shape}")
        misplaced = logits.size > 0 and (logits.strides[1] != 4 or logits.strides[0] % 4 != 0)
        if logits.dtype != np.float32 or misplaced:
            raise ValueError("logits must be float32 with the values of a row next to each other")

    def _checked_masks(self, masks: Masks, rows: int) -> Masks:
        bits = np.ascontiguousarray(masks.bits, dtype=np.uint32)
        masked = np.ascontiguousarray(masks.rows, dtype=np.int32)
        words = (self._valid + 31) // 32
        if bits.ndim != 2 or bits.shape[1] < words or masked.shape != (rows,):
            raise ValueError(
                f"masks must be bits [M, at least {words}] and rows [{rows}], not {bits.shape} and {masked.shape}"
            )
        if rows and not (masked.min() >= -1 and masked.max() < len(bits)):
            raise IndexError(f"masks.rows must be from -1 to {len(bits) - 1}, not {masked.tolist()}")
        return Masks(bits, masked)

    def _check_tokens(self, name: str, tokens: NDArray[np.int32], vocab_size: int) -> None:
        for token in tokens[(tokens < 0) | (tokens >= vocab_size)].tolist():
            raise ValueError(f"{name} must hold token ids from 0 to {vocab_size - 1}, not {token}")

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self._slots:
            raise IndexError(f"slot {slot} does not exist: the sampler has {self._slots}")


def _blank(wanted: list[int | None]) -> Report:
    """For rows that want the details of so many of the most likely tokens; None: that want none."""
    rows, most = len(wanted), max((k or 0 for k in wanted), default=0)
    return Report(
        np.full(rows, np.nan, np.float32),
        np.full((rows, most), -1, np.int32),
        np.empty((rows, most), np.float32),
        np.full(rows, np.nan),
    )


def _details(report: Report, row: int, wanted: int | None) -> Details | None:
    if wanted is None:
        return None
    logprob, mu = float(report.logprobs[row]), float(report.mu[row])
    top = _pairs(report.top_tokens[row, :wanted], report.top_logprobs[row, :wanted])
    return Details(None if math.isnan(logprob) else logprob, top, None if math.isnan(mu) else mu)


def _pairs(tokens: NDArray[np.int32], logprobs: NDArray[np.float32]) -> list[tuple[int, float]]:
    return [(token, value) for token, value in zip(tokens.tolist(), logprobs.tolist(), strict=True) if token >= 0]
