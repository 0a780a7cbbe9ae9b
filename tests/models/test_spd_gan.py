"""The generators of the SPD-GAN: the paper's layers, any shape, both signs, within the bound."""

import pytest
import torch
from torch import nn

from lightning_unlearn.models.spd_gan import ConvPerturber, DensePerturber, perturber_for

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 5, 9), (2, 13, 6), (1, 4, 4), (446,), (7, 3), (2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("samples", [1, 6])
def test_a_perturbation_has_the_shape_of_its_sample_and_trains(shape: tuple[int, ...], samples: int) -> None:
    generator = perturber_for(shape)
    x = torch.randn(samples, *shape)
    optimizer = torch.optim.Adam(generator.parameters(), 0.01)
    wanted = 0.5 * x.sign()
    losses = []
    for _ in range(30):
        found = generator(x)
        assert found.shape == x.shape
        losses.append(nn.functional.mse_loss(found, wanted))
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(parameter.grad is not None for parameter in generator.parameters())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert found.min() < 0 < found.max(), "a perturbation can take away as well as add"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_value_reaches_one(shape: tuple[int, ...]) -> None:
    generator = perturber_for(shape)
    found = generator(torch.randn(4, *shape) * 100)
    assert found.abs().max() <= 1
    assert found.flatten(1).std(0).max() > 0, "each sample has a perturbation of its own"


def test_the_layers_are_the_papers() -> None:
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    network = ConvPerturber(3)
    encoder, decoder = (
        [type(layer).__name__ for layer in part if isinstance(layer, kinds)]
        for part in (network.encoder, network.decoder)
    )
    assert encoder == ["Conv2d", "Conv2d", "BatchNorm2d", "Conv2d", "BatchNorm2d"]
    assert decoder == ["ConvTranspose2d", "BatchNorm2d", "ConvTranspose2d", "Conv2d"]
    assert isinstance(network.decoder[-1], nn.Tanh)
    assert not any(isinstance(layer, nn.ReLU) for layer in network.encoder)
    assert not any(isinstance(layer, nn.LeakyReLU) for layer in network.decoder)


def test_images_get_convolutions_and_all_else_dense_layers() -> None:
    kinds = [type(perturber_for(shape)) for shape in SHAPES]
    assert kinds == [ConvPerturber] * 5 + [DensePerturber] * 4


def test_one_table_row_does_not_depend_on_the_others() -> None:
    generator, x = DensePerturber((6,)), torch.randn(5, 6)
    torch.testing.assert_close(generator(x)[:1], generator(x[:1]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvPerturber(0), "channels must be at least 1"),
        (lambda: ConvPerturber(1, width=0), "width must be at least 1"),
        (lambda: DensePerturber(()), "shape must hold"),
        (lambda: DensePerturber((3, 0)), "shape must hold"),
        (lambda: DensePerturber((3,), hidden=1), "hidden must be at least 2"),
        (lambda: ConvPerturber(1)(torch.zeros(2, 3, 8, 8)), "images with 1 channels"),
        (lambda: ConvPerturber(1)(torch.zeros(2, 1, 8, 4)), "at least 5 pixels"),
        (lambda: ConvPerturber(1)(torch.zeros(2, 64)), "got a batch of shape"),
        (lambda: DensePerturber((6,))(torch.zeros(2, 7)), "samples of shape"),
    ],
)
def test_bad_arguments_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
