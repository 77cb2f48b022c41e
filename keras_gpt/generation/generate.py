"""`generate` and `stream`: prompts in, continued prompts out."""

from collections.abc import Iterator, Sequence
from typing import Any

from keras_gpt.generation.options import read_prompts, read_rows, read_stop_token_ids
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.speculative_options import decode_as_asked


def generate(
    model: Decoder,
    prompt: Any,
    *,
    num_return_sequences: int = 1,
    stop_token_ids: Sequence[int] | None = None,
    draft_model: Decoder | None = None,
    prompt_lookup: int | None = None,
    num_draft_tokens: int | None = None,
    **settings: Any,
) -> Any:
    """Continue prompts; `GPT.generate` documents the arguments, `read_rows` takes the settings."""
    prompts = read_prompts(model, prompt)
    rows = read_rows(model, prompts, num_return_sequences=num_return_sequences, **settings)
    sequences = [list(row.prompt) for row in rows]
    stop = read_stop_token_ids(model, stop_token_ids)
    guessing = (draft_model, prompt_lookup, num_draft_tokens)
    for tokens in decode_as_asked(model, rows, stop, *guessing):
        for sequence, token in zip(sequences, tokens, strict=True):
            if token is not None:
                sequence.append(token)
    answers: list[Any] = list(sequences)
    if prompts.are_strings and model.tokenizer is not None:
        answers = [model.tokenizer.decode(ids, skip_special=True) for ids in sequences]
    if num_return_sequences > 1:
        answers = [
            answers[start : start + num_return_sequences]
            for start in range(0, len(answers), num_return_sequences)
        ]
    return answers[0] if prompts.is_one else answers


def stream(
    model: Decoder,
    prompt: Any,
    *,
    stop_token_ids: Sequence[int] | None = None,
    draft_model: Decoder | None = None,
    prompt_lookup: int | None = None,
    num_draft_tokens: int | None = None,
    **settings: Any,
) -> Iterator[Any]:
    """Continue one prompt, giving each piece as it comes; `GPT.stream` documents the arguments."""
    prompts = read_prompts(model, prompt)
    if not prompts.is_one:
        raise ValueError(
            f"prompt must be one prompt; generate takes several. Received: {len(prompts.ids)}"
        )
    rows = read_rows(model, prompts, num_return_sequences=1, **settings)
    stop = read_stop_token_ids(model, stop_token_ids)
    steps = decode_as_asked(model, rows, stop, draft_model, prompt_lookup, num_draft_tokens)
    # The checks above run at the call, not at the first piece.
    return _pieces(model, rows, steps, prompts.are_strings)


def _pieces(
    model: Decoder, rows: Any, steps: Iterator[list[int | None]], as_text: bool
) -> Iterator[Any]:
    if not as_text or model.tokenizer is None:
        for tokens in steps:
            yield tokens[0]
        return
    special = set(model.tokenizer.special_tokens.values())
    decoder = model.tokenizer.stream_decoder()
    # What a piece begins with may depend on what it follows (GPT-1's spaces between words).
    for token in rows[0].prompt:
        if token not in special:
            decoder.push(token)
    for tokens in steps:
        token = tokens[0]
        piece = "" if token is None or token in special else decoder.push(token)
        if piece:
            yield piece
    piece = decoder.finish()
    if piece:
        yield piece
