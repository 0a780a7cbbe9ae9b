"""Which of a model's scalars to perturb, by how sensitive it is to them, and the perturbations.

All follow Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section III-B.
A selection is a mapping from parameter name to flat positions: int64, ascending, without repetition, in
row-major order of the parameter's shape whatever its memory format. Every name asked about is a key, with no
positions if none fell on it. Equal input (and an equally seeded generator) gives the same selection on every
rank.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lightning_unlearn.core.checks import in_range, shapes

__all__ = [
    "perturb_mixed",
    "perturb_scaled",
    "select_random",
    "select_random_top_k",
    "select_top_k",
    "select_top_k_tensors",
    "selection_masks",
    "top_k_masks",
]


_DIGIT = 16  # bits that are counted at a time


def select_top_k_tensors(
    sensitivities: Mapping[str, Tensor], parameters: Mapping[str, Tensor], k: int
) -> dict[str, Tensor]:
    """All scalars of the k most sensitive tensors (Top-K, with eq. 6 as the norm of a tensor's gradient).

    Args:
        sensitivities: One sensitivity of each parameter by name, a scalar, finite and not negative.
        parameters: The parameters themselves by name.
        k: How many tensors, from 1 to the number there are.

    Returns:
        The selection (see the module's description), positions on the device of each sensitivity.

    Raises:
        TypeError: If ``k`` is not an integer.
        ValueError: If ``k`` is out of range or a sensitivity is negative or not finite.

    Example:
        >>> import torch
        >>> norms = {"weight": torch.tensor(0.5), "bias": torch.tensor(2.0)}
        >>> select_top_k_tensors(norms, {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, k=1)
        {'weight': tensor([], dtype=torch.int64), 'bias': tensor([0, 1])}
    """
    chosen = select_top_k(sensitivities, k)
    return {
        name: torch.arange(parameters[name].numel() if len(found) else 0, device=found.device)
        for name, found in chosen.items()
    }


def select_top_k(sensitivities: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """The k most sensitive scalars over all parameters (Top-K), as positions; see :func:`top_k_masks`.

    Args:
        sensitivities: Sensitivity of each scalar by parameter name, finite and not negative, any shapes.
        k: How many scalars, from 1 to the number there are.

    Returns:
        The selection (see the module's description), positions on the device of each sensitivity.

    Raises:
        TypeError: If ``k`` is not an integer.
        ValueError: If ``k`` is out of range or a sensitivity is negative or not finite.

    Example:
        >>> import torch
        >>> select_top_k({"weight": torch.tensor([[0.1, 3.0], [2.0, 0.0]]), "bias": torch.tensor([2.5])}, k=2)
        {'weight': tensor([1]), 'bias': tensor([0])}
    """
    masks = top_k_masks(sensitivities, k)
    return {name: mask.reshape(-1).nonzero().squeeze(1) for name, mask in masks.items()}


def top_k_masks(sensitivities: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Masks that are true where the k most sensitive scalars over all parameters are.

    Nothing is sorted, and of the sensitivities no copy is made but of a million at a time. Equal
    sensitivities are taken in the order of the mapping, then of position.

    Args:
        sensitivities: Sensitivity of each scalar by parameter name, finite and not negative, any shapes.
        k: How many scalars, from 1 to the number there are.

    Returns:
        A mask of each name, in the shape and on the device of its sensitivity.

    Raises:
        TypeError: If ``k`` is not an integer.
        ValueError: If ``k`` is out of range or a sensitivity is negative or not finite.

    Example:
        >>> import torch
        >>> top_k_masks({"weight": torch.tensor([0.1, 3.0, 2.0]), "bias": torch.tensor([2.5])}, k=2)
        {'weight': tensor([False,  True, False]), 'bias': tensor([True])}
    """
    total = sum(value.numel() for value in sensitivities.values())
    _require_count("k", k, total)
    for name, value in sensitivities.items():
        # of NaN both are NaN
        if value.numel() and not all(0 <= float(bound) < math.inf for bound in value.detach().aminmax()):
            raise ValueError(
                f"sensitivities[{name!r}] holds a negative or non-finite value; check the gradients"
            )
    threshold = _kth_largest([value.detach() for value in sensitivities.values()], k)

    # all above the k-th largest value, then as many equal to it as are still missing, in order
    masks = {
        name: value.detach().reshape(-1).to(threshold.dtype) > threshold.to(value.device)
        for name, value in sensitivities.items()
    }
    missing = k - int(sum(int(mask.sum()) for mask in masks.values()))
    for name, value in sensitivities.items():
        if missing > 0:
            flat = value.detach().reshape(-1).to(threshold.dtype)
            ties = (flat == threshold.to(value.device)).nonzero().squeeze(1)[:missing]
            missing -= ties.numel()
            masks[name][ties] = True
    return {name: mask.view(sensitivities[name].shape) for name, mask in masks.items()}


def _kth_largest(values: Sequence[Tensor], k: int) -> Tensor:
    """Return the k-th largest of values that are not negative: digit by digit, for their bits have the same order."""
    kind = torch.float64 if any(value.dtype == torch.float64 for value in values) else torch.float32
    integer, width = (torch.int64, 64) if kind == torch.float64 else (torch.int32, 32)
    found = 0
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(2**_DIGIT, dtype=torch.int64)
        for part in (part for value in values for part in torch.split(value.reshape(-1), 2**20)):
            bits = (part.to(kind) + 0.0).view(integer).long()  # + 0.0, for -0.0 has a bit of its own
            digits = bits[bits >> shift >> _DIGIT == found] >> shift & 2**_DIGIT - 1
            counts += digits.bincount(minlength=len(counts)).to(counts.device)
        at_least = counts.flip(0).cumsum(0)
        place = int((at_least < k).sum())
        k -= int(at_least[place - 1]) if place else 0
        found = found << _DIGIT | len(counts) - 1 - place
    return torch.tensor(found, dtype=integer).view(kind)


def select_random(
    shapes: Mapping[str, Sequence[int] | Tensor], fraction: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """A uniformly random choice of ``round(fraction * total)`` scalars over all parameters (Random-k).

    The count is exact, unlike a mask that keeps each scalar with some probability. Memory grows with the
    number chosen, not with the size of the model.

    Args:
        shapes: Shape of each parameter, or the parameter itself, by name.
        fraction: Share of all scalars, in ``(0, 1]`` (the paper's k as a share, not in percent).
        generator: Source of randomness; seed it alike on every rank.

    Returns:
        The selection (see the module's description), positions on the generator's device.

    Raises:
        ValueError: If ``fraction`` is out of range or so small that no scalar is chosen.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> chosen = select_random({"weight": (10, 10), "bias": (10,)}, fraction=0.1, generator=generator)
        >>> sum(len(positions) for positions in chosen.values())
        11
    """
    sizes = _sizes(shapes)
    total = sum(sizes.values())
    chosen = _sample(total, _random_count(fraction, total), generator)
    return _split(chosen, sizes)


def select_random_top_k(
    sensitivities: Mapping[str, Tensor], fraction: float, k: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Random-k's choice with k members replaced by the k most sensitive scalars (Random-TopK, section IV-C4).

    The Top-K that Random-k chose by itself stay; for each of the others a random other member of the choice
    makes room. The number of scalars is therefore the one that Random-k would choose.

    Args:
        sensitivities: Sensitivity of each scalar by parameter name, finite and not negative, any shapes.
        fraction: Share of all scalars, in ``(0, 1]``.
        k: How many of them are the most sensitive ones, from 1 to ``round(fraction * total)``.
        generator: Source of randomness; seed it alike on every rank.

    Returns:
        The selection (see the module's description), positions on the generator's device.

    Raises:
        TypeError: If ``k`` is not an integer.
        ValueError: If ``fraction`` or ``k`` is out of range or a sensitivity is negative or not finite.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> sensitivities = {"weight": torch.arange(100.0)}
        >>> chosen = select_random_top_k(sensitivities, fraction=0.1, k=2, generator=generator)
        >>> len(chosen["weight"]), chosen["weight"][-2:]
        (10, tensor([98, 99]))
    """
    sizes = _sizes(sensitivities)
    total = sum(sizes.values())
    count = _random_count(fraction, total)
    _require_count("k", k, count)
    top = _join(select_top_k(sensitivities, k), sizes).to(generator.device)
    random = _sample(total, count, generator)
    others = random[~torch.isin(random, top)]
    kept = others[torch.randperm(others.numel(), generator=generator, device=generator.device)[: count - k]]
    return _split(torch.cat([top, kept]).sort().values, sizes)


def selection_masks(selection: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks that are true where a selection is, one for each of its names, in the parameters' shapes, on their devices.

    Args:
        selection: Flat row-major positions by name.
        parameters: The parameters by name.

    Example:
        >>> import torch
        >>> selection_masks({"weight": torch.tensor([1])}, {"weight": torch.zeros(2, 1)})
        {'weight': tensor([[False],
                [ True]])}
    """
    masks: dict[str, Tensor] = {}
    for name, positions in selection.items():
        parameter = parameters[name]
        mask = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
        mask[positions.to(mask.device)] = True
        masks[name] = mask.view(parameter.shape)
    return masks


@torch.no_grad()
def perturb_scaled(parameter: Tensor, positions: Tensor, epsilon: float) -> None:
    r"""Perturb chosen scalars in place, each in proportion to itself.

    :math:`\omega_i \leftarrow \omega_i + \epsilon\,\omega_i` (eq. 7), computed in at least float32 and then
    rounded to the parameter's dtype: in bfloat16 an ``epsilon`` below about 0.004 can vanish in that
    rounding.

    Args:
        parameter: The parameter, any shape and memory format; changed in place, outside autograd.
        positions: Flat row-major positions, int64, without repetition, on any device.
        epsilon: The coefficient, finite and not 0; negative shrinks.

    Raises:
        ValueError: If ``epsilon`` is 0 or not finite, or a position is repeated or out of range.

    Example:
        >>> import torch
        >>> weight = torch.ones(2, 2)
        >>> perturb_scaled(weight, torch.tensor([1, 2]), epsilon=0.5)
        >>> weight
        tensor([[1.0000, 1.5000],
                [1.5000, 1.0000]])
    """
    if not (math.isfinite(epsilon) and epsilon != 0):
        raise ValueError(f"epsilon must be finite and not 0, got {epsilon}; 0 would change nothing")
    index = _index("positions", positions, parameter)
    values = _at_least_float32(parameter[index])
    parameter[index] = (values + epsilon * values).to(parameter.dtype)


@torch.no_grad()
def perturb_mixed(
    parameters: Mapping[str, Tensor],
    selection: Mapping[str, Tensor],
    epsilon: float,
    generator: torch.Generator,
) -> None:
    r"""Mix each chosen scalar in place with another chosen one.

    :math:`\omega \leftarrow (1-\epsilon)\,\omega + \epsilon\,\omega_j` (algorithm 1, line 12). The partners
    are a random cyclic order of all chosen scalars, across parameters: each is the partner of exactly one
    other and never of itself. All values are read before the first is written, so that no scalar is mixed
    with an already perturbed one, and the sum of the chosen values is kept.

    Args:
        parameters: The parameters by name, any shapes and memory formats; changed in place, outside autograd.
        selection: Flat row-major positions by name, int64, without repetition, on any device.
        epsilon: The share of the partner, in ``(0, 1]``.
        generator: Source of randomness; seed it alike on every rank.

    Raises:
        ValueError: If ``epsilon`` is out of range, fewer than two scalars are chosen, or a position is
            repeated or out of range.
        KeyError: If ``selection`` names a parameter that ``parameters`` does not hold.

    Example:
        >>> import torch
        >>> weight, bias = torch.zeros(2), torch.ones(1)
        >>> chosen = {"weight": torch.tensor([1]), "bias": torch.tensor([0])}
        >>> perturb_mixed({"weight": weight, "bias": bias}, chosen, epsilon=0.25, generator=torch.Generator())
        >>> weight, bias
        (tensor([0.0000, 0.2500]), tensor([0.7500]))
    """
    in_range("epsilon", epsilon, "(0, 1]")
    for name in selection:
        if name not in parameters:
            raise KeyError(f"selection names {name!r}, which is no parameter; select from the same model")
    count = sum(positions.numel() for positions in selection.values())
    if count < 2:
        raise ValueError(f"selection holds {count} scalar(s), but mixing needs at least two; select more")
    indices = {name: _index(f"selection[{name!r}]", selection[name], parameters[name]) for name in selection}
    parts = [_at_least_float32(parameters[name][index]) for name, index in indices.items()]
    device = parts[0].device
    values = torch.cat([part.to(device) for part in parts])
    order = torch.randperm(count, generator=generator, device=generator.device).to(device)
    partners = torch.empty_like(values)
    partners[order] = values[order.roll(1)]
    mixed = (1.0 - epsilon) * values + epsilon * partners
    for (name, index), part in zip(
        indices.items(), torch.split(mixed, [part.numel() for part in parts]), strict=True
    ):
        parameters[name][index] = part.to(parameters[name])


def _at_least_float32(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _require_count(name: str, count: int, most: int) -> None:
    in_range(name, count, f"[1, {most}]", f"; there are {most} to choose from", whole=True)


def _random_count(fraction: float, total: int) -> int:
    in_range("fraction", fraction, "(0, 1]", "; 5% is 0.05")
    count = round(fraction * total)
    if count == 0:
        raise ValueError(f"fraction={fraction} of {total} scalars chooses none; raise it to 1 / {total}")
    return count


def _sizes(shapes: Mapping[str, Sequence[int] | Tensor]) -> dict[str, int]:
    sizes = {n: s.numel() if isinstance(s, Tensor) else math.prod(s) for n, s in shapes.items()}
    if sum(sizes.values()) == 0:
        raise ValueError("there is no scalar to choose from; pass at least one non-empty parameter")
    return sizes


def _sample(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` of ``range(total)`` without replacement, ascending; all subsets are equally likely."""
    device = generator.device
    if 2 * count > total:
        keep = torch.ones(total, dtype=torch.bool, device=device)
        if count < total:
            keep[_sample(total, total - count, generator)] = False
        return keep.nonzero().squeeze(1)
    # The distinct values of independent draws, thinned to the count, favour no number over another, so every
    # subset is equally likely; a permutation of range(total) would cost eight bytes for every scalar of the
    # model.
    drawn = torch.empty(0, dtype=torch.int64, device=device)
    while drawn.numel() < count:
        more = torch.randint(total, (2 * (count - drawn.numel()),), generator=generator, device=device)
        drawn = torch.unique(torch.cat([drawn, more]))
    thinned = drawn[torch.randperm(drawn.numel(), generator=generator, device=device)[:count]]
    return thinned.sort().values


def _offsets(sizes: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    start = 0
    for name, size in sizes.items():
        yield name, start, start + size
        start += size


def _split(chosen: Tensor, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Turn ascending positions in all parameters laid end to end into positions in each."""
    spans = list(_offsets(sizes))
    ends = torch.searchsorted(
        chosen, torch.tensor([end for _, _, end in spans], device=chosen.device)
    ).tolist()
    begins = [0, *ends[:-1]]
    return {name: chosen[b:e] - start for (name, start, _), b, e in zip(spans, begins, ends, strict=True)}


def _join(selection: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """Turn positions in each parameter into positions in all of them laid end to end, on the CPU."""
    return torch.cat([selection[name].cpu() + start for name, start, _ in _offsets(sizes)])


def _index(name: str, positions: Tensor, parameter: Tensor) -> tuple[Tensor, ...]:
    """Index that reaches flat positions in any memory format; ``view(-1)`` would fail on channels_last."""
    if positions.ndim != 1 or positions.dtype != torch.int64:
        found = f"{positions.dtype} of shape {shapes(positions)}"
        raise ValueError(f"{name} must be a one-dimensional int64 tensor, got {found}")
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < parameter.numel():
        last = parameter.numel() - 1
        raise ValueError(
            f"{name} holds positions outside 0 to {last}, of a parameter of shape {shapes(parameter)}"
        )
    if torch.unique(positions).numel() != positions.numel():
        raise ValueError(f"{name} holds repeated positions; pass each at most once")
    if parameter.ndim == 0:
        # unravel_index has no index for a shape without dimensions; a boolean scalar selects its one value or
        # none.
        return (torch.tensor(positions.numel() == 1),)
    return torch.unravel_index(positions.to(parameter.device), parameter.shape)
