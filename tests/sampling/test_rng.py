import pytest

from wingbeat.sampling.rng import SAMPLING_STREAM, philox4x32, uniform

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # known answers of Random123's Philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    assert philox4x32(counter, key) == words


def test_uniform_uses_every_part_of_its_key_and_counter():
    seed, choice, position = 0x1122334455667788, 3, 0x99AABBCCDDEEFF00
    word0, word1, _, _ = philox4x32((0xDDEEFF00, 0x99AABBCC, 3, SAMPLING_STREAM), (0x55667788, 0x11223344))
    assert uniform(seed, choice, position) == (word0 * 2**32 + word1) // 2**11 / 2**53
    others = [
        uniform(seed ^ 1 << 63, choice, position),
        uniform(seed, 4, position),
        uniform(seed, choice, position + 1),
    ]
    assert len({uniform(seed, choice, position), *others}) == 4


def test_uniform_fills_the_unit_interval_evenly():
    values = [uniform(seed, 0, position) for seed in range(100) for position in range(100)]
    assert 0 <= min(values) < 0.001
    assert 0.999 < max(values) < 1
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.01)
