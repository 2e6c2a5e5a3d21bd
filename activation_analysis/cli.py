"""The command line: one command from its arguments to its exit code, and how mistakes are answered.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from activation_analysis.command_parser import command_parser
from activation_analysis.errors import InputError, PeerError

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7 are minutes of silence before a dead server
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the command shows the link itself
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",  # a warning at every fork otherwise
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake of the user, 130 if stopped."""
    began = time.perf_counter()
    _be_quiet()
    try:
        args = command_parser().parse_args(arguments)
        args.began = began
        with _terminable():
            return _command(args.command)(args)
    except InputError as error:
        if _speaks(error):
            print(f"error: {error}", file=sys.stderr)
        _leave_reason(error)
        return 2
    except KeyboardInterrupt as stop:
        print(_stopped(stop), file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # or the interpreter complains about the same pipe on its way out
        return 0


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    return getattr(import_module("activation_analysis.commands"), f"{name}_command")


def _speaks(error: InputError) -> bool:
    """Whether this process tells of an error: of several the first does, or whoever is left."""
    import os

    return os.environ.get("RANK", "0") == "0" or isinstance(error, PeerError)


def _stopped(stop: KeyboardInterrupt) -> str:
    import os

    if str(stop) == "SIGTERM" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return (
            f"stopped (process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']}): another "
            f"process of this run ended, or the launcher was told to stop; what is finished is "
            f"kept, and the same command goes on from there"
        )
    return "stopped"


def _leave_reason(error: InputError) -> None:
    import os

    if os.environ.get("MLFLOW_RUN_ID"):
        from activation_analysis.tracking import tag_failure

        tag_failure(error)


def _be_quiet() -> None:
    """No telemetry and no chatter from libraries, unless the user's environment says otherwise."""
    import logging
    import os

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def _terminable() -> Iterator[None]:
    """A request to end (SIGTERM) ends the run as Ctrl-C does: tracked as KILLED, with a reason."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
