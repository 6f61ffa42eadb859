"""Our variants: the step as training takes it, in float32 for reference, and fed by the loader."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from contramask.bench.images import SamplePhotos
from contramask.bench.sizes import BenchConfig
from contramask.bench.variant import FixedBatches, Trainee, Variant, compiled
from contramask.data.loader import ImageLoader
from contramask.data.views import ViewConfig, ViewMaker
from contramask.methods import build_method, encoder_for
from contramask.methods.base import Batch, Method
from contramask.train.device import Machine, prepare
from contramask.train.flops import count_flops
from contramask.train.loop import train_step
from contramask.train.optim import adamw, decay_groups

#: Of the packaged photographs; any will do, as long as views are normalised.
MEAN, STD = [0.45, 0.42, 0.38], [0.26, 0.25, 0.26]
#: Moves the weights within the few steps of the loss check, without the chaos of a large one.
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05
#: The setting in which people train; what peers are compared with.
OURS = "as we train"
#: The setting of a training that is long enough for torch.compile to pay.
COMPILED = "compiled"
#: Where FLOPs are counted: a processor with explicit attention.
COUNTING = Machine(torch.device("cpu"), "bf16")
_BATCHES = 2  # fixed batches that a timed step goes round


def make_loader(config: BenchConfig, machine: Machine, batches: int) -> ImageLoader:
    """Our loader over sample photographs that give `batches` batches an epoch."""
    size = (config.image_size, config.image_size)
    views = ViewMaker(ViewConfig(), config.method_config().view_mode, size, MEAN, STD)
    photos = SamplePhotos(config.batch_size * batches, config.image_size)
    return ImageLoader(photos, views, config.batch_size, 0, machine.device)


def fixed_batches(config: BenchConfig, machine: Machine) -> list[Batch]:
    """The batches every variant is timed on."""
    return list(make_loader(config, machine, _BATCHES).epoch(0))


def our_variants(config: BenchConfig, machine: Machine, batches: list[Batch]) -> list[Variant]:
    """Float32 (the reference of the loss check), as we train, compiled, and fed by our loader."""
    flops = flops_per_image(our_method(config, COUNTING), batches[0])

    def variant(setting: str, start: Callable[[], Trainee], reference: str | None) -> Variant:
        return Variant("ours", setting, start, flops, reference)

    exact = Machine(machine.device, "fp32")
    plain = variant("fp32", partial(_start_fixed, config, exact, batches), None)
    start = partial(_start_fixed, config, machine, batches)
    found = [plain, variant(OURS, start, plain.name)]
    if config.compile:
        found.append(variant(COMPILED, lambda: compiled(start()), plain.name))
    return [*found, variant("fed by its loader", partial(_Fed, config, machine), None)]


def our_method(config: BenchConfig, machine: Machine) -> Method:
    """The method with fresh weights, always the same, prepared for the machine."""
    torch.manual_seed(0)
    chosen = config.method_config()
    encoder = encoder_for(chosen, config.encoder, (config.image_size, config.image_size), 3)
    method = build_method(chosen, encoder)
    names = [str(label) for label in range(10)]
    method.attach({"classes": names, "mean": MEAN, "std": STD, "data_hash": ""}, None)
    prepare(method, machine).train()
    return method


def flops_per_image(method: torch.nn.Module, batch: Batch) -> float:
    """Matmul FLOPs an image, forward and backward, of a method on the processor."""
    few = {name: v[:2].cpu() if isinstance(v, Tensor) else v for name, v in batch.items()}
    return count_flops(lambda: method(few).loss.backward()) / 2


def _start_fixed(config: BenchConfig, machine: Machine, batches: list[Batch]) -> FixedBatches:
    method = our_method(config, machine)
    return FixedBatches(method, _optimizer(method), machine, batches)


def _optimizer(method: Method) -> torch.optim.Optimizer:
    groups = decay_groups(method, WEIGHT_DECAY, "one_dim")
    return adamw(groups, LEARNING_RATE)


class _Fed:
    """A trainee that reads images, makes views and trains, as a real run does."""

    def __init__(self, config: BenchConfig, machine: Machine) -> None:
        self.machine, self.waited = machine, 0.0
        self.method = our_method(config, machine)
        self.optimizer = _optimizer(self.method)
        self.batches = _without_end(make_loader(config, machine, 8))

    def step(self) -> Tensor:
        """Wait for the next batch, then train on it."""
        before = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - before
        return train_step(self.method, batch, self.optimizer, self.machine, 0.5).loss.detach()


def _without_end(loader: ImageLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1
