"""The gradients of a batch: in one pass, or in parts where it does not fit into the memory."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from contramask.methods.base import Batch, StepOutput, equal_parts
from contramask.methods.coupled import CoupledMethod, Tensors, total
from contramask.train.device import Machine
from contramask.train.world import average_gradients, bare, unsynced

#: Takes a model, the parts of a batch and a machine; leaves gradients behind.
Backward = Callable[[nn.Module, list[Batch], Machine], StepOutput]


def backward(model: nn.Module, batch: Batch, machine: Machine, parts: int) -> StepOutput:
    """Leave a batch's gradients behind and return its loss; `parts` pass one after the other.

    The same gradients up to rounding, whatever `parts` is; only drop path and dropout draw others.
    """
    cut = [batch] if parts == 1 else getattr(bare(model), "cut", equal_parts)(batch, parts)
    return backward_of(model, parts)(model, cut, machine)


def reads_twice(model: nn.Module, parts: int) -> bool:
    """Whether so many parts of a batch go through the online branch twice each."""
    method = bare(model)
    return parts > 1 and isinstance(method, CoupledMethod) and method.is_coupled


def backward_of(model: nn.Module, parts: int) -> Backward:
    """How a batch that is cut into so many parts gets its gradients."""
    run = cached_backward if reads_twice(model, parts) else summed_backward

    def on_the_machine(model: nn.Module, parts: list[Batch], machine: Machine) -> StepOutput:
        with machine.attention():
            return run(model, parts, machine)

    return on_the_machine


def summed_backward(model: nn.Module, parts: list[Batch], machine: Machine) -> StepOutput:
    """The gradients of a loss that is the mean of its parts' losses; those are added up."""
    outputs: list[StepOutput] = []
    for number, part in enumerate(parts):
        with unsynced(model) if number < len(parts) - 1 else nullcontext():
            with machine.autocast():
                output: StepOutput = model(part)
            (output.loss / len(parts)).backward()  # type: ignore[no-untyped-call]
        outputs.append(output)
    return outputs[0] if len(parts) == 1 else _mean(outputs)


def cached_backward(model: nn.Module, parts: list[Batch], machine: Machine) -> StepOutput:
    """The gradients of a loss in which all images of a batch meet; `bare(model)` is coupled.

    GradCache (Gao et al., 2101.06983): every part is read without keeping anything for a backward
    pass; where images meet, all of their features are there, and the loss's gradient for them is
    taken and kept; then every part is read once more, and that gradient is sent on through the
    network together with that of the images' own losses. A part's two readings draw alike.
    """
    method: CoupledMethod[Any] = bare(model)  # type: ignore[assignment]
    seeds: list[int] = torch.randint(2**62, (len(parts),)).tolist()
    columns: list[tuple[Tensors, Tensors]] = []
    for part, seed in zip(parts, seeds, strict=True):
        torch.manual_seed(seed)
        with torch.no_grad(), machine.autocast():
            reading = method.read(part)
            columns.append((method.features(reading), method.targets(reading)))
    features, targets = (_joined(side) for side in zip(*columns, strict=True))
    joint, gradients = _meet(method, features, targets, machine)
    sizes = [len(one[0]) for one, _ in columns]
    sent = list(zip(*(torch.split(gradient, sizes) for gradient in gradients), strict=True))
    owns: list[StepOutput] = []
    for number, part in enumerate(parts):
        torch.manual_seed(seeds[number])
        with machine.autocast():
            reading = method.read(part)
            ends = method.features(reading)
            own = method.own_loss(reading)
        if own is None:
            torch.autograd.backward(ends, sent[number])
        else:
            owns.append(StepOutput(own.loss.detach(), own.terms))
            torch.autograd.backward([own.loss / len(parts), *ends], [None, *sent[number]])
    average_gradients(model)
    return total(_mean(owns) if owns else None, joint)


def _meet(
    method: CoupledMethod[Any], features: Tensors, targets: Tensors, machine: Machine
) -> tuple[StepOutput, list[Tensor]]:
    """The joint loss and its gradients for the features; those for parameters are left behind."""
    for feature in features:
        feature.requires_grad_()
    with machine.autocast():
        joint = method.joint_loss(features, targets)
    joint.loss.backward()  # type: ignore[no-untyped-call]
    return joint, [feature.grad for feature in features if feature.grad is not None]


def _mean(outputs: list[StepOutput]) -> StepOutput:
    loss = torch.stack([each.loss.detach() for each in outputs]).mean()
    names = outputs[0].terms
    terms = {name: torch.stack([each.terms[name] for each in outputs]).mean() for name in names}
    return StepOutput(loss, terms)


def _joined(parts: tuple[Tensors, ...]) -> Tensors:
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
