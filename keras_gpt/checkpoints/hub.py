"""`hf://owner/name`: a model of the Hugging Face hub, through its own library and cache."""

from pathlib import Path
from typing import NamedTuple

SCHEME = "hf://"

_SMALL_FILES = ("*.json", "*.jinja", "merges.txt")
_PATIENCE = 10.0  # seconds
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "requests", "urllib3")
_SAFETENSORS, _TORCH = "*.safetensors", "pytorch_model*.bin"


class HubAddress(NamedTuple):
    """A repository, a revision of it (None is the newest), and one file of it (None is a folder)."""

    repository: str
    revision: str | None
    file: str | None


def parse_hub_address(source: str) -> HubAddress:
    """Take `hf://owner/name`, with `@revision` and `/path/file.gguf` where needed, apart.

    Raises:
        ValueError: it is not of this form.

    Example:
        >>> parse_hub_address("hf://openai-community/gpt2@main").revision
        'main'
    """
    parts = source.removeprefix(SCHEME).split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            "source must be hf://owner/name, hf://owner/name@revision, or either with "
            f"/path/file.gguf behind. Received: source={source!r}"
        )
    name, at, revision = parts[1].partition("@")
    if not name or (at and not revision):
        raise ValueError(
            f"source must have a name, and a revision after @. Received: source={source!r}"
        )
    return HubAddress(f"{parts[0]}/{name}", revision or None, "/".join(parts[2:]) or None)


def fetch(source: str, with_weights: bool = True) -> Path:
    """Get a model's files from the hub, or from its cache where they are there already.

    Tokens, mirrors, the cache's place and the offline mode are those of `huggingface_hub`
    (`HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE`).

    Args:
        source: `hf://owner/name[@revision][/file.gguf]`.
        with_weights: whether to get the weights too.

    Returns:
        The folder, or the file where one was named.

    Raises:
        FileNotFoundError: the hub has no such repository, revision or file (or does not show it).
        ConnectionError: the hub cannot be reached, and the cache does not have it.
        ValueError: `source` is not of this form.
    """
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    address = parse_hub_address(source)
    only_cache = not _is_reachable()
    try:
        if address.file is not None:
            return Path(
                hf_hub_download(
                    address.repository,
                    address.file,
                    revision=address.revision,
                    local_files_only=only_cache,
                )
            )

        def get(*patterns: str) -> Path:
            return Path(
                snapshot_download(
                    address.repository,
                    revision=address.revision,
                    local_files_only=only_cache,
                    allow_patterns=list(patterns),
                    ignore_patterns=["*/*"],  # exports for other programs lie in folders
                )
            )

        if not with_weights:
            return get(*_SMALL_FILES)
        folder = get(*_SMALL_FILES, _SAFETENSORS)
        # A snapshot from the cache may lack what was not asked for when it was made.
        return folder if any(folder.glob(_SAFETENSORS)) else get(*_SMALL_FILES, _TORCH)
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise ConnectionError(
            f"{source} is not in the hub's cache, and the hub cannot be reached (or "
            f"HF_HUB_OFFLINE is set): {_first_line(error)}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise FileNotFoundError(
            f"the hub does not give {source}: {_first_line(error)} (for a private or gated "
            "repository set HF_TOKEN)"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(
            f"source must name a repository. Received: {source!r} ({error})"
        ) from error
    except Exception as error:
        # A download that breaks off comes as an error of the HTTP library, which is another one in
        # every second release of the hub's.
        if type(error).__module__.partition(".")[0] not in _HTTP_LIBRARIES:
            raise
        raise ConnectionError(
            f"the download of {source} broke off; try again. Received: {_first_line(error)}"
        ) from error


def _is_reachable() -> bool:
    """Say whether the hub answers at all; its library tries again for half a minute if it does not."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except (
        Exception
    ):  # which one depends on the library's version, and the offline mode has its own
        return False
    return True


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
