"""Encoders' labels (`results.encoder_label`): as short as they may be where tables show them."""

from collections.abc import Iterable


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Label -> the parts of it that tell it from the other labels; empty where it is the only one.

    Sizes go before heads, MLP and pixels, which are shown only where the sizes do not suffice.
    """
    parts = {label: label.split(", ") for label in sorted(set(labels))}
    chosen: list[int] = []
    shown = dict.fromkeys(parts, "")
    for place in range(max(map(len, parts.values()), default=0)):
        more = [*chosen, place]
        words = {name: ", ".join(p[i] for i in more if i < len(p)) for name, p in parts.items()}
        if len(set(words.values())) > len(set(shown.values())):
            chosen, shown = more, words
    several = len(parts) > 1
    return {name: word or (name if several else "") for name, word in shown.items()}


def completed(labels: Iterable[str]) -> dict[str, str]:
    """Label -> the label that says more of the same encoder, if exactly one can be meant.

    Results of earlier versions name width, depth and patch size alone.
    """
    parts = {label: set(label.split(", ")) for label in labels}
    found = {}
    for label, own in parts.items():
        fuller = [other for other, those in parts.items() if own < those]
        found[label] = fuller[0] if len(fuller) == 1 else label
    return found
