"""Log-likelihoods equal the sums of transformers' log-softmax, by themselves and through lm-evaluation-harness."""

import pytest

from headrace_worker import SamplingParams
from headrace_worker.offline.scoring import loglikelihood, loglikelihood_rolling, loglikelihood_tokens

PAIRS = [
    ("the cat sat on", " the mat"),
    ("the cat sat on", " the door"),
    ("the cat sat on ", "the mat"),
    ("", "a bird"),
    ("THE DOG", " 1, 2"),
    ("a", "b"),
]
LONG = " ".join(["the cat sat on the mat and the dog lay by the door while a bird sang"] * 20)


def split(reference, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """As lm-evaluation-harness does: the blank goes with the word after it."""
    if not context:
        return [1], reference.ids(continuation)[1:]
    before = reference.ids(context.rstrip())
    return before, reference.ids(context + continuation)[len(before) :]


def close(found, expected) -> bool:
    return found[0] == pytest.approx(expected[0], abs=1e-3) and found[1] == expected[1]


def test_likelihoods_equal_the_sums_of_log_softmax(llm, reference):
    found = loglikelihood(llm, PAIRS, use_tqdm=False)
    for pair, likelihood in zip(PAIRS, found, strict=True):
        assert close(likelihood, reference.likelihood(*split(reference, *pair)))
    assert found[0] == found[2]


def test_what_greedy_decoding_says_is_greedy_and_nothing_else(llm, reference):
    ids = reference.ids("the cat")
    (said,) = llm.generate(ids, SamplingParams(temperature=0, max_tokens=9), use_tqdm=False)
    answer = said.outputs[0].token_ids
    other = [*answer[:-1], (answer[-1] + 1) % 200 + 3]
    greedy, not_greedy = loglikelihood_tokens(llm, [(ids, answer), (ids, other)], use_tqdm=False)
    assert (greedy.is_greedy, not_greedy.is_greedy) == (True, False)
    assert close(greedy, reference.likelihood(ids, answer))
    assert close(not_greedy, reference.likelihood(ids, other))


def test_of_a_context_that_is_too_long_the_end_is_kept(llm, reference):
    ids = reference.ids(LONG)
    assert len(ids) > llm.max_model_len
    context, continuation = ids[:-5], ids[-5:]
    (found,) = loglikelihood_tokens(llm, [(context, continuation)], use_tqdm=False)
    kept = ids[-llm.max_model_len :]
    assert close(found, reference.likelihood(kept[:-5], kept[-5:]))
    with pytest.raises(ValueError, match="pair 0: needs a context"):
        loglikelihood_tokens(llm, [([], [5])])
    with pytest.raises(ValueError, match="at most 255, has 1 and 256"):
        loglikelihood_tokens(llm, [([1], [5] * 256)])


def test_every_token_of_a_long_text_is_scored_once(llm, reference):
    short, long = "a bird sang", LONG
    found = loglikelihood_rolling(llm, [short, "", long], use_tqdm=False)
    assert found[0] == pytest.approx(reference.likelihood([1], reference.ids(short)[1:])[0], abs=1e-3)
    assert found[1] == 0.0
    ids, step = reference.ids(long)[1:], llm.max_model_len - 1
    assert step < len(ids) < 2 * step
    rest = len(ids) - step
    expected = reference.likelihood([1], ids[:step])[0] + reference.likelihood(ids[-step - 1 : -rest], ids[-rest:])[0]
    assert found[2] == pytest.approx(expected, abs=1e-2)


class TestHarness:
    """With the harness's own interface; skipped where lm-eval is not installed."""

    @pytest.fixture
    def model(self, folder):
        pytest.importorskip("lm_eval.api.model")
        from headrace_worker.offline.harness import HeadraceLM

        return HeadraceLM(str(folder), kv_cache_memory="4MiB", threads=1, use_tqdm_on_load=False, max_gen_toks=10)

    def instances(self, kind: str, *arguments: tuple) -> list:
        from lm_eval.api.instance import Instance

        return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]

    def test_it_is_a_model_of_the_harness_by_name(self, model):
        from lm_eval.api.registry import get_model

        assert get_model("headrace") is type(model)

    def test_likelihoods_are_the_same(self, model, llm, reference):
        found = model.loglikelihood(self.instances("loglikelihood", *PAIRS), disable_tqdm=True)
        assert found == loglikelihood(llm, PAIRS, use_tqdm=False)
        rolling = model.loglikelihood_rolling(self.instances("loglikelihood_rolling", ("a bird",)), disable_tqdm=True)
        assert rolling == [pytest.approx(reference.likelihood([1], reference.ids("a bird"))[0], abs=1e-3)]

    def test_answers_go_on_until_what_the_task_says(self, model, reference):
        ids = reference.ids("the cat")
        text = reference.tokenizer.decode(reference.generate(ids, 10))
        stop = text[4:6]
        asked = self.instances(
            "generate_until",
            ("the cat", {"until": [stop], "do_sample": False}),
            ("the cat", {"until": []}),
            ("the cat", {"until": "\n\n", "max_gen_toks": 3}),
            (LONG, {"max_gen_toks": 5}),
        )
        cut, whole, short, long = model.generate_until(asked, disable_tqdm=True)
        assert cut == text[: text.index(stop)]
        assert whole == text
        assert text.startswith(short)
        assert len(reference.tokenizer(short)["input_ids"]) < len(reference.tokenizer(whole)["input_ids"])
        kept = reference.ids(LONG)[-(model.max_length - 5) :]
        assert long == reference.tokenizer.decode(reference.generate(kept, 5))
        with pytest.raises(ValueError, match="guidance: is not known"):
            model.generate_until(self.instances("generate_until", ("a", {"guidance": 1})))

    def test_chats_have_one_beginning(self, model, reference):
        text = model.apply_chat_template([{"role": "cat", "content": "who"}])
        assert text == "<s>cat: who\ndog: "
        assert model.tok_encode(text).count(1) == 1
        assert model.tok_encode("who").count(1) == 1
        assert model.chat_template(True) == reference.tokenizer.chat_template
