"""`keras-gpt serve`: which API, and under what name."""

import pytest

from keras_gpt.cli.serve import _model_name, serve


@pytest.mark.parametrize("given", [{}, {"folder": "saved_models/", "model": "gpt2"}])
def test_one_api_a_process(given):
    with pytest.raises(ValueError, match="give a FOLDER of SavedModels, or --model"):
        serve(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folder": "saved_models/", "api_keys": "keys.jsonl"}, "--api-keys belongs to --model"),
        ({"folder": "saved_models/", "quantize": "int8"}, "--quantize belongs to --model"),
        ({"model": "gpt2", "config": "models.config"}, "--config belongs to a FOLDER"),
    ],
)
def test_options_of_the_other_api_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        serve(**given)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("some/where/my-gpt/", "my-gpt"),
        ("some/where/my.model.gguf", "my.model"),
        ("gpt.keras", "gpt"),
        ("hf://owner/name@main", "owner/name"),
    ],
)
def test_a_model_is_named_without_its_place(source, name):
    assert _model_name(source) == name
