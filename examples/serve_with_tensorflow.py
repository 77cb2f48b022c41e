"""Export a GPT and ask it over HTTP: the same request for our server and for TensorFlow Serving.

    python examples/serve_with_tensorflow.py
    python examples/serve_with_tensorflow.py --model my-gpt/   # a folder of `GPT.save_to_preset`

Without a model, a small one is trained on the documentation that Python brings along. The client
below uses nothing but Python's standard library: it would run on a machine without keras_gpt.
"""

import argparse
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import keras

from keras_gpt import GPT, Tokenizer
from keras_gpt.data import TokenCorpus, embedded_documents
from keras_gpt.training import train

PROMPT = "The list type"
# The server fills in what is left out.
SETTINGS: dict[str, Any] = {
    "max_new_tokens": 16,
    "temperature": 0.7,
    "top_k": 50,
    "top_p": 0.9,
    "seed": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of a pretrained GPT; by default one is trained")
    parser.add_argument("--steps", type=int, default=200, help="steps of a GPT trained here")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.model:
            gpt = GPT.from_preset(arguments.model)
        else:
            steps, layers = (10, 1) if arguments.quick else (arguments.steps, 2)
            gpt = small_gpt(folder / "corpus", steps, layers)

        # 1. NAME/VERSION is the layout of TensorFlow Serving. Tokenizer, cache and sampling are in.
        gpt.export(folder / "saved_models" / "demo" / "1")

        # 2. A server on free ports (0): the one that `keras-gpt serve` starts.
        code = "import sys; from keras_gpt.serving import serve; serve(sys.argv[1], port=0, grpc_port=0)"
        command = [sys.executable, "-c", code, str(folder / "saved_models")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                ask_everything(wait_for_address(server), gpt.generate(PROMPT, **SETTINGS))
            finally:
                server.send_signal(signal.SIGINT)  # what Ctrl-C sends
                server.wait(timeout=60)
        print(f"the server ended with status {server.returncode}")


def ask_everything(address: str, expected: str) -> None:
    model = f"{address}/v1/models/demo"
    print("status: ", get(model)["model_version_status"][0]["state"])

    # 3. Rows: one object a prompt. Each row has settings of its own.
    second = {**SETTINGS, "prompt": "Return the", "temperature": 0.0}
    rows = {"instances": [{**SETTINGS, "prompt": PROMPT}, second]}
    predictions = post(f"{model}:predict", rows)["predictions"]
    print("rows:   ", [row["text"] for row in predictions])

    # 4. Columns: one list an input. A list of one value holds for all prompts.
    columns = {name: [value] for name, value in SETTINGS.items()}
    request = {"inputs": {**columns, "prompt": [PROMPT, "Return the"]}}
    outputs = post(f"{model}:predict", request)["outputs"]
    print("columns:", outputs["text"])
    if not predictions[0]["text"] == outputs["text"][0] == expected:
        raise RuntimeError(f"server and GPT.generate must agree. Received: {predictions[0]}")
    print("the server's text is that of GPT.generate for this seed")

    # 5. Another signature: log P(text | given).
    score = {"signature_name": "score", "inputs": {"text": [" of items"], "given": [PROMPT]}}
    print("score:  ", post(f"{model}:predict", score)["outputs"])

    # 6. An error has a status and a message.
    try:
        post(f"{model}:predict", {"instances": []})
    except urllib.error.HTTPError as error:
        print("error:  ", error.code, json.load(error)["error"])

    # TensorFlow Serving takes the same folder and the same requests (saved_models/README.md).
    print("\nthe same from TensorFlow Serving, where saved_models/ holds demo/1:")
    print("  docker run --rm -p 127.0.0.1:8501:8501 -e MODEL_NAME=demo \\")
    print('    --mount type=bind,source="$PWD/saved_models/demo",target=/models/demo,readonly \\')
    print("    tensorflow/serving")
    print(f"  curl -d '{json.dumps(rows)}' http://127.0.0.1:8501/v1/models/demo:predict\n")


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return json.load(answer)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def wait_for_address(server: subprocess.Popen[str]) -> str:
    """Read the server's output up to the line that names its address."""
    for line in server.stdout or ():
        found = re.search(r"http://\S+:\d+", line)
        if found:
            return found.group()
    raise RuntimeError("the server ended before it served; its messages are above")


def small_gpt(folder: Path, steps: int, layers: int) -> GPT:
    """Train a GPT for seconds; examples/train_and_generate.py says how it goes."""
    keras.utils.set_random_seed(0)
    documents = list(itertools.islice(embedded_documents(), 80))  # topics of Python's own help
    tokenizer = Tokenizer.train_from_texts(documents, vocab_size=1000)
    gpt = GPT(tokenizer.vocab_size, 64, 4, 256, layers, context_length=64, tokenizer=tokenizer)
    corpus = TokenCorpus.from_documents(documents, tokenizer, folder)
    train(gpt, corpus, batch_size=8, steps=steps, learning_rate=3e-3, validation_batches=5)
    return gpt


if __name__ == "__main__":
    main()
