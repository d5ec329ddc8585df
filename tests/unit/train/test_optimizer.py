import numpy as np
import pytest
import torch

from longtail.core.errors import ConfigError
from longtail.train.optimizer import create_optimizer


def test_sgd_follows_the_worked_update():
    """g' = g + wd p; v = m v + g' (v = g' first); p = p - lr v (spec 3.2)."""
    module = torch.nn.Module()
    module.weight = parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = create_optimizer("sgd", [module], lr=0.1, momentum=0.9, weight_decay=0.01)
    value, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for step in range(3):
        gradient = np.array([0.5, 0.25]) * (step + 1)
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.01 * value
        value = value - 0.1 * velocity
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-6)


def test_adamw_follows_its_equations_and_decays_matrices_alone():
    """m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p = p (1 - lr wd) - lr m^ / (sqrt(v^) + eps), betas (0.9, 0.95)."""
    module = torch.nn.Linear(2, 1)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    optimizer = create_optimizer("adamw", [module, frozen], lr=0.1, momentum=0.5, weight_decay=0.3)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    for parameter, decay in ((module.weight, 0.3), (module.bias, 0.0)):
        value = parameter.detach().numpy().astype(np.float64).ravel()
        first, second = np.zeros_like(value), np.zeros_like(value)
        stepped = parameter
        for step in range(1, 4):
            gradient = np.linspace(0.5, 1.0, value.size) * (-1.0) ** step * step
            module.weight.grad = module.bias.grad = None
            stepped.grad = torch.tensor(gradient, dtype=torch.float32).view_as(stepped)
            optimizer.step()
            first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
            moment, scale = first / (1 - 0.9**step), np.sqrt(second / (1 - 0.95**step))
            value = value * (1 - 0.1 * decay) - 0.1 * moment / (scale + 1e-8)
            np.testing.assert_allclose(stepped.detach().numpy().ravel(), value, rtol=1e-5)


def test_unknown_optimizer_is_refused_with_the_allowed_ones():
    with pytest.raises(ConfigError, match="optimizer must be one of sgd, adamw, got 'adam'"):
        create_optimizer("adam", [torch.nn.Linear(2, 2)], lr=0.1, momentum=0.9, weight_decay=0.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_slower_module_keeps_its_factor_in_groups_of_its_own(name):
    backbone, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    optimizer = create_optimizer(
        name, [backbone, head], lr=0.1, momentum=0.9, weight_decay=0.5, slower=(backbone, 0.25)
    )
    factors = {id(p): group.get("lr_factor") for group in optimizer.param_groups for p in group["params"]}
    assert {factors[id(p)] for p in backbone.parameters()} == {0.25}
    assert {factors[id(p)] for p in head.parameters()} == {None}
    assert len(factors) == 4
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(backbone.weight)] == 0.5
    assert decays[id(backbone.bias)] == (0.5 if name == "sgd" else 0.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_modules_at_a_constant_rate_have_groups_of_their_own(name):
    backbone, objective = torch.nn.Linear(2, 2), torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    optimizer = create_optimizer(
        name,
        [backbone, objective],
        lr=0.1,
        momentum=0.9,
        weight_decay=0.5,
        slower=(backbone, 0.25),
        constant=[objective[1]],
    )
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == 6
    for module, expected in ((backbone, (0.25, None)), (objective[0], (None, None)), (objective[1], (None, True))):
        for parameter in module.parameters():
            assert tuple(map(groups[id(parameter)].get, ("lr_factor", "constant_lr"))) == expected
    assert groups[id(objective[1].weight)]["weight_decay"] == 0.5
