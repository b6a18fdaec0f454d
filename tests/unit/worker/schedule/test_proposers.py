"""What is guessed from prompts, answers and earlier answers."""

import random

import pytest

from headrace_worker.schedule.speculation.ngram import NgramProposer
from headrace_worker.schedule.speculation.proposer import Wish
from headrace_worker.schedule.speculation.suffix import AnswerStore, SuffixProposer, SuffixRules


def sequence(lab, prompt, output=(), **rest):
    made = lab.request(prompt=prompt, **rest).sequences[0]
    made.token_ids += output
    return made


def guess(proposer, each, most=4):
    [found] = proposer.propose([Wish(each, most)])
    return found


def test_an_ngram_goes_on_as_it_did_before(lab):
    each = sequence(lab, [1, 2, 3, 4, 5, 6, 7, 8], [9, 2, 3])
    assert guess(NgramProposer(2, 5), each) == [4, 5, 6, 7]
    assert guess(NgramProposer(3, 5), each) == []
    assert guess(NgramProposer(2, 2), each, most=1) == [4]


def test_the_longer_ngram_wins_and_of_equal_ones_the_latest(lab):
    each = sequence(lab, [1, 2, 3, 50, 9, 2, 3, 60, 2, 3, 70], [1, 2, 3])
    assert guess(NgramProposer(2, 3), each, 1) == [50]
    assert guess(NgramProposer(2, 2), each, 1) == [70]


def test_a_pattern_at_the_end_is_repeated(lab):
    each = sequence(lab, [9, 1, 2, 1, 2, 1, 2])
    assert guess(NgramProposer(2, 4), each, 7) == [1, 2, 1, 2, 1, 2, 1]


def test_ngrams_follow_a_sequence_as_it_grows_as_if_it_were_new(lab):
    numbers = random.Random(5)
    grown, each = NgramProposer(2, 4), sequence(lab, [numbers.randrange(4) for _ in range(30)])
    for _ in range(200):
        each.token_ids.append(numbers.randrange(4))
        assert guess(grown, each) == guess(NgramProposer(2, 4), each)


def longest_match(tokens: list[int], low: int, high: int) -> int:
    """How long the longest run is that the tokens end with and had before, looking everywhere."""
    best = 0
    for place in range(len(tokens) - 1):
        size = 0
        while size < min(high, place + 1) and tokens[place - size] == tokens[-1 - size]:
            size += 1
        best = max(best, size)
    return best if best >= low else 0


def test_ngrams_are_found_whenever_there_are_some(lab):
    numbers = random.Random(7)
    for _ in range(300):
        each = sequence(lab, [numbers.randrange(6) for _ in range(numbers.randrange(1, 40))])
        assert bool(guess(NgramProposer(2, 4), each)) == bool(longest_match(each.token_ids, 2, 4))


def test_suffixes_go_on_as_they_did_most_often(lab):
    each = sequence(lab, [1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3, 5, 8, 0], [1, 2, 3])
    proposer = SuffixProposer(SuffixRules(max_spec_factor=9))
    assert guess(proposer, each, 2) == [5, 8]
    assert guess(SuffixProposer(SuffixRules(min_token_prob=0.9)), each) == []


def test_a_longer_run_is_worth_more_guesses(lab):
    each = sequence(lab, [1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3])
    assert guess(SuffixProposer(SuffixRules()), each, 9) == [4, 5, 6]
    assert guess(SuffixProposer(SuffixRules(max_spec_factor=1.4)), each, 9) == [4, 5, 6, 7]


def test_earlier_answers_are_known_by_those_of_the_same_salt_alone(lab):
    proposer = SuffixProposer(SuffixRules(max_spec_factor=4))
    first = sequence(lab, [40, 41, 42], [1, 2, 3, 4, 5])
    first.cache_salt = b"a"
    assert guess(proposer, first) == []
    proposer.ended(first)
    for salt, found in ((b"a", [4, 5]), (b"", []), (b"b", [])):
        other = sequence(lab, [50], [1, 2, 3])
        other.cache_salt = salt
        assert guess(proposer, other) == found
    beginning = sequence(lab, [9, 40, 41, 42])
    beginning.cache_salt = b"a"
    assert guess(proposer, beginning) == [1, 2, 3, 4]


def test_no_guess_leads_from_one_answer_into_the_next(lab):
    proposer = SuffixProposer(SuffixRules(max_spec_factor=9))
    for output in ([1, 2, 3, 4], [5, 6, 7, 8]):
        each = sequence(lab, [40], output)
        guess(proposer, each)
        proposer.ended(each)
    assert guess(proposer, sequence(lab, [50], [1, 2, 3]), 9) == [4]


def test_the_store_of_answers_is_bounded_and_forgets_the_oldest(lab):
    store = AnswerStore(10)
    for number in range(100):
        store.add(sequence(lab, [1], [1000 + number, number % 3, number % 5]))
    held = {token for index in store.indexes() for token in index.tokens if token >= 1000}
    assert 5 <= len(held) <= 10
    assert max(held) == 1099
    assert min(held) > 1085


@pytest.mark.parametrize("most", [0])
def test_a_store_of_nothing_keeps_nothing(lab, most):
    store = AnswerStore(most)
    store.add(sequence(lab, [1], [2, 3, 4]))
    assert store.indexes() == []
