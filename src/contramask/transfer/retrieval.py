"""Retrieval by similarity: is what is most alike of the same class?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from contramask.transfer.classifiers import Neighbours, nearest

#: Names of all scores, in the order of their columns.
METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "map_at_r", "map_at_100")
_RECALLS = (1, 5, 10)
_LIMIT = 100
_CHUNK = 256  # queries whose rankings are held at once; each may be as long as the gallery


@dataclass(frozen=True)
class Retrieved:
    """Scores of all queries in percent, and the nearest of each query."""

    scores: dict[str, float]
    nearest: Neighbours


def retrieve(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    own: Tensor | None = None,
    keep: int = 1,
) -> Retrieved:
    """Recall and average precision over classes; relevant is what has the query's label.

    recall_at_k: queries with a relevant image among the first k. map_at_r: mean over the first R of
    precision where relevant, R being the number of relevant images (Musgrave et al., 2003.08505).
    map_at_100: the same over the first 100, divided by R or 100, whichever is less. Queries for
    which the gallery has nothing relevant are left out; without any other all are 0. `own` (M,)
    says where in the gallery the queries themselves lie: none is in its own gallery. The first
    `keep` of each ranking are returned as well.
    """
    counts = torch.bincount(gallery_labels, minlength=int(labels.max()) + 1)
    relevant = counts[labels] - (0 if own is None else 1)  # (M,)
    depth = max(int(relevant.max()), _LIMIT, keep)
    scores, kept = [], []
    for rows in torch.split(torch.arange(len(queries)), _CHUNK):
        chunk_own = None if own is None else own[rows]
        found = nearest(gallery, queries[rows], depth, chunk_own)
        kept.append((found.similarity[:, :keep], found.rows[:, :keep]))
        asked = rows[relevant[rows] > 0]
        hits = gallery_labels[found.rows] == labels[rows, None]  # (B, depth)
        scores.append(_scores(hits[relevant[rows] > 0], relevant[asked]))
    table = torch.cat(scores)  # (queries asked, len(METRICS))
    means = table.mean(dim=0) if len(table) else torch.zeros(len(METRICS))
    similar = Neighbours(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
    return Retrieved(dict(zip(METRICS, (100 * means).tolist(), strict=True)), similar)


def _scores(hits: Tensor, relevant: Tensor) -> Tensor:
    """Every query's scores (Q, len(METRICS)) from where relevant images stand (Q, depth)."""
    rank = torch.arange(1, hits.shape[1] + 1)
    precision = hits * hits.cumsum(dim=1) / rank
    recalls = [hits[:, :k].any(dim=1).float() for k in _RECALLS]
    at_r = (precision * (rank <= relevant[:, None])).sum(dim=1) / relevant
    at_limit = precision[:, :_LIMIT].sum(dim=1) / relevant.clamp_max(_LIMIT)
    return torch.stack([*recalls, at_r, at_limit], dim=1)
