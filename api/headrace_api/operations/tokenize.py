"""Text to token ids and back: answered by the API node alone."""

from headrace_api.directory import ServedModel
from headrace_api.operations.services import Services
from headrace_api.prompt.build import chat_prompt, check_token_ids
from headrace_api.schemas.tokenize import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest


async def tokenize(body: TokenizeRequest, services: Services) -> TokenizeAnswer:
    """Raises HeadraceError."""
    return await services.tokenizers.run(_tokenize, body, services.directory.resolve(body.model))


async def detokenize(body: DetokenizeRequest, services: Services) -> DetokenizeAnswer:
    """Raises HeadraceError."""
    return await services.tokenizers.run(_detokenize, body, services.directory.resolve(body.model))


def _tokenize(body: TokenizeRequest, model: ServedModel) -> TokenizeAnswer:
    if body.prompt is not None:
        ids = model.tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)
    else:
        ids = chat_prompt(body, model.card, model.tokenizer, model.template, body.documents).token_ids
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
