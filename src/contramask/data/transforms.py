"""The user's own albumentations, in place of the built-in crops and colours.

Class and argument names are checked when the configuration is read. albumentations itself warns of
a misspelt argument and goes on without it, and gives every serialised transform that does not say
otherwise a probability of one half; both would change an experiment unseen.
"""

import inspect
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from contramask.typed import STRICT

Step = dict[str, Any]
_NAME_KEYS = ("name", "__class_fullname__")
_CV2_PREFIXES = ("INTER_", "BORDER_")


def _as_steps(value: Any) -> Any:
    """A list of transforms from any form albumentations' users have: a list, or `to_dict`'s."""
    if isinstance(value, Mapping) and "transform" in value:
        value = value["transform"]
    return [value] if isinstance(value, Mapping) else value


Steps = Annotated[tuple[Step, ...], BeforeValidator(_as_steps)]


@dataclass(frozen=True, config=STRICT)
class TransformsConfig:
    """The user's albumentations transforms; they replace the built-in crop, flip, shift and colour.

    Each list holds transforms by class name with their arguments, applied in this order:
    `- {name: RandomResizedCrop, size: [64, 64], scale: [0.2, 1.0], interpolation: INTER_AREA}`.
    Groups (`OneOf`, `SomeOf`, ...) hold such a list under `transforms`. In place of a list, what
    `albumentations.to_dict` (or `save` to YAML) gives is understood, too. What is not written has
    the class's default, and constants of OpenCV may be named.

    Under `shared` stands what is drawn once an image, under `view` what is drawn anew for each
    view, and `target_view` replaces `view` for the second view of methods that compare two.
    A plain list in place of these three is `view`. The outcome must be uint8 and of the view's
    size; leave `Normalize` and `ToTensorV2` out, the device normalises.
    """

    shared: Steps = ()
    view: Steps = ()
    target_view: Steps | None = None

    @model_validator(mode="after")
    def _exists(self) -> "TransformsConfig":
        for name, steps in self.lists().items():
            for number, step in enumerate(steps):
                make_transform(step, f"{name}[{number}]")
        if not (self.shared or self.view):
            raise ValueError("no transform is given; list some, or leave `transforms` out")
        return self

    def lists(self) -> dict[str, tuple[Step, ...]]:
        """The three lists by name; `target_view` is `view` unless it was given."""
        target = self.view if self.target_view is None else self.target_view
        return {"shared": self.shared, "view": self.view, "target_view": target}


def as_transforms(value: Any) -> Any:
    """What may stand under `transforms`: the three lists, or the one that is `view`."""
    is_one = isinstance(value, Sequence) and not isinstance(value, str)
    is_dict = isinstance(value, Mapping) and {"transform", *_NAME_KEYS} & set(value)
    return {"view": value} if is_one or is_dict else value


OwnTransforms = Annotated[TransformsConfig | None, BeforeValidator(as_transforms)]


def albumentations() -> Any:
    """The package; importing it without this asks a server for a newer version."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as package

    return package


def make_transform(step: Mapping[str, Any], where: str) -> Any:
    """One albumentations transform or group from its name and arguments.

    Raises `ValueError` that says where and what: an unknown class or argument with the nearest
    known one, a value that the class refuses.
    """
    given = dict(step)
    named = [given.pop(key) for key in _NAME_KEYS if key in given]
    if len(named) != 1:
        raise ValueError(f"{where}: give the transform's class as `name`; found {sorted(given)}")
    name = str(named[0]).rsplit(".", maxsplit=1)[-1]
    kind = _kinds().get(name)
    if kind is None:
        raise ValueError(f"{where}: albumentations has no {name}{_nearest(name, _kinds())}")
    known = inspect.signature(kind).parameters
    for key in given:
        if key not in known:
            hint = _nearest(key, known)
            raise ValueError(f"{where}: {name} has no {key}{hint}; it has {', '.join(known)}")
    if "transforms" in given:
        inner = f"{where}.{name}.transforms"
        steps = enumerate(_as_steps(given["transforms"]))
        given["transforms"] = [make_transform(part, f"{inner}[{i}]") for i, part in steps]
    return _made(kind, {key: _constant(value) for key, value in given.items()}, where)


def leaves(transform: Any) -> Iterator[Any]:
    """All transforms of a group, groups left out."""
    if not isinstance(transform, albumentations().BaseCompose):
        yield transform
        return
    for part in transform.transforms:
        yield from leaves(part)


def _made(kind: type, arguments: Mapping[str, Any], where: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what is only warned of falls to defaults
        try:
            return kind(**arguments)
        except (ValueError, TypeError, UserWarning) as error:
            text = _reasons(error)
            raise ValueError(f"{where}: {kind.__name__} refuses its arguments: {text}") from error


def _reasons(error: Exception) -> str:
    if not isinstance(error.__cause__, ValidationError):
        return " ".join(str(error).split())
    found = error.__cause__.errors(include_url=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)


@cache
def _kinds() -> dict[str, type]:
    package = albumentations()
    bases = (package.BasicTransform, package.BaseCompose)
    found = vars(package).items()
    return {n: k for n, k in found if inspect.isclass(k) and issubclass(k, bases)}


def _constant(value: Any) -> Any:
    """OpenCV's number for one of its names, anything else as it is."""
    if not (isinstance(value, str) and value.startswith(_CV2_PREFIXES)):
        return value
    import cv2

    known = [name for name in dir(cv2) if name.startswith(_CV2_PREFIXES)]
    if value not in known:
        raise ValueError(f"OpenCV has no {value}{_nearest(value, known)}")
    return getattr(cv2, value)


def _nearest(given: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""
