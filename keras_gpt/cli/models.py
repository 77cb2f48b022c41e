"""`keras-gpt models`: models by name, which are fetched once and kept."""

import enum
from typing import Annotated

import typer

from keras_gpt.cli.common import console, say


class Action(enum.StrEnum):
    """What to do."""

    LIST = "list"
    PULL = "pull"
    REMOVE = "remove"


def models(
    action: Annotated[
        Action, typer.Argument(help="list, pull NAME, or remove NAME.")
    ] = Action.LIST,
    name: Annotated[str | None, typer.Argument(help="A name from the list.")] = None,
) -> None:
    """Show the models that can be had by name, fetch one, or remove it from this machine."""
    from keras_gpt.checkpoints.catalogue import MODELS

    if action is Action.LIST:
        _show()
        return
    if name not in MODELS:
        raise ValueError(f"NAME must be one of {sorted(MODELS)}. Received: {name!r}")
    if action is Action.PULL:
        _pull(name)
        return
    from keras_gpt.checkpoints.pull import remove

    say(f"removed {remove(name)}")


def _pull(name: str) -> None:
    from keras_gpt.checkpoints.pull import pull

    status = console.status("")  # shows nothing where there is no terminal

    def step(line: str) -> None:
        status.stop()
        say(line)

    def progress(num_bytes: int) -> None:
        status.update(f"{num_bytes / 1e6:.1f} MB")
        status.start()

    try:
        pull(name, step, progress)
    finally:
        status.stop()


def _show() -> None:
    from rich.table import Table

    from keras_gpt.checkpoints.catalogue import MODELS, cache_folder

    table = Table()
    table.add_column("name", no_wrap=True)
    for column in ("what", "download", "licence", "on this machine"):
        table.add_column(column, overflow="fold")
    for name, entry in MODELS.items():
        folder = cache_folder() / name
        here = str(folder) if (folder / "config.json").is_file() else "no"
        size = f"{entry.size / 1e6:.0f} MB"
        table.add_row(name, entry.description, size, entry.licence, here)
    console.print(table)
