"""Which prompts are copies of each other, or fillings of one template?

Such prompts are alike for a reason that has nothing to do with their condition, and a test that
takes them for independent calls far too many units significant. Nobody has to declare them: two
prompts belong together where most of their words are the same, in the same order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property, lru_cache
from itertools import pairwise
from zlib import crc32

import numpy as np

from activation_analysis.prompts import PromptSet

# A number is a number: prompts that differ in numbers only are fillings of one template.
# Scripts without spaces go character by character; marks of a sentence are no words.
_WORD = re.compile(
    r"\d+(?:[.,]\d+)*|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|[^\W\d\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:['’]\w+)*|[^\w\s.,:;!?()\"'’“”«»…-]"
)
SHARED = 0.6  # of the words of two prompts (Dice), from where on they are alike
FEWEST_SHARED = 3  # words; fewer are common to unrelated short sentences
FEATURES = 64  # of one prompt; the same ones of every long prompt
LEADERS = 50  # a stretch that more clusters hold says nothing
FEWEST_STRETCHES = 10  # one in so many is shared, or two prompts are not compared further
CANDIDATES = 8  # clusters that a prompt is compared with
ALONE = -1


@dataclass(frozen=True)
class Templates:
    """Prompts that look like fillings of one template, or copies, and were not declared so."""

    label: np.ndarray  # (n_prompts,) 0 is the largest template; -1 where a prompt is alone
    size: np.ndarray  # (n_templates,) prompts, largest first
    skeletons: tuple[str, ...] = field(repr=False)  # what each has in common: "the capital of …"
    example: tuple[int, int] | None  # two rows of the largest template
    differing: tuple[str, str]  # the words in which the two differ; "" where none
    frame: str = ""  # what all prompts begin and end with, which tells no two of them apart

    def __len__(self) -> int:
        return len(self.size)

    @property
    def largest(self) -> int:
        """Prompts of the largest template; 0 where there is none."""
        return int(self.size[0]) if len(self.size) else 0

    @property
    def share(self) -> float:
        """Share of the prompts that belong to some template."""
        return float(np.mean(self.label != ALONE)) if len(self.label) else 0.0

    @cached_property
    def groups(self) -> np.ndarray:
        """An exchangeability block for every prompt, (n_prompts,) of str: a column ``group``."""
        names = [f"template {k + 1}" if k != ALONE else "" for k in self.label]
        return np.array([name or f"prompt {i + 1}" for i, name in enumerate(names)])


@lru_cache(maxsize=8)  # every contrast of a run asks, and its calibration
def find_templates(prompts: PromptSet) -> Templates:
    """The templates and near-duplicates of a prompt set that its columns do not declare.

    Two prompts are alike where the longest sequence of words that both hold in the same order
    makes up at least 60 % of their words (2 s / (n_1 + n_2)) and is three words long at least,
    numbers counting as equal. What every prompt begins and ends with is left out first. Every
    prompt is compared with the first prompt of each cluster, never along chains. Prompts that
    one ``group`` (or, without groups, one ``item``) holds together are declared: no fault.

    It sees wording, not authors, topics or sources; nor templates most of which is filling
    (``Translate: ...``). Of a template filled in crossed ways (capital or colour, of France or
    Spain) it may take either slot for the template. 10,000 prompts take about two seconds.

    Returns
    -------
    Templates
    """
    label = similar(prompts.texts)
    for column in ("group", "item"):
        if column in prompts.table:
            label = _undeclared(label, prompts.table[column].to_numpy())
            break
    return _described(prompts.texts, label)


def similar(texts: Sequence[str]) -> np.ndarray:
    """A cluster for every text, (n,) int; texts that are like no other are alone in theirs."""
    words = [_words(text) for text in texts]
    start, end = _frame(words)
    inner = [w[start : len(w) - end] for w in words]
    clusters = _Clusters(n_framed=start + end)
    return np.array([clusters.place(w) for w in inner], dtype=int)


class _Clusters:
    """Clusters by their first text, found through the stretches of words that they share."""

    def __init__(self, n_framed: int) -> None:
        self.n_framed = n_framed  # words that all texts share besides
        self.leaders: list[list[str]] = []
        self.holding: dict[str, list[int]] = {}  # stretch -> clusters whose leader holds it
        self.exact: dict[tuple[str, ...], int] = {}

    def place(self, words: list[str]) -> int:
        """The cluster that a text joins, or a new one."""
        copy_of = self.exact.get(tuple(words))
        if copy_of is not None:
            return copy_of
        stretches = _stretches(words)
        shared: Counter[int] = Counter()
        for stretch in stretches:
            shared.update(self.holding.get(stretch, ()))
        likeness = [
            (self._likeness(words, self.leaders[k]), -k)
            for k, n in shared.most_common(CANDIDATES)
            if n * FEWEST_STRETCHES >= len(stretches)
        ]
        best, minus_k = max(likeness, default=(0.0, 0))
        cluster = -minus_k
        if best < SHARED:
            cluster = len(self.leaders)
            self.leaders.append(words)
            for stretch in stretches:
                known = self.holding.setdefault(stretch, [])
                if len(known) < LEADERS:
                    known.append(cluster)
        self.exact[tuple(words)] = cluster
        return cluster

    def _likeness(self, a: list[str], b: list[str]) -> float:
        if 2 * min(len(a), len(b)) < SHARED * (len(a) + len(b)):
            return 0.0
        shared = _n_common(a, b)
        return 2 * shared / (len(a) + len(b)) * (shared + self.n_framed >= FEWEST_SHARED)


def _words(text: str) -> list[str]:
    return ["#" if w[0].isdigit() else w for w in _WORD.findall(text.lower())]


def _frame(words: Sequence[list[str]]) -> tuple[int, int]:
    """How many words all texts begin and end with, at least one word of each left over."""
    if len(words) < 2:
        return 0, 0
    shortest = min(map(len, words)) - 1
    first = words[0]
    start = 0
    while start < shortest and all(w[start] == first[start] for w in words):
        start += 1
    end = 0
    while start + end < shortest and all(w[-1 - end] == first[-1 - end] for w in words):
        end += 1
    return start, end


def _stretches(words: Sequence[str]) -> list[str]:
    """Neighbouring words, and words with one between them; the same few of every long text."""
    ends = ["^", *words, "$"]
    found = {f"{a} {b}" for a, b in pairwise(ends)}
    found |= {f"{a} * {b}" for a, b in zip(ends, ends[2:], strict=False)}
    if len(found) <= FEATURES:
        return sorted(found)
    return sorted(found, key=lambda stretch: (crc32(stretch.encode()), stretch))[:FEATURES]


def _n_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a bit for every word of ``a``.

    References
    ----------
    Hyyrö (2004), Bit-parallel LCS-length computation revisited, AWOCA.
    """
    at: dict[str, int] = {}
    for i, word in enumerate(a):
        at[word] = at.get(word, 0) | 1 << i
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        matches = row & at.get(word, 0)
        row = (row + matches | row - matches) & everything
    return len(a) - row.bit_count()


def _undeclared(cluster: np.ndarray, declared: np.ndarray) -> np.ndarray:
    """The clusters, those taken apart that one declared group holds together."""
    # A row that says nothing is declared to be with no other.
    said = np.array([text or f"\0{row}" for row, text in enumerate(declared)])
    _, code = np.unique(said, return_inverse=True)
    spread = np.zeros(int(cluster.max()) + 1, dtype=bool)
    first = np.zeros(len(spread), dtype=int)
    first[cluster[::-1]] = code[::-1]
    spread[cluster[code != first[cluster]]] = True
    alone = int(cluster.max()) + 1 + np.arange(len(cluster))
    return np.where(spread[cluster], cluster, alone)


def _described(texts: Sequence[str], cluster: np.ndarray) -> Templates:
    """Clusters of two and more, largest first, and what they have in common."""
    _, code, size = np.unique(cluster, return_inverse=True, return_counts=True)
    found = np.flatnonzero(size > 1)
    found = found[np.argsort(-size[found], kind="stable")]
    rank = np.full(len(size), ALONE)
    rank[found] = np.arange(len(found))
    label = rank[code]
    members = [np.flatnonzero(label == k) for k in range(len(found))]
    example = (int(members[0][0]), int(members[0][1])) if members else None
    words = [_words(text) for text in texts]
    start, end = _frame(words)
    return Templates(
        label=label,
        size=size[found],
        skeletons=tuple(_skeleton([texts[row] for row in rows[:20]]) for rows in members),
        example=example,
        differing=_differing(*(texts[row] for row in example)) if example else ("", ""),
        frame=" ".join([*words[0][:start], "…", *words[0][len(words[0]) - end :]])
        if start + end
        else "",
    )


def _skeleton(texts: Sequence[str]) -> str:
    """The words that all have in the same order, with … for what differs."""
    kept = texts[0].split()
    for text in texts[1:]:
        kept = _kept(kept, text.split())
    return " ".join(kept)


def _kept(skeleton: list[str], words: list[str]) -> list[str]:
    result: list[str] = []
    for what, a0, a1, _, _ in SequenceMatcher(None, skeleton, words, autojunk=False).get_opcodes():
        new = skeleton[a0:a1] if what == "equal" else ["…"]
        result += new[result[-1:] == ["…"] and new[:1] == ["…"] :]
    return result


def _differing(a: str, b: str) -> tuple[str, str]:
    """The words of each that the other lacks in that place."""
    words = a.split(), b.split()
    blocks = SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    changed = [(a0, a1, b0, b1) for what, a0, a1, b0, b1 in blocks if what != "equal"]
    return (
        " … ".join(" ".join(words[0][a0:a1]) for a0, a1, _, _ in changed).strip(" …"),
        " … ".join(" ".join(words[1][b0:b1]) for _, _, b0, b1 in changed).strip(" …"),
    )
