"""Numbers, dates and truth values of typed tables as the text that a CSV file would have."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np


def text_of(value: object) -> str:
    """A value as text; nothing is an empty text, a day needs no time.

    Raises
    ------
    ValueError
        If it is of a kind that no prompt table holds.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal | np.floating):
        return str(value)
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time() and value.tzinfo is None
        return value.date().isoformat() if midnight else value.isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise ValueError(f"is a {type(value).__name__}; a row holds texts, numbers and dates only")
