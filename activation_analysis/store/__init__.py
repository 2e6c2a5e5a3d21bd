"""Activations on disk: safetensors shards, JSON indexes, SHA-256 of all of it; nothing unpickled.

One format for captures in the making, recordings saved by name and artifacts of tracked runs:

    <folder>/shard-00000.safetensors   <position>/<site>/layer_000, ... (n_rows, width)
    <folder>/capture.json              prompts, positions, model, what defines the values
    <folder>/manifest.json             hashes of every file and tensor, written last

    identity.py     the key of a capture, and its folder      manifests.py   durable files, hashes
    shards.py       one safetensors file                      content.py     capture.json, sealing
    writing.py      open_capture: resumable, many processes   journals.py    what is finished
    reading.py      layers read when asked for                locks.py       who may write
    recordings.py   a recording as a folder, copies           plans.py       rows of each shard
    experiments.py  DataStore: recordings by name             space.py       full disks
"""

from activation_analysis.store.content import FORMAT, CaptureContent
from activation_analysis.store.experiments import DataStore
from activation_analysis.store.identity import capture_folder, capture_key, captures_folder
from activation_analysis.store.manifests import check_manifest, write_json, write_manifest
from activation_analysis.store.reading import StoredMatrix, open_recording, verify_capture
from activation_analysis.store.recordings import (
    copy_capture,
    digest,
    read_activations,
    write_activations,
)
from activation_analysis.store.shards import tensor_name
from activation_analysis.store.space import require_space
from activation_analysis.store.writing import CaptureWriter, join_capture, open_capture

__all__ = [
    "FORMAT",
    "CaptureContent",
    "CaptureWriter",
    "DataStore",
    "StoredMatrix",
    "capture_folder",
    "capture_key",
    "captures_folder",
    "check_manifest",
    "copy_capture",
    "digest",
    "join_capture",
    "open_capture",
    "open_recording",
    "read_activations",
    "require_space",
    "tensor_name",
    "verify_capture",
    "write_activations",
    "write_json",
    "write_manifest",
]
