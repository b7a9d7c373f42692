"""A model of the hub by its id."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from rsd_fast.runs import RunError

INSTALL = "pip install 'rsd-fast[hub]'"
_FILE = re.compile(r"\.(npz|npy|zip|h5|gz|png|safetensors|pt|pth|pkl)$")
_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_id(text: str) -> bool:
    """Does it read as `user/name` or `user/name@revision`, and not as a file of images or weights?"""
    return bool(_ID.fullmatch(text)) and not _FILE.search(text)


def means_id(path: str | os.PathLike) -> bool:
    """The same, where it cannot be a path, because there is no such folder here."""
    text = os.fspath(path)
    return is_id(text) and not Path(text.partition("/")[0]).exists()


def client(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise RunError(f"{purpose}: the Hugging Face hub needs huggingface_hub; {INSTALL}") from None
    return huggingface_hub


def fetch(repo_id: str) -> Path:
    """The model.safetensors of `user/name` or `user/name@revision`, from the hub or its cache. Raises RunError."""
    hub = client(f"{repo_id}: no such run, checkpoint folder or file")
    name, _, revision = repo_id.partition("@")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of its retries, before the one line below
    try:
        return Path(hub.hf_hub_download(name, "model.safetensors", revision=revision or None))
    except Exception as error:  # of the network, the hub or its client: many kinds
        raise RunError(f"{repo_id}: no such file here, and not to be had from the hub: {reason(error)}") from None


# By the names of huggingface_hub's errors, whose texts are paragraphs.
_REASONS = {
    "RepositoryNotFoundError": "there is no such model, or it is private and you are not logged in (hf auth login)",
    "RevisionNotFoundError": "it has no such revision",
    "EntryNotFoundError": "it holds no model.safetensors",
    "RemoteEntryNotFoundError": "it holds no model.safetensors",
    "LocalEntryNotFoundError": "it cannot be reached, and the model is not in the cache",
    "OfflineModeIsEnabled": "offline mode is on (HF_HUB_OFFLINE)",
    "LocalTokenNotFoundError": "you are not logged in (hf auth login)",
}


def reason(error: Exception) -> str:
    """One line on an error of huggingface_hub."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _REASONS.get(type(error).__name__) or (lines[0] if lines else type(error).__name__)
