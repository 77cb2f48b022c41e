"""What TensorFlow Serving is started with: read as it reads it, and never written over changes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from typer.testing import CliRunner

from keras_gpt import GPT, GPTClassifier
from keras_gpt.cli import app
from keras_gpt.export import write_serving_files
from keras_gpt.export.batching import batch_sizes, write_batching_params

NAMES = [
    "models.config",
    "batching_params.pbtxt",
    "monitoring.config",
    "compose.yaml",
    "kubernetes.yaml",
]
MOUNTED = "/models"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two models, one with two versions, and of things that are none."""
    root = tmp_path / "saved models"
    for version, max_batch in (("good/1", None), ("good/12", 8), ('问 "x"/3', 2)):
        (root / version).mkdir(parents=True)
        (root / version / "saved_model.pb").write_bytes(b"x")
        if max_batch:
            write_batching_params(root / version, batch_sizes(max_batch))
    (root / "no model" / "1").mkdir(parents=True)
    (root / "good" / "latest").mkdir()
    return root


def serving_message(name: str) -> Any:
    """Make the messages that are not in the package tensorflow-serving-api, by their fields' numbers.

    They are BatchingParameters of servables/tensorflow/session_bundle_config.proto and
    MonitoringConfig of config/monitoring_config.proto.
    """
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers.name],
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    int64, text = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
    messages: dict[str, list[tuple[str, int, Any]]] = {
        "BatchingParameters": [
            ("max_batch_size", 1, int64),
            ("batch_timeout_micros", 2, int64),
            ("max_enqueued_batches", 3, int64),
            ("num_batch_threads", 4, int64),
            ("thread_pool_name", 5, text),
            ("allowed_batch_sizes", 6, kinds.TYPE_INT64),
            ("pad_variable_length_inputs", 7, kinds.TYPE_BOOL),
        ],
        "PrometheusConfig": [("enable", 1, kinds.TYPE_BOOL), ("path", 2, kinds.TYPE_STRING)],
        "MonitoringConfig": [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig")],
    }
    for message, fields in messages.items():
        added = file.message_type.add(name=message)
        for field, number, kind in fields:
            many = field == "allowed_batch_sizes"
            label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
            new = added.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                new.type, new.type_name = kinds.TYPE_MESSAGE, kind
            else:
                new.type = kind
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
    )()


def test_models_config_names_each_model(root: Path) -> None:
    """With TensorFlow Serving's own message; whatever stands in a name."""
    configs = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    write_serving_files(root)
    text = (root / "models.config").read_text("utf-8")
    config = text_format.Parse(text, configs.ModelServerConfig()).model_config_list.config
    assert [(each.name, each.base_path, each.model_platform) for each in config] == [
        (name, f"{MOUNTED}/{name}", "tensorflow") for name in ("good", '问 "x"')
    ]


def test_batching_and_monitoring_are_what_the_server_reads(root: Path) -> None:
    """Each version has its own parameters; those of the folder are good for all of them."""
    write_serving_files(root)

    def read(path: Path) -> Any:
        return text_format.Parse(path.read_text("utf-8"), serving_message("BatchingParameters"))

    own = read(root / "good" / "12" / "batching_params.pbtxt")
    assert list(own.allowed_batch_sizes) == [1, 2, 4, 8]
    assert own.max_batch_size.value == 8
    assert own.pad_variable_length_inputs
    assert not (root / "good" / "1" / "batching_params.pbtxt").exists()
    shared = read(root / "batching_params.pbtxt")
    assert shared.max_batch_size.value == 2
    assert list(shared.allowed_batch_sizes) == [1, 2]
    monitoring = text_format.Parse(
        (root / "monitoring.config").read_text("utf-8"), serving_message("MonitoringConfig")
    )
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_the_flags_name_files_that_are_there(root: Path) -> None:
    """In Docker and Kubernetes alike; the folder is mounted where they point."""
    write_serving_files(root)
    (service,) = yaml.safe_load((root / "compose.yaml").read_text("utf-8"))["services"].values()
    deployment = documents(root)["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert service["command"] == container["args"]
    files = [re.fullmatch(rf"--\w+={MOUNTED}/(.+)", flag) for flag in container["args"]]
    assert {found.group(1) for found in files if found} == set(NAMES[:3])
    (volume,) = service["volumes"]
    assert (volume["source"], volume["target"], volume["read_only"]) == (".", MOUNTED, True)
    assert container["volumeMounts"][0]["mountPath"] == MOUNTED
    # Nothing beyond this machine, unless somebody says so.
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def documents(root: Path) -> dict[str, Any]:
    text = (root / "kubernetes.yaml").read_text("utf-8")
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def test_the_parts_of_the_cluster_fit_together(root: Path) -> None:
    """Labels, ports, volumes and names that refer to one another."""
    write_serving_files(root)
    parts = documents(root)
    assert set(parts) == {
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
    }
    deployment, service = parts["Deployment"]["spec"], parts["Service"]["spec"]
    template = deployment["template"]
    labels = template["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    assert {port["targetPort"] for port in service["ports"]} == set(ports)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (action,) = {"httpGet", "tcpSocket"} & set(container[probe])
        assert container[probe][action]["port"] in ports
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/good"
    (volume,) = template["spec"]["volumes"]
    assert container["volumeMounts"][0]["name"] == volume["name"]
    claim = volume["persistentVolumeClaim"]["claimName"]
    assert claim == parts["PersistentVolumeClaim"]["metadata"]["name"]
    scaler = parts["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == parts["Deployment"]["metadata"]["name"]
    # Utilization is a part of what is requested.
    assert scaler["metrics"][0]["resource"]["name"] in container["resources"]["requests"]
    assert "replicas" not in deployment


def test_kubernetes_own_schemas_take_it(root: Path) -> None:
    """As `kubectl apply` would check it."""
    validate = pytest.importorskip("kubernetes_validate").validate
    write_serving_files(root)
    for part in documents(root).values():
        validate(part, "1.31", strict=True)


def test_changed_files_stay_and_the_others_follow(root: Path) -> None:
    """A new model comes into those that nobody has changed."""
    files = write_serving_files(root)
    assert [path.name for path in files.written] == NAMES
    assert files.kept == []
    compose = root / "compose.yaml"
    changed = compose.read_text("utf-8").replace("unless-stopped", '"no"')
    compose.write_text(changed, encoding="utf-8")
    (root / "monitoring.config").write_text("mine")
    (root / "new" / "1").mkdir(parents=True)
    (root / "new" / "1" / "saved_model.pb").write_bytes(b"x")
    files = write_serving_files(root)
    assert [path.name for path in files.kept] == ["monitoring.config", "compose.yaml"]
    assert compose.read_text("utf-8") == changed
    assert (root / "monitoring.config").read_text() == "mine"
    assert 'name: "new"' in (root / "models.config").read_text("utf-8")


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    """Nothing is written into it."""
    (tmp_path / "empty" / "1").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="must hold NAME/VERSION"):
        write_serving_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_the_batches_are_powers_of_two_up_to_the_largest() -> None:
    """None are compiled for unless they are asked for."""
    assert [batch_sizes(most) for most in (None, 1, 2, 6, 8)] == [
        [],
        [1],
        [1, 2],
        [1, 2, 4, 6],
        [1, 2, 4, 8],
    ]


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_line_exports_what_a_server_needs(
    make_gpt: Callable[..., GPT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With limits and integers for weights; a second model joins; a changed file is named."""
    monkeypatch.chdir(tmp_path)
    gpt = make_gpt(num_layers=1, context_length=32)
    gpt.save_to_preset("model")
    classifier = GPTClassifier(gpt, 2, ["no", "yes"])
    classifier.save_to_preset("classifier")
    options = ("--max-batch", 2, "--max-new-tokens", 8, "--quantize", "int8")
    done = run("export", "model", "saved_models/one/1", *options)
    assert done.exit_code == 0, done.output
    assert "exported model to saved_models/one/1" in done.output
    version = Path("saved_models/one/1")
    assert (version / "assets.extra" / "tf_serving_warmup_requests").is_file()
    assert (version / "batching_params.pbtxt").read_text().startswith("max_batch_size { value: 2 }")
    import tensorflow as tf

    loaded = tf.saved_model.load(str(version))
    assert any(each.dtype == tf.int8 for each in loaded.weights)

    config = Path("saved_models/models.config")
    config.write_text(config.read_text() + "# mine\n")
    done = run("export", "classifier", "saved_models/two/1")
    assert done.exit_code == 0, done.output
    line = "left as it is, since somebody changed it: saved_models/models.config"
    assert f"{line}; it does not name two" in done.output
    assert not Path("saved_models/two/1/assets.extra").exists()

    done = run("export", "classifier", "saved_models/two/2", "--max-new-tokens", 3)
    assert "--max-new-tokens is for models that generate" in str(done.exception)
    before = sorted(Path().rglob("*"))
    done = run("export", "model", "two", "--no-serving-files")
    assert done.exit_code == 0, done.output
    new = set(Path().rglob("*")) - set(before)
    assert all(path.parts[0] == "two" for path in new)
    done = run("export", "classifier", "two/1")
    assert "no files for TensorFlow Serving are written" in done.output
    assert not Path("models.config").exists()
