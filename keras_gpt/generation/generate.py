"""`generate` and `stream`: prompts in, continued prompts out."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from keras_gpt.generation.answers import GrowingAnswer
from keras_gpt.generation.beam import beam_search
from keras_gpt.generation.contrastive import decode_contrastively
from keras_gpt.generation.decode import Chosen
from keras_gpt.generation.options import read_num_logprobs, read_prompts, read_rows, read_stop
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row
from keras_gpt.generation.search_options import check_beams, check_contrastive, read_beams
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
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    penalty_alpha: float | None = None,
    **settings: Any,
) -> Any:
    """Continue prompts; `GPT.generate` documents the arguments, `read_rows` takes the settings."""
    prompts = read_prompts(model, prompt)
    beams = read_beams(num_beams, length_penalty, early_stopping, num_return_sequences)
    # The beams of a prompt come from one row; otherwise each answer has a row.
    each = 1 if beams else num_return_sequences
    rows = read_rows(model, prompts, num_return_sequences=each, **settings)
    strings = read_stop(stop, prompts.are_strings)
    count = read_num_logprobs(logprobs, details)
    tokenizer = model.tokenizer if prompts.are_strings else None
    growing = [GrowingAnswer(row.prompt, tokenizer, strings, row.dropped) for row in rows]
    guessing = _Guessing(draft_model, prompt_lookup, num_draft_tokens)
    found: Sequence[Sequence[tuple[GrowingAnswer, float | None]]]  # of each prompt, with scores
    if beams:
        check_beams(beams, rows, count, {"penalty_alpha": penalty_alpha, **guessing._asdict()})
        found = beam_search(model, rows, growing, beams)
    else:
        ended: set[int] = set()
        # Between two tokens nobody looks whether a row is to end, but for stop strings.
        ahead = not strings and count is None
        for tokens in _decode(model, rows, ended, count, penalty_alpha, guessing, ahead):
            for index, chosen in tokens.items():
                growing[index].push(chosen)
                if growing[index].has_stopped:
                    ended.add(index)
        starts = range(0, len(rows), each)
        found = [[(it, None) for it in growing[at : at + each]] for at in starts]
    answers: list[Any] = []
    for ids, several in zip((row.prompt for row in rows[::each]), found, strict=True):
        before = ""
        if tokenizer is not None and echo:
            before = tokenizer.decode(ids, skip_special=True)
        finished: list[Any] = []
        for grown, score in several[:num_return_sequences]:
            grown.finish()
            answer = grown.answer(before, count is not None, score)
            if details:
                finished.append(answer)
            elif answer.text is not None:
                finished.append(answer.text)
            else:
                finished.append([*(ids if echo else ()), *answer.token_ids])
        answers.append(finished if num_return_sequences > 1 else finished[0])
    return answers[0] if prompts.is_one else answers


def stream(
    model: Decoder,
    prompt: Any,
    *,
    stop: str | Sequence[str] | None = None,
    draft_model: Decoder | None = None,
    prompt_lookup: int | None = None,
    num_draft_tokens: int | None = None,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    penalty_alpha: float | None = None,
    **settings: Any,
) -> Iterator[Any]:
    """Continue one prompt, giving each piece as it comes; `GPT.stream` documents the arguments."""
    prompts = read_prompts(model, prompt)
    if not prompts.is_one:
        raise ValueError(
            f"prompt must be one prompt; generate takes several. Received: {len(prompts.ids)}"
        )
    if read_beams(num_beams, length_penalty, early_stopping, 1):
        raise ValueError(
            "num_beams must be 1 for a stream, because which beam is best is only known at the end: "
            f"use generate. Received: num_beams={num_beams}"
        )
    (row,) = read_rows(model, prompts, num_return_sequences=1, **settings)
    answer = GrowingAnswer(
        row.prompt,
        model.tokenizer if prompts.are_strings else None,
        read_stop(stop, prompts.are_strings),
    )
    ended: set[int] = set()
    guessing = _Guessing(draft_model, prompt_lookup, num_draft_tokens)
    steps = _decode(model, [row], ended, None, penalty_alpha, guessing)
    # The checks above run at the call, not at the first piece.
    return _pieces(steps, ended, answer, prompts.are_strings)


class _Guessing(NamedTuple):
    """The arguments of speculative decoding."""

    draft_model: Decoder | None
    prompt_lookup: int | None
    num_draft_tokens: int | None


def _decode(
    model: Decoder,
    rows: Sequence[Row],
    ended: set[int],
    num_logprobs: int | None,
    penalty_alpha: float | None,
    guessing: _Guessing,
    runs_ahead: bool = False,
) -> Iterator[dict[int, Chosen]]:
    """Check how the tokens are to be chosen, one after the other, and choose them."""
    if penalty_alpha is None:
        return decode_as_asked(model, rows, ended, num_logprobs, *guessing, runs_ahead=runs_ahead)
    check_contrastive(penalty_alpha, rows, guessing._asdict())
    return decode_contrastively(model, rows, penalty_alpha, ended, num_logprobs)


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
