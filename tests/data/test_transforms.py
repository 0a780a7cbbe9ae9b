"""Batched transforms against torchvision's, one image at a time."""

import pytest
import torch
from torchvision.transforms import functional as tv

from lightning_unlearn.data.transforms import AsFloat, Normalize, RandomCropFlip, crop_flip


def images(count: int = 16, channels: int = 3, height: int = 9, width: int = 7) -> torch.Tensor:
    return torch.randint(
        256, (count, channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, True), (4, True), (1, False), (4, False)])
def test_crop_flip_equals_torchvision_image_by_image(padding, flip, dtype):
    batch = images().to(dtype)
    augment = RandomCropFlip(padding, flip)
    top, left, mirrored = augment.draw(len(batch), torch.Generator().manual_seed(3))
    result = augment(batch, torch.Generator().manual_seed(3))
    for index, image in enumerate(batch):
        expected = tv.crop(tv.pad(image, padding), int(top[index]), int(left[index]), *image.shape[1:])
        expected = tv.hflip(expected) if mirrored[index] else expected
        assert torch.equal(result[index], expected)
    assert result.dtype == dtype


def test_draws_cover_every_offset_evenly():
    augment = RandomCropFlip(padding=2)
    top, left, flip = augment.draw(20_000, torch.Generator().manual_seed(0))
    for offsets in (top, left):
        # 20,000 draws of 5 values: the count of each is 4,000 with a standard deviation of 57.
        assert (torch.bincount(offsets, minlength=5) - 4_000).abs().max() < 5 * 57
    assert abs(int(flip.sum()) - 10_000) < 5 * 71
    assert abs(float(torch.corrcoef(torch.stack([top, left]).double())[0, 1])) < 5 / 20_000**0.5
    assert not RandomCropFlip(2, flip=False).draw(100, torch.Generator().manual_seed(0))[2].any()


def test_crop_flip_with_no_offset_is_the_identity():
    batch = images()
    centre = torch.full((len(batch),), 3)
    assert torch.equal(crop_flip(batch, centre, centre, torch.zeros(len(batch), dtype=torch.bool), 3), batch)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)), ((0.3,), (0.2,))]
)
def test_normalize_equals_torchvision(mean, std):
    batch = images()
    channels = batch.shape[1]
    expected = tv.normalize(
        batch.double() / 255, list(mean) * (channels // len(mean)), list(std) * (channels // len(std))
    )
    normalize = Normalize(mean, std)
    torch.testing.assert_close(normalize(batch).double(), expected, rtol=0, atol=2e-6)
    assert normalize(batch).dtype == torch.float32
    torch.testing.assert_close(normalize(batch.double() / 255).double(), expected, rtol=0, atol=2e-6)


def test_normalize_leaves_its_input_alone_and_can_be_differentiated_after_inference_mode():
    normalize = Normalize((0.123,), (0.456,))
    batch = torch.rand(2, 1, 3, 3)
    kept = batch.clone()
    with torch.inference_mode():
        normalize(batch)
    assert torch.equal(batch, kept)
    batch.requires_grad_(True)
    normalize(batch).sum().backward()
    torch.testing.assert_close(batch.grad, torch.full_like(batch, 1 / 0.456))


def test_as_float_keeps_values():
    assert torch.equal(AsFloat()(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([0.0, 255.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normalize((0.5,), (0.5, 0.5)), "a value per channel"),
        (lambda: Normalize((), ()), "a value per channel"),
        (lambda: Normalize((0.5,), (0.0,)), "std must be positive"),
        (lambda: Normalize((0.5, 0.5), (1.0, 1.0))(images()), "must have the 2 channels"),
        (lambda: RandomCropFlip(-1), "padding must be at least 0"),
        (lambda: RandomCropFlip(0, flip=False), "changes nothing"),
        (lambda: RandomCropFlip()(torch.zeros(3, 4), torch.Generator()), r"\(B, C, H, W\)"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
