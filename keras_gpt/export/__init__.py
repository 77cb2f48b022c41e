"""Models as SavedModels for TensorFlow Serving, and as ONNX."""

from keras_gpt.export.onnx_file import export_onnx
from keras_gpt.export.saved_model import export_classifier, export_gpt
from keras_gpt.export.serving_files import ServingFiles, write_serving_files

__all__ = [
    "ServingFiles",
    "export_classifier",
    "export_gpt",
    "export_onnx",
    "write_serving_files",
]
