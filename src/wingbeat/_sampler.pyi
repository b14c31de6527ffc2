import numpy as np
from numpy.typing import NDArray

from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.penalties import Memory
from wingbeat.sampling.results import Masks, Report

def levels() -> list[str]: ...

class Sampler:
    def __init__(self, slots: int, valid_vocab: int, pool: object, level: str, end_of_text: int) -> None: ...
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
