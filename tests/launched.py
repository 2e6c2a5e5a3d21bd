"""What `accelerate launch` starts in the tests: the command line, with small shards and mishaps.

DIES=<rank>    that process kills itself in place of its second shard
SHARDS=<file>  every process notes there which shards it writes
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from activation_analysis import cli
from activation_analysis.models import batching
from activation_analysis.store import CaptureWriter

batching.SHARD_TOKENS = 60
write_shard, n_written = CaptureWriter.write_shard, 0


def noted(writer, i, tensors):
    global n_written
    n_written += 1
    if os.environ.get("DIES") == os.environ.get("RANK", "0") and n_written == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write_shard(writer, i, tensors)
    with Path(os.environ["SHARDS"]).open("a") as file:
        file.write(f"{i}\n")


CaptureWriter.write_shard = noted
sys.exit(cli.main())
