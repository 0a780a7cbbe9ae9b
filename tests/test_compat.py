"""The private names of other libraries: each works with the installed releases, and all are in one file."""

import ast
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jsonargparse import _typehints
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.compile import from_compiled
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

import lightning_unlearn
from lightning_unlearn.core import compat

PACKAGE = Path(lightning_unlearn.__file__).parent
PUBLIC = {"_replace", "_asdict", "_fields", "_exit"}  # documented names of named tuples and of os


class Net(L.LightningModule):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(2, 2)
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(compat.batches_stepped(self.trainer))
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer() -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_steps_and_owners_of_a_fit() -> None:
    net, fitting = Net(), trainer()
    assert compat.trainer_of(net) is None
    assert compat.owners_of(net) == []
    fitting.fit(net, DataLoader(torch.ones(3, 2)))
    assert net.seen == [0, 1, 2]
    assert compat.batches_stepped(fitting) == 3
    assert compat.trainer_of(net) is fitting
    assert compat.owners_of(net) == [fitting]


def test_a_detached_copy_refers_to_nothing() -> None:
    net = Net()
    for name in ("_metric_attributes", "_param_requires_grad_state", "_fabric_optimizers"):
        assert name in vars(net), f"Lightning no longer has {name}"
    net.compile()
    assert "_compiled_call_impl" in vars(net)
    compat.detach_copy(net)
    assert "_compiled_call_impl" not in vars(net)


@pytest.mark.parametrize(
    ("layer", "kinds"),
    [
        (nn.BatchNorm2d(1), {"AnyBatchNorm", "AnyRunningNorm"}),
        (nn.SyncBatchNorm(1), {"AnyBatchNorm", "AnyRunningNorm"}),
        (nn.InstanceNorm1d(1), {"AnyInstanceNorm", "AnyRunningNorm"}),
        (nn.ConvTranspose3d(1, 1, 1), {"AnyConvolution"}),
        (nn.LazyConv1d(1, 1), {"AnyConvolution"}),
        (nn.Dropout2d(), {"AnyDropout"}),
        (nn.Linear(1, 1), set()),
    ],
)
def test_common_bases_of_layers(layer: nn.Module, kinds: set[str]) -> None:
    names = [name for name in dir(compat) if name.startswith("Any") and name != "Any"]
    assert {name for name in names if isinstance(layer, getattr(compat, name))} == kinds


def test_names_within_a_module() -> None:
    module = nn.Module()
    module.register_buffer("kept", torch.ones(1))
    module.register_buffer("left_out", torch.ones(1), persistent=False)
    assert compat.unsaved_buffers(module) == {"left_out"}
    compiled = torch.compile(nn.Linear(1, 1))
    assert f"{compat.COMPILED}.weight" in compiled.state_dict()
    assert isinstance(getattr(compiled, compat.COMPILED), nn.Linear)
    assert hasattr(nn.Transformer(4, 2, 1, 1, 4), compat.RESET_METHODS[1])
    assert compat.tree_leaves({"b": [1, "x"], "a": (None, {"c": 2.5})}) == [1, "x", None, 2.5]


def test_hyper_parameters_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.cli import LightningCLI

    given: list[Any] = []
    monkeypatch.setattr(Net, "training_step", lambda self, batch, batch_idx: None)

    class Noting(Net):
        def __init__(self, width: int = 1) -> None:
            given.append(compat.given_hyperparameters())
            super().__init__(width)

    cli = LightningCLI(Noting, run=False, args=["--model.width=2"], save_config_callback=None)
    assert given[0]["width"] == 2
    assert compat.INSTANTIATOR in given[0]
    assert compat.INSTANTIATOR in cli.model.hparams

    with compat.giving_hyperparameters({compat.CLASS_PATH: "tests.Net", "width": 3}):
        rebuilt = Net()
    assert rebuilt.hparams["width"] == 3
    assert compat.given_hyperparameters() is None


def test_hyper_parameters_that_are_one_argument() -> None:
    class Whole(L.LightningModule):
        def __init__(self, options: dict[str, int]) -> None:
            super().__init__()
            self.save_hyperparameters(options)

    assert compat.hparams_name(Whole({"a": 1})) == "options"
    assert not compat.hparams_name(nn.Linear(1, 1))


def test_what_a_wandb_logger_was_told(tmp_path: Path) -> None:
    logger = WandbLogger(project="p", group="g", save_dir=tmp_path, offline=True, prefix="x")
    told = compat.wandb_arguments(logger)
    assert (told.init["project"], told.init["group"]) == ("p", "g")
    assert told[1:] == ("x", None, False, True)
    assert not compat.joins_a_run(logger)
    # set by what a logger with a run is sent to another process as
    assert "_attach_id" in inspect.getsource(WandbLogger.__getstate__)


def test_a_workspace_as_json() -> None:
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")
    built = workspaces.Workspace(entity="e", project="p", name="n", sections=[])
    assert '"p"' in compat.workspace_json(built)


def test_a_converted_metric_counts_on_in_float32() -> None:
    class Exact(compat.AtLeastFloat32, MeanMetric):
        pass

    metric = Exact()
    metric.to(torch.bfloat16)
    assert metric.mean_value.dtype == torch.float32
    metric.reset()
    assert metric.mean_value.dtype == torch.float32


def test_no_other_file_uses_a_private_name() -> None:
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    ours = {path: _defined(tree) for path, tree in trees.items()}
    theirs = _private_names_of_libraries()
    everywhere = set().union(*ours.values())
    found = []
    for path, tree in trees.items():
        if path.name == "compat.py":
            continue
        # a name that a library has too must be defined in the very file that uses it
        allowed = (everywhere - theirs) | ours[path] | PUBLIC
        for node in ast.walk(tree):
            for name in _uses(node):
                if name not in allowed:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {name}")
    assert not found, "use a function of core/compat.py, or add one:\n" + "\n".join(found)


def _is_private(name: str) -> bool:
    return name.startswith("_") and name.strip("_") != "" and not name.endswith("__")


def _uses(node: ast.AST) -> list[str]:
    """Private names that a node uses of something, those of imported modules included."""
    if isinstance(node, ast.Attribute):
        return [node.attr] if _is_private(node.attr) else []
    if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("lightning_unlearn"):
        parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        return [part for part in parts if _is_private(part)]
    if isinstance(node, ast.Import):
        return [part for alias in node.names for part in alias.name.split(".") if _is_private(part)]
    # names that are asked for as text, of an object or of a checkpoint
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()
    return [node.value] if is_text and node.value in _ASKED_FOR_BY_NAME else []


_ASKED_FOR_BY_NAME = {
    compat.COMPILED,
    compat.INSTANTIATOR,
    compat.CLASS_PATH,
    compat.RESET_METHODS[1],
    "_hparams_name",
    "_compiled_call_impl",
    "_attach_id",
}


def _defined(tree: ast.AST) -> set[str]:
    """Names that a file gives to its own functions, classes and attributes."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _private_names_of_libraries() -> set[str]:
    fitting = trainer()
    things = (
        Net(),
        L.LightningDataModule(),
        L.Callback(),
        fitting,
        fitting.fit_loop,
        fitting.fit_loop.epoch_loop,
        fitting.strategy,
        MeanMetric(),
        nn.BatchNorm2d(1),
        WandbLogger,
    )
    return {name for thing in things for name in dir(thing) if _is_private(name)}


def test_what_is_compiled_is_told() -> None:
    compiled = nn.Linear(2, 2)
    compiled.compile(backend="eager")
    wrapped = torch.compile(nn.Linear(2, 2), backend="eager")
    fitted = from_compiled(torch.compile(Net(), backend="eager"))
    for module in (compiled, nn.Sequential(compiled), wrapped, nn.Sequential(wrapped), fitted):
        assert compat.is_compiled(module)
    assert not compat.is_compiled(nn.Sequential(Net()))


def test_subclasses_are_found_once_and_those_that_an_import_brings_too() -> None:
    def named(name: str) -> str:
        path: str = _typehints.resolve_class_path_by_name(Net, name)
        return path

    look = _typehints.get_all_subclass_paths
    with compat.subclasses_found_once():
        assert _typehints.get_all_subclass_paths is not look
        assert named("Net") == named("Net") == f"{__name__}.Net"
        assert named("Later") == "Later"
        later = types.ModuleType("brought_by_an_import")
        later.Later = type("Later", (Net,), {"__module__": later.__name__})  # type: ignore[attr-defined]
        sys.modules[later.__name__] = later
        try:
            assert named("Later") == "brought_by_an_import.Later"
        finally:
            del sys.modules[later.__name__]
    assert _typehints.get_all_subclass_paths is look
