"""How common a text's words are in a language, where the extra ``wordfreq`` is installed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from activation_analysis.text_measures import WORD


def word_frequency(texts: Sequence[str], language: str = "en") -> np.ndarray:
    """Mean frequency of a text's words in a language, Zipf scale, (n_texts,) float64.

    The Zipf scale is log10 of occurrences per billion words: 7 is *the*, 3 a word of once in a
    million. A word that is not known counts 0; a text without words is 0.

    Raises
    ------
    ImportError
        If the extra ``wordfreq`` is not installed.

    References
    ----------
    Van Heuven et al. (2014), Quarterly Journal of Experimental Psychology 67:1176-1190.
    """
    from wordfreq import zipf_frequency

    known: dict[str, float] = {}

    def mean(text: str) -> float:
        said = WORD.findall(text.lower())
        for word in said:
            if word not in known:
                known[word] = zipf_frequency(word, language)
        return sum(map(known.__getitem__, said)) / len(said) if said else 0.0

    return np.fromiter(map(mean, texts), dtype=float, count=len(texts))
