"""TensorFlow Serving's `models.config`: which models are served, from where, in which versions.

Source: the public description of TensorFlow Serving's configuration (ModelServerConfig).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2
except ImportError as error:
    raise ImportError(
        "serving needs tensorflow-serving-api: pip install 'keras-gpt[serve]'"
    ) from error

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.versions import MAX_VERSION, ModelEntry

# Where the image of TensorFlow Serving has its models, and so where most configurations point.
_IMAGE_FOLDER = Path("/models")


def read_config(file: str | os.PathLike[str], folder: Path) -> list[ModelEntry]:
    """Read the models of a configuration.

    Args:
        file: a ModelServerConfig in protobuf's text form.
        folder: relative base paths are relative to it. An absolute one below `/models` that is
            not on this machine is looked for below it too, so that a configuration written for
            TensorFlow Serving's image works here as it is.

    Returns:
        The models, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file, or a base path is not a folder.
        ValueError: the file is no such configuration.

    Example:
        >>> read_config("saved_models/models.config", Path("saved_models"))
        [ModelEntry(name='demo', base_path=PosixPath('saved_models/demo'), ...)]
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"config must be a file. Received: config={file}")
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(Path(file).read_text(encoding="utf-8"), config)
        entries = entries_of(config, lambda base_path: below(folder, base_path))
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(
            f"config must be a ModelServerConfig in text form: {error}. Received: config={file}"
        ) from error
    except ServingError as error:
        raise ValueError(f"{error.message}. Received: config={file}") from error
    if not entries:
        raise ValueError(f"config must list a model in model_config_list. Received: config={file}")
    for entry in entries:
        if not entry.base_path.is_dir():
            raise FileNotFoundError(
                f"the base_path of model {entry.name} must be a folder; it is {entry.base_path}. "
                f"Received: config={file}"
            )
    return entries


def below(folder: Path, base_path: str) -> Path:
    """Give the folder that a base path means, see `read_config`."""
    path = Path(base_path)
    if path.is_relative_to(_IMAGE_FOLDER) and not path.exists():
        return folder / path.relative_to(_IMAGE_FOLDER)
    return folder / path


def entries_of(config: Any, locate: Callable[[str], Path]) -> list[ModelEntry]:
    """Turn a configuration into models.

    Args:
        config: a ModelServerConfig.
        locate: gives the folder that a base path means.

    Returns:
        The models.

    Raises:
        ServingError: a model is named twice, or an entry is not one that can be served.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise ServingError("custom_model_config is not supported", "UNIMPLEMENTED")
    entries: dict[str, ModelEntry] = {}
    for model in config.model_config_list.config:
        if not model.name:
            raise ServingError("A model of the config list has no name")
        if model.name in entries:
            raise ServingError(f"Illegal to list model {model.name} multiple times in config list")
        if not model.base_path:
            raise ServingError(f"Model {model.name} has no base_path")
        _check_platform(model)
        entries[model.name] = _entry(model, locate(model.base_path))
    return list(entries.values())


def _entry(model: Any, base_path: Path) -> ModelEntry:
    policy = model.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    # 0 is what an empty `latest {}` has, and means the usual.
    latest = None if kind == "all" else max(1, policy.latest.num_versions)
    specific = frozenset(policy.specific.versions) if kind == "specific" else frozenset()
    if kind == "specific" and not specific:
        raise ServingError(f"Model {model.name} lists no versions in model_version_policy.specific")
    numbers = [*specific, *model.version_labels.values()]
    if any(not 0 <= number <= MAX_VERSION for number in numbers):
        raise ServingError(f"Model {model.name} names a version below 0")
    return ModelEntry(model.name, base_path, latest, specific, dict(model.version_labels))


def _check_platform(model: Any) -> None:
    """Complain of a model that is not TensorFlow's."""
    fields = "ModelServerConfig::model_type (deprecated)", "ModelServerConfig::model_platform"
    if not model.model_type and not model.model_platform:
        raise ServingError(f"Illegal setting neither {fields[0]} nor {fields[1]}.")
    if model.model_type and model.model_platform:
        raise ServingError(f"Illegal setting both {fields[0]} and {fields[1]}.")
    is_tensorflow = (
        model.model_platform == "tensorflow"
        if model.model_platform
        else model.model_type == model_server_config_pb2.ModelType.TENSORFLOW
    )
    if not is_tensorflow:
        platform = model.model_platform or model.model_type
        raise ServingError(f"Model {model.name} requests unsupported platform {platform}")
