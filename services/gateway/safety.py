"""Whether a prompt may be made into a video: a port, a list of rules (`safety.toml`), and nothing at all.

The rules compare plain words, in English, and know nothing of what is meant. They do not ask the encoder: a video is
accepted whether or not that is there.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

RULES_FILE = Path(__file__).with_name("safety.toml")

LOOK_ALIKES = str.maketrans("аеорсухіјѕԁɡοαιε", "aeopcyxijsdgoaie")
"""Letters of other scripts in the place of Latin ones: those that people use to get past a list."""
DIGITS = str.maketrans("013457@$", "oieastas")
SPELLED = re.compile(r"\b(?:[a-z][\W_]+){2,}[a-z]\b")
"""Single letters with anything between them: p.o.r.n, k i l l."""


@dataclass(frozen=True)
class Verdict:
    """Why a text is refused: a category in UPPER_SNAKE_CASE, and for people a reason that says what to change."""

    category: str
    reason: str


class SafetyPolicy(Protocol):
    async def judge(self, text: str, *, negative: bool = False) -> Verdict | None:
        """None: nothing against it. `negative`: the text says what to keep out of the picture.

        Raises Unavailable where it cannot be told now; then nothing is accepted.
        """


class NoPolicy:
    """Everything is allowed."""

    async def judge(self, text: str, *, negative: bool = False) -> Verdict | None:  # noqa: ARG002 - the port's signature
        return None


@dataclass(frozen=True)
class Rule:
    verdict: Verdict
    words: Sequence[re.Pattern[str]]
    near: Sequence[re.Pattern[str]]
    within: int
    in_negative: bool


class RuleList:
    def __init__(self, rules: Sequence[Rule], harmless: Sequence[re.Pattern[str]]) -> None:
        self._rules, self._harmless = rules, harmless

    @classmethod
    def read(cls, path: Path = RULES_FILE) -> RuleList:
        """Raises OSError or ValueError for a file that is none; then a server does not start."""
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        try:
            people = {name: _patterns(words) for name, words in data.get("people", {}).items()}
            rules = [_rule(entry, people) for entry in data["rule"]]
            return cls(rules, _patterns(data.get("harmless", ())))
        except KeyError as error:
            raise ValueError(f"{path}: {error} is missing; every rule has category, reason and words") from error

    async def judge(self, text: str, *, negative: bool = False) -> Verdict | None:
        plain = normalised(text)
        for pattern in self._harmless:
            plain = pattern.sub(" , ", plain)
        rules = (rule for rule in self._rules if rule.in_negative or not negative)
        return next((rule.verdict for rule in rules if _applies(rule, plain)), None)


def normalised(text: str) -> str:
    """Lower-case words of a to z with single spaces; other signs become spaces."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(sign for sign in folded if unicodedata.category(sign) not in ("Mn", "Cf")).translate(LOOK_ALIKES)
    words = (word.translate(DIGITS) if re.search("[a-z]", word) else word for word in letters.split())
    joined = SPELLED.sub(lambda spelled: re.sub(r"[\W_]+", "", spelled.group()), " ".join(words))
    return " ".join(re.findall("[a-z]+", joined))


def _rule(entry: Mapping[str, Any], people: Mapping[str, Sequence[re.Pattern[str]]]) -> Rule:
    return Rule(
        verdict=Verdict(entry["category"], entry["reason"]),
        words=_patterns(entry["words"]),
        near=people[entry["near"]] if "near" in entry else (),
        within=entry.get("within", 0),
        in_negative=entry.get("negative_prompt", False),
    )


def _patterns(phrases: Iterable[str]) -> list[re.Pattern[str]]:
    return [re.compile(rf"\b{_expression(phrase)}\b") for phrase in phrases]


def _expression(phrase: str) -> str:
    escaped = re.escape(phrase.lower()).replace(r"\*", "[a-z]*")
    return re.sub(r"(?<![a-z])_(?![a-z])", "[a-z]+", escaped)


def _applies(rule: Rule, text: str) -> bool:
    found = [match for pattern in rule.words for match in pattern.finditer(text)]
    if not rule.near:
        return bool(found)
    others = [match for pattern in rule.near for match in pattern.finditer(text)]
    return any(_words_between(one, other, text) <= rule.within for one in found for other in others)


def _words_between(one: re.Match[str], other: re.Match[str], text: str) -> int:
    first, second = sorted((one, other), key=lambda match: match.start())
    return len(text[first.end() : second.start()].split())
