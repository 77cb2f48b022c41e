"""The text of the files that start TensorFlow Serving."""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from keras_gpt.export.batching import BATCHING_FILE, batch_sizes

# Where a container has the folder of the models.
_MOUNTED = "/models"
_METRICS = "/monitoring/prometheus/metrics"
_IMAGE = "tensorflow/serving:latest"
_GRPC, _REST = 8500, 8501
_FLAGS = (
    f"--model_config_file={_MOUNTED}/models.config",
    f"--monitoring_config_file={_MOUNTED}/monitoring.config",
    "--enable_batching=true",
    f"--batching_parameters_file={_MOUNTED}/{BATCHING_FILE}",
    "--enable_per_model_batching_parameters=true",
)
_ABOUT_BATCHING = """\
# The batching flags concern models that were exported with --max-batch: the server then puts their
# requests together. A request of several rows must give each input for each row, and a wrong request
# fails those that it was put together with. Without the flags neither is so.
"""


class ModelFolder(NamedTuple):
    """A model as it lies in the folder."""

    name: str
    size: int  # bytes of the latest version
    max_batch: int | None  # of the latest version


def models_config(models: Sequence[ModelFolder]) -> str:
    """Give a ModelServerConfig that serves the latest version of each model."""
    lines = ["model_config_list {"]
    for model in models:
        lines += [
            "  config {",
            f"    name: {_quoted(model.name)}",
            f"    base_path: {_quoted(f'{_MOUNTED}/{model.name}')}",
            '    model_platform: "tensorflow"',
            "  }",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def batching_params(models: Sequence[ModelFolder]) -> str:
    """Give BatchingParameters for all models: those of the one that takes the fewest rows."""
    sizes = batch_sizes(min((m.max_batch for m in models if m.max_batch is not None), default=1))
    lines = [
        f"# A model's own {BATCHING_FILE}, in the folder of its version, counts where the server is",
        "# told --enable_per_model_batching_parameters, and this file for the threads alone.",
        'thread_pool_name { value: "batch_threads" }',
        f"max_batch_size {{ value: {sizes[-1]} }}",
        *[f"allowed_batch_sizes: {size}" for size in sizes],
        "batch_timeout_micros { value: 5000 }",
        "max_enqueued_batches { value: 100 }",
    ]
    return "\n".join(lines) + "\n"


def monitoring_config() -> str:
    """Give a MonitoringConfig with Prometheus' page."""
    return f"prometheus_config {{\n  enable: true\n  path: {_quoted(_METRICS)}\n}}\n"


def compose() -> str:
    """Give a Docker compose file that serves the folder it lies in, to this machine alone."""
    return f"""\
# docker compose up, in this folder. gRPC is at 127.0.0.1:{_GRPC}, REST at 127.0.0.1:{_REST}.
{_ABOUT_BATCHING}\
services:
  serving:
    image: {_IMAGE}
    command:
{_items(_FLAGS, 6)}
    ports:
      - "127.0.0.1:{_GRPC}:{_GRPC}"
      - "127.0.0.1:{_REST}:{_REST}"
    volumes:
      - type: bind
        source: .
        target: {_MOUNTED}
        read_only: true
    healthcheck:
      # The server opens its ports when all models are loaded and warm.
      test: ["CMD", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/{_REST}"]
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 30m
    restart: unless-stopped
"""


def kubernetes(models: Sequence[ModelFolder]) -> str:
    """Give a volume claim, a deployment, a service and an autoscaler."""
    gibibyte = 2**30
    total = sum(model.size for model in models)
    # All files in memory twice over, as TensorFlow Serving itself estimates, and a gibibyte to work in.
    memory = math.ceil(1 + 2 * total / gibibyte)
    storage = math.ceil(1 + 3 * total / gibibyte)
    return f"""\
# kubectl apply -f kubernetes.yaml
{_ABOUT_BATCHING}\
---
# Holds what this folder holds: copy it there once, and again for each new version.
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: saved-models
spec:
  accessModes: [ReadWriteMany]
  resources:
    requests:
      storage: {storage}Gi
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: tensorflow-serving
  labels: {{app: tensorflow-serving}}
spec:
  # The autoscaler below says how many.
  selector:
    matchLabels: {{app: tensorflow-serving}}
  strategy:
    rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata:
      labels: {{app: tensorflow-serving}}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "{_REST}"
        prometheus.io/path: {_METRICS}
    spec:
      terminationGracePeriodSeconds: 60
      containers:
        - name: serving
          image: {_IMAGE}
          args:
{_items(_FLAGS, 12)}
          ports:
            - {{name: grpc, containerPort: {_GRPC}}}
            - {{name: rest, containerPort: {_REST}}}
          # The server opens its ports when all models are loaded and warm.
          startupProbe:
            tcpSocket: {{port: grpc}}
            periodSeconds: 10
            failureThreshold: 180
          readinessProbe:
            httpGet: {{path: {_quoted(f"/v1/models/{quote(models[0].name, safe='')}")}, port: rest}}
            periodSeconds: 10
            timeoutSeconds: 5
          livenessProbe:
            httpGet: {{path: {_METRICS}, port: rest}}
            periodSeconds: 20
            timeoutSeconds: 10
          resources:
            requests: {{cpu: "2", memory: {memory}Gi}}
          securityContext:
            allowPrivilegeEscalation: false
          volumeMounts:
            - {{name: models, mountPath: {_MOUNTED}, readOnly: true}}
      volumes:
        - name: models
          persistentVolumeClaim: {{claimName: saved-models, readOnly: true}}
---
apiVersion: v1
kind: Service
metadata:
  name: tensorflow-serving
  labels: {{app: tensorflow-serving}}
spec:
  selector: {{app: tensorflow-serving}}
  ports:
    - {{name: grpc, port: {_GRPC}, targetPort: grpc}}
    - {{name: rest, port: {_REST}, targetPort: rest}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: tensorflow-serving
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: tensorflow-serving}}
  minReplicas: 1
  maxReplicas: 4
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {{type: Utilization, averageUtilization: 70}}
"""


def _items(values: Sequence[str], indent: int) -> str:
    return "\n".join(f"{' ' * indent}- {value}" for value in values)


def _quoted(text: str) -> str:
    """Quote text so that both a text proto and YAML read it."""
    return json.dumps(text, ensure_ascii=False)
