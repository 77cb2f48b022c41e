"""The models that are served: loaded, replaced and unloaded while requests are answered."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.graph import free_memory
from keras_gpt.serving.servable import Servable
from keras_gpt.serving.version_state import VersionState, fingerprint
from keras_gpt.serving.versions import ModelEntry, find_models, no_models_error

_log = logging.getLogger("keras_gpt.serving")

# Called after each try to load: the version's folder, the seconds it took, whether it was loaded.
OnLoad = Callable[[Path, float, bool], None]


class ModelStore:
    """Loads models, watches their folders, and finds the model that a request is for.

    Requests are looked up in dicts, so no name in a request ever becomes a path. The one request
    that names paths is `reload`, which takes none outside of the folders that the store began with.

    A version is unloaded when another one of its model can answer. Requests that it has begun end.

    Args:
        folder: holds NAME/VERSION/saved_model.pb, where VERSION is a whole number. Without
            `config`, the latest version of each model is served.
        config: a file in TensorFlow Serving's form that says what is served, see `read_config`.
        on_load: is called after each try to load a version.
        warmup: whether a version answers the warm-up requests that lie in its folder before it is
            served.

    Raises:
        FileNotFoundError: there is no such folder or file, or no model is in the folder.
        NotADirectoryError: `folder` is a file.
        RuntimeError: there are models, and none can be loaded.
        ValueError: `config` is not a configuration of models.

    Example:
        >>> store = ModelStore("saved_models")
        >>> store.lookup("demo").predict({"instances": ["Once"]})
        >>> store.watch(seconds=1)  # load what is put there from now on
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: str | os.PathLike[str] | None = None,
        on_load: OnLoad | None = None,
        warmup: bool = True,
    ) -> None:
        self._folder = Path(folder)
        self._on_load = on_load
        self._warmup = warmup
        self._change = threading.Lock()  # held while what is served changes, loading included
        self._lock = threading.Lock()  # held for moments: guards the two dicts
        self._states: dict[str, dict[int, VersionState]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        # What a version's folder looked like when loading failed: a changed one is tried again.
        self._failed: dict[tuple[str, int, Path], Any] = {}
        self._leaving: list[VersionState] = []  # unloaded, and perhaps still answering
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None
        # None: whatever the folder holds.
        self._configured: list[ModelEntry] | None = None
        entries, others = find_models(self._folder)
        if config is not None:
            from keras_gpt.serving.model_config import read_config

            entries = self._configured = read_config(config, self._folder)
        elif not entries:
            raise no_models_error(self._folder)
        else:
            for path in others:
                _log.warning("%s: not served, it has no version folder such as 1/", path)
        self._roots = [path.resolve() for path in (self._folder, *(e.base_path for e in entries))]
        self._labels = {entry.name: dict(entry.labels) for entry in entries}
        self._serve(entries)
        if not self.servables():
            failures = "; ".join(
                f"{name}: {state.error_message}"
                for name, versions in self._states.items()
                for state in versions.values()
            )
            raise RuntimeError(
                f"no model could be loaded ({failures or 'there are no such versions'}). "
                f"Received: folder={folder}"
            )

    def servables(self) -> list[Servable]:
        """All loaded models, by name and version."""
        with self._lock:
            found = [s.servable for vs in self._states.values() for s in vs.values() if s.servable]
        return sorted(found, key=lambda servable: (servable.name, servable.version))

    def has(self, name: str) -> bool:
        """Whether there is, or was, a model of that name."""
        with self._lock:
            return name in self._states

    def lookup(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """A loaded model.

        Args:
            name: the model's name.
            version: its version; None for the latest that is loaded.
            label: in place of the version, a name that it was given.

        Returns:
            The model. It stays usable for as long as it is held.

        Raises:
            ServingError: no such model, version or label.
        """
        if label is not None:
            version = self._labelled(name, label)
        with self._lock:
            states = self._states.get(name, {})
            loaded = {number: s.servable for number, s in states.items() if s.servable}
        wanted = max(loaded, default=None) if version is None else version
        if wanted is None or wanted not in loaded:
            shown = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServingError(f"Servable not found for request: {shown}", "NOT_FOUND")
        return loaded[wanted]

    def states(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> dict[int, VersionState]:
        """The states of a model's versions, of one or of all that are or were to be served.

        Args:
            name: the model's name.
            version: its version; None for all.
            label: in place of the version, a name that it was given.

        Returns:
            State by version, the latest first.

        Raises:
            ServingError: no such model, version or label.
        """
        if label is not None:
            version = self._labelled(name, label)
        with self._lock:
            states = dict(self._states.get(name, {}))
        if version is not None:
            if version not in states:
                raise ServingError(f"Could not find version {version} of model {name}", "NOT_FOUND")
            return {version: states[version]}
        if not states:
            raise ServingError(f"Could not find any versions of model {name}", "NOT_FOUND")
        return dict(sorted(states.items(), reverse=True))

    def watch(self, seconds: float) -> None:
        """Begin to look for changes of the folders.

        Args:
            seconds: from one look to the next.
        """
        self._stopped.clear()
        self._watcher = threading.Thread(
            target=self._watch, args=(seconds,), name="models", daemon=True
        )
        self._watcher.start()

    def close(self) -> None:
        """Stop watching; what is loaded stays. A version that is being loaded is not waited for."""
        self._stopped.set()
        if self._watcher is not None:
            self._watcher.join(timeout=1)

    def refresh(self) -> None:
        """Look once for new, changed and removed versions, and serve what is there now.

        Raises:
            OSError: the folder cannot be read.
        """
        with self._change:
            self._serve(
                find_models(self._folder)[0] if self._configured is None else self._configured
            )

    def reload(self, config: Any) -> None:
        """Serve what a configuration says from now on, in place of what is served.

        Args:
            config: a ModelServerConfig. Base paths must lie in the store's folder or in one of
                the base paths that it began with.

        Raises:
            ServingError: the configuration does not hold, names a place that it may not, or a
                model of it cannot be loaded.
        """
        from keras_gpt.serving.model_config import entries_of

        with self._change:
            entries = entries_of(config, self._permitted)
            self._configured = entries
            wanted = self._load_wanted(entries)
            try:
                loaded = {servable.name for servable in self.servables()}
                missing = [entry.name for entry in entries if entry.name not in loaded]
                if missing:
                    raise ServingError(
                        f"Some models did not become available: {{{', '.join(missing)}}}", "UNKNOWN"
                    )
                # Labels move while their old versions are still there: none is without one.
                self._assign_labels(entries)
            finally:
                self._unload_others(entries, wanted)

    def _labelled(self, name: str, label: str) -> int:
        with self._lock:
            version = self._labels.get(name, {}).get(label)
        if version is None:
            raise ServingError(f"Unrecognized servable version label: {label}")
        return version

    def _assign_labels(self, entries: list[ModelEntry]) -> None:
        for entry in entries:
            for label, version in entry.labels.items():
                with self._lock:
                    state = self._states.get(entry.name, {}).get(version)
                    known = self._labels.get(entry.name, {}).get(label)
                if version != known and (state is None or state.servable is None):
                    raise ServingError(
                        f"Request to assign label to version {version} of model {entry.name}, "
                        "which is not currently available for inference",
                        "FAILED_PRECONDITION",
                    )
        with self._lock:
            self._labels = {entry.name: dict(entry.labels) for entry in entries}

    def _permitted(self, base_path: str) -> Path:
        """The folder that a request's base path means, if it may name it."""
        from keras_gpt.serving.model_config import below

        try:
            path = below(self._folder, base_path).resolve()
            is_permitted = any(path.is_relative_to(root) for root in self._roots)
            is_folder = is_permitted and path.is_dir()
        except (OSError, RuntimeError, ValueError) as error:  # no path at all, or a circle of links
            raise ServingError(f"base_path is not a path: {error}") from error
        if not is_permitted:
            raise ServingError(
                "base_path must lie in a folder that the server was started with. "
                f"Received: {base_path}",
                "PERMISSION_DENIED",
            )
        if not is_folder:
            raise ServingError(f"Could not find base path {base_path}")
        return path

    def _watch(self, seconds: float) -> None:
        said = ""
        while not self._stopped.wait(seconds):
            try:
                self.refresh()
                said = ""
            except Exception as error:  # what is loaded is served on, whatever became of the folder
                if str(error) != said:
                    _log.error("the models could not be looked for: %s", error)
                said = str(error)

    def _serve(self, entries: list[ModelEntry]) -> None:
        """Load what the entries want; then unload what none of them wants."""
        self._unload_others(entries, self._load_wanted(entries))

    def _load_wanted(self, entries: list[ModelEntry]) -> dict[str, dict[int, Path]]:
        """Load what the entries want, and say which versions of which models that is."""
        found = {}
        for entry in entries:
            try:
                wanted = entry.wanted()
            except OSError as error:
                # A disk that is away for a moment must not take models down.
                _log.warning("model %s: its folder cannot be read: %s", entry.name, error)
                continue
            for number, path in wanted.items():
                self._load(entry.name, number, path)
            found[entry.name] = wanted
        return found

    def _unload_others(self, entries: list[ModelEntry], found: dict[str, dict[int, Path]]) -> None:
        """Unload what the entries do not want; `found` says which versions they want."""
        for name, wanted in found.items():
            with self._lock:
                states = self._states.get(name, {})
                can_answer = any(states[number].servable for number in wanted)
                unwanted = [state for number, state in states.items() if number not in wanted]
            if can_answer or not wanted:
                self._unload(unwanted)
        names = {entry.name for entry in entries}
        with self._lock:
            gone = [s for n, vs in self._states.items() if n not in names for s in vs.values()]
        self._unload(gone)

    def _load(self, name: str, number: int, path: Path) -> None:
        """Load a version, unless it is loaded, or was tried as it is."""
        path = path.resolve()
        with self._lock:
            states = self._states.setdefault(name, {})
            known = states.get(number)
        is_loaded = known is not None and known.servable is not None
        if is_loaded and known is not None and known.path == path:
            return
        seen = fingerprint(path)
        if self._failed.get((name, number, path)) == seen:
            return
        state = VersionState(path)
        if not is_loaded:
            with self._lock:
                states[number] = state
        began = time.monotonic()
        state.load(name, number, self._warmup)
        if self._on_load is not None:
            self._on_load(path, time.monotonic() - began, state.servable is not None)
        if state.servable is None:
            self._failed[name, number, path] = seen
            free_memory()
            return
        self._failed.pop((name, number, path), None)
        _log.info("model %s version %d is loaded", name, number)
        with self._lock:
            states[number] = state
        if known is not None:
            self._unload([known])

    def _unload(self, states: list[VersionState]) -> None:
        """Unload versions, and free those unloaded before whose last request has ended since."""
        loaded = [state for state in states if state.servable is not None]
        for state in loaded:
            state.unload()
        self._leaving += loaded
        if any(state.state == "END" for state in self._leaving):
            self._leaving = [state for state in self._leaving if state.state != "END"]
            free_memory()
