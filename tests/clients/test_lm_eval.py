"""lm-evaluation-harness: its numbers are those of the model."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from tests.clients.conftest import Server
from tests.clients.recipes import Recipe

PAIRS = [
    ("English: Save the file\n\nChinese:", " 保存文件"),
    ("English: Save the file\n\nChinese:", " 打开文件"),
    ("User: What is RWKV?\n\nAssistant:", " RWKV is a recurrent neural network for language."),
    ("The", " end."),  # the token that the model puts after it is the end of text
    ("A", "b"),
    ("世界", "é 🦜\n\nUser: \tx"),
]
HERE = Path(__file__).parent
TASKS = ("scoring.yaml", "perplexity.yaml")
TEXTS = ["User: What is RWKV?\n\nAssistant: RWKV is a recurrent neural network.", "世界"]


@pytest.fixture(scope="module")
def expected(server: Server) -> list[tuple[float, bool]]:
    return truth(server, list(PAIRS))


def truth(server: Server, pairs: list[tuple[str | None, str]]) -> list[tuple[float, bool]]:
    """See `scores.py`."""
    return [(logprob, greedy) for logprob, greedy in told(server, "scores.py", pairs)]


def told(server: Server, script: str, asked: Any) -> Any:
    """What a script of this folder says, run by the environment that holds wingbeat; both are JSON."""
    command = [server.wingbeat.with_name("python"), Path(__file__).with_name(script)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def requests(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, arguments=given, idx=index) for index, given in enumerate(arguments)]


def completions(server: Server, **settings: Any) -> LocalCompletionsAPI:
    return LocalCompletionsAPI(model="model", base_url=f"{server.base}/completions", **settings)


def test_recipe(server: Server, tmp_path: Path) -> None:
    recipe = Recipe("lm-evaluation-harness", server.url)
    recipe.write_files(tmp_path)
    printed = recipe.run_shell(tmp_path, HF_HOME=str(tmp_path))
    (row,) = [line for line in printed.splitlines() if line.startswith("|translate")]
    assert [cell.strip() for cell in row.split("|")][7] == "1"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_concurrent": 4},
        {"batch_size": 4},
        {"num_concurrent": 2, "batch_size": 2},
        {"tokenized_requests": False},
    ],
    ids=str,
)
def test_log_probabilities_are_those_of_the_model(
    settings: dict[str, Any], server: Server, expected: list[tuple[float, bool]]
) -> None:
    found = completions(server, **settings).loglikelihood(requests("loglikelihood", list(PAIRS)))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], abs=1e-4)
    assert {greedy for _, greedy in expected} == {True, False}


def test_rolling_log_probabilities(server: Server) -> None:
    found = completions(server).loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS]))
    expected = [logprob for logprob, _ in truth(server, [(None, text) for text in TEXTS])]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("settings", [{"num_concurrent": 4}, {"batch_size": 4}], ids=str)
def test_tasks_of_local_files(
    settings: dict[str, Any], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole runs of the harness: of choices by log-probabilities, and of texts by perplexity."""
    documents = [json.loads(line) for line in HERE.joinpath("scoring.jsonl").read_text("utf-8").splitlines()]
    expected = told(server, "llm_scores.py", documents)
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    tasks: list[Any] = [yaml.safe_load(HERE.joinpath(name).read_text("utf-8")) for name in TASKS]
    model = completions(server, **settings)
    report = lm_eval.simple_evaluate(model, tasks=tasks, bootstrap_iters=0)
    assert report is not None
    samples, results = report["samples"], report["results"]

    for sample, (choices, _) in zip(in_order(samples["local_scores"]), expected, strict=True):
        found = [(float(logprob), bool(greedy)) for logprob, greedy in sample["filtered_resps"]]
        assert [greedy for _, greedy in found] == [greedy for _, greedy in choices]
        assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in choices], abs=1e-4)
    likeliest = [choices.index(max(choices)) for choices, _ in expected]
    right = [best == document["answer"] for best, document in zip(likeliest, documents, strict=True)]
    assert results["local_scores"]["acc,none"] == pytest.approx(sum(right) / len(right))

    rolling = [float(sample["filtered_resps"][0]) for sample in in_order(samples["local_perplexity"])]
    assert rolling == pytest.approx([whole for _, whole in expected], abs=1e-4)
    texts = [document["context"] + document["choices"][document["answer"]] for document in documents]
    bits = -sum(rolling) / sum(len(text.encode()) for text in texts) / math.log(2)
    assert results["local_perplexity"]["bits_per_byte,none"] == pytest.approx(bits)


def in_order(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize("settings", [{}, {"num_concurrent": 4}, {"batch_size": 4}], ids=str)
def test_generated_text(settings: dict[str, Any], server: Server) -> None:
    asked = [(f"English: {word}\n\nChinese:", {"until": ["\n"], "max_gen_toks": 8}) for word in ("Save", "Open")]
    assert completions(server, **settings).generate_until(requests("generate_until", asked)) == [" 保存", " 打开"]


@pytest.mark.parametrize("settings", [{}, {"num_concurrent": 4}], ids=str)
def test_generated_answers_of_a_chat(settings: dict[str, Any], server: Server) -> None:
    chat = LocalChatCompletion(model="model", base_url=f"{server.base}/chat/completions", **settings)
    prompts = [chat.apply_chat_template([{"role": "user", "content": "What is RWKV?"}])] * 2
    asked = [(prompt, {"until": ["."], "max_gen_toks": 40}) for prompt in prompts]
    first, second = chat.generate_until(requests("generate_until", asked))
    assert first == second
    assert "recurrent" in first
    assert "." not in first


def test_keys(strict_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", strict_server.key)
    model = completions(strict_server, auth_token=strict_server.key)
    assert model.loglikelihood(requests("loglikelihood", list(PAIRS[:1])))[0][0] < 0
