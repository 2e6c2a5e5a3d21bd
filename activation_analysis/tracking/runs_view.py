"""A saved view of MLflow's runs table: the columns that summarise a contrast, ready chosen.

MLflow 3.17 shows no metric in its table until somebody picks columns. A view shared from its UI
is kept as a tag of the experiment; this module writes the same tag. The format is not documented
(seen in 3.17.2): where another version does not know it, the table opens with its own columns.
"""

from __future__ import annotations

import base64
import json
import zlib

KEY = "activation-analysis"
TAG = f"mlflow.sharedViewState.{KEY}"

COLUMNS = (
    "params.`contrast`",
    "params.`analysis.test`",
    "params.`capture.position`",
    "metrics.`n_significant/residual`",
    "metrics.`max_prop_significant/residual`",
    "metrics.`peak_layer/residual`",
    "metrics.`held_out_d/residual`",
    "metrics.`n_significant/neuron`",
    "metrics.`held_out_d/neuron`",
)


def shared_view() -> str:
    """The tag's value: the state of the runs page, deflated, in base64."""
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": COLUMNS,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
    }
    packed = zlib.compress(json.dumps(state).encode())
    return "deflate;" + base64.b64encode(packed).decode()
