"""CT: transpose the kernels of all convolutions, and train on the retain set."""

import torch
from torch import nn

from lightning_unlearn.methods.fine_tune import FineTune
from lightning_unlearn.models.surgery import convolution_kernels


class CT(FineTune):
    r"""Transposes the kernels of all convolutions, then trains all weights on the retain set.

    .. math:: W_{o,i,h,w} \leftarrow W_{o,i,w,h}

    after which the features fit the images no longer, and what is not learned again is forgotten; the forget set is
    never read. Source: the fifth of the NeurIPS 2023 unlearning competition ("convolution transpose"), as described
    and compared by Cadet et al., "Deep Unlearn", 2024, where it is one of the two best of eighteen methods. It
    trains by SGD with learning rate 1e-3 for three epochs; Adam and the annealed rate are ours. Kernels of size 1 and
    kernels that are not square stay as they are, as does what is frozen in the source. One epoch is one pass over the
    retain set.

    Args:
        source: The source model; it must have a convolution in two or three dimensions with a square kernel.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Raises:
        ValueError: If there is no kernel to transpose.

    Example:
        >>> source = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
        >>> torch.equal(CT(source).model[0].weight, source[0].weight.mT)
        True
    """

    side_by_side = True

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return a copy of the source with transposed kernels."""
        model = super().initial_model(source)
        kernels = [
            kernel
            for kernel in convolution_kernels(model).values()
            if kernel.ndim > 3 and kernel.shape[-1] == kernel.shape[-2] > 1
        ]
        if not kernels:
            raise ValueError(
                f"source: {type(source).__name__} has no convolution with a square kernel that was trained, so CT "
                "would transpose nothing; ShrinkPerturb disturbs the weights of any network"
            )
        with torch.no_grad():
            for kernel in kernels:
                kernel.copy_(kernel.mT.clone())
        return model
