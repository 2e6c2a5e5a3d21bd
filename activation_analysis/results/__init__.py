"""What an analysis finds: frozen tables that figures, tracking and comparisons share.

Each result has ``table()`` (a tidy DataFrame) and, where there is something to chart,
``metrics()`` (numbers for a tracker). They hold no model and no activations.
"""

from activation_analysis.results.contrast import ContrastResult
from activation_analysis.results.design import EXCHANGED, PermutationSummary, Power
from activation_analysis.results.layer_profile import LayerProfile
from activation_analysis.results.prompt_check import ContrastCheck, Finding, PromptCheck
from activation_analysis.results.stat_map import StatMap
from activation_analysis.results.surface import SurfaceBaseline
from activation_analysis.results.top_units import TopUnits
from activation_analysis.results.wording import many, many_of, number, percent, plural

__all__ = [
    "EXCHANGED",
    "ContrastCheck",
    "ContrastResult",
    "Finding",
    "LayerProfile",
    "PermutationSummary",
    "Power",
    "PromptCheck",
    "StatMap",
    "SurfaceBaseline",
    "TopUnits",
    "many",
    "many_of",
    "number",
    "percent",
    "plural",
]
