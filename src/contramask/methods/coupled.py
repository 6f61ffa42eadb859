"""Methods whose loss couples the images of a batch: by negatives, or by batch norms.

Such a loss has a part in which every image stands alone and one in which all of them meet:

    L(batch) = own_loss(reading) + joint_loss(features(reading), targets(reading))

A reading is what the online branch makes of images, each for itself; features are the few numbers
of it (with gradient) and targets those of the momentum branch (without) that meet. Said this way,
a batch that does not fit into the memory can pass through the network in parts and still have all
of its negatives: `train.backward`.
"""

from abc import abstractmethod
from typing import Generic, TypeVar

from torch import Tensor

from contramask.methods.base import Batch, Method, StepOutput

Reading = TypeVar("Reading")
Tensors = tuple[Tensor, ...]


class CoupledMethod(Method, Generic[Reading]):
    """A method that says where its images meet; `forward` follows from that.

    Nothing before `joint_loss` may depend on which other images are read along: batch norms
    belong behind it. All tensors of `features` and `targets` have the images first.
    """

    @property
    def is_coupled(self) -> bool:
        """Whether images meet at all, as the method is configured."""
        return True

    @abstractmethod
    def read(self, batch: Batch) -> Reading:
        """What the online branch makes of a batch, each image for itself."""

    def own_loss(self, reading: Reading) -> StepOutput | None:
        """The part of the loss that is the mean of every image's own, if there is one."""
        return None

    @abstractmethod
    def features(self, reading: Reading) -> Tensors:
        """What of a reading meets other images', (B, ...) each, with gradient."""

    @abstractmethod
    def targets(self, reading: Reading) -> Tensors:
        """What the features are compared with, (B, ...) each, without gradient."""

    @abstractmethod
    def joint_loss(self, features: Tensors, targets: Tensors) -> StepOutput:
        """The part of the loss in which images meet; asked for once a step, with all of them."""

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss, with the terms of both parts."""
        reading = self.read(batch)
        own = self.own_loss(reading)
        if not self.is_coupled and own is not None:
            return own
        return total(own, self.joint_loss(self.features(reading), self.targets(reading)))


def total(own: StepOutput | None, joint: StepOutput) -> StepOutput:
    """Both parts of a loss added up."""
    if own is None:
        return joint
    return StepOutput(own.loss + joint.loss, {**own.terms, **joint.terms})
