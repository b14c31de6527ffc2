"""`wingbeat bench`: its figures, its random models, and the table of benchmarks/compare.py."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.ops import models
from tests.random_models import random_rwkv7, write_safetensors
from wingbeat.bench import command, measure
from wingbeat.bench.measure import CASES, Case, choose_cases, decode, load_subject, prefill, time_steps
from wingbeat.bench.profile import GROUPS, REST, WAITING, WKV, parts, profile
from wingbeat.bench.random_model import SHAPES, ModelShape, rwkv4, rwkv5, rwkv6, rwkv7, save_random_model, tensor_specs
from wingbeat.bench.tables import speed_table
from wingbeat.cli import app
from wingbeat.llm import LLM
from wingbeat.models import Model
from wingbeat.ops import cpu
from wingbeat.ops.profile import OpProfile, StepProfile
from wingbeat.ops.table import FloatArray, StepBatch

BASE = Path(__file__).parent.parent
VOCAB, WIDTH = 300, 64
SHARES = ("bandwidth_share", "gemm_share", "bandwidth_gb_s", "peak_gflop_s")

GROUPS_OF_7 = [label for label in GROUPS if label not in ("gate", "ffn.receptance", "DeepEmbed")]
needs_kernels = pytest.mark.skipif(not cpu.available(), reason="no C++ kernels")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return random_rwkv7(layers=2, width=WIDTH, vocab=VOCAB, seed=5)


@pytest.fixture(scope="module")
def model(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("bench") / "tiny.safetensors", arrays)


def bench(*flags: str | Path) -> list[dict]:
    result = CliRunner().invoke(app, ["bench", "--json", "--seconds", "0", *map(str, flags)])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@needs_kernels
def test_one_line_for_each_figure(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "read_bandwidth", lambda threads, level: cpu.read_bandwidth(threads, level, 1))
    figures = bench("--model", model, "--dtype", "int8", "--threads", "1")
    names = ["decode b1", "decode b8", "decode b32", "decode b128", "prefill 512", "prefill 1024"]
    assert [figure["what"] for figure in figures] == names
    rows = (1, 8, 32, 128, 512, 1024)
    for figure, count in zip(figures, rows, strict=True):
        assert figure["model"] == "tiny"
        assert (figure["dtype"], figure["backend"], figure["threads"]) == ("int8", "cpu", 1)
        assert figure["level"] in cpu.levels()
        assert figure["steps"] >= 5
        assert figure["tok_s"] == pytest.approx(count / figure["seconds"], rel=2e-3)
        assert all(figure[name] > 0 for name in SHARES)
        assert {"version"} < figure.keys()


@needs_kernels
def test_the_shares_follow_their_definition(
    model: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 0.5 s on a machine of 1e6 bytes/s and 1e6 multiply-adds/s; the better of two probes counts."""
    reads, peaks = iter((2e5, 1e6, 3e5, 4e5)), iter((2e5, 3e5, 1e6, 4e5))
    monkeypatch.setattr(measure, "read_bandwidth", lambda threads, level: next(reads))
    monkeypatch.setattr(measure, "multiply_add_peak", lambda threads, dtype, level: next(peaks))
    monkeypatch.setattr(measure, "time_steps", lambda model, case, seconds: [9.0, 0.5, 0.1])
    subject = load_subject(model, dtype="float32", threads=1)
    figure = measure.measure(subject, Case("four prompts", sequences=4, tokens=3), 0, "1.0")

    matrices = {name: a.size for name, a in arrays.items() if name.endswith(".weight") and a.ndim == 2}
    head = matrices.pop("head.weight")
    del matrices["emb.weight"]
    low_rank = sum(
        a.size for name, a in arrays.items() if name[-2:] in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")
    )
    multiply_adds = 12 * (sum(matrices.values()) + low_rank) + 4 * head
    assert figure.gemm_share == pytest.approx(multiply_adds / 0.5 / 1e6, rel=1e-3)
    assert figure.peak_gflop_s == pytest.approx(2e6 / 1e9)

    executable = subject.model.executable
    assert isinstance(executable, cpu.CpuExecutable)
    assert executable.weight_bytes >= 4 * (sum(matrices.values()) + low_rank + head)
    moved = executable.weight_bytes + 2 * 4 * executable.layout.slot_bytes
    assert figure.bandwidth_share == pytest.approx(moved / 0.5 / 1e6, rel=1e-3)
    assert figure.tok_s == 24


def test_the_reference_has_no_shares(model: Path) -> None:
    (figure,) = bench("--model", model, "--backend", "reference", "--what", "decode b2")
    assert figure["what"] == "decode b2"
    assert figure["backend"] == "reference"
    assert figure["tok_s"] > 0
    assert [figure[name] for name in (*SHARES, "level", "threads")] == [None] * 6


class Recording:
    """An executable that keeps what it was given."""

    def __init__(self, model: Model) -> None:
        self.layout, self.vocab_size = model.executable.layout, model.executable.vocab_size
        self.batches: list[StepBatch] = []
        self.fresh: list[bool] = []

    def run(self, batch: StepBatch, pool: FloatArray) -> FloatArray:
        self.batches.append(batch)
        self.fresh.append(not pool.any())
        pool += 1
        return np.zeros((len(batch.logit_rows), self.vocab_size), np.float32)

    def hidden(self) -> FloatArray:
        raise AssertionError("nobody asks for it")


@pytest.mark.parametrize(("case", "logit_rows"), [(decode(4), [0, 1, 2, 3]), (prefill(40), [39])])
def test_steps_get_fresh_tokens_and_go_on_or_begin_anew(model: Path, case: Case, logit_rows: list[int]) -> None:
    loaded = load_subject(model, backend="reference").model
    recording = Recording(loaded)
    times = time_steps(Model(recording, loaded.info), case, 0)
    assert len(recording.batches) == len(times) + 1
    for batch in recording.batches:
        assert len(set(batch.tokens.tolist())) == len(batch.tokens) == case.rows
        assert batch.tokens.min() > 0
        assert batch.tokens.max() < VOCAB
        assert batch.logit_rows.tolist() == logit_rows
        assert batch.seq_starts[-1] == case.rows
    assert len({batch.tokens.tobytes() for batch in recording.batches}) == len(recording.batches)
    assert recording.fresh == [True] + [case.tokens > 1] * len(times)


@needs_kernels
def test_a_profile_divides_the_whole_step(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "read_bandwidth", lambda threads, level: cpu.read_bandwidth(threads, level, 1))
    rows = bench("--model", model, "--dtype", "int8", "--profile", "--what", "decode b3", "--what", "prefill 20")
    for what in ("decode b3", "prefill 20"):
        of_case = {row["op"]: row for row in rows if row["what"] == what}
        assert list(of_case) == [*GROUPS_OF_7, WAITING, REST]
        assert sum(row["share"] for row in of_case.values()) == pytest.approx(1, abs=1e-2)
        for name, row in of_case.items():
            assert row["seconds"] == pytest.approx(row["share"] * row["step_seconds"], rel=1e-2)
            moves, multiplies = name not in (WAITING, REST), "linear" in GROUPS.get(name, "")
            assert (row["gb_s"] is not None, row["gflop_s"] is not None) == (moves, multiplies)
            assert (row["steps"], row["model"], row["plain_seconds"] > 0) == (3, "tiny", True)


@needs_kernels
@pytest.mark.parametrize("name", models.OTHER_VERSIONS)
def test_every_op_of_every_version_has_a_row(name: str) -> None:
    executable = models.native(models.OTHER_VERSIONS[name], "int8", level="")
    _, step = executable.run_profiled(models.batch([(0, [1, 2])]), executable.layout.allocate(1))
    assert {label for label, _, _ in parts([step])} <= {*GROUPS, WAITING, REST}


def test_the_rows_of_a_profile() -> None:
    """Two steps on two threads; an op that no row is meant for keeps its name."""

    def step(seconds: float, *busy: float) -> StepProfile:
        names = ("linear", "wkv7", "linear", "new_op")
        weights = (("blocks.0.att.key", "bias"), ("blocks.0.att.k_k",), ("blocks.1.att.value",), ())
        ops = [OpProfile(0, name, w, "", 1, s, 7, 0) for name, w, s in zip(names, weights, busy, strict=True)]
        return StepProfile(2, seconds, (4.0, 2.0), tuple(ops))

    found = {label: (seconds, len(ops)) for label, seconds, ops in parts([step(7, 1, 2, 3, 4), step(9, 2, 2, 2, 2)])}
    assert found == {
        "r, k, v projections": (2.0, 2),
        WKV: (1.0, 1),
        "new_op": (1.5, 1),
        WAITING: (1.5, 0),
        REST: (2.0, 0),
    }


@needs_kernels
def test_the_shares_of_a_profile_follow_their_definition(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of 1e6 bytes/s, 1e6 multiply-adds/s in bfloat16 and 4e6 in int8."""
    peaks = {"int8": 4e6, "bfloat16": 1e6}
    monkeypatch.setattr(measure, "read_bandwidth", lambda threads, level: 1e6)
    monkeypatch.setattr(measure, "multiply_add_peak", lambda threads, dtype, level: peaks[dtype])
    subject = load_subject(model, dtype="int8")
    rows = {row.op: row for row in profile(subject, decode(2), 0, "1.0")}
    state = 2 * 2 * 2 * WIDTH * 64 * 4  # in and out, of two layers and two sequences
    assert rows[WKV].bandwidth_share == pytest.approx(state / rows[WKV].seconds / 1e6, rel=2e-3)
    assert rows[WKV].gb_s == pytest.approx(state / rows[WKV].seconds / 1e9, rel=2e-3)
    head, low = rows["head"], rows["low-rank pairs"]
    assert head.gflop_s == pytest.approx(2 * 2 * VOCAB * WIDTH / head.seconds / 1e9, rel=2e-3)
    assert head.gemm_share == pytest.approx(2 * VOCAB * WIDTH / head.seconds / 4e6, rel=2e-3)
    assert low.gflop_s is not None
    assert low.gemm_share == pytest.approx(low.gflop_s * 1e9 / 2 / 1e6, rel=2e-3)


def test_the_reference_cannot_be_profiled(model: Path) -> None:
    flags = ["bench", "--model", str(model), "--backend", "reference", "--profile"]
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 1
    assert "only the C++ kernels can be profiled" in result.output


@needs_kernels
def test_a_profile_fits_a_terminal(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "read_bandwidth", lambda threads, level: 1e10)
    flags = ["bench", "--model", str(model), "--profile", "--what", "decode b2", "--seconds", "0"]
    result = CliRunner().invoke(app, flags, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for label in (*GROUPS_OF_7, WAITING, REST):
        assert any(line.strip().startswith(label) and "%" in line for line in lines), label
    assert "tiny, bfloat16" in result.stdout
    assert "times the time that reading their bytes takes" in result.stdout
    assert "…" not in result.stdout


def test_choosing_figures() -> None:
    assert choose_cases([]) == CASES
    assert [case.what for case in choose_cases(["prefill"])] == ["prefill 512", "prefill 1024"]
    assert choose_cases(["prefill 100", "decode  b3", "prefill 100"]) == (prefill(100), decode(3))
    for wrong in ("decode 3", "prefill b3", "decode b0", "all", ""):
        with pytest.raises(ValueError, match="decode b8"):
            choose_cases([wrong])


def test_the_table_is_for_people(model: Path) -> None:
    flags = ["bench", "--model", str(model), "--backend", "reference", "--what", "decode b1", "--seconds", "0"]
    result = CliRunner().invoke(app, flags, env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert "tiny, float32, NumPy reference" in result.stdout
    assert "decode b1" in result.stdout


def test_the_table_fits_80_columns() -> None:
    figure = measure.Figure(
        what="prefill 1024",
        tok_s=130_150.0,
        bandwidth_share=1.25,
        gemm_share=1.05,
        seconds=1.03397,
        steps=5,
        bandwidth_gb_s=188.0,
        peak_gflop_s=12_419.0,
        model="random-0.4B",
        dtype="bfloat16",
        backend="cpu",
        level="avx512_bf16",
        threads=32,
        version="0",
    )
    shown = io.StringIO()
    Console(file=shown, width=80).print(speed_table([figure]))
    for cell in ("prefill 1024", "130,150.0", "1,033.97", "125% of 188 GB/s", "105% of 12,419 GFLOP/s"):
        assert cell in shown.getvalue()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shape", "9B"], "0.1B, 0.4B, 1.5B"),
        (["--model", "a.pth", "--shape", "0.1B"], "not both"),
        (["--model", "nowhere.pth"], "nowhere.pth"),
        (["--what", "speed"], "'speed'"),
    ],
)
def test_mistakes_are_explained(flags: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *flags])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("0.1B", 191.03),
        ("0.4B", 450.77),
        ("1.5B", 1527.4),
        ("v4-169M", 169.34),
        ("v4-430M", 430.40),
        ("v6-1.6B", 1599.8),
    ],
)
def test_published_shapes_have_the_published_sizes(name: str, millions: float) -> None:
    parameters = sum(math.prod(spec.shape) for spec in tensor_specs(SHAPES[name]))
    assert parameters / 1e6 == pytest.approx(millions, rel=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        rwkv4(3, 128, VOCAB),
        rwkv5(3, 128, VOCAB),
        rwkv6(3, 128, VOCAB),
        rwkv7(3, 128, (8, 8, 8, 16), VOCAB),
        rwkv7(3, 128, (8, 8, 8, 16), VOCAB, deep_side=8),
    ],
    ids=lambda shape: shape.version,
)
def test_a_random_model_behaves_like_a_model(tmp_path: Path, shape: ModelShape) -> None:
    path = tmp_path / "random.safetensors"
    told: list[tuple[int, int]] = []
    save_random_model(shape, path, progress=lambda *done: told.append(done))
    assert told[-1][0] == told[-1][1] > 0
    with LLM(path, dtype="float32", backend="reference", max_batch=1) as llm:
        logits = llm.logits(list(range(1, 60)))
    spread = logits.std(axis=1)
    assert np.all((spread > 0.1) & (spread < 10))
    assert len(set(logits.argmax(axis=1).tolist())) > 5


def test_a_random_shape_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.SHAPES, "mini", rwkv7(2, 64, (8, 8, 8, 8), VOCAB))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (figure,) = bench("--shape", "mini", "--what", "decode b1", "--backend", "reference")
    assert figure["model"] == "random-mini"
    assert list(tmp_path.iterdir()) == []


def test_compare_prints_the_ratios_of_medians(tmp_path: Path) -> None:
    def fake(rates: list[int], *extra: str) -> str:
        """A benchmark whose rate is another one in each round."""
        path = tmp_path / f"{rates[0]}.py"
        path.write_text(
            "import json, pathlib\n"
            f"count = pathlib.Path({str(path.with_suffix('.count'))!r})\n"
            "n = int(count.read_text()) if count.exists() else 0\n"
            "count.write_text(str(n + 1))\n"
            "print('loading')\n"
            f"for what in {['decode b1', *extra]!r}: print(json.dumps({{'what': what, 'tok_s': {rates!r}[n]}}))\n"
        )
        return f"{sys.executable} {path}"

    log = tmp_path / "log.jsonl"
    arguments = [
        "--rounds",
        "3",
        "--log",
        log,
        f"ours = {fake([300, 100, 200], 'decode b8')}",
        f"peer={fake([90, 80, 99])}",
    ]
    script = BASE / "benchmarks" / "compare.py"
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "|  | ours, tokens/s | peer, tokens/s | ratio |",
        "|---|---:|---:|---:|",
        "| decode b1 | 200 | 90.0 | 2.22x |",
        "| decode b8 | 200 | - | - |",
    ]
    order = [entry["name"] for entry in map(json.loads, log.read_text().splitlines()) if entry["what"] == "decode b1"]
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
