"""The papers' networks: shapes, counts of the literature, torchvision's weights, initial weights."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from lightning_unlearn.models import (
    MLP,
    VGG16,
    VGG19,
    DenseNet121,
    GoogLeNet,
    LeNet5,
    PurchaseNet,
    ResNet8,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    SVHNConv2,
    SVHNConv8,
    WideResNet,
)


def on_meta(build):
    """Build without memory or random numbers, for counting."""
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: LeNet5(7), (1, 28, 28)),
        (lambda: LeNet5(7, in_channels=3, image_size=32), (3, 32, 32)),
        (lambda: MLP(num_classes=7), (1, 28, 28)),
        (lambda: MLP(12, hidden=(), num_classes=7), (12,)),
        (lambda: PurchaseNet(num_classes=7, activation="tanh"), (600,)),
        (lambda: SVHNConv2(7, width=4), (3, 32, 32)),
        (lambda: SVHNConv2(7, width=4, image_size=30), (3, 30, 30)),
        (lambda: SVHNConv8(7, width=4), (3, 32, 32)),
        (lambda: ResNet8(7), (3, 32, 32)),
        (lambda: ResNet8(7, in_channels=1, width=4), (1, 8, 8)),
        (lambda: ResNet18(7, width=8), (3, 32, 32)),
        (lambda: ResNet34(7, width=8), (3, 32, 32)),
        (lambda: ResNet50(7, width=4), (3, 32, 32)),
        (lambda: ResNet101(7, width=4), (3, 32, 32)),
        (lambda: WideResNet(7, depth=10, widen_factor=2, dropout=0.3), (3, 32, 32)),
        (lambda: VGG16(7, width=8), (3, 32, 32)),
        (lambda: VGG19(7, in_channels=1, width=8), (1, 32, 32)),
        (lambda: DenseNet121(7, growth_rate=4), (3, 32, 32)),
        (lambda: DenseNet121(7, in_channels=1, growth_rate=4), (1, 8, 8)),
        (lambda: GoogLeNet(7), (3, 16, 16)),
        (lambda: GoogLeNet(7, in_channels=1, width=24), (1, 8, 8)),
    ],
)
def test_every_network_gives_logits_that_reach_every_parameter(build, shape):
    torch.manual_seed(0)
    network = build()
    logits = network(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    assert logits.min() < 0  # not cut off by a ReLU, no softmax
    logits.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    assert network(torch.randn(1, *shape)).shape == (1, 7)


@pytest.mark.parametrize("image_size", [4, 7, 8, 15, 16, 20, 28, 31, 32, 33, 48])
def test_lenet_fits_every_image_size(image_size):
    assert LeNet5(image_size=image_size)(torch.zeros(2, 1, image_size, image_size)).shape == (2, 10)


def test_lenet_is_the_classic_one():
    # 156 + 2416 + 48120 + 10164 + 850, LeCun et al. 1998 with C3 fully connected to S2
    for size in (28, 32):
        assert sum(p.numel() for p in on_meta(lambda s=size: LeNet5(image_size=s)).parameters()) == 61_706


@pytest.mark.parametrize(
    ("build", "five_percent", "last_5", "last_10"),
    [
        (ResNet18, 0.558e6, 2.37e6, 4.73e6),
        (VGG19, 1.002e6, 6666, 4.73e6),
        (DenseNet121, 0.348e6, 49162, 0.178e6),
        (GoogLeNet, 0.308e6, 10634, 0.265e6),
    ],
)
def test_counts_of_zuo_et_al_table_1(build, five_percent, last_5, last_10):
    sizes = [p.numel() for p in on_meta(build).parameters()]
    for measured, printed in [
        (0.05 * sum(sizes), five_percent),
        (sum(sizes[-5:]), last_5),
        (sum(sizes[-10:]), last_10),
    ]:
        if printed < 1e5:
            assert measured == printed
        else:  # printed in millions with two or three decimals, partly cut off
            assert measured == pytest.approx(printed, abs=0.005e6 if printed > 2e6 else 0.001e6)


def test_a_narrow_googlenet_has_as_much_less_of_every_layer():
    whole, half = (on_meta(lambda width=width: GoogLeNet(width=width)) for width in (192, 96))
    fixed = {("conv1.conv.weight", 1), ("fc.weight", 0), ("fc.bias", 0)}  # colours come in, classes go out
    for (name, ours), theirs in zip(half.named_parameters(), whole.parameters(), strict=True):
        times = [1 if axis > 1 or (name, axis) in fixed else 2 for axis in range(ours.ndim)]
        assert [n * t for n, t in zip(ours.shape, times, strict=True)] == list(theirs.shape), name


def test_vgg16_has_the_same_last_tensors_as_vgg19():
    sizes = [p.numel() for p in on_meta(VGG16).parameters()]
    assert sum(sizes[-5:]) == 6666
    assert sum(sizes[-10:]) == pytest.approx(4.73e6, abs=0.005e6)


@pytest.mark.parametrize(
    ("depth", "widen_factor", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)],
)
def test_counts_of_zagoruyko_and_komodakis_tables(depth, widen_factor, millions):
    network = on_meta(lambda: WideResNet(depth=depth, widen_factor=widen_factor))
    # The paper prints one decimal and truncates now and then.
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_wide_resnet_block_is_that_of_the_paper():
    torch.manual_seed(0)
    network = WideResNet(depth=10, widen_factor=2).eval()
    first, second = network.features[1], network.features[2]
    x = torch.randn(2, 16, 8, 8)

    def activated(values, normalization):
        scale = normalization.weight / (normalization.running_var + normalization.eps).sqrt()
        return ((values - normalization.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1)).clamp(min=0)

    for block, stride in ((first, 1), (second, 2)):
        for normalization in (block.bn1, block.bn2):
            nn.init.uniform_(normalization.running_mean)
            nn.init.uniform_(normalization.running_var, 0.5, 2)
        inner = activated(x, block.bn1)
        hidden = F.conv2d(inner, block.conv1.weight, stride=stride, padding=1)
        expected = F.conv2d(activated(hidden, block.bn2), block.conv2.weight, padding=1)
        expected = expected + F.conv2d(inner, block.shortcut.weight, stride=stride)
        result = block(x.clone())
        torch.testing.assert_close(result, expected)
        x = result
    assert WideResNet(depth=16, widen_factor=1).features[2].shortcut is None


def test_svhn_networks_have_the_layers_the_papers_name():
    layers = list(SVHNConv8(width=1).modules())
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == 8
    assert sum(isinstance(layer, nn.Linear) for layer in layers) == 1
    assert sum(isinstance(layer, nn.AdaptiveAvgPool2d) for layer in layers) == 1
    layers = list(SVHNConv2(width=1).modules())
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == 2
    assert sum(isinstance(layer, nn.Linear) for layer in layers) == 2


@pytest.mark.parametrize(("ours", "theirs"), [(ResNet18, "resnet18"), (ResNet50, "resnet50")])
def test_resnet_is_torchvisions_but_for_the_stem(ours, theirs):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, theirs)(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    network = ours()
    network.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network.eval()(images), reference.eval()(images))
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in reference.named_parameters()]


@pytest.mark.slow
def test_vgg_is_torchvisions_but_for_the_head():
    reference = torchvision.models.vgg16_bn().features.eval()
    network = VGG16().eval()
    network.features.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 32, 32)
    expected = network.classifier(reference(images).flatten(1))
    torch.testing.assert_close(network(images), expected)


def test_vgg_wants_images_of_32_pixels():
    with pytest.raises(ValueError, match="at least 32x32"):
        VGG16(width=4)(torch.zeros(1, 3, 28, 28))


SCHEMES = [
    (lambda: ResNet18(width=32), "layer3.0.conv1.weight", math.sqrt(2 / (128 * 9))),
    (lambda: WideResNet(depth=10, widen_factor=4), "features.2.conv1.weight", math.sqrt(2 / (128 * 9))),
    (lambda: VGG16(width=32), "features.17.weight", math.sqrt(2 / (128 * 9))),
    (lambda: VGG16(width=32), "classifier.weight", 0.01),
    (lambda: DenseNet121(growth_rate=16), "features.denseblock1.denselayer2.conv1.weight", math.sqrt(2 / 48)),
    (GoogLeNet, "inception4a.branch2.1.conv.weight", 0.01),
    (GoogLeNet, "fc.weight", 0.01),
]


@pytest.mark.parametrize("start", ["built", "reset"])
@pytest.mark.parametrize(("build", "name", "std"), SCHEMES)
def test_weights_follow_the_networks_own_scheme(build, name, std, start):
    torch.manual_seed(0)
    network = build()
    if start == "reset":
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.fill_(3)
        network.reset_parameters()
        assert not any(bool((tensor == 3).all()) for tensor in network.state_dict().values())
    weight = network.get_parameter(name)
    # Five standard errors of a standard deviation estimated from that many normal values.
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))
    normalization = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert bool((normalization.weight == 1).all())
    assert bool((normalization.running_var == 1).all())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LeNet5(num_classes=0), "num_classes must be at least 1, got 0"),
        (lambda: LeNet5(image_size=3), "image_size must be at least 4"),
        (lambda: SVHNConv2(image_size=2), "image_size must be at least 4"),
        (lambda: MLP(hidden=[16, 0]), "hidden must hold widths"),
        (lambda: MLP(activation="softmax"), "activation must be one of"),
        (lambda: PurchaseNet(hidden=[16]), "hidden must hold two widths"),
        (lambda: ResNet18(width=0), "width must be at least 1"),
        (lambda: VGG16(in_channels=0), "in_channels must be at least 1"),
        (lambda: DenseNet121(growth_rate=0), "growth_rate must be at least 1"),
        (lambda: GoogLeNet(dropout=1.0), r"dropout must be in \[0, 1\)"),
        (lambda: GoogLeNet(width=100), "width must be a multiple of 24"),
        (lambda: WideResNet(depth=18), "depth must be 6"),
        (lambda: WideResNet(depth=4), "depth must be 6"),
        (lambda: WideResNet(depth=10, dropout=-0.1), "dropout must be in"),
        (lambda: LeNet5()(torch.zeros(2, 1, 32, 32)), r"built for images of shape \(1, 28, 28\)"),
        (lambda: SVHNConv2(width=1)(torch.zeros(2, 1, 32, 32)), r"built for images of shape \(3, 32, 32\)"),
        (lambda: MLP()(torch.zeros(2, 8)), "set in_features=8"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
