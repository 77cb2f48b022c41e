"""An exported model where there is no keras_gpt: TensorFlow's C API, its command, its core operations."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keras_gpt import GPT, GPTClassifier

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "The quick 日本"


def quiet(**more: str) -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **more}


def test_a_c_program_sends_a_string_and_prints_the_text(
    limited: Path, tmp_path: Path, read_graph: Callable[[Path], Any]
) -> None:
    """TensorFlow's wheel has the library and the headers."""
    import tensorflow as tf

    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler, or TensorFlow's libraries have other names here")
    installed = Path(tf.sysconfig.get_lib())
    libraries = [installed / f"libtensorflow_{name}.so.2" for name in ("cc", "framework")]
    program = tmp_path / "ask_from_c"
    built = subprocess.run(
        [
            *(compiler, "-Wall", "-Wextra", "-Werror", "-o", program),
            *(ROOT / "examples" / "ask_from_c.c", f"-I{installed / 'include'}", *libraries),
            f"-Wl,-rpath,{installed}",
        ],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    signature = read_graph(limited).signature_def["generate_with_defaults"]
    names = (signature.inputs["prompt"].name, signature.outputs["text"].name)

    def ask(prompt: str) -> subprocess.CompletedProcess[bytes]:
        command = [program, limited, prompt, *names]
        return subprocess.run(command, capture_output=True, env=quiet())

    done = ask(PROMPT)
    assert done.returncode == 0, done.stderr[-3000:]
    text = done.stdout.decode()
    assert text.startswith(PROMPT)
    assert text.endswith("\n")
    refused = ask("")
    assert refused.returncode == 1
    assert b"prompt must not be empty" in refused.stderr


def test_saved_model_cli_runs_it(limited_gpt: GPT, limited: Path, tmp_path: Path) -> None:
    """As somebody would who was handed the folder."""
    cli = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    common = ["--dir", limited, "--tag_set", "serve", "--signature_def", "embed"]
    inputs = f"text={[PROMPT]!r};pooling=['last'];normalize=[False]"
    command = [*cli, "run", *common, "--input_exprs", inputs, "--outdir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet())
    assert done.returncode == 0, done.stderr[-3000:]
    import numpy as np

    (vector,) = np.load(tmp_path / "embedding.npy")
    expected = limited_gpt.embed(PROMPT, pooling="last", normalize=False)
    np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


# All operations that exports use: those of TensorFlow itself, which a server has without any other
# library. Those with Xla come with the just-in-time compiler, which the programs need anyway.
OPERATIONS = """
    Abs AddN AddV2 All Any ArgMax Assert AssignVariableOp BatchMatMulV2 BatchMatMulV3 BiasAdd
    Bitcast BitwiseAnd BitwiseXor BroadcastTo Cast ConcatV2 Const Cos Cumsum DecodeRaw DenseBincount
    DeviceIndex DisableCopyOnRead EnsureShape Equal Exp ExpandDims Fill FilterDataset FlatMapDataset
    FloorDiv FloorMod GatherV2 Greater GreaterEqual Identity IdentityN If IgnoreErrorsDataset
    IsFinite IsNan Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr LowerBound
    MapDataset MatMul Max Maximum Mean MergeV2Checkpoints Min Minimum Mul Neg NoOp NotEqual OnesLike
    Pack Pad ParseExampleV2 PartitionedCall Placeholder PlaceholderWithDefault Pow Prod RaggedGather
    RaggedTensorToTensor RandomUniformInt Range RangeDataset ReadVariableOp RealDiv ReduceDataset
    ReduceJoin Reshape ResourceGather RestoreV2 RightShift Round Rsqrt SaveV2 ScatterNd Select
    SelectV2 Shape ShardedFilename Sigmoid Sin Size Slice Softmax Split SplitV Sqrt Square
    SquaredDifference Squeeze StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile
    StaticRegexFullMatch StopGradient StridedSlice StringJoin StringLength Sub Substr Sum
    TakeDataset Tanh TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem
    TensorListStack TensorScatterUpdate TensorSliceDataset TextLineDataset Tile TopKV2 Transpose
    UnicodeDecode UnicodeTranscode UnsortedSegmentJoin UnsortedSegmentMin UnsortedSegmentSum
    UpperBound VarHandleOp Where While XlaCustomCallV2 XlaDynamicUpdateSlice
    XlaOptimizationBarrier ZerosLike
"""


def test_the_operations_are_these(
    make_gpt: Callable[..., GPT], limited: Path, tmp_path: Path, read_graph: Any
) -> None:
    """Of a GPT, of a modern one with integers for weights, of one of bfloat16, and of a classifier."""
    modern = make_gpt(
        num_layers=1,
        context_length=32,
        positions="rotary",
        normalization="rms_norm",
        feed_forward="gated",
        activation="silu",
        num_kv_heads=1,
        attention_windows=(8,),
    )
    modern.quantize("int8")
    modern.export(tmp_path / "modern" / "1")
    GPTClassifier(modern, 2).export(tmp_path / "classifier" / "1")
    half = make_gpt(num_layers=1, context_length=32, tie_embeddings=False, dtype="bfloat16")
    half.export(tmp_path / "half" / "1")
    used = set()
    for path in (limited, *(tmp_path / name / "1" for name in ("modern", "classifier", "half"))):
        graph = read_graph(path).graph_def
        used |= {node.op for node in graph.node}
        used |= {node.op for function in graph.library.function for node in function.node_def}
    assert used - set(OPERATIONS.split()) == set()
