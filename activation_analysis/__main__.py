"""``python -m activation_analysis``."""

import sys

from activation_analysis.cli import main

sys.exit(main())
