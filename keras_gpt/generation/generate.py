"""`generate` and `stream`: prompts in, continued prompts out."""

from collections.abc import Iterator, Sequence
from typing import Any

from keras_gpt.generation.answers import GrowingAnswer
from keras_gpt.generation.decode import Chosen
from keras_gpt.generation.options import read_num_logprobs, read_prompts, read_rows, read_stop
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.speculative_options import decode_as_asked


def generate(
    model: Decoder,
    prompt: Any,
    *,
    num_return_sequences: int = 1,
    stop: str | Sequence[str] | None = None,
    echo: bool = True,
    details: bool = False,
    logprobs: int | None = None,
    draft_model: Decoder | None = None,
    prompt_lookup: int | None = None,
    num_draft_tokens: int | None = None,
    **settings: Any,
) -> Any:
    """Continue prompts; `GPT.generate` documents the arguments, `read_rows` takes the settings."""
    prompts = read_prompts(model, prompt)
    rows = read_rows(model, prompts, num_return_sequences=num_return_sequences, **settings)
    strings = read_stop(stop, prompts.are_strings)
    count = read_num_logprobs(logprobs, details)
    tokenizer = model.tokenizer if prompts.are_strings else None
    growing = [GrowingAnswer(row.prompt, tokenizer, strings) for row in rows]
    ended: set[int] = set()
    guessing = (draft_model, prompt_lookup, num_draft_tokens)
    for tokens in decode_as_asked(model, rows, ended, count, *guessing):
        for index, chosen in tokens.items():
            growing[index].push(chosen)
            if growing[index].has_stopped:
                ended.add(index)
    answers: list[Any] = []
    for row, each in zip(rows, growing, strict=True):
        each.finish()
        before = ""
        if tokenizer is not None and echo:
            before = tokenizer.decode(row.prompt, skip_special=True)
        answer = each.answer(before, count is not None)
        if details:
            answers.append(answer)
        elif answer.text is not None:
            answers.append(answer.text)
        else:
            answers.append([*(row.prompt if echo else ()), *answer.token_ids])
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
    stop: str | Sequence[str] | None = None,
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
    (row,) = read_rows(model, prompts, num_return_sequences=1, **settings)
    answer = GrowingAnswer(
        row.prompt,
        model.tokenizer if prompts.are_strings else None,
        read_stop(stop, prompts.are_strings),
    )
    ended: set[int] = set()
    guessing = (draft_model, prompt_lookup, num_draft_tokens)
    steps = decode_as_asked(model, [row], ended, None, *guessing)
    # The checks above run at the call, not at the first piece.
    return _pieces(steps, ended, answer, prompts.are_strings)


def _pieces(
    steps: Iterator[dict[int, Chosen]], ended: set[int], answer: GrowingAnswer, as_text: bool
) -> Iterator[Any]:
    for tokens in steps:
        piece: Any = answer.push(tokens[0])
        if answer.has_stopped:
            ended.add(0)
        if not (as_text or tokens[0].is_stop):
            yield tokens[0].token
        if piece:
            yield piece
    piece = answer.finish()
    if piece:
        yield piece
