"""Programs of a SavedModel that call oneDNN where the server can, and those that do not."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from keras_gpt import GPT, onednn
from keras_gpt.export import graph_onednn
from keras_gpt.export.graph_onednn import OneDNN

PROMPTS = [f"The quick brown fox {'jumps ' * row}" for row in range(6)]
DTYPES = ("int8", "bfloat16")
FLAGS = " ".join(onednn.INSTRUCTIONS.values())


@pytest.fixture(scope="module")
def exported(
    make_gpt: Callable[..., GPT], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[GPT, Path]]:
    """Give a model of a kind, and the folder that it was exported to."""

    @functools.cache
    def export(kind: str) -> tuple[GPT, Path]:
        path = tmp_path_factory.mktemp(kind) / "1"
        dtype = kind if kind == "bfloat16" else "float32"
        gpt = make_gpt(context_length=64, embedding_dim=64, num_layers=1, dtype=dtype)
        if kind in ("int8", "int4"):
            gpt.quantize(kind)
        gpt.export(path)
        return gpt, path

    return export


@pytest.mark.parametrize("kind", ["int8", "bfloat16", pytest.param("int4", marks=pytest.mark.slow)])
def test_the_server_decides_and_answers_alike_either_way(
    exported: Callable[[str], tuple[GPT, Path]], ask: Callable[..., dict[str, Any]], kind: str
) -> None:
    gpt, path = exported(kind)
    loaded = tf.saved_model.load(str(path))
    handle = loaded.onednn.resource_handle
    can = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.bool).numpy()
    assert can == onednn.is_here("bfloat16" if kind == "bfloat16" else "int8")
    scores = {}
    for way in (False, can):  # the last is how it was
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(way))
        answer = ask(loaded, PROMPTS, logprobs=[0])
        scores[way] = answer["log_probabilities"]
        if kind != "bfloat16":  # where two tokens may be as probable
            expected = gpt.generate(PROMPTS, max_new_tokens=8, temperature=0.0)
            assert [text.decode() for text in answer["text"]] == expected
            assert ask(loaded, PROMPTS[:1])["text"][0].decode() == expected[0]
        embeddings = loaded.signatures["embed"](
            text=tf.constant(PROMPTS), pooling=tf.constant(["mean"]), normalize=tf.constant([True])
        )["embedding"]
        tf.debugging.assert_near(embeddings, gpt.embed(PROMPTS, normalize=True), atol=2e-2)
    if can:
        tf.debugging.assert_near(scores[True][:, 0], scores[False][:, 0], atol=0.1)


def test_a_session_such_as_a_server_has_decides_when_it_loads(
    exported: Callable[[str], tuple[GPT, Path]],
) -> None:
    _, path = exported("int8")
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        (made,) = [
            each
            for each in graph.get_operations()
            if each.type == "VarHandleOp" and b"keras_gpt_onednn" in each.get_attr("shared_name")
        ]
        can = tf.raw_ops.ReadVariableOp(resource=made.outputs[0], dtype=tf.bool)
        assert session.run(can) == onednn.is_here("int8")


@pytest.mark.parametrize("kind", ["float32", "int8", "bfloat16"])
def test_what_would_not_call_it_has_one_way(
    exported: Callable[[str], tuple[GPT, Path]], read_graph: Callable[[Path], Any], kind: str
) -> None:
    functions = read_graph(exported(kind)[1]).graph_def.library.function
    operations = {node.op for function in functions for node in function.node_def}
    assert ("XlaCustomCallV2" in operations) == (kind != "float32")


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Write what Linux says of the processor."""

    def write(flags: str | None) -> None:
        path = tmp_path / "cpuinfo"
        monkeypatch.setattr(graph_onednn, "_PROCESSORS", str(path))
        if flags is not None:
            path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} avx\n\nprocessor\t: 1\n")

    return write


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_call_is_tried_where_the_processor_has_the_instructions(
    processor: Callable[..., None], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_onednn, "_gives_right_sums", lambda _: tf.constant(True))
    processor(FLAGS)
    assert OneDNN([dtype]).is_here()
    assert OneDNN(DTYPES).is_here()
    processor(onednn.INSTRUCTIONS[dtype])
    assert OneDNN([dtype]).is_here()
    assert not OneDNN(DTYPES).is_here()


@pytest.mark.parametrize("flags", [None, "", "avx2 avx512f xavx512_vnni avx512_vnnix avx512_bf"])
def test_without_the_instructions_it_is_not_tried(
    processor: Callable[..., None], flags: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the process on a processor without AVX-512."""

    def tried(_: str) -> Any:
        return tf.raw_ops.Assert(condition=False, data=["tried"]) or tf.constant(True)

    monkeypatch.setattr(graph_onednn, "_gives_right_sums", tried)
    processor(flags)
    for dtype in DTYPES:
        assert not OneDNN([dtype]).is_here()


def test_where_the_call_is_missing_or_wrong_it_is_not_here(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(FLAGS)
    real = onednn._call

    def unknown(x: Any, matrix: Any, copy: Any = None) -> Any:
        from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_custom_call_v2

        return xla_custom_call_v2(
            [x, matrix],
            call_target_name="no_such_call",
            backend_config="",
            has_side_effect=False,
            result_dtypes=["int32"],
            result_shapes=[(x.shape[0], matrix.shape[0])],
        )[0]

    monkeypatch.setattr(onednn, "_call", unknown)
    assert not OneDNN(["int8"]).is_here()
    if onednn.is_here("int8"):
        monkeypatch.setattr(onednn, "_call", real)
        assert OneDNN(["int8"]).is_here()
        monkeypatch.setattr(onednn, "_call", lambda x, matrix, copy: real(x, matrix, copy) + 1)
        assert not OneDNN(["int8"]).is_here()
