"""Resolve `requirements/<name>.txt` from pyproject.toml: with hashes, without index addresses.

`python deploy/lock.py runtime|dev|bench`. The runtime set constrains the others; it has
all that a user can run, the broker of `sekisho demo` included.
"""

import subprocess
import sys
from pathlib import Path

EXTRAS = {
    "runtime": ["embedded", "fast"],
    "dev": ["embedded", "fast", "dev"],
    "bench": ["embedded", "fast", "dev", "bench"],
}


def lock(name: str) -> None:
    """Write the lock file of one set; raises CalledProcessError when it cannot be resolved."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", "--quiet"]
    command += ["--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header"]
    command += ["--universal", "--python-version", "3.11", "--output-file", f"requirements/{name}.txt"]
    for extra in EXTRAS[name]:
        command += ["--extra", extra]
    if name != "runtime":
        command += ["--constraint", "requirements/runtime.txt"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    lock(sys.argv[1])
