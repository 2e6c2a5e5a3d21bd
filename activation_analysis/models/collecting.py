"""What passes yield, put back into the order of the prompts, in memory."""

from __future__ import annotations

import numpy as np

from activation_analysis.models.batching import Pass
from activation_analysis.models.reading import Rows
from activation_analysis.models.recording import Address, Heard


class Collected:
    """Rows of every position and address, filled in pass by pass.

    ``values[position][site, layer]`` is (n_prompts, width) float32, or (n_tokens kept, width),
    prompt after prompt, where every token is kept.
    """

    def __init__(self, rows: Rows) -> None:
        self.values: dict[str, dict[Address, np.ndarray]] = {p: {} for p in rows.places}
        # One value per prompt, or as many as tokens are kept: where each prompt's begin.
        self.starts = {
            position: np.concatenate([[0], np.cumsum(rows.n_kept(position)[rows.row_of_prompt])])
            for position in rows.places
        }
        self._n_kept = {position: rows.n_kept(position) for position in rows.places}
        self._prompts_of = rows.prompts_of

    def add(self, one: Pass, heard: Heard) -> None:
        """Keep what one pass heard."""
        places = {position: self._places(one, position) for position in self.values}
        for (position, site, layer), found in heard.items():
            values = self.values[position]
            if (site, layer) not in values:
                shape = (int(self.starts[position][-1]), found.shape[1])
                values[site, layer] = np.empty(shape, np.float32)
            target, source = places[position]
            values[site, layer][target] = found.numpy()[source]

    def _places(self, one: Pass, position: str) -> tuple[np.ndarray, np.ndarray]:
        """Where values of a pass go, and which of them goes there."""
        kept, starts = self._n_kept[position][one.rows], self.starts[position]
        begins = np.concatenate([[0], np.cumsum(kept)])
        target, source = [], []
        for row, begin, n in zip(one.rows, begins, kept, strict=False):
            for prompt in self._prompts_of(row):
                target.append(np.arange(starts[prompt], starts[prompt] + n))
                source.append(np.arange(begin, begin + n))
        return np.concatenate(target), np.concatenate(source)
