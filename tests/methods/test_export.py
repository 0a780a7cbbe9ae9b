"""What an export is good for: its class reads it, Lightning tests from it, and it is the same file every time."""

import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from callbacks_toys import quiet_trainer  # type: ignore[import-not-found]
