"""models.config: what it says, and what is wrong with one that says something else."""

from pathlib import Path

import pytest

from keras_gpt.serving.model_config import read_config
from keras_gpt.serving.versions import ModelEntry

FULL = """
model_config_list {
  config {
    name: "demo"
    base_path: "/models/demo"  # where TensorFlow Serving's image has it
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 3 } }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 3 }
  }
  config { name: "all" base_path: "demo" model_type: TENSORFLOW model_version_policy { all {} } }
  config {
    name: "two"
    base_path: "demo"
    model_platform: "tensorflow"
    model_version_policy { latest { num_versions: 2 } }
  }
  config { name: "one" base_path: "demo" model_platform: "tensorflow" }
}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "demo").mkdir(exist_ok=True)
    file = folder / "models.config"
    file.write_text(text)
    return file


def test_everything_that_it_can_say(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    assert read_config(write(tmp_path, FULL), tmp_path) == [
        ModelEntry("demo", demo, 1, frozenset([1, 3]), {"stable": 1, "canary": 3}),
        ModelEntry("all", demo, None),
        ModelEntry("two", demo, 2),
        ModelEntry("one", demo, 1),
    ]


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    text = f'model_config_list {{ config {{ name: "a" base_path: "{other}" model_type: TENSORFLOW }} }}'
    (entry,) = read_config(write(tmp_path, text), tmp_path / "demo")
    assert entry.base_path == other


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must list a model"),
        ("model_config_list {", "must be a ModelServerConfig in text form"),
        ("model_config_list { config { nme: 'a' } }", "must be a ModelServerConfig in text form"),
        ("custom_model_config {}", "custom_model_config is not supported"),
        ("model_config_list { config { base_path: 'demo' } }", "has no name"),
        ("model_config_list { config { name: 'a' } }", "Model a has no base_path"),
        ("model_config_list { config { name: 'a' base_path: 'demo' } }", "Illegal setting neither"),
        (
            "model_config_list { config { name: 'a' base_path: 'demo' model_platform: 'tensorflow' "
            "model_type: TENSORFLOW } }",
            "Illegal setting both",
        ),
        (
            "model_config_list { config { name: 'a' base_path: 'demo' model_type: OTHER } }",
            "unsupported platform 2",
        ),
        (
            "model_config_list { config { name: 'a' base_path: 'demo' model_type: TENSORFLOW "
            "model_version_policy { specific {} } } }",
            "lists no versions",
        ),
        (
            "model_config_list { config { name: 'a' base_path: 'demo' model_type: TENSORFLOW "
            "version_labels { key: 'x' value: -1 } } }",
            "names a version below 0",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}.*Received: config=.*models.config"):
        read_config(write(tmp_path, text), tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="config must be a file"):
        read_config(tmp_path / "models.config", tmp_path)
    text = "model_config_list { config { name: 'a' base_path: 'away' model_type: TENSORFLOW } }"
    with pytest.raises(FileNotFoundError, match="the base_path of model a must be a folder"):
        read_config(write(tmp_path, text), tmp_path)
