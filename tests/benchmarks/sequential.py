"""Ten requests one after another, each from the exported model of the one before, against retraining after each.

``OMP_NUM_THREADS=1 python tests/benchmarks/sequential.py FILE`` writes what ``docs/benchmark.md`` shows. 140 of 1,438
digits (10%) carry a wrong label that the source knows by heart; each request forgets 14 of them (1%). What is forgotten
already is in no stream; the wrong labels that are not asked for yet are still trained on, by the retraining too.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_unlearn import Classifier, FineTune, NegGradPlus, UnlearningDataModule, UnlearningModule
from lightning_unlearn.data import Digits, TensorData
from lightning_unlearn.methods import Retrain, Rewind, ShrinkPerturb
from lightning_unlearn.models import MLP
from lightning_unlearn.reports.schema import versions

REQUESTS, WRONG, EPOCHS = 10, 14, 60
METHODS: dict[str, tuple[Callable[[nn.Module, Path], UnlearningModule], dict[str, int]]] = {
    "rewind": (lambda source, kept: Rewind(source, kept, ascent=0.8, ascent_share=0.5), {"max_epochs": 3}),
    "shrink_perturb": (
        lambda source, _: ShrinkPerturb(source, 0.6, 0.2, ascent=0.4, ascent_share=0.4),
        {"max_steps": 75},
    ),
    "rewind_12_passes": (
        lambda source, kept: Rewind(source, kept, ascent=0.8, ascent_share=0.5),
        {"max_epochs": 12},
    ),
    "shrink_perturb_12_passes": (
        lambda source, _: ShrinkPerturb(source, 0.6, 0.2, ascent=0.4, ascent_share=0.4),
        {"max_epochs": 12},
    ),
    "neg_grad_plus": (lambda source, _: NegGradPlus(source, 0.5, ascent_share=0.7), {"max_epochs": 4}),
    "fine_tune": (lambda source, _: FineTune(source), {"max_epochs": 4}),
}
"""Each method with how long it trains: the settings of ``configs/benchmark/mislabelled.yaml``, and twelve passes."""


def network() -> Classifier:
    return Classifier(MLP(64, (256, 128), 10), optimizer=lambda p: torch.optim.Adam(p, lr=2e-3))


def trainer(length: dict[str, int], *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        **length,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )


def mislabelled(seed: int) -> tuple[TensorData, TensorData, Tensor]:
    """Return the digits, some with a wrong label, those for testing, and who is wrong, a row a request."""
    data, test = Digits().load()
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(data.targets), generator=generator)[: REQUESTS * WRONG]
    targets = data.targets.clone()
    targets[wrong] = (targets[wrong] + torch.randint(1, 10, (len(wrong),), generator=generator)) % 10
    return (
        TensorData(data.inputs, targets, num_classes=10, transform=data.transform),
        test,
        wrong.reshape(-1, WRONG),
    )


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorData, positions: Tensor) -> float:
    inputs, targets = data.batch(positions)
    return float((model.eval()(data.transform(inputs)).argmax(1) == targets).float().mean())


def chain(seed: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Return what each model of one seed is like after each request."""
    data, test, wrong = mislabelled(seed)
    everybody, found = torch.arange(len(test.targets)), dict[str, list[dict[str, float]]]()
    splits: list[Path] = []

    def split(request: int) -> UnlearningDataModule:
        return UnlearningDataModule(
            data, wrong[request].tolist(), test_dataset=test, batch_size=64, seed=seed,
            previous=splits[:request], split_path=splits[request],
        )  # fmt: skip

    splits += [folder / f"request_{request}.npz" for request in range(REQUESTS)]
    L.seed_everything(seed, verbose=False)
    source = network()
    keeper = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=2, save_weights_only=True)
    trainer({"max_epochs": EPOCHS}, keeper).fit(source, split(0))
    runs = {"retrain": (lambda source, _: Retrain(source), {"max_epochs": EPOCHS}), **METHODS}
    for name, (build, length) in runs.items():
        model: nn.Module = source
        for request in range(REQUESTS):
            L.seed_everything(100 * seed + request, verbose=False)
            method = build(model, folder)
            trainer(length).fit(method, split(request))
            exported = method.export(folder / "model.pt", weights_only=True)
            model = network()
            model.load_state_dict(torch.load(exported, weights_only=True))
            found.setdefault(name, []).append(
                {
                    "test": accuracy(model, test, everybody),
                    "newest": accuracy(model, data, wrong[request]),
                    "earlier": accuracy(model, data, wrong[:request].flatten()) if request else 0.0,
                    "cpu_s": method.times["time/cpu_s"],
                }
            )
            print(seed, name, request, found[name][-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22])
    given = parser.parse_args()
    torch.set_num_threads(1)
    start, seeds = time.perf_counter(), list[Any]()
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            seeds.append(chain(seed, Path(folder)))
    models = {name: [chains[name] for chains in seeds] for name in seeds[0]}
    content = {"seeds": given.seeds, "versions": versions(), "models": models}
    rounded = json.loads(json.dumps(content), parse_float=lambda number: float(f"{float(number):.6g}"))
    given.file.write_text(json.dumps(rounded, indent=0, sort_keys=True) + "\n")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
