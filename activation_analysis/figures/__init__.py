"""Results become matplotlib figures.

>>> for name, fig in draw_all(result):          # doctest: +SKIP
...     save(fig, folder / f"{name}.png")
"""

from activation_analysis.figures.calibration import CALIBRATION_FIGURES
from activation_analysis.figures.gallery import FIGURES, SITE_FIGURES, draw_all, save

__all__ = ["CALIBRATION_FIGURES", "FIGURES", "SITE_FIGURES", "draw_all", "save"]
