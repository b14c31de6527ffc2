"""The engine's process as its parent sees it: frames in, frames out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from wingbeat.engine.bootstrap import Bootstrap, frame_bootstrap
from wingbeat.engine.messages import (
    Cancel,
    Command,
    EngineConfig,
    Event,
    GenerationRequest,
    Ready,
    Row,
    StepOutput,
    Submit,
)
from wingbeat.ops import cpu
from wingbeat.sampling.params import SamplingParams

TOKEN = b"parent"


class Parent:
    """Starts the process, says what a client would, and hears every frame."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        address = f"ipc://{folder}/engine"
        self._socket.bind(address)
        self._process = subprocess.Popen([sys.executable, "-m", "wingbeat.engine.worker"], stdin=subprocess.PIPE)
        config = EngineConfig(model=str(model), dtype="float32", threads=1, token_budget=16)
        assert self._process.stdin is not None
        self._process.stdin.write(frame_bootstrap(Bootstrap(address, TOKEN, config, 30)))
        self._process.stdin.flush()
        ready = self.hear(60)
        while not isinstance(ready, Ready):
            assert ready is not None, "the engine says nothing"
            ready = self.hear(60)
        self.info = ready.info

    def say(self, command: Command) -> None:
        self._socket.send_multipart([TOKEN, msgspec.msgpack.encode(command)])

    def hear(self, seconds: float) -> Event | None:
        """The next frame, None when none comes in time."""
        if not self._socket.poll(int(seconds * 1000)):
            return None
        return msgspec.msgpack.decode(self._socket.recv_multipart()[1], type=Event)

    def steps(self) -> list[StepOutput]:
        """The frames until a row ends."""
        heard: list[StepOutput] = []
        while not (heard and any(row.finish_reason for row in heard[-1].rows)):
            event = self.hear(30)
            assert isinstance(event, StepOutput)
            heard.append(event)
        return heard

    def request(self, prompt: list[int], sampling: SamplingParams) -> GenerationRequest:
        return GenerationRequest(
            id=1, fingerprint=self.info["fingerprint"], prompts=[prompt], rows=[Row(0)], sampling=sampling
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._context.destroy(linger=0)


@pytest.fixture(scope="module")
def parent(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    parent = Parent(model_path, tmp_path_factory.mktemp("socket"))
    yield parent
    parent.close()


def test_every_step_is_a_frame_and_an_idle_engine_is_silent(parent: Parent) -> None:
    parent.say(Submit(parent.request([7] * 50, SamplingParams(max_tokens=3, ignore_eos=True))))
    heard = parent.steps()
    assert [len(output.rows) for output in heard] == [0, 0, 0, 1, 1, 1]  # four chunks, the last of which gives a token
    assert [output.stats.steps for output in heard] == [1, 2, 3, 4, 5, 6]
    parent.say(Cancel([1, 99]))
    assert parent.hear(0.2) is None


def test_the_memory_was_probed(parent: Parent) -> None:
    parent.say(Submit(parent.request([7], SamplingParams(max_tokens=1))))
    (output,) = parent.steps()
    if cpu.available():
        assert 1e8 < output.stats.read_bandwidth < 1e13
    else:
        assert output.stats.read_bandwidth == 0.0


def test_a_state_goes_out_and_comes_back(parent: Parent) -> None:
    prompt = [*range(10, 40)]
    sampling = SamplingParams(seed=4, max_tokens=12, ignore_eos=True)
    parent.say(Submit(parent.request(prompt, sampling)))
    whole = [token for output in parent.steps() for row in output.rows for token in row.token_ids]

    first = parent.request(prompt, msgspec.structs.replace(sampling, max_tokens=5))
    first.keep = ("end",)
    parent.say(Submit(first))
    rows = [row for output in parent.steps() for row in output.rows]
    said = [token for row in rows for token in row.token_ids]
    assert rows[-1].extras is not None
    rest = parent.request([], msgspec.structs.replace(sampling, max_tokens=7))
    rest.state = rows[-1].extras.state
    parent.say(Submit(rest))
    said += [token for output in parent.steps() for row in output.rows for token in row.token_ids]
    assert said == whole
