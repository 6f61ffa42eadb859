"""Leading eigenvectors: those of a full decomposition, alone or in a batch."""

import pytest
import torch

from contramask.boxes.spectral import leading_vectors


@pytest.mark.parametrize("size", [3, 16, 64, 100])
def test_equals_the_full_decomposition(size: int) -> None:
    torch.manual_seed(size)
    features = torch.randn(20, size, 8) * torch.tensor([3.0, 2.0] + [1.0] * 6)
    matrices = features @ features.transpose(1, 2)
    expected = torch.linalg.eigh(matrices)[1][..., -1]
    found = leading_vectors(matrices)
    assert (found * expected).sum(dim=1).abs().min() > 0.999
    torch.testing.assert_close(found.norm(dim=1), torch.ones(20))


def test_a_small_gap_still_gives_a_leading_vector() -> None:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(64, 64))
    values = torch.linspace(0.9, 0, 64)
    values[0] = 0.91
    matrix = (basis * values) @ basis.T
    vector = leading_vectors(matrix[None])[0]
    assert vector @ matrix @ vector > 0.9099


def test_a_matrix_of_rank_one_or_zero_breaks_nothing() -> None:
    direction = torch.nn.functional.normalize(torch.arange(1.0, 41.0), dim=0)
    matrices = torch.stack([torch.outer(direction, direction) * 1e4, torch.zeros(40, 40)])
    found = leading_vectors(matrices)
    assert found.isfinite().all()
    assert (found[0] @ direction).abs() > 1 - 1e-4


def test_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(1)
    features = torch.randn(9, 30, 5)
    matrices = features @ features.transpose(1, 2)
    single = torch.cat([leading_vectors(each[None]) for each in matrices])
    torch.testing.assert_close(leading_vectors(matrices), single, atol=1e-4, rtol=0)
