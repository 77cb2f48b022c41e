"""`keras-gpt`: one file a verb."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

import typer

from keras_gpt.cli.chat import chat
from keras_gpt.cli.convert import convert
from keras_gpt.cli.corpus import corpus
from keras_gpt.cli.demo import demo
from keras_gpt.cli.evaluate import evaluate
from keras_gpt.cli.export import export
from keras_gpt.cli.finetune import finetune
from keras_gpt.cli.generate import generate
from keras_gpt.cli.models import models
from keras_gpt.cli.serve import serve
from keras_gpt.cli.tokenizer import tokenizer
from keras_gpt.cli.train import train

app = typer.Typer(
    help="GPT for Keras 3 and TensorFlow: train, fine-tune, generate, evaluate, export, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    demo,
    train,
    finetune,
    generate,
    chat,
    evaluate,
    convert,
    models,
    export,
    serve,
    tokenizer,
    corpus,
):
    app.command()(verb)


def main() -> None:
    """Run the command line; what the user can mend is one line, not a traceback."""
    try:
        if len(sys.argv) > 1 and "--help" not in sys.argv:
            with _without_start_up_notes():
                importlib.import_module("keras_gpt.models")
                _start_devices()
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("KERAS_GPT_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _start_devices() -> None:
    """Let TensorFlow look for devices now, where there is surely no GPU.

    It reports the missing one as an error. Where there is one, what it says is left on the screen.
    """
    if not os.path.exists("/dev/nvidiactl"):
        importlib.import_module("keras").ops.convert_to_tensor(0)


@contextlib.contextmanager
def _without_start_up_notes() -> Iterator[None]:
    """Keep off the screen what TensorFlow's libraries note when they are loaded.

    Some of it is written before any log level is read, so the file descriptor itself is turned
    away for as long as the import takes. An exception still comes through.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
