"""What each contrastive branch reads, and how its target follows."""

import pytest
import torch
from torch import Tensor

from contramask.models.branches import ClassProjector, DecoderBranch, MomentumBranch
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder


@pytest.fixture
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(patch_size=4, embed_dim=24, depth=1, num_heads=2)
    return build_encoder(config, (8, 12), 3)


def changed(tokens: Tensor, place: int) -> Tensor:
    """Other values in one place of each sequence."""
    other = tokens.clone()
    other[:, place] = torch.randn_like(other[:, place])
    return other


def project(branch: ClassProjector | DecoderBranch, tokens: Tensor) -> Tensor:
    projection: Tensor = branch.head(branch.pool(tokens))
    return projection


def test_the_class_projector_reads_the_class_token_only() -> None:
    torch.manual_seed(0)
    projector, tokens = ClassProjector(24, 32, 8), torch.randn(6, 5, 24)
    out = project(projector, tokens)
    assert out.shape == (6, 8)
    assert torch.equal(project(projector, changed(tokens, 3)), out)
    assert not torch.allclose(project(projector, changed(tokens, 0)), out, atol=0.1)


def test_the_decoder_branch_reads_all_tokens_of_any_width(encoder: VisionEncoder) -> None:
    branch, tokens = DecoderBranch(16, encoder, 32, 8), torch.randn(6, 7, 16)
    out = project(branch, tokens)
    assert out.shape == (6, 8)
    assert not torch.allclose(project(branch, changed(tokens, 3)), out, atol=1e-3)


def test_the_decoder_branch_does_not_care_for_the_order_of_patches(encoder: VisionEncoder) -> None:
    branch, tokens = DecoderBranch(16, encoder, 32, 8), torch.randn(6, 7, 16)
    order = torch.tensor([0, 4, 2, 6, 1, 5, 3])
    found = project(branch, tokens[:, order])
    torch.testing.assert_close(found, project(branch, tokens), atol=1e-4, rtol=1e-4)


def test_keys_carry_no_gradient_and_start_as_the_projections() -> None:
    torch.manual_seed(0)
    branch = MomentumBranch(ClassProjector(24, 32, 8), 32, 8)
    tokens = torch.randn(6, 5, 24, requires_grad=True)
    key = branch.key(branch.target_pool(tokens))
    assert not key.requires_grad
    torch.testing.assert_close(key, project(branch.projector, tokens).detach())
    branch.query(branch.pool(tokens)).square().sum().backward()
    assert tokens.grad is not None
    assert all(p.grad is None for p in branch.target_projector.parameters())
    assert not any(p.requires_grad for p in branch.target_projector.parameters())


def test_the_target_follows_in_closed_form(encoder: VisionEncoder) -> None:
    branch = MomentumBranch(DecoderBranch(16, encoder, 32, 8), 32, 8)
    start = [p.clone() for p in branch.target_projector.parameters()]
    with torch.no_grad():
        for p in branch.projector.parameters():
            p.add_(1.0)
    for _ in range(3):
        branch.update(0.9)
    for before, now in zip(start, branch.target_projector.parameters(), strict=True):
        # t_3 = 0.9^3 t_0 + (1 - 0.9^3)(t_0 + 1)
        torch.testing.assert_close(now, before + (1 - 0.9**3))
