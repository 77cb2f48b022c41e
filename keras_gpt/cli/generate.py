"""`keras-gpt generate`: continue a prompt."""

from typing import Annotated, Any

import typer

from keras_gpt.cli.common import Quantize, load_gpt, new_tokens, say


def generate(
    model: Annotated[
        str, typer.Argument(help="Any MODEL: a folder, a .keras or .gguf file, a name.")
    ],
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="The most new tokens; by default 64, or half of a shorter context."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the tokens that make up this probability.")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Draw from tokens at least this times as probable as the most probable."),
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 makes tokens that were there less probable.")
    ] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends the answer; may be given again.")
    ] = None,
    num_beams: Annotated[
        int, typer.Option(help="Above 1: search for the best answers, so many side by side.")
    ] = 1,
    length_penalty: Annotated[
        float, typer.Option(help="With beams: above 0 favours long answers, below 0 short ones.")
    ] = 1.0,
    num_return_sequences: Annotated[int, typer.Option(help="How many answers.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    truncate: Annotated[
        str | None,
        typer.Option(
            help="Of a prompt that is too long for the context, leave out the left, right or middle."
        ),
    ] = None,
    quantize: Quantize = None,
) -> None:
    """Continue a prompt; one answer is printed as it comes."""
    gpt = load_gpt(model, quantize)
    settings = {
        "max_new_tokens": new_tokens(gpt, max_new_tokens),
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "seed": seed,
        "truncate": truncate,
    }
    if num_return_sequences == 1 and num_beams == 1:
        pieces = gpt.stream(prompt, **settings)  # refuses settings before anything is printed
        _say_dropped(gpt, prompt, settings)
        typer.echo(prompt, nl=False)
        for piece in pieces:
            typer.echo(piece, nl=False)
        typer.echo()
        return
    answers = gpt.generate(prompt, num_return_sequences=num_return_sequences, **settings)
    _say_dropped(gpt, prompt, settings)
    if num_return_sequences == 1:
        say(answers)
        return
    for number, answer in enumerate(answers, 1):
        say(f"--- {number}\n{answer}")


def _say_dropped(gpt: Any, prompt: str, settings: dict[str, Any]) -> None:
    """Say what `truncate` cut out of the prompt, where no answer is written to."""
    from keras_gpt.generation.truncation import count_dropped

    length, context = len(gpt.tokenizer.encode(prompt)), gpt.config.context_length
    dropped = count_dropped(length, settings["max_new_tokens"], context)
    if dropped:
        typer.echo(f"[{dropped} of the prompt's {length} tokens were left out]", err=True)
