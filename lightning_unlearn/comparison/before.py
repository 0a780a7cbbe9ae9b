"""The comparison of the request before, from whose models and splits this one goes on."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning_unlearn.comparison.folder import RunFolder, require_local
from lightning_unlearn.comparison.runs import SOURCE


@dataclass(frozen=True)
class Before:
    """The folder of a comparison whose request came before.

    Args:
        folder: Its output folder.
    """

    folder: Path

    def run(self, name: str, seed: int) -> RunFolder:
        """Return the folder of a model; of the source it is the one that no request has touched."""
        return RunFolder(self.folder / name / f"seed_{seed}")

    @property
    def one_split(self) -> Path | None:
        """The split that all of its seeds share; ``None`` where each drew its own."""
        file = self.folder / "split.npz"
        return file if file.is_file() else None

    def split(self, seed: int) -> Path:
        """Return the split of a seed, which holds what still earlier requests forgot too."""
        return self.one_split or self.run(SOURCE, seed).split

    def require(self, seeds: Iterable[int]) -> None:
        """Refuse a folder that lacks what a seed goes on from.

        Raises:
            ValueError: Naming the file that is missing.
        """
        require_local(self.folder)
        for seed in seeds:
            for file in (self.run(SOURCE, seed).checkpoint, self.split(seed)):
                if not file.is_file():
                    raise ValueError(
                        f"after: there is no {file}; give the output_dir of a comparison of the request before, with "
                        f"seed {seed}, whose files were not cleaned away"
                    )

    def take_earlier(self, seed: int, into: Path) -> None:
        """Put the weights that the source had earlier in its training into a folder, by links where that can be."""
        earlier = self.run(SOURCE, seed).earlier
        if earlier.is_dir():
            shutil.copytree(earlier, into, copy_function=_linked, dirs_exist_ok=True)


def _linked(file: str, into: str) -> None:
    try:
        os.link(file, into)
    except OSError:  # there already, or on another disk
        shutil.copy2(file, into)
