"""A project's own data: set up once a stage, its training and test set taken, its hooks called."""

from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import Dataset, IterableDataset

from lightning_unlearn.data.dealing import Deals
from lightning_unlearn.data.project_loaders import Part, part_of_dataset, part_of_loader

FROM_DATASETS = "LightningDataModule.from_datasets(train_set, test_dataset=test_set)"
"""What to give where there is no datamodule."""


class Project:
    """A project's datamodule, or its map-style training dataset.

    Args:
        inner: The datamodule or the dataset.

    Attributes:
        name: Its class's name, for messages and reports.
        torn_down: Whether it was torn down since it was last set up.
    """

    def __init__(self, inner: L.LightningDataModule | Dataset[Any]) -> None:
        if not isinstance(inner, L.LightningDataModule | Dataset):
            raise TypeError(
                f"datamodule must be a LightningDataModule or a map-style dataset, got {type(inner).__name__}; for "
                f"example {FROM_DATASETS}"
            )
        self.inner = inner
        self.name = type(inner).__name__
        self.module = inner if isinstance(inner, L.LightningDataModule) else None
        self.torn_down = False
        self._deals = Deals()
        self._stages: set[str] = set()

    def prepare(self) -> None:
        """Let the datamodule download or prepare."""
        if self.module is not None:
            with self._deals:
                self.module.prepare_data()

    def set_up(self, stage: str, trainer: L.Trainer | None) -> None:
        """Set the datamodule up for a stage, once until it is torn down."""
        if self.torn_down:
            self._stages.clear()
            self.torn_down = False
        if self.module is not None and stage not in self._stages:
            self.module.trainer = trainer
            with self._deals:
                self.module.setup(stage)
            self._stages.add(stage)

    def tear_down(self, stage: str) -> None:
        """Let the datamodule clean up."""
        if self.module is not None:
            self.module.teardown(stage)
            self.torn_down = True

    def loader(self, name: str) -> Any:
        """Return what the datamodule's method of a name gives; None where there is none."""
        if self.module is None:
            return None
        try:
            loader = getattr(self.module, name)()
        except MisconfigurationException:  # what Lightning's own, not overridden, method raises
            return None
        return None if isinstance(loader, list | tuple | dict) and not loader else loader

    def training_part(self, batch_size: int | None) -> Part:
        """Return the training set, which must not be dealt anew in every run."""
        if self.module is None:
            return part_of_dataset(self.inner, batch_size, "datamodule")  # type: ignore[arg-type]  # no module
        with self._deals:
            loader = self.loader("train_dataloader")
        if loader is None:
            raise ValueError(f"datamodule: {self.name} has no train_dataloader: nothing could be forgotten")
        part = part_of_loader(loader, f"{self.name}.train_dataloader()")
        if not isinstance(part.owner, IterableDataset):  # which has no positions that could mean others
            self._deals.check(part.narrowed.owner, self.name)
        return part

    def test_part(self) -> Part | None:
        """Return the test set, or the validation set where there is no test loader; None where there is neither."""
        for name in ("test_dataloader", "val_dataloader"):
            if (loader := self.loader(name)) is not None:
                part = part_of_loader(loader, f"{self.name}.{name}()", narrow=True)
                if isinstance(part.dataset, IterableDataset) or len(part):
                    return part
        return None
