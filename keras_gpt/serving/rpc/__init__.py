"""TensorFlow Serving's gRPC API, on grpcio and the messages of `tensorflow-serving-api`."""
