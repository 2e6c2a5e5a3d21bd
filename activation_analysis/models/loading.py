"""From what a user names (an alias, a file, a folder, a hub id) to a model in memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from activation_analysis.errors import ModelError
from activation_analysis.models.embedded import (
    EMBEDDED,
    check_embedded,
    embedded_file,
    file_sha256,
)
from activation_analysis.models.gguf_cache import converted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HUB_PATIENCE = 3.0  # seconds to wait for the hub's first answer
INDEX = "model.safetensors.index.json"
# What stands behind the blocks: transformers fills it with random numbers where it is missing.
HEADS = re.compile(r"(^|\.)(pooler|lm_head|cls|score|classifier|embed_out|predictions)\.")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are, settled before anything heavy is read."""

    name: str  # as the user named it
    location: str  # a folder, or a hub id
    revision: str  # the hub's resolved commit; "" for local files
    sha256: str  # of the weights; "" where unknown
    local: bool  # files are all here: no network

    @property
    def short_name(self) -> str:
        """The last part of the name, for run names and titles."""
        return Path(self.name).name.removesuffix(".gguf") or self.name


def resolve(name: str, *, revision: str | None = None) -> ModelSource:
    """Find a model without loading it.

    Parameters
    ----------
    name : an embedded alias, a ``.gguf`` file, a local folder, or a hub id
    revision : a branch, tag or commit, for hub ids

    Raises
    ------
    ModelError
        If there is no such model, within about five seconds, with how to get it.
    """
    if name in EMBEDDED:
        file = embedded_file(name)
        digest = file_sha256(file)
        check_embedded(name, digest)
        return ModelSource(name, str(converted(file, digest)), "", digest, local=True)
    if not name.strip():
        raise ModelError(f"no model named; {_how_to_name_a_model()}")
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        digest = file_sha256(path)
        return ModelSource(name, str(converted(path, digest)), "", digest, local=True)
    if path.is_dir():
        return _resolve_folder(name, path)
    if path.is_file():
        raise ModelError(f"{path} is a file, but no .gguf file\n{_how_to_name_a_model()}")
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"no model file or folder at {path}\n{_how_to_name_a_model()}")
    return _resolve_hub(name, revision)


_NO_SAFETENSORS = (
    "holds no .safetensors weights; pickled weights (.bin, .pt) can run code when read and are "
    "refused: convert them with save_pretrained(folder)"
)


def _how_to_name_a_model() -> str:
    return (
        "a model is one of: an embedded alias "
        f"({', '.join(EMBEDDED)}), a .gguf file, a local folder with config.json and "
        "safetensors weights, or a Hugging Face hub id such as gpt2"
    )


def _resolve_folder(name: str, folder: Path) -> ModelSource:
    if not (folder / "config.json").is_file():
        raise ModelError(f"the folder {folder} holds no config.json\n{_how_to_name_a_model()}")
    weights = _weights_in(folder)
    if not weights:
        raise ModelError(f"the folder {folder} {_NO_SAFETENSORS}")
    absent = [file.name for file in weights if not file.is_file()]
    if absent:
        raise ModelError(
            f"the folder {folder} lacks {', '.join(absent)}, which its {INDEX} lists; "
            f"copy the whole model there"
        )
    return ModelSource(name, str(folder.resolve()), "", _weights_sha256(weights), local=True)


def _weights_in(folder: Path) -> list[Path]:
    """The safetensors files of a model; those its index lists, whether they are there or not."""
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except FileNotFoundError:
        return sorted(folder.glob("*.safetensors"))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"cannot read {folder / INDEX}: {error}") from error
    return sorted({folder / name for name in listed})


def _weights_sha256(weights: list[Path]) -> str:
    """One digest over the weight files; the hub's cache names its blobs by their SHA-256."""
    digests = []
    for file in weights:
        blob = file.resolve().name
        is_digest = len(blob) == 64 and all(c in "0123456789abcdef" for c in blob)
        digests.append(blob if is_digest else file_sha256(file))
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _resolve_hub(name: str, revision: str | None) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise ModelError(f"{name!r} is not a model: {_how_to_name_a_model()}") from error
    except LocalEntryNotFoundError:
        folder = None
    if folder is not None and _is_complete(folder):
        # Named by its folder, a cached model is read without one question to the hub.
        digest = _weights_sha256(_weights_in(folder))
        return ModelSource(name, str(folder), folder.name, digest, local=True)
    if folder is not None and any(folder.glob("*.bin")) and not _weights_in(folder):
        raise ModelError(f"the cached copy of {name!r} in {folder} {_NO_SAFETENSORS}")
    return ModelSource(name, name, _ask_hub(name, revision), "", local=False)


def _is_complete(snapshot: Path) -> bool:
    weights = _weights_in(snapshot)
    reads_text = any(snapshot.glob("tokenizer*")) or any(snapshot.glob("vocab*"))
    has_config = (snapshot / "config.json").is_file()
    return has_config and reads_text and bool(weights) and all(w.is_file() for w in weights)


def _ask_hub(name: str, revision: str | None) -> str:
    """The commit that a hub id stands for now, or a ModelError within `HUB_PATIENCE`."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    advice = (
        f"    on a machine with network: hf download {name}\n"
        f"    then copy its folder here and name the folder, "
        f"or use the embedded model: --model {next(iter(EMBEDDED))}"
    )
    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"{name!r} is not in the local cache and the hub is offline:\n{advice}")
    answer: dict[str, Any] = {}

    def ask() -> None:
        try:
            answer["info"] = HfApi().model_info(name, revision=revision, timeout=HUB_PATIENCE)
        except Exception as error:
            answer["error"] = error

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_PATIENCE)
    if "info" in answer:
        return answer["info"].sha or ""
    error = answer.get("error")
    if isinstance(error, GatedRepoError):
        raise ModelError(f"{name!r} is gated: accept its terms on the hub, then `hf auth login`")
    if isinstance(error, RepositoryNotFoundError):
        raise ModelError(f"no model {name!r} on the hub or here\n{_how_to_name_a_model()}")
    if isinstance(error, RevisionNotFoundError):
        raise ModelError(f"model {name!r} has no branch, tag or commit {revision!r} on the hub")
    silence = f"did not answer in {HUB_PATIENCE:.0f} s"
    trouble = f"cannot be reached ({type(error).__name__})" if error else silence
    raise ModelError(
        f"{name!r} is not in the local cache and the hub {trouble}; to get it:\n{advice}"
    )


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.location, **_where(source))
    except Exception as error:  # readers of files raise anything at all
        raise ModelError(f"cannot load the tokenizer of {source.name!r}: {error}") from error


def load_config(source: ModelSource) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.location, **_where(source))
    except Exception as error:
        raise ModelError(f"cannot read the configuration of {source.name!r}: {error}") from error


def load_model(
    source: ModelSource,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_memory: dict[int | str, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
) -> PreTrainedModel:
    """Read the weights and place them, through Accelerate where one device is too small.

    Parameters
    ----------
    device : "auto" (GPUs, then CPU memory, then disk), or a torch device such as "cpu", "cuda:1"
    dtype : "auto" (float32 on a CPU, the checkpoint's own on a GPU), or a torch dtype's name
    max_memory : Accelerate's limit per device, such as ``{0: "20GiB", "cpu": "60GiB"}``
    offload_folder : where weights go that fit into no memory

    Raises
    ------
    ModelError
        If weights are missing or cannot be read, or the model has no single stack of blocks.
    """
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )
    from transformers.utils import logging

    config = load_config(source)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{source.name!r} is an encoder-decoder ({config.model_type}); "
            f"decoders and encoders with one stack of blocks can be recorded"
        )

    # Some encoders are listed as causal too, and would be read with a head that they do not have.
    generates = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and (
        type(config) not in MODEL_FOR_MASKED_LM_MAPPING or getattr(config, "is_decoder", False)
    )
    reader = AutoModelForCausalLM if generates else AutoModel
    placement = _placement(device, max_memory, offload_folder)
    torch_dtype = _torch_dtype(dtype, device)
    was_shown = logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its table of missing weights is judged below
    try:
        model, report = reader.from_pretrained(
            source.location,
            dtype=torch_dtype,
            use_safetensors=True,
            output_loading_info=True,
            **placement,
            **_where(source),
        )
    except Exception as error:
        raise ModelError(f"cannot load {source.name!r}: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if was_shown:
            logging.enable_progress_bar()
    missing = sorted(report["missing_keys"])
    recorded = [name for name in missing if not HEADS.search(name)]
    if recorded:
        raise ModelError(
            f"{source.name!r} lacks {len(recorded)} of the weights that its config.json calls "
            f"for, {recorded[0]} among them; they would be random numbers"
        )
    if generates and missing:
        model = model.base_model  # saved without its head: nothing to generate with
    return model.eval()


def _where(source: ModelSource) -> dict[str, Any]:
    where: dict[str, Any] = {"local_files_only": source.local, "trust_remote_code": False}
    if source.revision and not source.local:
        where["revision"] = source.revision
    return where


def _torch_dtype(dtype: str, device: str) -> torch.dtype | str:
    import torch

    if dtype not in DTYPES:
        raise ModelError(f"no dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return "auto" if on_gpu else torch.float32


def check_device(device: str) -> None:
    """Raise a ModelError unless a model can be placed on ``device`` here."""
    if device == "auto":
        return
    import torch  # not before: a missing model should be told of in seconds

    try:
        torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"no device {device!r}; use auto, cpu, cuda, cuda:N or mps") from error
    n_gpus = torch.cuda.device_count()
    if device.startswith("cuda") and (torch.device(device).index or 0) >= n_gpus:
        raise ModelError(
            f"device {device!r} asked for, but torch sees {n_gpus or 'no'} CUDA GPUs; use auto"
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device 'mps' asked for, but torch sees no Metal GPU; use auto")


def _placement(
    device: str,
    max_memory: dict[int | str, int | str] | None,
    offload_folder: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    check_device(device)
    if device != "auto":
        return {"device_map": {"": device}}
    placement: dict[str, Any] = {"device_map": "auto"}
    if max_memory is not None:
        # Settings files know no integer keys, Accelerate no GPU named "0".
        placement["max_memory"] = {
            int(place) if str(place).isdigit() else place: most
            for place, most in max_memory.items()
        }
    if offload_folder is not None:
        placement["offload_folder"] = str(offload_folder)
    return placement
