"""Hashes that name a model or a set of samples without holding either; reads and writes no files."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["key_fingerprint", "model_hash", "positions_hash"]


def key_fingerprint(key: bytes) -> str:
    """Return what tells one key from another and gives neither away, 16 hexadecimal digits."""
    return hmac.new(key, b"fingerprint", hashlib.sha256).hexdigest()[:16]


def positions_hash(positions: np.ndarray[Any, Any], key: bytes) -> str:
    """Return the keyed hash (HMAC-SHA256) of a set of samples.

    Positions are easily guessed: whoever has the key can try every sample of a data set in a moment, and so find
    out a request of one or two samples, or confirm a guess of any size. Without the key the hash says nothing.

    Args:
        positions: Positions in the training set, ``(M,)`` integers in any order.
        key: The secret.

    Returns:
        64 hexadecimal digits, the same for the same set and key.

    Example:
        >>> a, b = np.array([3, 1]), np.array([1, 3])
        >>> positions_hash(a, b"secret") == positions_hash(b, b"secret")
        True
        >>> positions_hash(a, b"secret") == positions_hash(a, b"another")
        False
    """
    content = np.sort(np.asarray(positions)).astype("<i8").tobytes()
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def model_hash(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a ``state_dict``'s content: names, types, shapes and values, down to the last bit.

    It does not depend on how, where or when the weights were saved, so a checkpoint that is written again has the
    same hash, and a model in memory has that of its export.

    Args:
        state: The ``state_dict`` of a model or of a checkpoint file.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: If an entry is neither a tensor nor made of plain values.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> before = model_hash(layer.state_dict())
        >>> _ = layer.bias.data.add_(1)
        >>> model_hash(layer.state_dict()) == before
        False
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            header: list[Any] = [name, str(value.dtype), list(value.shape)]
            # as bytes: NumPy knows no bfloat16
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        else:  # what a module's get_extra_state gives
            header, content = [name, "plain"], json.dumps(value, sort_keys=True).encode()
        for part in (json.dumps(header).encode(), content):
            # with its length, so that no two contents run together to the same bytes
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()
