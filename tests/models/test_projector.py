"""ConMIM's projector: its sizes, and over what its batch norms average."""

import pytest
import torch

from contramask.models.projector import TokenProjector


@pytest.mark.parametrize(("width", "millions"), [(384, 19.4), (768, 21.0), (1024, 22.0)])
def test_parameter_counts_are_the_published_ones(width: int, millions: float) -> None:
    with torch.device("meta"):
        projector = TokenProjector(width, 4096, 256)
    assert round(sum(p.numel() for p in projector.parameters()) / 1e6, 1) == millions


def test_outputs_are_standardised_over_all_tokens_of_all_images() -> None:
    torch.manual_seed(0)
    projector = TokenProjector(8, 16, 4)
    tokens = torch.randn(6, 5, 8)
    projected = projector(tokens)
    assert projected.shape == (6, 5, 4)
    torch.testing.assert_close(projected.mean(dim=(0, 1)), torch.zeros(4), atol=1e-5, rtol=0)
    deviation = projected.std(dim=(0, 1), correction=0)
    torch.testing.assert_close(deviation, torch.ones(4), atol=0.1, rtol=0)  # up to the norms' eps


def test_only_the_last_norm_has_nothing_to_learn() -> None:
    names = [name for name, _ in TokenProjector(8, 16, 4).named_parameters()]
    assert names == [
        *("fc0.weight", "bn0.weight", "bn0.bias"),
        *("fc1.weight", "bn1.weight", "bn1.bias", "fc2.weight"),
    ]


def test_in_evaluation_a_token_is_projected_alone() -> None:
    torch.manual_seed(0)
    projector = TokenProjector(8, 16, 4)
    projector(torch.randn(6, 5, 8))
    projector.eval()
    tokens = torch.randn(2, 3, 8)
    torch.testing.assert_close(projector(tokens)[:1, 1:2], projector(tokens[:1, 1:2]))
