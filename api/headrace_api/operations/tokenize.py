"""Text to token ids and back: answered by the API node alone."""

from headrace_api.directory import ServedModel
from headrace_api.operations.services import Services
from headrace_api.prompt.build import chat_prompt, check_token_ids, special_tokens
from headrace_api.schemas.tokenize import (
    AddedToken,
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
    TokenizerInfo,
)


async def tokenize(body: TokenizeRequest, services: Services) -> TokenizeAnswer:
    """Raises HeadraceError."""
    return await services.tokenizers.run(_tokenize, body, services.directory.resolve(body.model))


async def detokenize(body: DetokenizeRequest, services: Services) -> DetokenizeAnswer:
    """Raises HeadraceError."""
    return await services.tokenizers.run(_detokenize, body, services.directory.resolve(body.model))


def describe(name: str | None, services: Services) -> TokenizerInfo:
    """The tokenizer of a model. Raises HeadraceError."""
    model = services.directory.resolve(name)
    card, tokenizer = model.card, model.tokenizer
    named = special_tokens(card)
    return TokenizerInfo(
        tokenizer_class="Tokenizer",
        model_max_length=card.max_model_len,
        vocab_size=tokenizer.vocab_size,
        add_bos_token=card.add_bos_token,
        bos_token=card.bos_token,
        eos_token=card.eos_token,
        pad_token=named.get("pad_token"),
        unk_token=named.get("unk_token"),
        special_tokens=named,
        added_tokens_decoder={
            token_id: AddedToken(content, tokenizer.is_special(token_id))
            for token_id, content in sorted(tokenizer.added_tokens.items())
        },
        chat_template=model.template.source if model.template else None,
    )


def _tokenize(body: TokenizeRequest, model: ServedModel) -> TokenizeAnswer:
    if body.prompt is not None:
        ids = model.tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)
    else:
        tools = [tool.for_template() for tool in body.tools or []]
        template = model.template_for(tools=bool(tools))
        ids = chat_prompt(body, model.card, model.tokenizer, template, tools).token_ids
    return TokenizeAnswer(
        count=len(ids),
        max_model_len=model.card.max_model_len,
        tokens=ids,
        token_strs=[model.tokenizer.id_to_token(token_id) or "" for token_id in ids]
        if body.return_token_strs
        else None,
    )


def _detokenize(body: DetokenizeRequest, model: ServedModel) -> DetokenizeAnswer:
    check_token_ids(body.tokens, model.card, "tokens")
    return DetokenizeAnswer(model.tokenizer.decode(body.tokens, skip_special_tokens=False))
