"""A server's process, for the soak."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FIRST_SECONDS = 300  # loading and compiling


class Server:
    """A process of `keras-gpt serve`.

    Args:
        process: it.
        address: where it listens.
        failures_at_rest: is asked when no client acts any more.
    """

    def __init__(
        self,
        process: "subprocess.Popen[str]",
        address: str,
        failures_at_rest: Callable[[], list[str]],
    ) -> None:
        self._process = process
        self.address = address
        self.failures_at_rest = failures_at_rest

    def megabytes(self) -> float:
        """Give its resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def has_ended(self) -> bool:
        """Say whether the process is no more."""
        return self._process.poll() is not None


@contextlib.contextmanager
def started(arguments: list[str], failures_at_rest: Callable[[str], list[str]]) -> Iterator[Server]:
    """Start `keras-gpt serve`, and end it with SIGTERM.

    Args:
        arguments: of the command.
        failures_at_rest: takes the address, and gives what is wrong when no client acts any more.
    """
    program = "from keras_gpt.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    with (
        tempfile.TemporaryFile("w+") as errors,  # a pipe that nobody reads would fill
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            address = None
            deadline = time.monotonic() + _FIRST_SECONDS
            while address is None:
                line = process.stdout.readline()
                if not line or time.monotonic() > deadline:
                    errors.seek(0)
                    raise RuntimeError(f"the server did not start: {errors.read()[-2000:]}")
                found = re.search(r"http://[^/\s;]+", line)
                address = found[0] if found else None
            where: str = address
            yield Server(process, where, lambda: failures_at_rest(where))
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            errors.seek(0)
            log = errors.read()
            print(f"exit status after SIGTERM: {code}; tracebacks: {log.count('Traceback')}")
            if code or "Traceback" in log:
                raise RuntimeError(f"the server's log: {log[-3000:]}")
        finally:
            process.kill()
