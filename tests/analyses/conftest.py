import numpy as np
import pytest

from activation_analysis.activations import Activations


@pytest.fixture
def make_recording():
    """Null recordings of two sites and three layers, with effects where a test plants them."""

    def make(n=40, width=60, n_layers=3, seed=0, sites=("residual", "mlp")) -> Activations:
        rng = np.random.default_rng(seed)
        return Activations(
            prompts=tuple(f"prompt {i}" for i in range(n)),
            n_tokens=np.full(n, 6),
            position="last",
            model="synthetic",
            n_layers=n_layers + 1,  # one block was not recorded
            values={
                site: {
                    layer: rng.normal(size=(n, width)).astype(np.float32)
                    for layer in range(n_layers)
                }
                for site in sites
            },
        )

    return make
