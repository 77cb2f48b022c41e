"""What several verbs share."""

import enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console(highlight=False, soft_wrap=True)


class Mode(enum.StrEnum):
    """What weights are rounded to."""

    INT8 = "int8"
    INT4 = "int4"


Quantize = Annotated[
    Mode | None,
    typer.Option(
        help="Round the weights as they are read: int8 takes a quarter of their memory, int4 half "
        "of that and is less exact. A model that was saved so needs no option."
    ),
]


def say(text: str) -> None:
    """Print a line of text as it is; brackets in it are no markup."""
    console.print(text, markup=False)


def load_model(source: str, quantize: Mode | None = None) -> Any:
    """Load a GPT or a classifier from a `.keras` file, or from all that `from_preset` takes.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ValueError: it is none of these, or damaged, or was quantized otherwise.
    """
    import keras

    from keras_gpt import GPT, GPTClassifier
    from keras_gpt.checkpoints import read_preset
    from keras_gpt.checkpoints.preset import is_preset_folder

    path = Path(source)
    mode = None if quantize is None else quantize.value
    if path.suffix == ".keras" and path.is_file():
        model = keras.saving.load_model(path)
        if not isinstance(model, GPT | GPTClassifier):
            raise ValueError(
                f"MODEL must hold a keras_gpt model. Received: {source}, which holds a "
                f"{type(model).__name__}"
            )
        if mode is not None and model.quantized_mode != mode:
            model.quantize(mode)
        return model
    # A run of `keras-gpt train` or `demo` keeps its model in a folder of its own.
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    if not is_preset_folder(folder):
        return GPT.from_preset(source, quantize=mode)
    classes: dict[str, Any] = {"GPT": GPT, "GPTClassifier": GPTClassifier}
    name = read_preset(folder, with_weights=False).model
    if name not in classes:
        raise ValueError(f"MODEL is of an unknown class. Received: {source}, which holds a {name}")
    return classes[name].from_preset(folder, quantize=mode)


def load_gpt(source: str, quantize: Mode | None = None) -> Any:
    """Load a model that generates; with its tokenizer.

    Raises:
        ValueError: it is a classifier, or has no tokenizer.
    """
    model = load_gpt_or_ids(source, quantize)
    if model.tokenizer is None:
        raise ValueError(f"MODEL must have a tokenizer to work on text. Received: {source}")
    return model


def load_gpt_or_ids(source: str, quantize: Mode | None = None) -> Any:
    """Load a model that generates; it may lack a tokenizer.

    Raises:
        ValueError: it is a classifier.
    """
    from keras_gpt import GPT

    model = load_model(source, quantize)
    if not isinstance(model, GPT):
        raise ValueError(f"MODEL must be a GPT. Received: {source}, a {type(model).__name__}")
    return model


def new_tokens(gpt: Any, wanted: int | None, usual: int = 64) -> int:
    """Give how many tokens to go on for: as asked, or else the usual number."""
    from keras_gpt.generation.options import usual_new_tokens

    return usual_new_tokens(gpt.config.context_length, usual) if wanted is None else wanted


def load_tokenizer(source: str) -> Any:
    """Load a tokenizer from a folder (ours, or one with vocab.json and merges.txt) or tokenizer.json.

    Raises:
        FileNotFoundError: there is nothing of that name.
    """
    from keras_gpt import Tokenizer

    path = Path(source)
    if path.is_file():
        return Tokenizer.from_file(path)
    for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (path / vocab).is_file() and (path / merges).is_file():
            return Tokenizer.from_files(path / vocab, path / merges)
    for folder in (path, path / "model"):
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.load(folder)
    raise FileNotFoundError(
        "--tokenizer must be a tokenizer.json, or a folder with one, or with vocab.json and "
        f"merges.txt. Received: {source}"
    )


def train_tokenizer(sources: list[str], vocab_size: int, level: Any, text_field: str) -> Any:
    """Train a tokenizer on every kind of source that corpora are made from."""
    from keras_gpt import Tokenizer
    from keras_gpt.data import read_documents

    documents = read_documents(sources, text_field=text_field)
    return Tokenizer.train_from_texts(documents, vocab_size=vocab_size, level=level)


def write_serving_files_beside(version: str) -> None:
    """Write what starts TensorFlow Serving into the folder of the models, and say so.

    Args:
        version: the folder of one version, FOLDER/NAME/VERSION. Where the path names no FOLDER,
            nothing is written.
    """
    from keras_gpt.export import write_serving_files

    path = Path(version)
    named = path.relative_to(path.anchor).parts
    if len(named) < 3 or not path.name.isdecimal():
        say("no files for TensorFlow Serving are written: the path is not FOLDER/NAME/VERSION")
        return
    root = path.parent.parent
    files = write_serving_files(root)
    if files.written:
        say(f"for TensorFlow Serving: {', '.join(map(str, files.written))}")
    for kept in files.kept:
        missing = kept.name == "models.config" and f'name: "{path.parent.name}"' not in (
            kept.read_text("utf-8", errors="replace")
        )
        note = f"; it does not name {path.parent.name}" if missing else ""
        say(f"left as it is, since somebody changed it: {kept}{note}")


def require_use(of: str, given: Any, options: dict[str, Any]) -> None:
    """Refuse options that would have no effect."""
    idle = [name for name, value in options.items() if value is not None]
    if idle and not given:
        raise ValueError(f"{', '.join(idle)} belongs to {of}. Received: no {of}")
