"""Both implementations choose the same tokens, and a row never depends on its neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.oracle import EVERY_LEVEL, IMPLEMENTATIONS
from wingbeat.ops.cpu import thread_pool
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.results import Masks, SampleResult
from wingbeat.sampling.samplers import Sampler

NOTHING = np.array([], np.int32)


def params_strategy() -> st.SearchStrategy[SamplingParams]:
    tokens = st.integers(0, 100)
    some = st.lists(tokens, max_size=6).map(tuple)
    return st.builds(
        SamplingParams,
        sampler=st.sampled_from(["nucleus", "nucleus", "typical", "mirostat", "mirostat_full", "noise"]),
        order=st.sampled_from(["standard", "rwkv", "ai00", "joint"]),
        temperature=st.sampled_from([0.0, 0.05, 0.7, 1.0, 1.0, 1.3, 10.0]),
        top_p=st.sampled_from([1.0, 1.0, 0.0, 0.3, 0.85, 0.999]),
        top_k=st.sampled_from([0, 0, -1, 1, 7, 50, 300, 2000]),
        min_p=st.sampled_from([0.0, 0.0, 0.001, 0.1, 1.0]),
        tau=st.sampled_from([None, 0.0, 0.2, 0.9, 2.0, 5.0, 40.0]),
        rate=st.sampled_from([0.1, 0.9, 5.0]),
        noise=st.sampled_from([0.0, 0.5, 3.0, 100.0]),
        presence_penalty=st.sampled_from([0.0, 0.5]),
        frequency_penalty=st.sampled_from([0.0, 0.3, -0.2]),
        penalty_decay=st.sampled_from([1.0, 0.996, 0.5]),
        penalties=st.sampled_from(["counts", "counts_decay_first", "values"]),
        penalty_free=some,
        penalty_free_presence=st.booleans(),
        penalty_history=some,
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        repetition_over=st.sampled_from(["all", "answer"]),
        no_repeat=some,
        min_tokens=st.integers(0, 3),
        stop_token_ids=some,
        ignore_eos=st.booleans(),
        logit_bias=st.dictionaries(tokens, st.floats(-5, 5), max_size=3),
        logprobs=st.sampled_from([None, 0, 5, 100]),
    )


def make_logits(kind: str, rows: int, vocab: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, vocab)).astype(np.float32)
    if kind == "coarse":  # many ties
        return np.round(logits)
    if kind == "peaked":
        return logits + 8 * (rng.random((rows, vocab)) < 0.005).astype(np.float32)
    if kind == "strange":
        strange = rng.random((rows, vocab))
        logits[strange < 0.2] = -np.inf
        logits[strange > 0.9999] = np.inf
        logits[0] = rng.choice(np.array([-np.inf, np.nan, 3e38, -3e38], np.float32), vocab)
    return logits


def make_masks(rows: int, vocab: int, seed: int) -> Masks:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, (2, (vocab + 31) // 32)) & rng.integers(0, 2**32, (2, 1))
    return Masks(bits.astype(np.uint32), rng.integers(-1, 2, rows))


def assert_equal(one: SampleResult, other: SampleResult) -> None:
    np.testing.assert_array_equal(one.tokens, other.tokens)
    assert one.details == other.details


@settings(max_examples=200, deadline=None)
@given(
    vocab=st.sampled_from([1, 2, 63, 64, 65, 200, 5003]),
    params=st.lists(params_strategy(), min_size=1, max_size=4),
    kind=st.sampled_from(["normal", "coarse", "peaked", "strange"]),
    padding=st.integers(0, 3),
    seed=st.integers(0, 2**64 - 1),
    choice=st.integers(0, 2**32 - 1),
    masked=st.booleans(),
    position=st.integers(0, 2**63 - 10),
)
def test_native_and_twin_agree_exactly(vocab, params, kind, padding, seed, choice, masked, position):
    rows, valid = len(params), max(1, vocab - padding)
    every = [Sampler(rows, vocab, valid_vocab=valid, end_of_text=1, **kind) for kind in EVERY_LEVEL]
    for slot, row_params in enumerate(params):
        for sampler in every:
            sampler.start(slot, row_params, np.arange(0, 90, 7, dtype=np.int32), seed, choice)
    slots = np.arange(rows, dtype=np.int32)
    for step in range(4):  # later steps see the penalties of earlier tokens
        logits = make_logits(kind, rows, vocab, seed % 1000 + step)
        masks = make_masks(rows, vocab, seed % 1000 + step) if masked else None
        results = [sampler.sample(logits, slots, np.full(rows, position + step), masks) for sampler in every]
        for result in results[1:]:
            assert_equal(results[0], result)
        assert (results[0].tokens < valid).all()


def test_native_and_twin_agree_at_full_size():
    filters = [
        *(
            {"order": order, "top_p": top_p, "top_k": top_k, "temperature": temperature, "min_p": min_p}
            for order in ("standard", "rwkv", "ai00", "joint")
            for top_p, top_k in ((1, 0), (0.3, 0), (0.85, 0), (0.85, 5000), (0.7, 100), (1, 3000))
            for temperature, min_p in ((1, 0), (1.5, 0), (0.8, 0.01))
        ),
        *(
            {"sampler": "typical", "tau": tau, "top_k": top_k, "temperature": 1.2}
            for tau in (0.3, 0.95, 5)
            for top_k in (0, 128, 4000)
        ),
        *(
            {"sampler": sampler, "tau": tau, "temperature": 1.3}
            for sampler in ("mirostat", "mirostat_full")
            for tau in (1, 3, 6, 8, 30)
        ),
        *({"sampler": "noise", "noise": noise} for noise in (0, 1.5, 1000)),
        {},
        {"top_p": 0.85},
        {"top_k": 50},
        {"top_k": 30000, "top_p": 0.5},
        {"min_p": 0.02},
        {"temperature": 0},
    ]
    for kind in ("normal", "peaked"):
        logits = make_logits(kind, len(filters), 65536, 5)
        results = []
        for kind_of_sampler in EVERY_LEVEL:
            sampler = Sampler(len(filters), 65536, **kind_of_sampler)
            for slot, kept in enumerate(filters):
                sampler.start(slot, SamplingParams(logprobs=3, **kept), NOTHING, seed=11, choice=slot)
            results.append(sampler.sample(logits, np.arange(len(filters)), np.full(len(filters), 123)))
        for result in results[1:]:
            assert_equal(results[0], result)


def test_what_top_p_kept_before_never_changes_what_is_drawn():
    """How many tokens the last set had tells the native sampler how to look for the next one."""
    every = [Sampler(1, 65536, **kind) for kind in EVERY_LEVEL]
    for sampler in every:
        sampler.start(0, SamplingParams(top_p=0.9, presence_penalty=0.2), NOTHING, seed=3, choice=0)
    logits = np.random.default_rng(1).normal(0, 1, (1, 65536)).astype(np.float32)
    for position, sharpness in enumerate((0.3, 9, 6, 2, 0.3, 4, 30, 1)):  # sets of 1 to 50,000 tokens
        row = logits * np.float32(sharpness)
        results = [s.sample(row, np.array([0]), np.array([position])) for s in every]
        for result in results[1:]:
            assert_equal(results[0], result)


def large_set(kind: str) -> np.ndarray:
    """A row whose top_p sets have thousands of tokens."""
    rng = np.random.default_rng(6)
    row = rng.normal(0, 1, 65536 + 37)
    if kind == "ties":
        row = np.round(row)
    if kind == "equal":
        row[:] = 1
    if kind == "guessed wrong":  # what a sample of the row sees is not what most of it is
        row[rng.integers(0, row.size, 300)] += 6.5
    if kind == "in one place":
        row[:3000] += 5
    if kind == "impossible tokens":
        row[rng.random(row.size) < 0.5] = -np.inf
    return row.astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "guessed wrong", "in one place", "impossible tokens"])
def test_large_sets_are_those_of_the_twin(kind):
    logits, slots = large_set(kind)[None], np.array([0])
    every = [Sampler(1, logits.shape[1], **kind) for kind in EVERY_LEVEL]
    for top_p in (0.5, 0.9, 0.999, 1 - 2**-53):
        for sampler in every:
            sampler.start(0, SamplingParams(top_p=top_p), NOTHING, seed=5, choice=0)
        for position in range(3):  # the first one looks for a small set
            results = [sampler.sample(logits, slots, np.array([position])) for sampler in every]
            for result in results[1:]:
                assert_equal(results[0], result)


def test_threads_that_flush_denormals_sample_as_all_others():
    """The kernels' threads do. Token 2 is the likeliest by a denormal, and the only one that top_k leaves."""
    logits = np.full((8, 16384), -1, np.float32)  # enough for threads to be woken
    logits[:, :4] = [0, -1, 1e-40, 0]
    for kind in EVERY_LEVEL:
        sampler = Sampler(8, 16384, **kind, pool=thread_pool(2) if kind["native"] else None)
        for slot in range(8):
            sampler.start(slot, SamplingParams(top_k=1), NOTHING, seed=slot, choice=0)
        assert sampler.sample(logits, np.arange(8), np.zeros(8, np.int64)).tokens.tolist() == [2] * 8


def test_seeds_keep_their_tokens():
    """A change here breaks `seed` for users: the same request would be answered differently."""
    logits = ((np.arange(600) * 7919 % 1000) / 125).astype(np.float32)[None]
    for native in IMPLEMENTATIONS:
        sampler = Sampler(1, 600, native=native)
        sampler.start(0, SamplingParams(top_p=0.9, presence_penalty=0.5), NOTHING, seed=42, choice=1)
        found = [int(sampler.sample(logits, np.array([0]), np.array([position])).tokens[0]) for position in range(8)]
        assert found == [27, 99, 495, 532, 174, 570, 39, 458]


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_never_depends_on_its_neighbours(native, threads):
    """The same sequences: all at once; one by one, in other slots, on another number of threads."""
    count, vocab, steps = 12, 33000 if native else 1000, 5  # two rows of 33,000 logits are enough to wake threads
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (steps, count, vocab)).astype(np.float32)
    kinds = [{"temperature": 0}, {"top_p": 0.8}, {"top_k": 9}, {"frequency_penalty": 0.5}, {"logprobs": 4}]
    params = [SamplingParams(repetition_penalty=1.1, **kinds[i % len(kinds)]) for i in range(count)]

    together = Sampler(count, vocab, native=native)
    alone = Sampler(2 * count, vocab, native=native, pool=thread_pool(threads) if native else None)
    places = rng.permutation(2 * count)[:count].astype(np.int32)
    for i in range(count):
        together.start(i, params[i], np.array([i]), seed=i % 4, choice=i % 3)
        alone.start(int(places[i]), params[i], np.array([i]), seed=i % 4, choice=i % 3)
    for step in range(steps):
        positions = np.arange(count) * 10 + step
        whole = together.sample(logits[step], np.arange(count), positions)
        for part in np.array_split(rng.permutation(count), 3 if step % 2 else count):
            found = alone.sample(logits[step, part], places[part], positions[part])
            assert_equal(found, SampleResult(whole.tokens[part], [whole.details[i] for i in part]))


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_many_threads_lose_no_row(native):
    rows, vocab = 64, 5000 if native else 300  # from 14 rows on threads are woken
    logits = np.random.default_rng(0).normal(0, 1, (rows, vocab)).astype(np.float32)
    pools = (None, thread_pool(5) if native else None)
    slots, samplers = np.arange(rows), [Sampler(rows, vocab, native=native, pool=pool) for pool in pools]
    for sampler in samplers:
        for slot in range(rows):
            sampler.start(slot, SamplingParams(presence_penalty=0.1), NOTHING, seed=slot, choice=0)
    for step in range(100):
        size = step % rows + 1
        one, many = (sampler.sample(logits[:size], slots[:size], np.full(size, step)) for sampler in samplers)
        assert_equal(one, many)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_logits_may_be_padded_or_read_only_and_are_left_alone(native):
    wide = np.full((6, 50), 1e9, np.float32)
    wide[:, :40] = np.random.default_rng(0).normal(0, 1, (6, 40))
    before = wide.copy()
    wide.flags.writeable = False
    params = SamplingParams(logit_bias={1: 3.0}, repetition_penalty=1.5, top_p=0.9, logprobs=2)
    results = []
    for logits in (wide[::2, :40], np.ascontiguousarray(wide[::2, :40]), before[::2, :40]):
        sampler = Sampler(3, 40, valid_vocab=37, native=native)
        for slot in range(3):
            sampler.start(slot, params, np.arange(5), seed=1, choice=slot)
        results.append(sampler.sample(logits, np.arange(3), np.arange(3)))
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])
    np.testing.assert_array_equal(wide, before)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_sequences_may_share_a_row(native):
    logits = np.broadcast_to(np.array([2, 1, 0], np.float32), (2, 3))
    sampler = Sampler(2, 3, native=native)
    for slot, bias in enumerate((-9.0, 0.0)):
        sampler.start(slot, SamplingParams(temperature=0, logit_bias={0: bias}), NOTHING, seed=0, choice=0)
    shared = np.lib.stride_tricks.as_strided(np.array([2, 1, 0], np.float32), (2, 3), (0, 4))
    for rows in (logits, shared):
        assert sampler.sample(rows, np.arange(2), np.zeros(2, np.int64)).tokens.tolist() == [1, 0]


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_tokens_without_text_are_never_sampled(native):
    logits = np.tile(np.array([0, 0, 0, 50, 99], np.float32), (200, 1))
    for params in (SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_p=0.5, logprobs=5)):
        sampler = Sampler(200, 5, valid_vocab=3, native=native)
        for slot in range(200):
            sampler.start(slot, params, NOTHING, seed=slot, choice=0)
        result = sampler.sample(logits, np.arange(200), np.zeros(200, np.int64))
        assert result.tokens.max() < 3
        assert all(len(each.top) == 3 for each in result.details if each is not None)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_only_the_row_that_cannot_be_sampled_fails(native):
    good, inf = np.zeros(70, np.float32), np.inf
    nan_first, nan_last = good.copy(), good.copy()
    nan_first[0], nan_last[69] = np.nan, -np.nan
    rows = np.stack([good, nan_first, nan_last, np.full(70, -inf, np.float32), good])
    for params in (SamplingParams(logprobs=1), SamplingParams(temperature=0, logprobs=1), SamplingParams(top_k=2)):
        sampler = Sampler(5, 70, native=native)
        for slot in range(5):
            sampler.start(slot, params, NOTHING, seed=0, choice=0)
        result = sampler.sample(rows, np.arange(5), np.zeros(5, np.int64))
        assert (result.tokens < 0).tolist() == [False, True, True, True, False]
        assert result.tokens[0] == result.tokens[4]
        assert result.details[1:4] == [None] * 3


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_misuse_is_refused(native):
    sampler = Sampler(2, 4, native=native)
    rows, positions = np.zeros((1, 4), np.float32), np.array([0])
    for slot in (-1, 2):
        with pytest.raises(IndexError, match="does not exist"):
            sampler.start(slot, SamplingParams(), NOTHING, seed=0, choice=0)
        with pytest.raises(IndexError, match="does not exist"):
            sampler.finish(slot)
        with pytest.raises(IndexError, match="does not exist"):
            sampler.sample(rows, np.array([slot]), positions)
    sampler.finish(1)  # nothing there: nothing happens
    with pytest.raises(ValueError, match="call start"):
        sampler.sample(rows, np.array([0]), positions)
    with pytest.raises(ValueError, match="choice"):
        sampler.start(0, SamplingParams(), NOTHING, seed=0, choice=-1)
    with pytest.raises(ValueError, match="vector"):
        sampler.start(0, SamplingParams(), np.zeros((1, 1), np.int32), seed=0, choice=0)

    sampler.start(0, SamplingParams(), NOTHING, seed=-1, choice=0)
    with pytest.raises(ValueError, match="own slot"):
        sampler.sample(np.zeros((2, 4), np.float32), np.array([0, 0]), np.array([0, 0]))
    for logits, slots, where in [
        (np.zeros((1, 3), np.float32), [0], [0]),
        (np.zeros((2, 4), np.float32), [0], [0]),
        (np.zeros(4, np.float32), [0], [0]),
        (rows, [0], [0, 1]),
        (rows, [[0]], [0]),
    ]:
        with pytest.raises(ValueError, match=r"must agree|must be \["):
            sampler.sample(logits, np.array(slots), np.array(where))
    for targets, top, message in [
        ([0], -1, "at least 0"),
        ([[0]], 0, "vector"),
        ([4], 0, "not 4"),
        ([-1], 0, "not -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            sampler.score(rows, np.array(targets), top)
    with pytest.raises(ValueError, match=r"must be \[2, 4\]"):
        sampler.score(rows, np.array([0, 0]), 0)
    with pytest.raises(ValueError, match="generated must hold token ids from 0 to 3"):
        sampler.start(0, SamplingParams(), NOTHING, seed=0, choice=0, generated=[1, 4])
    for logits in (rows.astype(np.float64), np.zeros((1, 8), np.float32)[:, ::2]):
        with pytest.raises(ValueError, match="float32"):
            sampler.sample(logits, np.array([0]), positions)
    with pytest.raises(ValueError, match="valid_vocab"):
        Sampler(1, 4, valid_vocab=5, native=native)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_a_step_may_be_empty(native):
    result = Sampler(1, 4, native=native).sample(np.zeros((0, 4), np.float32), NOTHING, np.array([], np.int64))
    assert result.tokens.shape == (0,)
    assert result.details == []


def test_tokens_without_mass_do_not_move_the_entropy():
    rng = np.random.default_rng(0)
    params = SamplingParams(sampler="typical", tau=0.5)
    for seed in range(100):
        logits = np.append(rng.normal(0, 1e-3, 2), [-50] * (seed % 3 * 100)).astype(np.float32)[None]
        tokens = set()
        for arguments in EVERY_LEVEL:
            sampler = Sampler(1, logits.shape[1], **arguments)
            sampler.start(0, params, NOTHING, seed=seed, choice=0)
            tokens.add(int(sampler.sample(logits.copy(), np.array([0], np.int32), np.array([0])).tokens[0]))
        assert len(tokens) == 1
