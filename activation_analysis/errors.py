"""Mistakes that a user can make; the command line turns each into one message and exit code 2.

InputError
  PromptError        a prompt file: wrong encoding, empty or duplicate prompts, ...
  ExperimentError    an experiment.toml: unknown table or option, bad value
  ContrastError      a contrast that does not parse or names an unknown condition
  ModelError         a model that is not there, or cannot be recorded as asked
  StoreError         a stored capture that is missing, incomplete or damaged
  TrackingError      a tracked run that is missing or incomplete
  PeerError          another process of a distributed run that is gone
"""


class InputError(ValueError):
    """What was wrong, what was received, what is allowed, what to do."""


class PromptError(InputError):
    """A prompt file cannot be read as it stands; the message lists every bad row."""


class ExperimentError(InputError):
    """An experiment file or an option on the command line is wrong."""


class ContrastError(InputError):
    """A contrast does not parse, or names a condition that the prompts do not have."""


class ModelError(InputError):
    """A model cannot be found, read, or recorded as asked."""


class StoreError(InputError):
    """A stored capture is missing, incomplete or damaged."""


class TrackingError(InputError):
    """A tracked run is missing, incomplete, or of another kind."""


class PeerError(InputError):
    """Another process of a distributed run is gone."""
