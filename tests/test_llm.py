"""The Python API."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.engine.helpers import Speller, assert_empty, stand_in
from tests.random_models import random_rwkv7, write_safetensors
from tests.text.vocabs import with_bytes, write_vocab
from wingbeat import LLM, SamplingParams
from wingbeat.demo import demo_model_path
from wingbeat.llm import GenerationError
from wingbeat.ops import cpu
from wingbeat.text.world import WorldTokenizer

BACKENDS = ["reference", *(["cpu"] if cpu.available() else [])]
FIXED = SamplingParams(seed=3, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    write_vocab(folder / "tiny.vocab.txt", with_bytes([b"wing", b"beat", b"\n\n"]))
    return write_safetensors(folder / "tiny.safetensors", random_rwkv7(layers=2, width=64, vocab=300, seed=1))


@pytest.fixture(scope="module", params=BACKENDS)
def llm(request: pytest.FixtureRequest, path: Path) -> Iterator[LLM]:
    with LLM(path, dtype="float32", backend=request.param, threads=2, max_batch=4) as llm:
        yield llm


@pytest.fixture
def speller(path: Path) -> LLM:
    """Answers "hi" with "wingbeat", a blank line and "User"; fails on token 66."""
    tokenizer = WorldTokenizer(path.with_name("tiny.vocab.txt"))
    prompt = tokenizer.encode("User: hi\n\nAssistant:")
    ids = [0] * (len(prompt) - 1) + tokenizer.encode(" wingbeat\n\nUser")
    return LLM.from_model(stand_in(Speller(ids, 300, bad_token=66)), tokenizer)


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, wingbeat; sys.exit(any(m in sys.modules for m in ('numpy', 'msgspec', 'zmq', 'asyncio')))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_texts_and_ids_give_the_same_answer(llm: LLM) -> None:
    ids = llm.tokenizer.encode("wingbeat")
    text, as_list, as_array = (llm.generate(p, FIXED)[0] for p in ("wingbeat", ids, np.array(ids)))
    assert text == as_list == as_array
    assert text.prompt_ids == ids
    assert len(text.token_ids) == 12
    assert text.finish_reason == "length"
    assert llm.tokenizer.decode(text.token_ids) == text.text


def test_a_batch_larger_than_the_slots_answers_in_order(llm: LLM) -> None:
    prompts = ["a", "wing", [], "beat", [1, 2, 3], "a"]
    together = llm.generate(prompts, FIXED)
    assert [llm.generate([p], FIXED)[0].token_ids for p in prompts] == [c.token_ids for c in together]
    assert together[0] == together[5]
    assert llm.generate([], FIXED) == llm.generate([], []) == []
    assert [c.token_ids for c in llm.generate((p for p in prompts), FIXED)] == [c.token_ids for c in together]
    assert_empty(llm._shared.engine)


def test_parameters_may_differ_by_prompt(llm: LLM) -> None:
    seeds = [SamplingParams(seed=s, max_tokens=6, ignore_eos=True, logprobs=1) for s in range(3)]
    answers = llm.generate("wing", seeds)
    assert len({tuple(a.token_ids) for a in answers}) == 3
    assert all(a.logprobs is not None and len(a.logprobs) == 6 for a in answers)
    assert llm.generate(["wing", "wing", "wing"], seeds) == answers
    with pytest.raises(ValueError, match="2 sampling_params for 3 prompts"):
        llm.generate(["a", "b", "c"], seeds[:2])


def test_a_stream_is_the_same_answer_in_pieces(llm: LLM) -> None:
    whole = llm.generate("wing", FIXED)[0]
    chunks = list(llm.stream("wing", FIXED))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert [chunk.finish_reason for chunk in chunks] == [None] * 11 + ["length"]


def test_leaving_a_stream_frees_its_slot(llm: LLM) -> None:
    stream = llm.stream("wing", SamplingParams(ignore_eos=True))
    next(stream)
    assert llm._shared.engine.stats().slots_in_use == 1
    stream.close()
    assert llm._shared.engine.stats().slots_in_use == 0
    assert not llm._shared._boxes


def test_a_stream_goes_on_from_a_kept_state(llm: LLM) -> None:
    prompt = llm.tokenizer.encode("wingbeat and more")
    whole = list(llm.stream(prompt, FIXED, keep=["prompt", "end"]))
    assert [chunk.prompt_state is not None for chunk in whole] == [True] + [False] * 12
    assert [chunk.state is not None for chunk in whole] == [False] * 12 + [True]
    tokens = [token for chunk in whole for token in chunk.token_ids]
    (read,) = llm.stream(prompt[:5], SamplingParams(max_tokens=0), keep=["prompt"])
    assert (read.token_ids, read.finish_reason) == ([], "length")
    for state, rest, expected in (
        (read.prompt_state, prompt[5:], tokens),
        (whole[0].prompt_state, tokens[:1], tokens[1:]),
        (whole[0].prompt_state, [], tokens),
        (whole[-1].state, [], []),
    ):
        assert state is not None
        assert state.position == len(prompt) + len(tokens) - len(rest) - len(expected)
        params = SamplingParams(seed=3, max_tokens=len(expected) or 4, ignore_eos=True)
        again = [chunk.token_ids[0] for chunk in llm.stream(rest, params, state=state)]
        if llm.info.backend == "cpu":  # BLAS: equal to rounding only
            assert again[: len(expected)] == expected


def test_a_state_that_does_not_fit_is_refused_at_once(llm: LLM) -> None:
    (read,) = llm.stream([1], SamplingParams(max_tokens=0), keep=["prompt"])
    assert read.prompt_state is not None
    with pytest.raises(ValueError, match="a prompt of at least one token"):
        llm.stream([], state=msgspec.structs.replace(read.prompt_state, logits=None))
    for changes, message in (
        ({"fingerprint": "other"}, "another model"),
        ({"arrays": {}}, "another version"),
        ({"position": -1}, "position"),
    ):
        with pytest.raises(ValueError, match=message):
            llm.stream([1], state=msgspec.structs.replace(read.prompt_state, **changes))
    with pytest.raises(ValueError, match="keep must hold"):
        llm.stream([1], keep=["middle"])  # type: ignore[list-item]


def test_a_stream_that_is_told_to_stop(llm: LLM) -> None:
    said: list[int] = []
    stream = llm.stream("wing", SamplingParams(ignore_eos=True), keep=["end"], stop_when=lambda: len(said) == 5)
    for chunk in stream:
        said += chunk.token_ids
    assert len(said) == 5
    assert chunk.finish_reason == "cancelled"
    assert chunk.state is not None
    assert_empty(llm._shared.engine)
    assert [c.finish_reason for c in llm.stream("wing", FIXED, stop_when=lambda: True)] == ["cancelled"]


def test_the_loading_can_be_watched(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with LLM(path, backend="reference", progress=lambda done, total: seen.append((done, total))):
        pass
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert len(done) > 10
    assert {total for _, total in seen} == {done[-1]}


@pytest.mark.skipif(not cpu.available(), reason="built without a C++ compiler: there is nothing to pack")
def test_packed_weights_are_kept_where_that_is_asked_for(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path))
    found = []
    for kept in (False, True, True):
        with LLM(path, dtype="int8", cache_packed=kept) as llm:
            found.append(llm.logits([1, 2, 3]).tobytes())
        assert len(list(tmp_path.glob("packed/*"))) == kept
    assert len(set(found)) == 1


def test_threads_share_the_engine(llm: LLM) -> None:
    prompts = ["a", "b", "wing", "beat", "c", "d"]
    expected = [llm.generate(p, FIXED)[0] for p in prompts]
    results: dict[str, object] = {}
    threads = [threading.Thread(target=lambda p=p: results.update({p: llm.generate(p, FIXED)[0]})) for p in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[p] for p in prompts] == expected
    assert_empty(llm._shared.engine)


def test_bad_input_is_refused_before_anything_runs(llm: LLM) -> None:
    before = llm._shared.engine.stats()
    with pytest.raises(ValueError, match="token id 300"):
        llm.generate([[1], [300]])
    with pytest.raises(ValueError, match="top_p"):
        llm.stream("a", SamplingParams(top_p=3))
    with pytest.raises(ValueError, match="token id -1"):
        llm.logits([-1])
    with pytest.raises(ValueError, match="chunk"):
        llm.logits([1], chunk=0)
    with pytest.raises(ValueError, match="a message is"):
        llm.chat([{"role": "user", "text": "hi"}])
    with pytest.raises(ValueError, match="a message is"):
        llm.chat("hi")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="content is a text, not 5"):
        llm.chat([{"role": "user", "content": 5}])  # type: ignore[dict-item]
    for prompts in (5, None, [None], ["a", 5], [1, "a"], [1.5], [[[1]]]):
        with pytest.raises(ValueError, match="token ids"):
            llm.generate(prompts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 sampling_params for 1 prompts"):
        llm.generate(["a"], [FIXED] * 3)
    with pytest.raises(ValueError, match="0 sampling_params for 1 prompts"):
        llm.generate("a", [])
    assert llm._shared.engine.stats() == before


def test_logits_do_not_depend_on_the_chunks(llm: LLM) -> None:
    tokens = np.random.default_rng(0).integers(0, 300, 40)
    whole = llm.logits(tokens)
    assert whole.shape == (40, 300)
    assert whole.dtype == np.float32
    for chunk in (1, 7):
        pieces = llm.logits(tokens.tolist(), chunk=chunk)
        if llm.info.backend == "reference":  # BLAS: equal to rounding only
            np.testing.assert_allclose(pieces, whole, atol=1e-4)
        else:
            np.testing.assert_array_equal(pieces, whole)
    assert llm.logits([]).shape == (0, 300)
    assert llm.generate(tokens, SamplingParams(temperature=0, max_tokens=1))[0].token_ids == [whole[-1, :260].argmax()]


def test_chat_uses_the_models_format(speller: LLM) -> None:
    reply = speller.chat([{"role": "user", "content": "hi"}])
    assert speller.tokenizer.decode(reply.prompt_ids) == "User: hi\n\nAssistant:"
    assert (reply.text, reply.finish_reason, reply.stop_reason) == ("wingbeat", "stop", "\n\n")
    with pytest.raises(ValueError, match="unknown role"):
        speller.chat([{"role": "robot", "content": "hi"}])


def test_chat_goes_on_after_the_end_of_text_when_told_to(path: Path) -> None:
    tokenizer = WorldTokenizer(path.with_name("tiny.vocab.txt"))
    wing = tokenizer.encode("wing")[0]
    count = len(tokenizer.encode_segments(["User:", " hi", "\n\n", "Assistant:"]))
    llm = LLM.from_model(stand_in(Speller([9] * (count - 1) + [wing, 0, wing, wing], 300)), tokenizer)
    hi = [{"role": "user", "content": "hi"}]
    ended = llm.chat(hi, SamplingParams(max_tokens=4))
    assert (ended.token_ids, ended.finish_reason, ended.stop_reason) == ([wing, 0], "stop", None)
    goes_on = llm.chat(hi, SamplingParams(max_tokens=4, ignore_eos=True))
    assert (goes_on.token_ids, goes_on.finish_reason) == ([wing, 0, wing, wing], "length")


def test_the_chat_format_can_be_chosen(path: Path) -> None:
    with LLM(path, backend="reference", profile="g1") as llm:
        prompt = llm.chat([{"role": "user", "content": "hi"}], FIXED, thinking=True).prompt_ids
        assert llm.tokenizer.decode(prompt).endswith("Assistant: <think")
    with pytest.raises(ValueError, match="unknown model profile 'other'"):
        LLM(path, backend="reference", profile="other")


def test_an_answer_that_fails_is_an_exception(speller: LLM) -> None:
    with pytest.raises(GenerationError, match=r"1 of 2 completions failed.*not finite") as failure:
        speller.generate([[66], [5]], SamplingParams(max_tokens=1))
    assert [c.finish_reason for c in failure.value.completions] == ["error", "stop"]
    with pytest.raises(GenerationError, match="not finite"):
        list(speller.stream([66]))


def test_a_model_without_a_tokenizer_takes_ids(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "odd.safetensors", random_rwkv7(layers=1, width=64, vocab=77))
    with LLM(path, backend="reference") as llm:
        assert len(llm.generate([1, 2], SamplingParams(max_tokens=3, ignore_eos=True))[0].token_ids) == 3
        with pytest.raises(ValueError, match="or pass token ids"):
            llm.generate("text")
        with pytest.raises(ValueError, match="use stop_token_ids"):
            llm.generate([1], SamplingParams(stop=("x",)))


def test_a_closed_llm_says_so(path: Path) -> None:
    llm = LLM(path, backend="reference")
    stream = llm.stream("a", SamplingParams(ignore_eos=True))
    next(stream)
    llm.close()
    for call in (lambda: next(stream), lambda: llm.generate("a"), lambda: llm.logits([1]), lambda: llm.info):
        with pytest.raises(ValueError, match="closed"):
            call()
    llm.close()


LEFT_OPEN = """
import sys, threading, time
from wingbeat import LLM

def hold(llm):
    threading.Thread(target=lambda: (time.sleep(60), llm), daemon=True).start()

hold(LLM(sys.argv[1]))
"""


def test_an_llm_left_open_says_nothing_at_exit(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT_OPEN, str(path)], capture_output=True, text=True, check=True)
    assert ended.stdout + ended.stderr == ""


def test_the_demo_model_is_found_or_missed_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wingbeat.demo.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="name a model's file"):
        LLM()
    model = tmp_path / "small.safetensors"
    model.touch()
    assert demo_model_path() == model


def test_a_model_is_found_by_its_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rwkv7-tiny-0.1b.safetensors").symlink_to(path)
    monkeypatch.setenv("WINGBEAT_MODELS_DIR", str(tmp_path))
    with LLM("tiny-0.1b") as llm:
        assert llm.info.path == str(tmp_path / "rwkv7-tiny-0.1b.safetensors")
    with LLM("tiny-0.1b", models_dir=tmp_path) as llm:
        assert llm.info.name == "rwkv7-tiny-0.1b"
    with pytest.raises(FileNotFoundError, match=r"There is no file none: .* `wingbeat list`"):
        LLM("none")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.pth: name a model's file"):
        LLM(tmp_path / "none.pth")
