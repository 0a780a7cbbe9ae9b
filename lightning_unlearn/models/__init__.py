"""The papers' networks, the module that trains them, and surgery on any module."""

from lightning_unlearn.models.classifier import Classifier
from lightning_unlearn.models.deep import (
    VGG16,
    VGG19,
    DenseNet121,
    GoogLeNet,
    ResNet8,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    WideResNet,
)
from lightning_unlearn.models.fresh import fresh_copy
from lightning_unlearn.models.hparams import (
    recorded_hyperparameters,
    restore_hyperparameters,
    save_primitive_hyperparameters,
)
from lightning_unlearn.models.schedules import Annealed
from lightning_unlearn.models.sharded import Sharded
from lightning_unlearn.models.small import MLP, LeNet5, Network, PurchaseNet, SVHNConv2, SVHNConv8
from lightning_unlearn.models.spd_gan import ConvPerturber, DensePerturber, perturber_for
from lightning_unlearn.models.surgery import (
    clone,
    count_parameters,
    evaluating,
    frozen,
    last_parameter_tensors,
    reinitialize,
    surviving_tensors,
)

__all__ = [
    "MLP",
    "VGG16",
    "VGG19",
    "Annealed",
    "Classifier",
    "ConvPerturber",
    "DenseNet121",
    "DensePerturber",
    "GoogLeNet",
    "LeNet5",
    "Network",
    "PurchaseNet",
    "ResNet8",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "SVHNConv2",
    "SVHNConv8",
    "Sharded",
    "WideResNet",
    "clone",
    "count_parameters",
    "evaluating",
    "fresh_copy",
    "frozen",
    "last_parameter_tensors",
    "perturber_for",
    "recorded_hyperparameters",
    "reinitialize",
    "restore_hyperparameters",
    "save_primitive_hyperparameters",
    "surviving_tensors",
]
