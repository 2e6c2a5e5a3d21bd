"""Statistical analysis of language-model activations with fMRI-inspired methods.

    from activation_analysis import ActivationCapture, ActivationStats, DataStore

Names load when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from activation_analysis.activations import Activations, TokenActivations, Units
    from activation_analysis.errors import InputError
    from activation_analysis.experiment import Experiment, load_experiment
    from activation_analysis.models.capture import ActivationCapture
    from activation_analysis.prompts import PromptSet, read_prompts
    from activation_analysis.stats import ActivationStats
    from activation_analysis.store import DataStore

_HOMES = {
    "ActivationCapture": "models.capture",
    "ActivationStats": "stats",
    "Activations": "activations",
    "DataStore": "store",
    "Experiment": "experiment",
    "InputError": "errors",
    "PromptSet": "prompts",
    "TokenActivations": "activations",
    "Units": "activations",
    "load_experiment": "experiment",
    "read_prompts": "prompts",
}

__all__ = [
    "ActivationCapture",
    "ActivationStats",
    "Activations",
    "DataStore",
    "Experiment",
    "InputError",
    "PromptSet",
    "TokenActivations",
    "Units",
    "load_experiment",
    "read_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
