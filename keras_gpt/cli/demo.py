"""`keras-gpt demo`: from raw text to an answer of the exported model, in minutes and without download."""

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_gpt.cli.common import console, say, write_serving_files_beside

_PROMPTS = ("def __init__(self,", "The list type", "Return the")


def demo(
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Your text: a file, a folder, or tfds:NAME. By default the prose and source of "
            "Python's own standard library."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="How long to train, in minutes.")] = 2.0,
    output: Annotated[str, typer.Option(help="Folder of the exported model.")] = (
        "saved_models/demo/1"
    ),
    work: Annotated[
        str, typer.Option(help="Folder for the model to fine-tune and the loss curve.")
    ] = ".keras_gpt/demo",
    seed: Annotated[int, typer.Option(help="Of weights, order of the data and samples.")] = 0,
) -> None:
    """Train a small GPT on text, sample from it, export it, and ask the exported model."""
    import keras

    from keras_gpt import GPT
    from keras_gpt.training import corpus_loss, train

    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as scratch:
        tokens = _make_corpus(corpus, Path(scratch) / "corpus")
        gpt = GPT(
            tokens.vocab_size,
            embedding_dim=192,
            num_heads=6,
            feed_forward_dim=768,
            num_layers=4,
            context_length=128,
            tokenizer=tokens.tokenizer,
        )
        say(
            f"3. training a GPT of {gpt.config.num_parameters:,} parameters for {minutes:g} minutes"
        )
        result = train(
            gpt,
            tokens,
            batch_size=8,
            seconds=60.0 * minutes,
            learning_rate=2e-3,
            seed=seed,
            evaluate_every=100,
            validation_batches=10,
            console=console,
        )
        loss = corpus_loss(gpt, tokens, max_batches=100)
        baseline = tokens.unigram_baseline()
        say(
            f"   {result.steps} steps, {result.tokens_per_second:,.0f} tokens/s\n"
            f"   validation loss {loss.loss:.3f} (perplexity {loss.perplexity:.1f}); "
            f"unigram baseline {baseline:.3f} (perplexity {2.718281828**baseline:.1f})"
        )
    folder = Path(work)
    result.curve.save_picture(folder / "loss.png", ("unigram baseline", baseline))
    gpt.save_to_preset(folder / "model", overwrite=True)
    say(f"   loss curve in {folder / 'loss.png'}, model in {folder / 'model'}")
    _sample(gpt, seed)
    _export_and_ask(gpt, output, seed)
    say(f"done in {time.perf_counter() - begin:.0f} s")


def _make_corpus(source: str | None, folder: Path) -> Any:
    from keras_gpt import Tokenizer
    from keras_gpt.data import TokenCorpus, embedded_documents, read_documents

    def documents() -> Any:
        return embedded_documents() if source is None else read_documents(source)

    say(f"1. training a byte-level BPE tokenizer on {source or 'the standard library of Python'}")
    tokenizer = Tokenizer.train_from_texts(documents(), vocab_size=4096)
    say(f"   {tokenizer.vocab_size} ids")
    say("2. writing the token corpus")
    corpus = TokenCorpus.from_documents(documents(), tokenizer, folder)
    say(
        f"   {corpus.num_tokens('train'):,} training and {corpus.num_tokens('validation'):,} "
        "validation tokens"
    )
    return corpus


def _sample(gpt: Any, seed: int) -> None:
    say("4. samples")
    answers = gpt.generate(
        list(_PROMPTS), max_new_tokens=48, temperature=0.7, top_k=50, top_p=0.9, seed=seed
    )
    for answer in answers:
        say("   | " + answer.replace("\n", "\n   | "))
        say("")


def _export_and_ask(gpt: Any, output: str, seed: int) -> None:
    from keras_gpt.export.check import ask_in_other_process

    say(f"5. exporting to {output}")
    gpt.export(output, overwrite=True)
    write_serving_files_beside(output)
    say("6. asking the export in a separate process that cannot import keras_gpt")
    settings = {"max_new_tokens": 24, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "seed": seed}
    dtypes = {"temperature": "float32", "top_p": "float32"}
    answer = ask_in_other_process(
        output,
        "generate",
        prompt=("string", [_PROMPTS[0]]),
        **{name: (dtypes.get(name, "int32"), [value]) for name, value in settings.items()},
    )["text"][0]
    say(f"   sent     {_PROMPTS[0]!r}")
    say(f"   received {answer!r}")
    expected = gpt.generate(_PROMPTS[0], **settings)
    if answer != expected:
        raise RuntimeError(
            f"the exported model and generate must agree. Received: {answer!r}, not {expected!r}"
        )
    say("   the same text as gpt.generate gives for this seed")
