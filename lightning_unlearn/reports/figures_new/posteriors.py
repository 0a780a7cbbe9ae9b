@register(
    FIGURES,
    "posteriors.png",
    "Posteriors",
    "Histograms of the posterior of the true class on the forget set, the retain set and samples never "
    "trained on, one panel a model.",
)
def _posteriors(report: Report, details: Details) -> Figure | None:
    pooled: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for name in ordered_models(report):
        by_set: dict[str, list[npt.NDArray[np.float64]]] = {}
        for run in details.get(name, {}).values():
            for set_name, values in run.get("posteriors", {}).items():
                by_set.setdefault(set_name, []).append(np.asarray(values, dtype=np.float64))
        if by_set:
            pooled[name] = {set_name: np.concatenate(parts) for set_name, parts in by_set.items()}
    return posterior_histograms(pooled) if pooled else None


def posterior_histograms(
    posteriors: Mapping[str, Mapping[str, npt.ArrayLike]],
    *,
    bins: int = 25,
    xlabel: str = "Posterior of the true class",
) -> Figure:
    """Draw how sure models are of samples, one panel a model and one outline a set of samples.

    Before unlearning, D_f looks like D_r; after it, D_f should look as it does for the retrained model.

    Args:
        posteriors: Model name to set name ("forget set", "retain set", ...) to values in [0, 1], shape (n,).
        bins: Bars between 0 and 1, at least 2.
        xlabel: What the values are.

    Returns:
        A figure outside pyplot; save it with its ``savefig``. Each outline shows shares that sum to 100 %, so
        sets of different sizes can be compared.

    Raises:
        ValueError: No model, a model without sets, a set without values, values outside [0, 1] or not of
            shape (n,), ``bins`` below 2, or more sets than there are colours (6).
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    if not posteriors:
        raise ValueError("posteriors must hold at least one model")
    arrays: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for model, by_set in posteriors.items():
        if not by_set:
            raise ValueError(f"posteriors[{model!r}] must hold at least one set of samples")
        arrays[model] = {}
        for set_name, values in by_set.items():
            array = np.asarray(values, dtype=np.float64)
            # The comparison is written so that a NaN fails it.
            if array.ndim != 1 or array.size == 0 or not ((array >= 0) & (array <= 1)).all():
                raise ValueError(
                    f"posteriors[{model!r}][{set_name!r}] must be of shape (n,) with n > 0 and lie in "
                    f"[0, 1], got the shape {array.shape}"
                )
            arrays[model][set_name] = array
    sets = list(dict.fromkeys(set_name for by_set in arrays.values() for set_name in by_set))
    if len(sets) > len(METHOD_COLOURS):
        raise ValueError(
            f"posteriors holds {len(sets)} different sets, at most {len(METHOD_COLOURS)} can be told apart"
        )
    columns = min(3, len(arrays))
    rows = -(-len(arrays) // columns)
    figure = new_figure(1.0 + 3.3 * columns, 0.9 + 2.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    edges = np.linspace(0.0, 1.0, bins + 1)
    handles: dict[str, Any] = {}
    for index, axes in enumerate(grid.flat):
        if index >= len(arrays):
            axes.set_axis_off()
            continue
        model = list(arrays)[index]
        for set_name, array in arrays[model].items():
            place = sets.index(set_name)
            shares = 100.0 * np.histogram(array, edges)[0] / array.size
            handles[set_name] = axes.stairs(
                shares,
                edges,
                color=METHOD_COLOURS[place],
                linestyle=DASHES[place % len(DASHES)],
                linewidth=1.8,
                label=set_name,
                baseline=None,
            )
        axes.set_title(model_label(model))
        axes.grid(**GRID)
        # Few and short ticks: the last of one panel stands beside the first of the next.
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
        if index + columns >= len(arrays):
            axes.tick_params(labelbottom=True)
    grid[0, 0].set_ylim(bottom=0)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel("Share of the set [%]", fontsize=10)
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False, handlelength=3.0
    )
    return figure
