"""Asking a SavedModel in a process of its own, in which keras_gpt cannot be imported."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

# What a server without our package would do: plain TensorFlow, and nothing of ours.
_SCRIPT = """
import json, sys
sys.modules["keras_gpt"] = None  # makes every import of it raise
try:
    import keras_gpt
except ImportError:
    pass
else:
    raise SystemExit("keras_gpt could be imported")
import tensorflow as tf

request = json.load(sys.stdin)
model = tf.saved_model.load(request["path"])
# A server fills in what a request leaves out from the file.
from tensorflow.core.protobuf import saved_model_pb2
content = saved_model_pb2.SavedModel()
with open(request["path"] + "/saved_model.pb", "rb") as file:
    content.ParseFromString(file.read())
defaults = content.meta_graphs[0].signature_def[request["signature"]].defaults
inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in defaults.items()}
for name, value in request["inputs"].items():
    inputs[name] = tf.constant(value["values"], value["dtype"])
answer = model.signatures[request["signature"]](**inputs)
def plain(value):
    return value.decode("utf-8") if isinstance(value, bytes) else value
def nested(values):
    return [nested(value) if isinstance(value, list) else plain(value) for value in values]
print(json.dumps({name: nested(tensor.numpy().tolist()) for name, tensor in answer.items()}))
"""


def ask_in_other_process(
    path: str | os.PathLike[str], signature: str, **inputs: tuple[str, Sequence[object]]
) -> dict[str, list[object]]:
    """Load a SavedModel in a fresh Python process with plain TensorFlow, and call a signature.

    Args:
        path: the folder of one version.
        signature: its name.
        **inputs: for each input its dtype and values; the signature's defaults hold for the others.

    Returns:
        The outputs as lists; strings are text.

    Raises:
        RuntimeError: the process failed; the message holds what it printed.

    Example:
        >>> ask_in_other_process("saved_models/demo/1", "generate_with_defaults",
        ...                      prompt=("string", ["Once upon a time"]))["text"]
    """
    request = {
        "path": os.path.abspath(path),
        "signature": signature,
        "inputs": {
            name: {"dtype": dtype, "values": list(values)}
            for name, (dtype, values) in inputs.items()
        },
    }
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            cwd=elsewhere,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
    if done.returncode:
        raise RuntimeError(
            f"the SavedModel at {path} could not be asked in another process:\n{done.stderr[-2000:]}"
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))
