"""What importing loads, and the other backends: each in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpt_cases import ARCHITECTURES, logits_of, make_gpt, random_ids, shared_gpt

HEAVY = [
    "tensorflow_text",
    "fastapi",
    "transformers",
    "torch",
    "tensorflow_datasets",
    "keras_nlp",
    "keras_hub",
    "matplotlib",
    "tokenizers",
    "uvicorn",
    "typer",
]


def run(code: str, **environment: str) -> str:
    """Run Python code in a new process; give what it printed."""
    root = Path(__file__).resolve().parents[1]
    paths = [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_import_loads_nothing_heavy_and_every_public_name_is_there():
    code = f"""
import sys
import keras
already = set(sys.modules)  # Keras' own plots load matplotlib where it is installed
import keras_gpt
gpt = keras_gpt.GPT(8, 4, 2, 4, 1, context_length=8)
print([name for name in {HEAVY!r} if name in sys.modules and name not in already])
print([name for name in ("torch", "keras_nlp", "tokenizers") if name in already])
for name in keras_gpt.__all__:
    assert getattr(keras_gpt, name) is not None, name
    assert name in dir(keras_gpt), name
from keras_gpt import *
assert GPT is keras_gpt.GPT and Tokenizer.__name__ == "Tokenizer" and data.__name__
try:
    keras_gpt.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
"""
    assert run(code).strip().splitlines()[-2:] == ["[]", "[]"]


needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed (extra: parity)"
)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed (extra: parity)"
)


@needs_jax
def test_jax_without_tensorflow(tmp_path):
    """Build, read a preset, train, generate and score where TensorFlow cannot be imported."""
    gpt = make_gpt(**ARCHITECTURES["llama"])
    gpt.save_to_preset(tmp_path / "p")
    prompts = [[1, 2, 3], list(range(40)), [7]]
    code = f"""
import sys
sys.modules["tensorflow"] = None
import json
import keras
import numpy as np
from keras_gpt import GPT
from gpt_cases import make_gpt, random_ids
assert keras.backend.backend() == "jax"
gpt = GPT.from_preset({str(tmp_path / "p")!r})
prompts = {prompts!r}
out = {{
    "greedy": gpt.generate(prompts, max_new_tokens=8, temperature=0),
    "sampled": gpt.generate(prompts, max_new_tokens=8, top_k=20, seed=3),
    "alone": [gpt.generate(p, max_new_tokens=8, top_k=20, seed=3) for p in prompts],
    "score": gpt.score(prompts[1]),
}}
rows = random_ids(8, 11)
metric = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="plain")
gpt.compile(keras.optimizers.SGD(0.5), metrics=[metric])
batches = ((rows[:, :-1], rows[:, 1:]) for _ in range(3))
out["fit"] = gpt.fit(batches, steps_per_epoch=1, epochs=3, verbose=0).history
out["after"] = gpt.evaluate(rows[:, :-1], rows[:, 1:], verbose=0, return_dict=True)
print(json.dumps(out))
"""
    got = json.loads(run(code, KERAS_BACKEND="jax").splitlines()[-1])
    assert got["greedy"] == gpt.generate(prompts, max_new_tokens=8, temperature=0)
    assert got["sampled"] == got["alone"]
    assert got["sampled"] == gpt.generate(prompts, max_new_tokens=8, top_k=20, seed=3)
    assert got["score"] == pytest.approx(gpt.score(prompts[1]), rel=1e-4)
    # The same training here gives the same losses; a metric sees the logits that the loss saw.
    import keras

    rows = random_ids(8, 11)
    gpt.compile(keras.optimizers.SGD(0.5))
    want = gpt.fit(rows[:, :-1], rows[:, 1:], batch_size=8, epochs=3, verbose=0, shuffle=False)
    np.testing.assert_allclose(got["fit"]["loss"], want.history["loss"], rtol=1e-3)
    np.testing.assert_allclose(got["fit"]["plain"], got["fit"]["loss"], rtol=1e-3)
    assert got["after"]["plain"] == pytest.approx(got["after"]["loss"], rel=1e-3)
    assert got["after"]["loss"] < got["fit"]["loss"][-1]


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torch_gives_the_same_logits(tmp_path, name):
    gpt, ids = shared_gpt(name), random_ids(2, 9)
    gpt.save_to_preset(tmp_path / "p")
    code = f"""
import numpy as np
import keras
from keras_gpt import GPT
from gpt_cases import logits_of, random_ids
assert keras.backend.backend() == "torch"
gpt = GPT.from_preset({str(tmp_path / "p")!r})
ids = random_ids(2, 9)
np.save({str(tmp_path / "logits.npy")!r}, keras.ops.convert_to_numpy(gpt(ids)))
print(gpt.generate([1, 2, 3], max_new_tokens=3, temperature=0))
"""
    printed = run(code, KERAS_BACKEND="torch").splitlines()[-1]
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), logits_of(gpt, ids), rtol=1e-4, atol=1e-4
    )
    assert json.loads(printed) == gpt.generate([1, 2, 3], max_new_tokens=3, temperature=0)
