"""A program of its own: reads a JSON schema, and writes its grammar, as JSON.

    python grammar_process.py CONSTRAINTS_FILE SECONDS MEGABYTES < SCHEMA

It ends by a signal where the grammar takes more seconds of work, or more memory, than that: some
short schemas have a huge one, and the library cannot be stopped within a process that goes on.
"""

import contextlib
import importlib.util
import json
import sys
import time
from typing import Any


def main() -> None:
    """Answer for the schema on standard input."""
    # By its file: the package that it is in loads TensorFlow, which takes seconds.
    constraints = _load(sys.argv[1])
    schema = sys.stdin.buffer.read().decode()
    try:
        import llguidance

        words = llguidance.LLTokenizer("byte")
        _limit(int(sys.argv[2]), int(sys.argv[3]))
        constraint = constraints.Constraint.json_schema(schema)
        # What it takes hardly depends on the tokens; errors are said when those of the model come.
        llguidance.LLMatcher(words, constraint.definition, log_level=0).compute_bitmask()
    except (ValueError, ImportError) as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps({"grammar": constraint.definition}))


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("constraints", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["constraints"] = module
    spec.loader.exec_module(module)
    return module


def _limit(seconds: int, megabytes: int) -> None:
    """Let nothing more than this be used from here on, where the system can see to that."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = int(time.process_time()) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        most = taken + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
