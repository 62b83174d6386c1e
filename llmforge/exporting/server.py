"""A GGUF file, opened by llama.cpp itself, in a process of its own.

llama.cpp ends its process where a file is not as it should be, and talks much on the terminal. So it runs as
``python -m llmforge.exporting.server FILE CONTEXT THREADS``, tells where it listens, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmforge.errors import CheckFailed, ConfigError

#: Likeliest tokens that are asked for after each prefix; what llama.cpp answers with grows with it.
TOP = 64
#: Added to the logit of the token that is to come, after its log-probability was taken.
_FORCED = 1e4
_PATIENCE = 600.0


def has_reader() -> bool:
    """Whether llama.cpp is installed, as xllamacpp."""
    return importlib.util.find_spec("xllamacpp") is not None


class GgufServer:
    """llama.cpp with one file open; a context manager.

    Args:
        path: The file.
        context: Tokens that fit in its memory.
        threads: To compute with; they wait for one another at every layer, which small models do not gain from.

    Raises:
        ConfigError: xllamacpp is not installed.
        CheckFailed: llama.cpp cannot open the file, or ended while it was asked.
    """

    name = "llama.cpp"

    def __init__(self, path: Path, context: int, threads: int = 1):
        if not has_reader():
            raise ConfigError("llama.cpp is not installed.", "pip install 'llmforge[gguf]'")
        self.path = path
        self.context = context
        self.threads = threads

    def __enter__(self) -> GgufServer:
        self._said = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "llmforge.exporting.server", str(self.path), str(self.context), str(self.threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"listening "):
                self._address = line.split()[1].decode()
                return self
        self.__exit__()
        raise CheckFailed(f"llama.cpp cannot open {self.path}: {self._last_words()}.")

    def __exit__(self, *_: Any) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        told = [line for line in lines if "error" in line.lower() or "fail" in line.lower()] or lines
        return " ".join(told[0].split())[:200].rstrip(". ") if told else f"it ended with code {self._process.returncode}"

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        # A connection each: the server closes one that was idle for some seconds.
        try:
            with contextlib.closing(http.client.HTTPConnection(self._address, timeout=_PATIENCE)) as connection:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                read = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise CheckFailed(f"llama.cpp ended while it was asked about {self.path}: {self._last_words()}.") from error
        if answer.status != 200:
            raise CheckFailed(f"llama.cpp refused {path} for {self.path}: {read.decode(errors='replace')[:200]}.")
        return json.loads(read)

    def tokenize(self, texts: Sequence[str], separator: int, special: bool) -> list[int]:
        """The ids of each text, each followed by `separator`.

        Args:
            special: Whether special tokens that stand in a text are matched, or are the plain text they are.
        """
        content: list[str | int] = [part for text in texts for part in (text, separator)]
        tokens: list[int] = self._ask("/tokenize", {"content": content, "parse_special": special, "add_special": False})["tokens"]
        return tokens

    def log_probabilities(self, prefix: Sequence[int], target: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and log-probabilities of some next tokens: `target`, then the likeliest."""
        answer = self._ask(
            "/completion",
            {
                "prompt": list(prefix),
                "n_predict": 1,
                "n_probs": TOP,
                "cache_prompt": True,
                "logit_bias": [[target, _FORCED]],
                "temperature": 1.0,
            },
        )
        first = answer["completion_probabilities"][0]
        every = [first, *first["top_logprobs"]]
        return np.array([one["id"] for one in every]), np.array([one["logprob"] for one in every], dtype=np.float64)


def _serve(path: str, context: str, threads: str) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_ctx = int(context)
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.warmup = False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(threads)
    server = xllamacpp.Server(settings)
    print("listening", server.listening_address.partition("://")[2], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
