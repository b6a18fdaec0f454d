import numpy as np
import pytest

from headrace_worker.execute.philox import UniformSource, philox4x32


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_the_known_answers_of_the_published_generator(counter, key, expected):
    column = lambda words: np.array(words, dtype=np.uint64)[:, None]  # noqa: E731 - one line, used twice
    assert philox4x32(column(counter), column(key))[:, 0].tolist() == expected


def test_a_number_is_a_pure_function_of_seed_choice_and_position():
    seeds, choices, positions = [0, 0, 0, 1, -1, 2**63 - 1], [0, 1, 0, 0, 0, 7], [0, 0, 1, 0, 0, 4000]
    together = UniformSource(seeds, choices).at(positions)
    alone = [UniformSource([s], [c]).at([p])[0] for s, c, p in zip(seeds, choices, positions, strict=True)]
    assert together.tolist() == alone
    assert len(set(alone)) == 6


def test_numbers_are_uniform_over_positions_choices_and_seeds():
    many = 20_000
    for source, positions in [
        (UniformSource([5] * many, [0] * many), range(many)),
        (UniformSource([5] * many, range(many)), [3] * many),
        (UniformSource(range(many), [0] * many), [0] * many),
    ]:
        numbers = source.at(positions)
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
        chi_square = ((counts - many / 50) ** 2 / (many / 50)).sum()
        assert chi_square < 95  # 49 degrees of freedom: above with probability 1e-4
