import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal
from zuko.distributions import DiagNormal, Mixture, NormalizingFlow
from zuko.flows import MaskedAutoregressiveTransform
from zuko.transforms import ComposedTransform, MonotonicAffineTransform

from longtail.core.errors import DataError
from longtail.methods.dlsa.filter import FlowFilter, create_filter
from longtail.methods.dlsa.flow import MADE, Flow, FlowBatchNorm, MaskedLinear, degree_masks
from longtail.methods.dlsa.mixture import component_log_densities, mixture_log_density
from longtail.methods.dlsa.settings import Settings

DOUBLE = torch.float64


def rows(number, width, seed=0, scale=1.0, dtype=DOUBLE):
    return scale * torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_made(width, reverse=False, seed=0, limit=None, dtype=DOUBLE):
    torch.manual_seed(seed)
    return MADE(width, reverse, log_scale_limit=limit).to(dtype)


def random_flow(width, seed=0, limit=None, dtype=DOUBLE):
    """A two-block flow in eval mode, every parameter and running statistic away from its start."""
    torch.manual_seed(seed)
    flow = Flow(width, log_scale_limit=limit).to(dtype)
    for layer in flow.layers:
        if isinstance(layer, FlowBatchNorm):
            nn.init.normal_(layer.log_gamma, std=0.3)
            nn.init.normal_(layer.beta, std=0.5)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.3, 2.0)
    return flow.eval()


def zero_flow(width):
    flow = Flow(width, batch_norm=False).double()
    for parameter in flow.parameters():
        nn.init.zeros_(parameter)
    return flow


def bits(matrix):
    return ["".join(str(int(value)) for value in row) for row in matrix]


# ------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("reverse", "first", "last"),
    [
        (False, ["1000", "1100", "1110", "1000"], ["0000", "1001", "1101", "1111"]),
        (True, ["0001", "0011", "0111", "0001"], ["1111", "1101", "1001", "0000"]),
    ],
)
def test_masks_have_the_worked_values(reverse, first, last):
    masks = degree_masks(4, reverse)
    assert [bits(mask) for mask in masks] == [first, ["1001", "1101", "1111", "1001"], last]
    layers = [layer for layer in MADE(4, reverse).net if isinstance(layer, MaskedLinear)]
    assert [bits(layer.mask) for layer in layers] == [first, ["1001", "1101", "1111", "1001"], last + last]


def jacobian_at(row, model):
    return jacobian(lambda x: model(x[None])[0][0], row)


@pytest.mark.parametrize("hidden_layers", [0, 1, 2])
@pytest.mark.parametrize("width", [2, 3, 7])
def test_jacobian_is_triangular_and_every_coordinate_sees_all_before_it(width, hidden_layers):
    torch.manual_seed(0)
    for reverse in (False, True):
        made = MADE(width, reverse, hidden_layers).double()
        for layer in list(made.net)[:-1:2]:  # no unit is dead
            layer.weight.data *= 0.1
            nn.init.constant_(layer.bias, 10.0)
        for x in rows(5, width):
            jacobi = jacobian_at(x, made)
            jacobi = jacobi.flip(0, 1) if reverse else jacobi
            assert (jacobi.triu(1) == 0).all()
            assert (jacobi.diagonal() > 0).all()
            assert (jacobi.tril(-1) != 0).sum() == width * (width - 1) // 2


def test_blocks_take_turns_in_the_order_so_that_two_of_them_mix_all_coordinates():
    flow = random_flow(4)
    seen = sum(jacobian_at(x, flow).abs() for x in rows(30, 4))
    assert (seen > 0).all()


@pytest.mark.parametrize("build", [degree_masks, MADE, Flow])
def test_a_single_feature_is_refused(build):
    with pytest.raises(DataError, match="n_features = 1"):
        build(1, False) if build is degree_masks else build(1)


@pytest.mark.parametrize(("width", "blocks", "number"), [(64, 1, 16_768), (64, 2, 33_536), (3, 4, 4 * 54)])
def test_a_block_has_4dd_plus_6d_parameters(width, blocks, number):
    assert sum(parameter.numel() for parameter in Flow(width, blocks).parameters()) == number


def test_masked_weights_get_no_gradient():
    made = random_made(5)
    u, log_det = made(rows(30, 5))
    (u.square().sum() + log_det.sum()).backward()
    for layer in made.net:
        if isinstance(layer, MaskedLinear):
            assert (layer.weight.grad[~layer.mask] == 0).all()
            assert (layer.weight.grad[layer.mask] != 0).any()


# -------------------------------------------------------------------------------------------------- log-det, inverse


@pytest.mark.parametrize("limit", [None, 5.0, 0.5])
@pytest.mark.parametrize("width", [2, 6])
def test_log_determinant_is_that_of_the_jacobian(width, limit):
    flow = random_flow(width, seed=1, limit=limit)
    x = rows(20, width, seed=2)
    _, log_det = flow(x)
    for row, claimed in zip(x, log_det, strict=True):
        matrix = jacobian_at(row, flow)
        assert torch.linalg.slogdet(matrix).logabsdet.item() == pytest.approx(claimed.item(), abs=1e-10)


@pytest.mark.parametrize("limit", [None, 5.0, 0.5])
@pytest.mark.parametrize(("width", "dtype", "tolerance"), [(6, DOUBLE, 1e-10), (64, DOUBLE, 1e-10), (64, None, 1e-5)])
@torch.no_grad()
def test_inverse_undoes_forward(width, dtype, tolerance, limit):
    flow = random_flow(width, seed=3, limit=limit, dtype=dtype or torch.float32)
    x = rows(50, width, seed=4, dtype=dtype or torch.float32)
    u, log_det = flow(x)
    back, inverse_log_det = flow.inverse(u)
    torch.testing.assert_close(back, x, atol=tolerance, rtol=0)
    torch.testing.assert_close(inverse_log_det, -log_det, atol=tolerance * width, rtol=0)
    again, _ = flow(flow.inverse(x)[0])
    torch.testing.assert_close(again, x, atol=tolerance, rtol=0)


@torch.no_grad()
def test_inverse_takes_leading_dimensions():
    flow = random_flow(5)
    u = rows(12, 5).reshape(2, 6, 5)
    x, log_det = flow.inverse(u)
    for half in range(2):
        torch.testing.assert_close((x[half], log_det[half]), flow.inverse(u[half]))


@pytest.mark.parametrize(("width", "hidden_layers"), [(8, 1), (9, 2), (20, 0), (33, 1)])
def test_a_flow_computed_in_blocks_is_the_same_flow(width, hidden_layers, monkeypatch):
    """Latents, log-determinants, and the gradients in inputs and weights; float64."""
    found = []
    for least in (8, 10_000):
        monkeypatch.setattr("longtail.methods.dlsa.flow.BLOCKED_WIDTH", least)
        torch.manual_seed(0)
        flow = Flow(width, hidden_layers=hidden_layers).double()
        x = rows(2 * 7, width).reshape(2, 7, width).requires_grad_()
        u, log_det = flow(x)
        wanted = (u * rows(width, 1)[:, 0]).sum() + log_det.square().sum()
        found.append((u, log_det, torch.autograd.grad(wanted, [x, *flow.parameters()])))
        with torch.no_grad():
            found[-1] += (flow.eval()(x[0])[0],)
    torch.testing.assert_close(*found)


def test_made_with_zero_weights_has_the_worked_values():
    made = MADE(2).double()
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    made.net[-1].bias.data = torch.tensor([0.5, -1.0, math.log(2), 0.0], dtype=DOUBLE)
    u, log_det = made(torch.tensor([[2.5, 1.0]], dtype=DOUBLE))
    torch.testing.assert_close(u, torch.tensor([[1.0, 2.0]], dtype=DOUBLE))
    torch.testing.assert_close(log_det, torch.tensor([[-0.693147, 0.0]], dtype=DOUBLE), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reverse", [False, True])
def test_coordinate_of_lowest_degree_is_shifted_and_scaled_alike_in_all_rows(reverse):
    made = random_made(4, reverse)
    m, a = made.shift_and_log_scale(rows(10, 4))
    lowest = 3 if reverse else 0
    assert (m[:, lowest] == m[0, lowest]).all()
    assert (a[:, lowest] == a[0, lowest]).all()
    assert m.std(dim=0).count_nonzero() == 3


def test_log_scale_limit_keeps_any_input_finite():
    bounded, free = random_made(4, limit=5.0), random_made(4)
    free.load_state_dict(bounded.state_dict())
    x = rows(20, 4, scale=1e6)
    assert not torch.isfinite(free(x)[0]).all()
    u, log_det = bounded(x)
    assert torch.isfinite(u).all()
    assert log_det.abs().max() <= 5.0
    near = rows(10, 4, scale=0.01)
    a_bounded, a_free = (made.shift_and_log_scale(near)[1] for made in (bounded, free))
    torch.testing.assert_close(a_bounded, 5 * torch.tanh(a_free / 5))


# ------------------------------------------------------------------------------------------------------------- zuko


def zuko_of(made):
    """zuko's own masked network and autoregressive transform, with the weights of ``made``.

    zuko writes u = exp(a') x + b, so a' = -a and b = -m exp(-a); slope=inf takes away zuko's soft bound of a'. Its
    output rows are (shift, scale) of the first coordinate, then of the second, and so on.
    """
    linears = [layer for layer in made.net if isinstance(layer, MaskedLinear)]
    width = linears[0].in_features
    order = torch.arange(width)
    theirs = MaskedAutoregressiveTransform(
        width,
        order=order.flip(0) if made.reverse else order,
        univariate=lambda m, a: MonotonicAffineTransform(-m * torch.exp(-a), -a, slope=math.inf),
        hidden_features=[width] * (len(linears) - 1),
    ).double()
    for ours, layer in zip(linears, [x for x in theirs.hyper if isinstance(x, nn.Linear)], strict=True):
        last = ours is linears[-1]
        place = torch.arange(2 * width).reshape(2, width).T.flatten() if last else torch.arange(ours.out_features)
        torch.testing.assert_close(layer.mask.bool(), ours.mask[place])
        layer.weight.data, layer.bias.data = ours.weight.data[place], ours.bias.data[place]
    return theirs


@pytest.mark.parametrize("hidden_layers", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("width", [2, 4, 9])
@torch.no_grad()
def test_made_is_the_autoregressive_transform_of_zuko(width, reverse, hidden_layers):
    torch.manual_seed(0)
    made = MADE(width, reverse, hidden_layers).double()
    theirs = zuko_of(made)()
    x = rows(30, width)
    u, log_det = made(x)
    expected, expected_log_det = theirs.call_and_ladj(x)
    torch.testing.assert_close(u, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(log_det.sum(dim=-1), expected_log_det, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(made.inverse(x)[0], theirs.inv(x), atol=1e-11, rtol=1e-11)


@torch.no_grad()
def test_density_is_that_of_a_zuko_flow_over_a_mixture():
    torch.manual_seed(0)
    flow = Flow(5, batch_norm=False).double()
    centers, x = rows(7, 5, seed=1), rows(40, 5, seed=2, scale=1.5)
    base = Mixture(DiagNormal(centers, torch.ones_like(centers)), torch.zeros(7, dtype=DOUBLE))
    theirs = NormalizingFlow(ComposedTransform(*(zuko_of(made)() for made in flow.layers)), base)
    ours = mixture_log_density(component_log_densities(*flow(x), centers))
    torch.testing.assert_close(ours, theirs.log_prob(x), atol=1e-10, rtol=0)


# ------------------------------------------------------------------------------------------------------- batch norm

WORKED = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 10.0]], dtype=DOUBLE)


def close(value, expected, atol=1e-6):
    torch.testing.assert_close(value.detach(), torch.tensor(expected, dtype=value.dtype), atol=atol, rtol=0)


def test_batch_norm_has_the_worked_values_in_training_and_then_in_eval():
    norm = FlowBatchNorm(2).double()
    y, log_det = norm(WORKED)
    close(y, [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], atol=1e-5)
    close(log_det.expand(3, 2)[1], [-0.693148, -1.386295])
    close(norm.running_mean, [0.3, 0.6], atol=1e-12)
    close(norm.running_var, [1.3, 2.5], atol=1e-12)
    y, log_det = norm.eval()(WORKED)
    close(y[0], [0.613938, 0.885435])
    close(log_det.expand(3, 2)[2], [-0.131186, -0.458147])
    close(norm.running_mean, [0.3, 0.6], atol=1e-12)


def test_batch_norm_scales_and_shifts_by_its_parameters():
    norm = FlowBatchNorm(2).double()
    norm.log_gamma.data, norm.beta.data = torch.tensor([[math.log(3.0), 0.0], [0.5, -2.0]], dtype=DOUBLE)
    y, log_det = norm(WORKED)
    close(y, [[-2.5, -3.0], [0.5, -2.0], [3.5, -1.0]], atol=2e-5)
    close(log_det.expand(3, 2)[0], [-0.693148 + math.log(3.0), -1.386295])


def test_batch_norm_passes_gradients_through_both_statistics():
    norm = FlowBatchNorm(3).double()
    x = rows(8, 3).requires_grad_()
    direction = rows(8, 3, seed=1)
    (shift,) = torch.autograd.grad((norm(x)[0] * direction).sum(), x)
    close(shift.sum(dim=0), [0.0, 0.0, 0.0], atol=1e-12)  # y ignores a common shift of the batch ...
    close((shift * (x - x.mean(dim=0))).sum(dim=0), [0.0, 0.0, 0.0], atol=1e-3)  # ... and, up to eps, its spread
    assert shift.abs().max() > 0.1
    (spread,) = torch.autograd.grad(norm(x)[1].sum(), x)
    expected = -(x - x.mean(dim=0)) / (x.var(dim=0) + 1e-5) / 7
    torch.testing.assert_close(spread, expected.detach())
    assert not norm.running_mean.requires_grad
    assert not norm.running_var.requires_grad


def test_each_half_of_a_pair_batch_is_normalized_by_itself_and_followed_in_turn():
    torch.manual_seed(0)
    together, apart = (Flow(4).double().train() for _ in range(2))
    apart.load_state_dict(together.state_dict())
    halves = torch.stack([rows(10, 4), 3 * rows(10, 4, seed=1) + 1])
    u, log_det = together(halves)
    for half in range(2):
        torch.testing.assert_close((u[half], log_det[half]), apart(halves[half]))
    for name, value in apart.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], value, msg=name)
    norm = together.layers[1]
    assert not torch.allclose(norm.running_mean, torch.zeros(4, dtype=DOUBLE), atol=1e-3)


@torch.no_grad()
def test_leading_dimensions_do_not_matter_in_eval():
    flow = random_flow(4)
    x = rows(24, 4)
    u, log_det = flow(x)
    stacked, stacked_log_det = flow(x.reshape(2, 3, 4, 4))
    torch.testing.assert_close(stacked.reshape(24, 4), u)
    torch.testing.assert_close(stacked_log_det.reshape(24), log_det)


@pytest.mark.parametrize("shape", [(1, 3), (2, 1, 3)])
def test_training_batch_of_one_row_is_refused_before_it_reaches_the_statistics(shape):
    norm = FlowBatchNorm(3).double()
    with pytest.raises(AssertionError, match="one row"):
        norm(torch.ones(shape, dtype=DOUBLE))
    close(norm.running_var, [1.0, 1.0, 1.0])
    assert torch.isfinite(norm.eval()(torch.ones(shape, dtype=DOUBLE))[0]).all()


# ---------------------------------------------------------------------------------------------------------- density


def test_known_gaussian_has_the_worked_values():
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]], dtype=DOUBLE)
    components = component_log_densities(*zero_flow(3)(x), torch.zeros(1, 3, dtype=DOUBLE))
    close(mixture_log_density(components), [-2.756816, -5.381816])


def test_density_after_batch_norm_alone_has_the_worked_value():
    norm = FlowBatchNorm(2).double().eval()
    norm.running_mean, norm.running_var = torch.tensor([[1.0, -1.0], [4.0, 0.25]], dtype=DOUBLE)
    u, log_det = norm(torch.tensor([[2.0, 0.0]], dtype=DOUBLE))
    components = component_log_densities(u, log_det.sum(dim=-1), torch.zeros(1, 2, dtype=DOUBLE))
    close(mixture_log_density(components), [-3.962818])


def test_mixture_has_the_worked_values():
    centers = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]], dtype=DOUBLE)
    x = torch.tensor([[0.5, 0.25]], dtype=DOUBLE)
    components = component_log_densities(*zero_flow(2)(x), centers)
    close(components, [[-1.994127, -2.994127, -3.494127]])
    close(mixture_log_density(components), [-2.628371])
    close(components.softmax(dim=-1), [[0.628532, 0.231224, 0.140244]])
    assert components.argmax(dim=-1).tolist() == [0]


def test_component_densities_are_those_of_the_direct_difference():
    u, log_det, centers = rows(50, 16, scale=3), rows(50, 1, seed=1)[:, 0], rows(20, 16, seed=2)
    difference = u[:, None] - centers
    direct = log_det[:, None] - 0.5 * difference.square().sum(dim=-1) - 8 * math.log(2 * math.pi)
    torch.testing.assert_close(component_log_densities(u, log_det, centers), direct, atol=1e-10, rtol=0)
    gaussians = MultivariateNormal(centers, torch.eye(16, dtype=DOUBLE)).log_prob(u[:, None])
    torch.testing.assert_close(component_log_densities(u, 0 * log_det, centers), gaussians, atol=1e-10, rtol=0)


def made_filter(width=2, clusters=3, center_std=1.0, limit=5.0):
    """A filter whose flow and standardization are away from their start."""
    model = FlowFilter(width, Settings(clusters=clusters, log_scale_limit=limit)).double()
    model.initialize(0, center_std)
    model.flow = random_flow(width, seed=5, limit=limit or None)
    model.standardize(rows(50, width, seed=3) * torch.linspace(0.2, 0.4, width) + 0.5)
    return model


@pytest.mark.parametrize("limit", [0.0, 5.0])
@torch.no_grad()
def test_density_integrates_to_one(limit):
    line = torch.linspace(-12, 12, 801, dtype=DOUBLE)
    log_density, _ = made_filter(limit=limit).measure(torch.cartesian_prod(line, line))
    mass = log_density.exp().sum().item() * (24 / 800) ** 2
    assert mass == pytest.approx(1.0, abs=1e-4)


@torch.no_grad()
def test_cluster_is_the_centre_nearest_to_the_latent():
    model = made_filter(width=5, clusters=9)
    x = rows(60, 5)
    nearest = torch.cdist(model.latents(x), model.centers).argmin(dim=1)
    assert len(nearest.unique()) >= 3
    assert torch.equal(model.measure(x)[1], nearest)


@torch.no_grad()
def test_block_size_changes_neither_density_nor_cluster(monkeypatch):
    model = made_filter(width=5, clusters=9)
    x = rows(60, 5)
    log_density, cluster = model.measure(x)
    monkeypatch.setattr("longtail.methods.dlsa.filter.BLOCK_BYTES", 500)
    blocked, blocked_cluster = model.measure(x)
    torch.testing.assert_close(blocked, log_density, atol=1e-12, rtol=0)
    assert torch.equal(blocked_cluster, cluster)
    torch.testing.assert_close(model.latents(x), model.latent(x)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("factor", [1.0, 1e-6])
def test_standardization_is_of_the_rows_given_and_scales_constant_features_like_the_others(factor):
    x = rows(40, 3, scale=7) + 100
    x[:, 1] = 5.0
    x *= factor
    model = create_filter(x, Settings(clusters=4, standardize=True), 0)
    inside = (x - model.offset) / model.scale
    close(inside.mean(dim=0), [0.0, 0.0, 0.0], atol=1e-12)
    close(inside.square().mean(dim=0), [1.0, 0.0, 1.0], atol=1e-12)
    assert model.scale[1].item() == pytest.approx(math.sqrt(2 / 3) * model.scale[0].item(), rel=0.3)


def test_components_have_variance_one_no_correlation_and_the_most_of_the_variance():
    x = rows(500, 6) @ rows(6, 6, seed=1) + 3
    model = create_filter(x, Settings(clusters=4, standardize=True, flow_dims=2), 0)
    inside = ((x - model.offset) / model.scale) @ model.projection.T
    torch.testing.assert_close(inside.T @ inside / len(x), torch.eye(2, dtype=DOUBLE), atol=1e-9, rtol=0)
    close(inside.mean(dim=0), [0.0, 0.0], atol=1e-9)
    standardized = (x - model.offset) / model.scale
    variances = torch.linalg.svdvals(standardized).square() / len(x)
    close(1 / model.projection.square().sum(dim=1), variances[:2].tolist(), atol=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
def test_density_of_a_filter_on_components_is_that_of_its_flow_on_them(standardize):
    x = 4 * rows(60, 5) @ rows(5, 5, seed=1) - 2
    model = create_filter(x, Settings(clusters=3, standardize=standardize, flow_dims=3), 0).eval()
    inside = ((x - model.offset) / model.scale) @ model.projection.T
    u, log_det = model.flow(inside)
    expected = mixture_log_density(component_log_densities(u, log_det, model.centers))
    torch.testing.assert_close(model.measure(x)[0], expected)
    assert model.latents(x).shape == (60, 3)


def test_as_many_components_as_features_are_the_features():
    x = rows(60, 4)
    one, other = (create_filter(x, Settings(clusters=3, flow_dims=dims), 0) for dims in ("all", 9))
    assert torch.equal(one.measure(x)[0], other.measure(x)[0])


def test_centres_are_fixed_and_spread_as_asked():
    model = create_filter(rows(4, 64), Settings(clusters=500, center_std=0.05), 0)
    assert "centers" in model.state_dict()
    assert not any(parameter is model.centers for parameter in model.parameters())
    assert model.centers.std().item() == pytest.approx(0.05, rel=0.02)
    assert model.centers.mean().item() == pytest.approx(0.0, abs=0.002)


def test_initial_weights_are_uniform_within_the_root_of_the_fan_in():
    model = create_filter(rows(4, 64), Settings(clusters=4), 0)
    for name, parameter in model.flow.named_parameters():
        if name.endswith("weight"):
            assert parameter.abs().max().item() == pytest.approx(1 / 8, rel=0.01)
            assert parameter.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)
        elif name.endswith("bias"):
            assert 0 < parameter.abs().max().item() <= 1 / 8
        else:
            assert (parameter == 0).all(), name


def test_filters_of_one_seed_are_the_same_and_of_two_seeds_are_not():
    build = partial(create_filter, rows(4, 6), Settings(clusters=3))
    one, same, other = build(7).state_dict(), build(7).state_dict(), build(8).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["centers"], other["centers"])
    assert not torch.equal(one["flow.layers.0.net.0.weight"], other["flow.layers.0.net.0.weight"])
    assert not torch.equal(one["flow.layers.0.net.0.weight"], one["flow.layers.2.net.0.weight"])
