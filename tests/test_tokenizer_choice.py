"""The Python API with models of each vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.random_models import random_rwkv7, write_safetensors
from tests.text.pile import write_pile
from tests.text.vocabs import with_bytes, write_vocab
from wingbeat import LLM, Conversation, SamplingParams
from wingbeat.text import MidiTokenizer

PROMPTS = {
    "midi": "<pad> p:24:a",
    "piano": "<pad> t125",
    "abc": "\x02X:1\nK:C\n",
    "bytes": "héllo",
    "20b": "the wing\n\n",
}
ROWS = {"midi": 20096, "piano": 2176, "abc": 128, "bytes": 256, "20b": 50304}


def write_model(folder: Path, rows: int, name: str = "tiny") -> Path:
    arrays = random_rwkv7(layers=1, width=32, head_size=32, vocab=rows, ranks=(4, 4, 4, 4), seed=rows)
    return write_safetensors(folder / f"{name}.safetensors", arrays)


@pytest.mark.parametrize("kind", ROWS)
def test_a_model_is_served_with_the_tokenizer_of_its_rows(tmp_path: Path, kind: str) -> None:
    if kind == "20b":
        write_pile(tmp_path / "20B_tokenizer.json")
    with LLM(write_model(tmp_path, ROWS[kind]), max_batch=2) as llm:
        assert (llm.tokenizer.kind, llm.profile.name) == (kind, "plain")
        params = SamplingParams(max_tokens=30, seed=7, logprobs=1, ignore_eos=True)
        (answer,) = llm.generate(PROMPTS[kind], params)
        assert answer.prompt_ids == llm.tokenizer.encode_segments([PROMPTS[kind]])
        assert answer.text == llm.tokenizer.decode(answer.token_ids)
        assert len(answer.token_ids) == 30
        assert max(answer.token_ids) < llm.tokenizer.vocab_size
        assert "".join(chunk.text for chunk in llm.stream(PROMPTS[kind], params)) == answer.text
        assert llm.generate("", params)[0].token_ids == llm.generate([llm.tokenizer.start], params)[0].token_ids
        for ask in (lambda: llm.chat([{"role": "user", "content": "hi"}]), lambda: Conversation(llm)):
            with pytest.raises(ValueError, match="does not chat"):
                ask()


def test_raven_chats_as_bob_and_alice(tmp_path: Path) -> None:
    write_pile(tmp_path / "20B_tokenizer.json")
    with LLM(write_model(tmp_path, 50277, "RWKV-4-Raven-tiny"), max_batch=1) as llm:
        reply = llm.chat([{"role": "user", "content": "the wing"}], SamplingParams(max_tokens=3))
        assert reply.prompt_ids == llm.tokenizer.encode("Bob: the wing\n\nAlice:")


def test_a_tokenizer_that_is_named(tmp_path: Path) -> None:
    path = write_model(tmp_path, 2200)
    with pytest.raises(ValueError, match="token ids up to 20095, but the model has only 2200 rows"):
        LLM(path, tokenizer="midi")
    with LLM(path, tokenizer="piano", max_batch=1) as llm:
        assert isinstance(llm.tokenizer, MidiTokenizer)
        vocab = write_vocab(tmp_path / "mine.txt", with_bytes([b"wing"]))
    with LLM(path, tokenizer=vocab, profile="raven", max_batch=1) as llm:
        assert llm.tokenizer.encode("wing") == [257]
        assert llm.profile.name == "raven"


def test_a_pile_model_without_its_file_says_where_it_is(tmp_path: Path) -> None:
    with LLM(write_model(tmp_path, 50277), max_batch=1, models_dir=tmp_path / "none") as llm:
        assert llm.profile.name == "plain"
        with pytest.raises(
            ValueError, match=r"`wingbeat pull 20B_tokenizer\.json` fetches it.*gpt-neox-20b on Hugging Face"
        ):
            llm.generate("hi")
