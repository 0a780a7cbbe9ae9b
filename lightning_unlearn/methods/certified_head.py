"""CertifiedHead: remove samples from the last layer by Newton steps on a noisy objective, with a guarantee."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.functional import gaussian_epsilon, newton_head
from lightning_unlearn.methods.base import Declared, OneShotModule, Range, Source
from lightning_unlearn.methods.base.certified import CERTIFIED
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models import evaluating
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.surgery import listed


class CertifiedHead(OneShotModule):
    r"""Removes the forget set from the last layer by Newton steps on a noisy, regularised objective, and certifies it.

    .. math:: L_r(W) = \sum_{D_r} CE(W x_i, y_i) + \frac{l2 \cdot N_r}{2} \|W\|^2 + \langle B, W \rangle, \quad
        W \leftarrow W - H_r(W)^{-1} \nabla L_r(W) \text{ until } \|\nabla L_r(W)\| \le \epsilon'

    with B Gaussian of standard deviation ``noise``, and x the features that the last layer is given, with a 1 for its
    bias. Source: Guo, Goldstein, Hannun & van der Maaten, "Certified Data Removal from Machine Learning Models", 2020,
    sections 3.1-3.3. Certified is that the head is (ε, δ)-indistinguishable from one that was trained on the retain set
    alone, to the minimum of such an objective: of the gradient that is left, the noise hides :math:`\epsilon'`
    (theorem 3; ε here by the exact curve of the Gaussian mechanism, for a shift of at most that).

    Ours are the multinomial loss in place of one class against the rest, noise that is drawn for the removal, and steps
    until the gradient, which is computed and not bounded, is as small as ``epsilon`` asks. The paper takes one step
    from a head that was trained on this objective. A source's head was not, and nothing could be certified of one step
    from there; but what the gradient is at the end certifies, wherever the steps began. They begin at the source's.

    The guarantee is of the head, given the features. It covers the model only if these were trained on nobody of the
    forget set; freeze what was not (``frozen``). Otherwise a warning says so. It holds as long as the noise, which is
    drawn anew each time and kept nowhere, is unknown.

    Args:
        source: The source model.
        epsilon: ε of the guarantee, > 0.
        delta: δ of the guarantee, in (0, 1).
        noise: Standard deviation of the objective's noise, > 0; the larger, the fewer steps and the worse the head.
        l2: Strength of the regularisation, a sample, > 0.
        head: Name of the last layer, an :class:`torch.nn.Linear`; ``None`` for the last one that is registered.
        adapter: How batches and outputs are taken apart; ``None`` for the usual layouts.
        frozen: Names of the parameters that the source was not trained on; ``None`` for those that do not require a
            gradient.

    Raises:
        ValueError: If an argument is outside its range, or ``head`` is no linear layer of the source.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> CertifiedHead(MLP(in_features=4, hidden=(3,), num_classes=2), noise=0.0)
        Traceback (most recent call last):
        ValueError: noise must be above 0, got 0.0; without any nothing can be certified
    """

    streams = ("retain",)
    epoch_stream = "retain"
    keeps_source_tensors = True
    needs = ("classes",)
    declared: ClassVar[Declared] = {
        "epsilon": Range("(0, inf)", "; 0.1 is strict, 1 usual"),
        "l2": Range("(0, inf)", "; without any there is no unique head"),
        "noise": Range("(0, inf)", "; without any nothing can be certified"),
        "delta": Range("(0, 1)", "; the chance that the bound does not hold"),
    }
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        **CERTIFIED,
        "certified/steps": DeclaredMetric(
            "Newton steps of the certified removal", "steps", "How many Newton steps were taken."
        ),
    }
    assumed: ClassVar[str] = (
        "that the features were not trained on the forget set, and that the noise, which is kept nowhere, is unknown"
    )

    def __init__(
        self,
        source: Source,
        epsilon: float = 0.1,
        delta: float = 1e-5,
        *,
        noise: float = 1.0,
        l2: float = 1e-3,
        head: str | None = None,
        adapter: Adapter | None = None,
        frozen: Sequence[str] | None = None,
    ) -> None:
        super().__init__(source, adapter=adapter, frozen=frozen)
        self.epsilon = epsilon
        self.delta = delta
        self.noise = noise
        self.l2 = l2
        linear = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, nn.Linear)}
        if not linear or (head is not None and head not in linear):
            found = listed(list(linear)) if linear else "none"
            raise ValueError(
                f"head must name a linear layer of {type(self.model).__name__}, got {head!r}; it has {found}"
            )
        self.head = list(linear)[-1] if head is None else head

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Take the steps on D_r, and note what is certified."""
        own = {f"{self.head}.weight", f"{self.head}.bias"}
        if others := [name for name in trainable(self.model) if name not in own]:
            rank_zero_warn(
                f"CertifiedHead: {listed(others)} are trained, and stay: the guarantee is of the head alone, given "
                "features that may know the forget set. If they were trained on other data, name them in frozen=[...]"
            )
        self.estimate(data, runtime)
        layer = self.model.get_submodule(self.head)
        assert isinstance(layer, nn.Linear)  # __init__ has seen to it
        features, targets = self._features(layer, data, runtime)
        start = torch.cat(
            [p.detach().cpu().double().view(layer.out_features, -1) for p in layer.parameters()], dim=1
        )
        # alike on every rank; with a known seed it could be taken off
        generator = torch.Generator().manual_seed(runtime.gather_objects(secrets.randbits(63))[0])
        noise = self.noise * torch.randn(start.shape, generator=generator, dtype=torch.float64)
        hidden = self.noise  # a gradient that the noise hides well enough
        while gaussian_epsilon(hidden / self.noise, self.delta) > self.epsilon:
            hidden /= 2
        weight, steps = newton_head(start, features, targets, self.l2, noise, residual=hidden)
        with torch.no_grad():
            layer.weight.copy_(weight[:, : layer.in_features])
            if layer.bias is not None:
                layer.bias.copy_(weight[:, -1])
        epsilon = gaussian_epsilon(hidden / self.noise, self.delta)
        self.measured = {
            "certified/epsilon": epsilon,
            "certified/delta": self.delta,
            "certified/steps": steps,
        }
        rank_zero_info(
            f"CertifiedHead: ({epsilon:.4g}, {self.delta:g})-certified removal from the head {self.head} in {steps} "
            f"Newton steps: a gradient of at most {hidden:.3g} is left under noise of {self.noise:g}. Assumed is "
            f"{self.assumed}"
        )

    def _features(
        self, layer: nn.Linear, data: UnlearningDataModule, runtime: Runtime
    ) -> tuple[Tensor, Tensor]:
        """Return what the head is given on the retain set, with a 1 for its bias, in float64, and the targets."""
        loader = data.loader("retain", indexed=True)
        self._require_last(layer, runtime.to_device(next(iter(loader)).batch), runtime)
        with self._bare(layer):
            given = predict(self.model, loader, runtime, self.adapter)
        features = given.logits.double()
        if layer.bias is not None:
            features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
        return features, given.targets

    @contextmanager
    def _bare(self, layer: nn.Linear) -> Iterator[None]:
        """Have the model give what its head is given."""
        path, _, name = self.head.rpartition(".")
        parent = self.model.get_submodule(path)
        setattr(parent, name, nn.Identity())
        try:
            yield
        finally:
            setattr(parent, name, layer)

    def _require_last(self, layer: nn.Linear, batch: Any, runtime: Runtime) -> None:
        """Refuse a head that does not give the logits."""
        inputs, _ = self.adapter.split(batch)
        fits = False
        with evaluating(self.model), runtime.forward_context(), torch.no_grad():
            logits = self.adapter.call(self.model, inputs)
            # of a layer in the middle, shapes do not fit
            with suppress(RuntimeError, ValueError), self._bare(layer):
                made = layer(self.adapter.call(self.model, inputs))
                fits = bool((made - logits).norm() <= 0.01 * logits.norm())
        if not fits:
            raise ValueError(
                f"head={self.head!r} is not the last layer of {type(self.model).__name__}: what it gives are not the "
                "model's logits; name the layer that gives them"
            )
