"""What a model says of itself at /v1/models."""

from typing import Any

from keras_gpt.serving.openai.attention import MOST_TOKENS
from keras_gpt.serving.openai.service import Service


def model_card(service: Service) -> dict[str, Any]:
    """Give what OpenAI's API has, and under `keras_gpt` what the page needs to know besides."""
    config, suggested = service.gpt.config, service.gpt.generation_settings
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "keras_gpt",
        "keras_gpt": {
            "is_chat": suggested.chat_template is not None,
            "max_tokens": service.max_length,
            "max_attention_tokens": min(service.max_length, MOST_TOKENS),
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "temperature": suggested.temperature,
            "top_k": suggested.top_k,
            "top_p": suggested.top_p,
        },
    }
