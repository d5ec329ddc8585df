"""The classifiers of the routes: their branches, and what each of them sees."""

import numpy as np
import pytest
import torch

from longtail.methods.dlsa.classifiers import CosineBranch, RouteHead
from longtail.methods.dlsa.settings import Settings


def test_cosine_branch_has_the_worked_values():
    branch = CosineBranch(2, 2).double()
    branch.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    logits = branch(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    np.testing.assert_allclose(logits.detach(), [[8.0, 32 / 3]], rtol=1e-12)
    assert branch.bias is None


def test_cosine_branch_gives_zero_and_a_finite_gradient_for_a_zero_row():
    branch = CosineBranch(3, 2)
    x = torch.zeros(1, 3, requires_grad=True)
    logits = branch(x)
    logits.sum().backward()
    assert logits.tolist() == [[0.0, 0.0]]
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(branch.weight.grad).all()


def test_cosine_logits_of_two_branches_stay_below_32():
    head = RouteHead(3, 4, [1], 1, Settings(classifier="cosine"))
    x = 1e4 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    logits = head(x, x, torch.rand(50, 4))
    assert 16 < logits.abs().max() <= 32


def random_head(width, routes, depth, **changes):
    head = RouteHead(width, 4, routes, depth, Settings(**changes)).double()
    head.initialize(0, None, None, "random")
    return head


def inputs(rows=6, width=3, classes=4, seed=0):
    stream = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(rows, width, generator=stream, dtype=torch.float64) for _ in range(2))
    return x, z, torch.rand(rows, classes, generator=stream, dtype=torch.float64)


@pytest.mark.parametrize(
    ("z_kind", "aided_width", "regular_width"), [("features", 7, 3), ("latent", 7, 3), ("none", 4, 0)]
)
def test_route_head_adds_two_branches_and_only_aided_ones_see_the_prior(z_kind, aided_width, regular_width):
    x, z, r = inputs()
    for route, width in ((1, aided_width), (2, regular_width)):
        head = random_head(3, [route], 1, z=z_kind)
        expected = x @ head.first.weight.T + head.first.bias
        seen = torch.cat([*([] if z_kind == "none" else [z]), *([r] if route == 1 else [])], dim=1) if width else None
        assert (str(route) in head.second) == (seen is not None)
        if seen is not None:
            branch = head.second[str(route)]
            assert branch.in_features == width
            expected = expected + seen @ branch.weight.T + branch.bias
        torch.testing.assert_close(head(x, z, r), expected)


def test_correction_of_one_route_does_not_touch_the_others():
    head = random_head(3, [1, 2, 3], 2)
    x, z, r = inputs()
    route = torch.tensor([1, 2, 3, 1, 2, 3])
    before = head(x, z, r, route)
    before[route == 1].sum().backward()
    assert head.second["1"].weight.grad.abs().max() > 0
    for other in ("2", "3"):
        assert (head.second[other].weight.grad == 0).all()
        assert (head.second[other].bias.grad == 0).all()
    with torch.no_grad():
        head.second["2"].weight += 1.0
        after = head(x, z, r, route)
    assert torch.equal(after[route != 2], before[route != 2])
    assert not torch.isclose(after[route == 2], before[route == 2]).any()


def test_shared_head_is_one_head_for_each_route_with_a_common_first_branch():
    shared = random_head(3, [1, 2], 1)
    x, z, r = inputs()
    for route in (1, 2):
        alone = RouteHead(3, 4, [route], 1, Settings()).double()
        alone.load_state_dict({name: shared.state_dict()[name] for name in alone.state_dict()})
        torch.testing.assert_close(shared(x, z, r, torch.full((6,), route)), alone(x, z, r))


def test_branches_that_see_the_same_rows_take_one_product_and_give_the_same():
    """In the logits and in every gradient."""
    x, _, r = inputs()
    for route in (1, 2):
        head = random_head(3, [route], 1)
        found = []
        for z in (x, x.clone()):
            logits = head(x, z, r)
            found.append((logits, torch.autograd.grad(logits.square().sum(), list(head.parameters()))))
        torch.testing.assert_close(*found)
