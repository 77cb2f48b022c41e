"""Attention in plain numpy, for the tests of the layers."""

import numpy as np


def randomize(layer):
    """Give every weight, also biases and gains, a value that would show."""
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.5))
    return layer


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _weights(dense):
    return np.asarray(dense.kernel, "float64"), np.asarray(dense.bias, "float64")


def reference(layer, x, mask, positions=None):
    """Attention head by head and query by query, in float64."""
    kernel, bias = _weights(layer.qkv)
    config = layer.gpt_config
    heads, kv_heads, size = config.num_heads, config.key_value_heads, config.head_dim
    dim = config.embedding_dim
    out = np.zeros(x.shape)
    for row in range(len(x)):
        projected = x[row].astype("float64") @ kernel + bias
        q = projected[:, :dim].reshape(-1, heads, size)
        k = projected[:, dim : dim + kv_heads * size].reshape(-1, kv_heads, size)
        v = projected[:, dim + kv_heads * size :].reshape(-1, kv_heads, size)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            queries, keys = q[:, head], k[:, shared]
            if positions is not None:
                half = size // 2
                turn = np.exp(1j * positions[:, None] * 10000.0 ** (-np.arange(half) / half))
                queries, keys = [
                    np.concatenate([z.real, z.imag], axis=1)
                    for z in ((p[:, :half] + 1j * p[:, half:]) * turn for p in (queries, keys))
                ]
            for t in range(len(q)):
                seen = np.flatnonzero(mask[row, t])
                weights = softmax(keys[seen] @ queries[t] / np.sqrt(size))
                out[row, t, head * size : (head + 1) * size] = weights @ v[seen, shared]
    kernel, bias = _weights(layer.projection)
    return out @ kernel + bias
