"""Kinds of network that projects bring, each trained until it knows a class by heart; small enough for milliseconds.

Each is a LightningModule of its own that builds without arguments, and says what of it must never be touched, what
keeps running statistics, and what is tied. What a project does to a module after building it (loading pretrained
weights, compiling it) stands in :meth:`Project.ready`.
"""

import copy
import functools
import itertools
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_unlearn.data import Classes, TensorData, UnlearningDataModule

CLASSES, SIZE = 3, 8
FORGOTTEN = 2
PER_CLASS = 24


def images(per_class: int, seed: int, classes: int = CLASSES) -> TensorData:
    """Prototypes of the classes in noise, 8×8 with one channel."""
    prototypes = torch.randn(CLASSES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    targets = torch.arange(per_class * classes) % classes
    noise = torch.randn(len(targets), 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return TensorData(prototypes[targets] + noise, targets)


def members() -> TensorData:
    return images(PER_CLASS, 0)


def others() -> TensorData:
    """Samples of the retained classes that no model was trained on."""
    return images(30, 1, classes=FORGOTTEN)


def forget_a_class(train: TensorData | None = None, **arguments: Any) -> UnlearningDataModule:
    """All retained samples fit into one batch, so that what is estimated on them does not depend on batches."""
    arguments = {"test_dataset": others(), "nonmember": 30, "batch_size": 32, "order_seed": 3, **arguments}
    return UnlearningDataModule(train or members(), Classes(FORGOTTEN), **arguments)


def accuracy(model: nn.Module, data: TensorData, label: int | None = None) -> float:
    """Accuracy in evaluation mode, of one class alone or of all."""
    model.eval()
    inputs, targets = data.inputs, data.targets
    if label is not None:
        inputs, targets = inputs[targets == label], targets[targets == label]
    with torch.no_grad():
        return float((model(inputs).argmax(dim=-1) == targets).float().mean())


# ---------------------------------------------------------------------- the zoo


class Project(L.LightningModule):
    """What the kinds share: a user's module that knows nothing of unlearning.

    Attributes:
        FROZEN: Prefixes of tensors that training leaves alone: frozen layers with their buffers, and constants.
        NORMALISATIONS: Trained layers that keep running statistics.
        TIED: Pairs of names of one parameter.
        AVERAGES: Prefixes of a copy that follows the weights.
        LAST: How many of its last tensors are to be trained anew for a class to be forgotten: what stands before
            them may tell the class apart by itself.
    """

    FROZEN: ClassVar[tuple[str, ...]] = ()
    NORMALISATIONS: ClassVar[tuple[str, ...]] = ()
    TIED: ClassVar[tuple[tuple[str, str], ...]] = ()
    AVERAGES: ClassVar[tuple[str, ...]] = ()
    LAST: ClassVar[int] = 4
    net: nn.Module

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def criterion_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, targets)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.criterion_of(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-2, weight_decay=1e-2)

    def ready(self) -> None:
        """Do what the project does between building the module and training it."""

    def step_done(self) -> None:
        """Do what the project does after each step."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.step_done()


class BatchNormalised(Project):
    NORMALISATIONS = ("net.1", "net.4")
    LAST = 6

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )


class InstanceNormalised(Project):
    NORMALISATIONS = ("net.1", "net.4")
    LAST = 6

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1),
            nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )


class TinyViT(Project):
    """Layer normalisation, attention, a class token and positions, drawn by the model's own scheme."""

    LAST = 12

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 5, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)
        nn.init.normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.positions
        return self.head(self.norm(self.block(tokens)[:, 0]))


def pretrain(module: nn.Module) -> None:
    """Load weights and statistics that no draw of the class gives."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
                if name.endswith(("running_var", "1.weight")):
                    tensor.abs_().add_(0.5)


class FrozenBackbone(Project):
    FROZEN = ("backbone.",)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(128, 12), nn.ReLU(), nn.Linear(12, CLASSES))
        self.backbone.requires_grad_(False)

    def ready(self) -> None:
        pretrain(self.backbone)

    def train(self, mode: bool = True) -> "FrozenBackbone":
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class FrozenByHand(FrozenBackbone):
    """The same, put into evaluation mode by the loop that trained it, of which the class says nothing."""

    def train(self, mode: bool = True) -> "FrozenByHand":
        nn.Module.train(self, mode)
        return self

    def on_train_epoch_start(self) -> None:
        self.backbone.eval()


class LowRank(nn.Module):
    """A frozen linear layer with an adapter that is trained."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, inputs) * 0.1)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


class Adapted(Project):
    FROZEN = ("first.base.", "second.base.")

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = LowRank(SIZE * SIZE, 16), LowRank(16, 16)
        self.head = nn.Linear(16, CLASSES)

    def ready(self) -> None:
        pretrain(self.first.base)
        pretrain(self.second.base)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))


class Tied(Project):
    """One weight of two layers, and layers that are registered under two names."""

    TIED = (("inner.weight", "outer.weight"), ("head.weight", "tail.1.weight"))
    LAST = 5

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(SIZE * SIZE, 16)
        self.inner, self.outer = nn.Linear(16, 16), nn.Linear(16, 16)
        self.outer.weight = self.inner.weight
        self.head = nn.Linear(16, CLASSES)
        self.tail = nn.Sequential(nn.ReLU(), self.head)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.enter(x.flatten(1)))
        return self.tail(self.outer(torch.relu(self.inner(hidden))))


class Constant(Project):
    """Mean and deviation of pixels, positions, and class weights in a loss that is a submodule."""

    FROZEN = ("mean", "deviation", "positions", "criterion.weight")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([[[[0.1]]]]))
        self.register_buffer("deviation", torch.linspace(1, 1.4, SIZE).view(1, 1, SIZE, 1))
        angles = torch.arange(4.0)[:, None] / 10 ** torch.linspace(0, 1, 8)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=1))
        self.patches = nn.Linear(16, 16)
        self.head = nn.Linear(4 * 16, CLASSES)
        self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        scaled = (x - self.mean) / self.deviation
        patches = self.patches(scaled.view(-1, 4, 16)) + self.positions
        return self.head(torch.relu(patches).flatten(1))

    def criterion_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.criterion(logits, targets)


class OwnScheme(Project):
    """Six layers that PyTorch's own draw would leave almost silent."""

    LAST = 8

    def __init__(self, width: int = 24, depth: int = 6) -> None:
        super().__init__()
        self.save_hyperparameters()
        sizes = [SIZE * SIZE, *[width] * depth]
        layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, CLASSES))
        for part in self.net:
            if isinstance(part, nn.Linear):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.zeros_(part.bias)


class CompiledInside(BatchNormalised):
    """Compiled where it is built, so that the names in its own checkpoints say so."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


class CompiledInSetup(BatchNormalised):
    """Compiled by Lightning's ``setup()``, of which its own class, loaded from a checkpoint, knows nothing."""

    def setup(self, stage: str) -> None:
        if not hasattr(self.net, "_orig_mod"):
            self.net = torch.compile(self.net, backend="eager")


class Averaged(Project):
    """Keeps a moving average of its weights, which nothing but its own training follows."""

    AVERAGES = ("average.",)

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 16), nn.ReLU(), nn.Linear(16, CLASSES))
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def step_done(self) -> None:
        with torch.no_grad():
            for average, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
                average.lerp_(now, 0.1)


class AveragedByTorch(Averaged):
    """The same with PyTorch's own class, whose copy requires gradients that nothing gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.parameters(), lr=1e-2, weight_decay=1e-2)

    def step_done(self) -> None:
        self.average.update_parameters(self.net)


class AnswersByAverage(AveragedByTorch):
    """Answers with the average when it is evaluated, so that nothing that is trained is asked."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else self.average(x)


KINDS: dict[str, type[Project]] = {
    "BatchNorm": BatchNormalised,
    "InstanceNorm": InstanceNormalised,
    "ViT": TinyViT,
    "frozen backbone": FrozenBackbone,
    "frozen by hand": FrozenByHand,
    "adapters": Adapted,
    "tied": Tied,
    "constants": Constant,
    "own scheme": OwnScheme,
    "compiled inside": CompiledInside,
    "compiled in setup": CompiledInSetup,
    "average": Averaged,
    "average by torch": AveragedByTorch,
}


def fit_plainly(kind: type[Project], data: TensorData, seed: int = 0, steps: int = 50) -> Project:
    """Build and train as a loop without a Trainer would."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = kind()
        module.ready()
        module.train()
        optimizer = module.configure_optimizers()
        for part in module.modules():
            if part is getattr(module, "backbone", None):
                part.eval()
        for step in range(steps):
            batch = data.inputs[step % 2 :: 2], data.targets[step % 2 :: 2]
            loss = module.training_step(batch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            module.step_done()
    return module


def trained(kind: type[Project]) -> Project:
    """Return a source that knows its training set; trained once, copied each time."""
    return copy.deepcopy(_trained(kind))


@functools.cache
def _trained(kind: type[Project]) -> Project:
    return fit_plainly(kind, members())


@functools.cache
def _retrained(kind: type[Project]) -> Project:
    data = members()
    kept = data.targets != FORGOTTEN
    return fit_plainly(kind, TensorData(data.inputs[kept], data.targets[kept]), seed=1)


def retrained(kind: type[Project]) -> Project:
    """Return a model of a kind that never saw what is forgotten."""
    return copy.deepcopy(_retrained(kind))


# ---------------------------------------------------------------------- conversion after building


class SumOverProcesses(torch.autograd.Function):
    """The sum of what the processes have; a gradient goes back to all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(x, group=group)
        ctx.group = group
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return SumOverProcesses.forward(ctx, gradient, ctx.group), None


class Synchronised(nn.BatchNorm2d):
    """Takes the mean and variance of all samples of its process group, as ``SyncBatchNorm`` does on other devices."""

    process_group: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.new_tensor(x.numel() / x.shape[1])
        total, squares, count = (
            SumOverProcesses.apply(each, self.process_group)
            for each in (x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count)
        )
        mean, variance = total / count, squares / count - (total / count).square()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normal = (x - mean.view(-1, 1, 1)) / (variance + self.eps).sqrt().view(-1, 1, 1)
        return normal * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class ConvertLayers(LayerSync):
    """Has the strategy put other layers in the place of batch normalisations, long after a module is built."""

    def apply(self, model: nn.Module) -> nn.Module:
        return self._convert(model, nn.BatchNorm2d, Synchronised)

    def revert(self, model: nn.Module) -> nn.Module:
        return self._convert(model, Synchronised, nn.BatchNorm2d)

    def _convert(self, model: nn.Module, old: type[nn.BatchNorm2d], new: type[nn.BatchNorm2d]) -> nn.Module:
        for name, child in list(model.named_children()):
            if type(child) is old:
                layer = new(child.num_features, child.eps, child.momentum).train(child.training)
                layer._parameters.update(child._parameters)
                layer._buffers.update(child._buffers)
                model.add_module(name, layer)
            else:
                self._convert(child, old, new)
        return model
