"""The requests of saved_models/README.md, against a model with the signature they are for."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).resolve().parents[2] / "saved_models" / "README.md"
(GRPC,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.S | re.M)
REQUESTS = re.findall(r"curl http://127\.0\.0\.1:8501(\S+) -d '(.+?)'", README.read_text(), re.S)
READS = re.findall(r"^curl http://127\.0\.0\.1:8501(\S+)$", README.read_text(), re.M)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    kinds = {
        "prompt": tf.string,
        "max_new_tokens": tf.int32,
        "temperature": tf.float32,
        "top_k": tf.int32,
        "top_p": tf.float32,
        "seed": tf.int32,
    }
    tokens, one, none, all_of_it, zero = (tf.constant([value]) for value in (32, 1.0, 0, 1.0, 0))

    class Demo(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], t, n) for n, t in kinds.items()])
        def generate(
            self,
            prompt: Any,
            max_new_tokens: Any = tokens,
            temperature: Any = one,
            top_k: Any = none,
            top_p: Any = all_of_it,
            seed: Any = zero,
        ) -> Any:
            seed = tf.broadcast_to(seed, tf.shape(prompt))
            return {
                "text": tf.strings.join([prompt, tf.strings.as_string(seed)], separator=" "),
                "token_ids": tf.stack([seed, seed], axis=1),
            }

    folder = tmp_path_factory.mktemp("saved_models")
    model = Demo()
    tf.saved_model.save(model, str(folder / "demo" / "1"), {"serving_default": model.generate})
    return folder


def test_the_requests_are_answered(demo: Path, run_server: Any) -> None:
    assert [path for path, _ in REQUESTS] == ["/v1/models/demo:predict"] * 2
    assert READS == ["/v1/models/demo", "/v1/models/demo/metadata"]
    with run_server(demo) as client:
        (rows, columns) = [client.post(path, body.encode()) for path, body in REQUESTS]
        texts = ["The str type 1", "A list is 2"]
        assert rows[0] == columns[0] == 200
        assert [row["text"] for row in rows[1]["predictions"]] == texts
        assert columns[1]["outputs"]["text"] == texts
        for path in READS:
            assert client.get(path)[0] == 200
        # The errors that the table quotes.
        status, answer = client.post(REQUESTS[0][0], {"inputs": {"seed": [1]}})
        assert (status, answer["error"]) == (400, "Missing named input: prompt in 'inputs' object.")
        status, answer = client.post("/v1/models/demo2:predict", {"inputs": ["a"]})
        assert answer["error"] == "Servable not found for request: Latest(demo2)"
        for quoted in (answer["error"], "Missing named input: prompt in 'inputs' object."):
            assert f"`{quoted}`" in README.read_text()


def test_the_grpc_client_is_answered(
    demo: Path, run_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_server(demo) as client:
        exec(GRPC.replace("127.0.0.1:8500", client.server.grpc_address), {})
    assert capsys.readouterr().out == "['The str type 1', 'A list is 2']\n"
