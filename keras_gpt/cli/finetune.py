"""`keras-gpt finetune`: a text classifier from a GPT and labelled text."""

from pathlib import Path
from typing import Annotated

import typer

from keras_gpt.cli.common import load_gpt, say


def finetune(
    model: Annotated[
        str, typer.Argument(help="Any MODEL: a folder, a .keras or .gguf file, a name.")
    ],
    data: Annotated[str, typer.Argument(help="Labelled text: TSV, CSV, JSON lines, or tfds:NAME.")],
    output: Annotated[str, typer.Option(help="Folder for the classifier.")],
    text_column: Annotated[str | None, typer.Option(help="By default it is guessed.")] = None,
    label_column: Annotated[str | None, typer.Option(help="By default it is guessed.")] = None,
    test_fraction: Annotated[float, typer.Option(help="Part kept for the report.")] = 0.1,
    epochs: Annotated[int, typer.Option(help="Passes over the texts.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Texts a step.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the split and the order.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a classifier that is there.")] = False,
) -> None:
    """Fine-tune a GPT for text classification, and report accuracy on texts it has not seen."""
    import keras

    from keras_gpt import GPTClassifier
    from keras_gpt.data import load_labelled
    from keras_gpt.files import require_free
    from keras_gpt.training import classification_report

    require_free(output, overwrite)  # before the work, not after it
    keras.utils.set_random_seed(seed)
    labelled = load_labelled(data, text_column=text_column, label_column=label_column)
    train, test = labelled.split(test_fraction, seed)
    classifier = GPTClassifier(load_gpt(model), len(labelled.label_names), labelled.label_names)
    say(f"{len(train)} training texts, {len(test)} test texts, classes {labelled.label_names}")
    classifier.fit(train, epochs=epochs, batch_size=batch_size, seed=seed, verbose=2)
    report = classification_report(
        test.labels, classifier.predict(test.texts).argmax(-1), labelled.label_names
    )
    say(f"accuracy          {report.accuracy:.4f}")
    say(f"majority baseline {report.majority_baseline:.4f}")
    classifier.save_to_preset(output, overwrite=overwrite)
    picture = Path(output) / "confusion.png"
    report.save_picture(picture)
    say(f"classifier in {output}, confusion matrix in {picture}")
