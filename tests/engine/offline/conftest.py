"""A tiny model with a tokenizer, as an LLM and as transformers has it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_models import VOCAB
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from headrace_worker import LLM

TEXT = "the cat sat on the mat and the dog lay by the door while a bird sang in the tall green tree over there"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if shout %}!!{% endif %}{% if add_generation_prompt %}dog: {% endif %}"
)


@dataclass
class Reference:
    """What transformers itself says."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerFast

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def generate(self, ids: list[int], count: int) -> list[int]:
        inputs = torch.tensor([ids])
        mask = torch.ones_like(inputs)
        out = self.model.generate(inputs, attention_mask=mask, do_sample=False, max_new_tokens=count, pad_token_id=0)
        return out[0, len(ids) :].tolist()

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        """[tokens, vocabulary]: of the token after each."""
        with torch.inference_mode():
            return self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def likelihood(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        rows = self.logprobs([*context, *continuation])[len(context) - 1 : -1]
        chosen = rows.gather(1, torch.tensor(continuation)[:, None]).sum()
        return float(chosen), rows.argmax(1).tolist() == continuation


@pytest.fixture(scope="session")
def folder(tiny: Callable[[str], Path]) -> Path:
    """The tiny llama, with a tokenizer that writes a begin-of-text token and words with blanks before them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator([TEXT, TEXT.upper(), "\n.,:!0123456789"], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE
    )
    folder = tiny("llama")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reference(folder: Path) -> Reference:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    return Reference(model, AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="session")
def make_llm(folder: Path) -> Callable[..., LLM]:
    """``make_llm(**options)``: the tiny model with a small cache."""
    return partial(LLM, str(folder), kv_cache_memory="4MiB", threads=1, use_tqdm_on_load=False)


@pytest.fixture(scope="session")
def llm(make_llm: Callable[..., LLM]) -> LLM:
    """One that everybody uses: two at once, so that others wait."""
    return make_llm(max_num_seqs=2, max_num_batched_tokens=24)
