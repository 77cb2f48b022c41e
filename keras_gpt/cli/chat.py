"""`keras-gpt chat`: talk to a model on the terminal."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from keras_gpt.cli.common import Quantize, console, load_gpt, say
from keras_gpt.files import require_free_file, whole_file

if TYPE_CHECKING:
    from keras_gpt.generation.chat import Chat

_HELP = "/reset forgets what was said, /save FILE keeps it as JSON, /exit ends (or Ctrl-D)"


def chat(
    model: Annotated[str, typer.Option(help="Any MODEL that has a chat template.")],
    system: Annotated[str | None, typer.Option(help="Says how to answer.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The most tokens of an answer; by default 512.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="By default what the model's makers suggest, or 1.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the tokens that make up this probability.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.")] = None,
    truncate: Annotated[
        str | None,
        typer.Option(
            help="Of a message that is too long for the context, leave out the left, right or middle."
        ),
    ] = None,
    quantize: Quantize = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say how fast each answer came.")] = False,
) -> None:
    """Talk to a model; it answers as it thinks, and remembers what was said."""
    from keras_gpt.generation.chat import Chat

    talk = Chat(
        load_gpt(model, quantize),
        system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        truncate=truncate,
    )
    saved: set[Path] = set()
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        with contextlib.suppress(ImportError):  # not on every system
            import readline  # noqa: F401  input() edits lines and remembers them with it
        say(_HELP)
    while True:
        try:
            line = input("> " if at_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            if at_terminal:
                typer.echo()
            return
        if line == "/exit":
            return
        if line.startswith("/"):
            _command(talk, line, saved)
        elif line:
            _turn(talk, line, stats)


def _turn(talk: "Chat", line: str, stats: bool) -> None:
    forgotten = talk.num_forgotten
    # The first answer waits for the model's compilation; nothing is shown where there is no terminal.
    waiting = console.status("")
    start = first = time.monotonic()
    try:
        with contextlib.closing(cast(Any, talk.send(line))) as pieces:
            if talk.num_forgotten > forgotten:
                say(f"[the {talk.num_forgotten} oldest messages no longer fit the context]")
            if talk.num_dropped_tokens:
                say(f"[{talk.num_dropped_tokens} tokens of the message were left out]")
            waiting.start()
            for index, piece in enumerate(pieces):
                if index == 0:
                    first = time.monotonic()
                    waiting.stop()
                typer.echo(piece, nl=False)
    except KeyboardInterrupt:  # stops the answer, not the conversation
        pass
    except ValueError as error:
        say(f"error: {error}")
        return
    finally:
        waiting.stop()
    typer.echo("\n")
    if stats:
        say(_speed(talk.num_new_tokens, first - start, time.monotonic() - first))


def _speed(num_tokens: int, wait: float, seconds: float) -> str:
    rate = f", then {(num_tokens - 1) / seconds:.1f} tokens/s" if num_tokens > 1 else ""
    return f"[{num_tokens} tokens; the first words after {wait:.1f} s{rate}]"


def _command(talk: "Chat", line: str, saved: set[Path]) -> None:
    """Do what a line with a slash says; `saved` are the files that this conversation has written."""
    name, _, argument = line.partition(" ")
    if name not in ("/reset", "/save", "/help"):
        say(f"[there is no {name}]")
    if name == "/reset":
        talk.reset()
        say("[forgotten]")
    elif name == "/save" and argument.strip():
        file = Path(argument.strip())
        try:
            require_free_file(file, overwrite=file.absolute() in saved)
            with whole_file(file) as scratch:
                text = json.dumps(talk.messages, indent=2, ensure_ascii=False)
                scratch.write_text(text + "\n", encoding="utf-8")
            saved.add(file.absolute())
            say(f"[{len(talk.messages)} messages in {file}]")
        except OSError as error:
            say(f"error: {error}")
    else:
        say(_HELP)
