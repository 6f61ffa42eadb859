"""Reads the tensors of a weight file, whatever training script wrapped them."""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

State = dict[str, Tensor]

#: Under which entry training scripts keep the weights; the first that is there is read.
_ENTRIES = ("state_dict", "model", "module", "teacher", "model_ema")
#: Put before every name by wrappers of PyTorch.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def read_tensors(path: Path) -> State:
    """All weights of a .safetensors or PyTorch file by name, without optimiser and bookkeeping.

    Nothing but tensors and plain values is ever unpickled. Raises `ValueError` for a file that
    holds something else, or no weights.
    """
    if path.suffix == ".safetensors":
        try:
            return _unwrapped(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from None
    return _unwrapped(_weights(path, _load(path)))


def _load(path: Path) -> Any:
    try:
        # Scripts of this field store their command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refused(path, str(error))) from None
    except OSError:
        raise
    except Exception as error:  # of a file that is none, the reader may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged or no PyTorch file ({reason})") from None


def _refused(path: Path, reason: str) -> str:
    """Why a file was not unpickled, without the reader's advice to unpickle it all the same."""
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    if not named:  # mostly a file of another kind, whose first bytes are no instructions
        return f"{path} is no weight file: give a .safetensors file, or one that torch.save wrote"
    return (
        f"{path} holds Python objects besides tensors ({named[1]}), which are not read. If you "
        "trust it, save its weights alone where it was made: torch.save(model.state_dict(), "
        "'weights.pth')"
    )


def _weights(path: Path, content: Any) -> State:
    if isinstance(content, Mapping):
        for entry in _ENTRIES:
            if isinstance(content.get(entry), Mapping):
                content = content[entry]
                break
        state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if state and len(state) == len(content):
            return state
        held = ", ".join(map(str, list(content)[:8]))
    else:
        held = type(content).__name__
    raise ValueError(
        f"{path} holds no state dict: neither tensors by name nor one of the entries "
        f"{', '.join(_ENTRIES)} with them (found: {held})"
    )


def _unwrapped(state: State) -> State:
    for prefix in _WRAPPERS:
        if state and all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state
