"""Retrieval by similarity: is what is most alike of the same class?"""

import torch
from torch import Tensor

from contramask.transfer.classifiers import Neighbours, nearest

_RECALLS = (1, 5, 10)
_LIMIT = 100


def retrieve(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    own: Tensor | None = None,
    at_least: int = 1,
) -> Neighbours:
    """As many nearest features of each query as `retrieval_scores` looks at, or `at_least`.

    `own` (M,) says where in the gallery the queries themselves lie, which never find themselves.
    """
    most = int(torch.bincount(gallery_labels).max())
    return nearest(gallery, queries, max(most, _LIMIT, at_least), own)


def retrieval_scores(
    found: Neighbours, gallery_labels: Tensor, labels: Tensor, own: Tensor | None = None
) -> dict[str, float]:
    """Recall and average precision in percent, class by class: relevant is what shares the label.

    recall_at_k: queries with a relevant image among the first k. map_at_r: mean over the first R of
    precision where relevant, R being the number of relevant images (Musgrave et al., 2003.08505).
    map_at_100: the same over the first 100, divided by R or 100, whichever is less. Queries for
    which the gallery has nothing relevant are left out; without any other all are 0.
    """
    relevant = torch.bincount(gallery_labels, minlength=int(labels.max()) + 1)[labels]
    if own is not None:
        relevant = relevant - 1
    asked = relevant > 0
    if not asked.any():
        return dict.fromkeys([*(f"recall_at_{k}" for k in _RECALLS), "map_at_r", "map_at_100"], 0.0)
    hits = gallery_labels[found.rows[asked]] == labels[asked, None]  # (Q, k)
    relevant = relevant[asked]
    scores = {f"recall_at_{k}": hits[:, :k].any(dim=1).float().mean() for k in _RECALLS}
    rank = torch.arange(1, hits.shape[1] + 1)
    precision = hits * hits.cumsum(dim=1) / rank
    limit = relevant.clamp_max(_LIMIT)
    scores["map_at_r"] = ((precision * (rank <= relevant[:, None])).sum(dim=1) / relevant).mean()
    scores["map_at_100"] = (precision[:, :_LIMIT].sum(dim=1) / limit).mean()
    return {name: 100 * float(value) for name, value in scores.items()}
