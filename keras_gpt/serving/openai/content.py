"""What a request's headers say about its body."""

from collections.abc import Mapping

from keras_gpt.serving.openai.errors import ApiError


def check_content(headers: Mapping[str, str]) -> None:
    """Refuse a body that is not plain JSON.

    Programs may leave the type out, or say what curl says by itself. A browser has to name JSON: it
    then asks first whether another site's page may send it here, and nothing answers that.

    Raises:
        ApiError: it is encoded, or a page sends it as something else.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise _refused("a body must not be compressed")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if "sec-fetch-site" in headers and kind != "application/json":
        raise _refused("a page must send its JSON as application/json")


def _refused(message: str) -> ApiError:
    return ApiError(415, message, code="unsupported_media_type")
