"""Copy, re-initialise, freeze and measure any module."""

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torchmetrics import Metric

from lightning_unlearn.core.compat import (
    COMPILED,
    RESET_METHODS,
    detach_copy,
    is_compiled,
    owners_of,
    unsaved_buffers,
)
from lightning_unlearn.core.files import model_hash
from lightning_unlearn.core.seeds import isolated_rng, restore_rng_state, rng_state

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

# How untrained models of an architecture are built, where a comparison or an evaluator was told.
FACTORIES: weakref.WeakKeyDictionary[nn.Module, Callable[[], nn.Module]] = weakref.WeakKeyDictionary()
# Whether networks answer alike in both layouts of their convolutions; copies share the list, empty until one was asked.
_ALIKE: weakref.WeakKeyDictionary[nn.Module, list[bool]] = weakref.WeakKeyDictionary()
# How many names an error message lists before it says "and ... more".
_NAMES_SHOWN = 5


def clone(module: M) -> M:
    """Copy a module so that it shares no tensor with the original, which stays as it was.

    The copy is detached from what the original was attached to: a LightningModule in it, nested ones too, has
    no Trainer and no Fabric. Parameters and buffers stay on their devices and keep their ``requires_grad``;
    no gradients are copied. Hooks are kept; one that closes over the original keeps referring to it.

    Args:
        module: Any module. Tensors computed in a forward pass and left as attributes are copied as constants.

    Returns:
        The copy, of the same class.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        if isinstance(part, L.LightningModule):
            # With None as "the copy" of the trainer, no path that leads to it is followed.
            memo.update({id(owner): None for owner in owners_of(part)})
        for value in (*vars(part).values(), *part.buffers(recurse=False)):
            # deepcopy refuses tensors with a history, such as the weight computed by the old weight_norm.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    # Under inference mode, as in Trainer.test, the copy's weights would be tensors that can never be trained.
    with torch.inference_mode(False):
        duplicate = copy.deepcopy(module, memo)
    for part in duplicate.modules():
        if isinstance(part, L.LightningModule):
            detach_copy(part)
        if isinstance(part, nn.RNNBase):
            # Copied one by one, the weights no longer lie side by side as cuDNN wants them.
            part.flatten_parameters()
    if module in FACTORIES:
        FACTORIES[duplicate] = FACTORIES[module]
    _ALIKE[duplicate] = _ALIKE.setdefault(module, [])
    return duplicate


def call_with(module: nn.Module, tensors: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Call a module with other tensors in place of its own; tied parameters follow each other.

    :func:`torch.func.functional_call` leaves other tensors in a part that is registered under two names.

    Args:
        module: Any module; it is left as it is.
        tensors: Parameters and buffers by name, each under one of its names or all; the others are the module's own.
        *args: Passed to the module.
        **kwargs: Likewise.
    """
    given = {id(own): tensors[name] for name, own in _own_tensors(module) if name in tensors}
    places = {
        f"{prefix}.{name}" if prefix else name: given[id(own)]
        for prefix, part in module.named_modules()  # each part once
        for name, own in _own_tensors(part, recurse=False)
        if id(own) in given
    }
    return torch.func.functional_call(module, places, args, kwargs, tie_weights=False)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers by name, each once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _own_tensors(module: nn.Module, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=recurse, remove_duplicate=False)
    yield from module.named_buffers(recurse=recurse, remove_duplicate=False)


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that :func:`torch.compile` wrapped, whose names are the user's, or the module as it is."""
    inner = getattr(module, COMPILED, None)
    return inner if isinstance(inner, nn.Module) else module


def class_state(module: nn.Module) -> dict[str, Any]:
    """Return a ``state_dict`` under the names that the module's class gives.

    They lack the ``_orig_mod`` of networks that were compiled after construction (in ``setup``, or from outside).
    """
    state = module.state_dict()
    prefixes = [
        f"{name}."
        for name, _ in module.named_modules(remove_duplicate=False)
        if name.endswith(COMPILED) and not _compiled_when_built(module, name)
    ]
    for prefix in sorted(prefixes, key=len, reverse=True):  # the inner ones first
        state = {
            prefix.removesuffix(f"{COMPILED}.") + name.removeprefix(prefix)
            if name.startswith(prefix)
            else name: v
            for name, v in state.items()
        }
    return dict(state)


def content_of(module: nn.Module) -> str:
    """Return a hash of a module's parameters and buffers, those too that its ``state_dict`` leaves out."""
    return model_hash(tensors_of(module))


def load_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a ``state_dict`` strictly, whether or not either side's networks are compiled.

    Raises:
        RuntimeError: If names or shapes differ.
    """
    module.load_state_dict(named_as_in(module, state))


def named_as_in(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``state_dict`` under a module's names, whether or not either side's networks are compiled."""
    own = {without_compiled(name): name for name in module.state_dict()}
    return {own.get(without_compiled(name), name): value for name, value in state.items()}


def without_compiled(name: str) -> str:
    """Return a tensor's name as it is where no network is compiled."""
    return name.replace(f"{COMPILED}.", "")


def _compiled_when_built(module: nn.Module, name: str) -> bool:
    """Tell whether a class that holds the compiled network ``name`` compiles while it is built."""
    parts = name.split(".")[:-2]
    owners = [module.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
    builders = [
        vars(kind).get(method)
        for owner in owners
        if not hasattr(owner, COMPILED)
        for kind in type(owner).__mro__
        for method in ("__init__", "configure_model")
    ]
    return any("compile" in code.co_names for b in builders if (code := getattr(b, "__code__", None)))


def frozen(module: M) -> M:
    """Return a :func:`clone` in eval mode none of whose parameters requires a gradient."""
    return clone(module).eval().requires_grad_(False)


def reinitialize(module: nn.Module) -> list[str]:
    """Give a module fresh weights in place, each part by its own scheme, so that nothing it learned is left.

    Every submodule is reset by its ``reset_parameters`` (or ``_reset_parameters``) and
    ``reset_running_stats``, the inner ones first, so that the scheme of a whole network (as
    :class:`torch.nn.Transformer` has it) has the last word over its layers' defaults. Parametrised tensors
    (:mod:`torch.nn.utils.parametrizations`) are set through the parametrisation. Metrics are reset. Parameter
    objects, their devices and ``requires_grad`` stay.

    All parameters and all floating-point buffers of the state dict are overwritten with NaN beforehand; what
    is still NaN afterwards was not reset. A parameter that no reset method sets is drawn from a normal distribution
    with the mean and spread that it had, to one digit; a buffer that none sets is taken for a constant (the mean and
    deviation of pixels, positions, the weights of classes) and stays. Both are named in the result. Buffers that are
    not saved (``persistent=False``) are constants by convention.

    Random numbers come from torch's global generators; seed them with :func:`torch.manual_seed`. This needs
    the memory of a second copy of the weights while it runs.

    Args:
        module: The module to re-initialise. On any error it is left exactly as it was.

    Returns:
        The names of the tensors that no reset method sets, but for the class weights of PyTorch's own losses.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.requires_grad_(False).weight.fill_(7.0)
        >>> reinitialize(layer)
        []
        >>> bool((layer.weight.abs() <= 1 / 2**0.5).all())
        True
    """
    parts = list(_inner_first(module))
    with torch.no_grad():
        backup = [
            (tensor, tensor.clone())
            for tensor in (*module.parameters(), *module.buffers())
            if not is_lazy(tensor)
        ]
        before = {id(tensor): original for tensor, original in backup}
        try:
            computed = {part: _computed_tensors(part) for _, part in parts}
            for _, tensor in _learned_tensors(parts):
                tensor.fill_(torch.nan)
            for _, part in parts:
                _reset(part, computed[part])
        except BaseException:
            for tensor, original in backup:
                tensor.copy_(original)
            raise
        left = [(name, tensor) for name, tensor in _learned_tensors(parts) if bool(tensor.isnan().any())]
        for name, tensor in left:
            if isinstance(tensor, nn.Parameter) or ".parametrizations." in f".{name}":
                _redraw(tensor, before[id(tensor)])
            else:
                tensor.copy_(before[id(tensor)])
    for _, part in parts:
        if isinstance(part, Metric):
            part.reset()
    losses = tuple(
        f"{name}." for name, part in parts if type(part).__module__ == nn.CrossEntropyLoss.__module__
    )
    return [name for name, _ in left if not name.startswith(losses or ("\n",))]


def _redraw(tensor: Tensor, before: Tensor) -> None:
    """Draw a tensor whose scheme is not known as what it was shows it: a spread, around 0 unless that is far away."""
    values = torch.view_as_real(before) if before.is_complex() else before
    mean = float(values.mean())
    spread = float(values.std()) if values.numel() > 1 else 0.0
    centre = 0.0 if abs(mean) < spread or before.is_complex() else _one_digit(mean)
    tensor.normal_(0.0, _one_digit(spread)).add_(centre)


def _one_digit(value: float) -> float:
    return float(f"{value:.0e}")


def _inner_first(
    part: nn.Module, name: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Yield every submodule once, under its full name, after all that it contains."""
    # a function within this one would hold the module until memory is cleaned
    seen = set() if seen is None else seen
    if part in seen:
        return
    seen.add(part)
    # What a metric contains (a feature extractor, say) belongs to the measurement, not to the model.
    if not isinstance(part, Metric):
        for child_name, child in part.named_children():
            yield from _inner_first(child, f"{name}.{child_name}" if name else child_name, seen)
    yield name, part


def _learned_tensors(parts: Sequence[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and saved buffers that can hold something learned, the floating-point ones."""
    seen: set[int] = set()
    for prefix, part in parts:
        if isinstance(part, Metric):
            continue
        own = dict(part.named_parameters(recurse=False))
        saved = {
            name: buffer
            for name, buffer in part.named_buffers(recurse=False)
            if name not in unsaved_buffers(part)
        }
        for name, tensor in {**own, **saved}.items():
            numeric = not is_lazy(tensor) and (tensor.is_floating_point() or tensor.is_complex())
            if numeric and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}" if prefix else name, tensor


def _computed_tensors(part: nn.Module) -> dict[str, Tensor]:
    """Return NaN tensors of the shapes of what a module's parametrisations compute."""
    if not parametrize.is_parametrized(part):
        return {}
    names = [name for name, _ in part.get_submodule("parametrizations").named_children()]
    return {name: torch.full_like(getattr(part, name), torch.nan) for name in names}


def _reset(part: nn.Module, computed: dict[str, Tensor]) -> None:
    if isinstance(part, Metric):
        return
    if computed:
        _reset_parametrized(part, computed)
        return
    for name in (*RESET_METHODS, "reset_running_stats"):
        method = getattr(part, name, None)
        if callable(method):
            method()


def _reset_parametrized(part: nn.Module, computed: dict[str, Tensor]) -> None:
    """Reset a module whose weights are computed from others, so that its own reset would set a temporary."""
    plain = clone(part)
    # Not parametrize.remove_parametrizations, which changes the class that the copy shares with the part.
    plain.__class__ = parametrize.type_before_parametrizations(part)
    del plain.parametrizations
    for name, tensor in computed.items():
        plain.register_parameter(name, nn.Parameter(tensor))
    _reset(plain, {})
    fresh = tensors_of(plain)
    for name, tensor in tensors_of(part).items():
        if name in fresh:
            tensor.copy_(fresh[name])
    for name in computed:
        # Without an inverse, what the weight is computed from stays NaN, and is reported.
        with suppress(NotImplementedError, RuntimeError):
            setattr(part, name, fresh[name].detach().clone())


def surviving_tensors(a: nn.Module, b: nn.Module) -> list[str]:
    """Name the learned tensors that are the same, bit for bit, in two modules.

    An empty list shows that no weight of one is left in the other. Compared are the parameters, frozen ones
    too, and the running statistics of normalisation layers, by their names; a name that only one module has,
    or with another shape or dtype, is no match. A tensor all of whose entries are equal tells nothing about
    where it came from (fresh biases are zero everywhere) and is passed over, single numbers included.

    Args:
        a: A module.
        b: Another module; it may lie on another device.

    Returns:
        The names, in the order in which ``a`` registered them.

    Example:
        >>> a, b = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> _ = b.load_state_dict({"weight": b.weight, "bias": a.bias})
        >>> surviving_tensors(a, b)
        ['bias']
    """
    others = dict(_weights_and_statistics(b))
    return [
        name
        for name, tensor in _weights_and_statistics(a)
        if name in others and not _is_constant(tensor) and _same_bits(tensor, others[name])
    ]


def _weights_and_statistics(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, part in module.named_modules(remove_duplicate=False):
        own: dict[str, Tensor] = dict(part.named_parameters(recurse=False))
        if hasattr(part, "reset_running_stats"):
            own.update(part.named_buffers(recurse=False))
        for name, tensor in own.items():
            if not is_lazy(tensor):
                yield f"{prefix}.{name}" if prefix else name, tensor.detach()


def _is_constant(tensor: Tensor) -> bool:
    return tensor.numel() < 2 or bool((tensor == tensor.flatten()[0]).all())


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    first, second = a.reshape(-1), b.to(a.device).reshape(-1)
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))


def last_parameter_tensors(module: nn.Module, k: int) -> list[str]:
    """Name the last ``k`` trainable parameter tensors of a module, in the order of registration.

    This is what "the last K layers" of EU-k and CF-k means in Zuo et al., "Machine unlearning through
    fine-grained model parameters perturbation", §IV-B: a weight and its bias count as two. Only this reading
    gives the counts of their table I, such as 6666 parameters for VGG and k = 5.

    Args:
        module: Any module; a tensor used twice counts once, a frozen one not at all.
        k: How many tensors, from 1 to as many as there are.

    Returns:
        The ``k`` names, first registered first.

    Raises:
        ValueError: If ``k`` is outside that range.

    Example:
        >>> last_parameter_tensors(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), 3)
        ['0.bias', '1.weight', '1.bias']
    """
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not 1 <= k <= len(names):
        raise ValueError(
            f"k must be from 1 to {len(names)}, the trainable parameter tensors of {type(module).__name__}, got {k}"
        )
    return names[-k:]


def convolution_kernels(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable kernels of a module's convolutions, by name.

    A kernel that is computed from other tensors (:mod:`torch.nn.utils.parametrizations`) is not among them.

    Example:
        >>> list(convolution_kernels(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))))
        ['0.weight']
    """
    parameters = {n: parameter for n, parameter in module.named_parameters() if parameter.requires_grad}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    names = [f"{name}.weight".lstrip(".") for name, part in module.named_modules() if isinstance(part, kinds)]
    return {name: parameters[name] for name in names if name in parameters}


def head_of(module: nn.Module, call: Callable[[], Any]) -> nn.Module:
    """Return the part that gives the logits: of those with parameters that hold no other such part, the last called.

    The order of registration is not asked, since auxiliary heads may come last there.

    Args:
        module: A model that is not compiled, or called where :func:`torch.compiler.set_stance` forces eager mode.
        call: Calls it once.

    Returns:
        The part; the module itself where it calls none.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.Softplus())
        >>> head_of(network, lambda: network(torch.zeros(1, 3))) is network[2]
        True
    """
    own = {
        part
        for part in module.modules()
        if not isinstance(part, parametrize.ParametrizationList)
        and (parametrize.is_parametrized(part) or next(part.parameters(recurse=False), None) is not None)
    }
    called: list[nn.Module] = []

    def note(part: nn.Module, *_: Any) -> None:
        called.append(part)

    innermost = [part for part in own if not own & {*part.modules()} - {part}]
    with ExitStack() as hooks:
        for part in innermost:
            hooks.enter_context(part.register_forward_hook(note))
        call()
    return called[-1] if called else module


def count_parameters(module: nn.Module, names: Sequence[str] | None = None) -> int:
    """Count a module's parameters (single numbers, not tensors).

    Args:
        module: Any module; a tensor used twice counts once.
        names: The tensors to count; all if ``None``.

    Raises:
        ValueError: If there is no parameter of a given name.

    Example:
        >>> count_parameters(nn.Linear(4, 3))
        15
        >>> count_parameters(nn.Linear(4, 3), ["bias"])
        3
    """
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    if names is None:
        return sum(sizes.values())
    unknown = [name for name in names if name not in sizes]
    if unknown:
        raise ValueError(f"names: {type(module).__name__} has no parameter {listed(unknown)}")
    return sum(sizes[name] for name in set(names))


def lay_out_for_cpu(module: nn.Module, few: Callable[[nn.Module], Tensor]) -> None:
    """Lay out two-dimensional convolutions as a CPU computes them fastest, where the network can do with it.

    That is ``channels_last``, a tenth to a third faster than as they come. A network that reads how its activations lie
    cannot (:func:`answers_alike`), and is left as it was; so is one of which gradients would be wrong.

    Args:
        module: The network, changed in place; on a CPU.
        few: Asks it about a few samples.
    """
    if unsafe_for_cpu(module) is None and answers_alike(module, few):
        for part in _convolutions(module):
            part.to(memory_format=torch.channels_last)


def answers_alike(module: nn.Module, few: Callable[[nn.Module], Tensor]) -> bool:
    """Tell whether a network answers alike, but for rounding, with its convolutions ``channels_last``; asked once.

    One that views its activations (``x.view(len(x), -1)``) fails then, and one that reads their strides or memory
    (:func:`torch.as_strided`, ``x.numpy()``) answers something else. What is found holds for its copies too.

    Args:
        module: The network, on a CPU; a copy of it in evaluation mode is asked, so that nothing is changed by it.
        few: Asks a network about a few samples.
    """
    found = _ALIKE.setdefault(module, [])
    if not found and any(w.device.type == "cpu" for part in _convolutions(module) for w in part.parameters()):
        try:
            found.append(_copy_answers_alike(module, few))
        except Exception:  # of any kind: a network's own, or that it cannot be copied
            found.append(False)
    return found == [True]


def _copy_answers_alike(module: nn.Module, few: Callable[[nn.Module], Tensor]) -> bool:
    with isolated_rng(), torch.inference_mode(False), torch.no_grad():
        copied, state = clone(module).eval(), rng_state()
        expected = few(copied)
        restore_rng_state(state)
        for weight in (w for part in _convolutions(copied) for w in part.parameters() if w.ndim == 4):
            weight.data = _channels_last(weight.data)
        torch.clear_autocast_cache()
        found = few(copied)
        torch.clear_autocast_cache()
    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()} | {expected.dtype}
    if torch.is_autocast_enabled("cpu"):
        kinds.add(torch.get_autocast_dtype("cpu"))
    rounding = max(torch.finfo(kind).eps for kind in kinds) ** 0.5
    scale = float(expected.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(found, expected, rtol=rounding, atol=rounding * scale, equal_nan=True)


def _convolutions(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]


def _channels_last(weight: Tensor) -> Tensor:
    # even where there is one channel, and a weight is contiguous in both layouts
    return weight.clone(memory_format=torch.channels_last)


@contextmanager
def answering_fast(
    module: nn.Module,
) -> Iterator[Callable[[Callable[[], T], Callable[[nn.Module], Tensor]], T]]:
    """Lay two-dimensional convolutions out as most CPUs answer faster inside a ``with`` block, without gradients.

    Answers are the same but for rounding (:func:`answers_alike`). After the block each weight has its own storage
    again; until then both are held, and what a forward pass does to a weight is lost. Not for several threads at once.

    Args:
        module: The network. What is not on a CPU, compiled, sharded or computed anew each time stays as it is.

    Yields:
        A function that calls another one, which asks the network, and is given one that asks any network about a few
        samples. If the first such call fails, it puts the weights back and calls it again.

    Example:
        >>> network, inputs = nn.Conv2d(2, 4, 3), torch.zeros(1, 2, 5, 5)
        >>> with answering_fast(network) as answer:
        ...     answer(lambda: network(inputs), lambda other: other(inputs)).shape, network.weight.is_contiguous()
        (torch.Size([1, 4, 3, 3]), False)
        >>> network.weight.is_contiguous()
        True
    """
    weights, own = _weights_to_lay_out(module), list[tuple[Tensor, Tensor]]()
    started = fallible = False

    def put_back() -> None:
        with torch.inference_mode(False):
            if own:  # autocast keeps copies, which lie as the weights did
                torch.clear_autocast_cache()
            while own:
                weight, data = own.pop()
                weight.data = data

    def answer(call: Callable[[], T], few: Callable[[nn.Module], Tensor]) -> T:
        nonlocal started, fallible
        if not started and weights and answers_alike(module, few):
            fallible = True
            with torch.inference_mode(False):
                for weight in weights:
                    own.append((weight, weight.data))
                    weight.data = _channels_last(weight.data)
            torch.clear_autocast_cache()
        started = True
        try:
            result = call()
        except Exception:  # of any kind: a network's own; a second failure is let out
            if not fallible:
                raise
            put_back()
        else:
            fallible = False
            return result
        fallible = False
        return call()

    try:
        yield answer
    finally:
        put_back()


def _weights_to_lay_out(module: nn.Module) -> list[nn.Parameter]:
    weights = {dict(part.named_parameters(recurse=False)).get("weight") for part in _convolutions(module)}
    plain = [w for w in weights if type(w) is nn.Parameter and w.device.type == "cpu" and w.ndim == 4]
    return [] if is_compiled(module) else [w for w in plain if not w.is_inference()]


def unsafe_for_cpu(module: nn.Module) -> str | None:
    """Return the name of a layer of which a CPU computes wrong gradients channels last; ``None`` if there is none.

    The gradient of the weight of a convolution with a kernel of 1, a stride and fewer than 16 input channels (output
    channels, if it is transposed) is written beyond the memory that is kept for it, in oneDNN 3.12, which torch 2.14
    has: https://github.com/uxlfoundation/oneDNN/issues/6035.

    Args:
        module: Any module.

    Example:
        >>> unsafe_for_cpu(nn.Sequential(nn.Conv2d(16, 32, 1, stride=2), nn.Conv2d(8, 16, 1, stride=2)))
        '1'
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            channels = layer.out_channels if transposed else layer.in_channels
            strided = max(layer.kernel_size) == 1 and max(layer.stride) > 1
            if strided and layer.groups == 1 and channels < 16:
                return str(name)
    return None


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into eval mode inside a ``with`` block, and each submodule back into its own mode after it.

    Args:
        *modules: The modules. The modes are restored after an exception as well.

    Example:
        >>> network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with evaluating(network):
        ...     [part.training for part in network]
        [False, False]
        >>> [part.training for part in network]
        [True, False]
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
