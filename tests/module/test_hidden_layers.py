"""Hidden layers: scvi-tools' own where they agree, hand-written composition where they differ."""

from __future__ import annotations

import pytest
import torch
from scvi.nn import FCLayers

from scdgd.module import HiddenLayers

N_IN, N_CELLS = 7, 12


def inputs(n_cat_list: list[int], seed: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N_CELLS, N_IN, generator=generator)
    return x, [torch.randint(max(n, 1), (N_CELLS, 1), generator=generator) for n in n_cat_list]


def seeded(make):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout_rate": 0.0},
        {"use_batch_norm": False},
        {"use_batch_norm": False, "use_layer_norm": True},
        {"inject_covariates": False},
        {"n_cont": 2},
        {"bias": False},
    ],
    ids=str,
)
def test_equal_widths_are_scvi_tools_layers(n_layers, options):
    n_cat_list = [3, 1, 2]
    theirs = seeded(lambda: FCLayers(N_IN, 5, n_cat_list, n_layers=n_layers, n_hidden=5, **options))
    ours = seeded(lambda: HiddenLayers(N_IN, (5,) * n_layers, n_cat_list, **options))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    x, categories = inputs(n_cat_list)
    cont = torch.randn(N_CELLS, 2) if "n_cont" in options else None
    for train in (True, False):
        ours.train(train), theirs.train(train)
        a, b = (seeded(lambda m=m: m(x, *categories, cont=cont)) for m in (ours, theirs))
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))


def test_default_layer_is_scvi_tools_default():
    theirs, ours = seeded(lambda: FCLayers(N_IN, 128)), seeded(lambda: HiddenLayers(N_IN, (128,)))
    assert str(ours).split("\n")[1:] == str(theirs).split("\n")[1:]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("inject_covariates", [True, False])
def test_widths(inject_covariates):
    layers = HiddenLayers(N_IN, (6, 4, 3), [2, 5], n_cont=1, inject_covariates=inject_covariates)
    widths = [(layer[0].in_features, layer[0].out_features) for layer in layers.fc_layers]
    deep = 8 * inject_covariates
    assert widths == [(N_IN + 8, 6), (6 + deep, 4), (4 + deep, 3)]
    x, categories = inputs([2, 5])
    cont = torch.zeros(N_CELLS, 1)
    assert layers(x, *categories, cont=cont).shape == (N_CELLS, 3)
    assert layers(x.expand(2, -1, -1), *categories, cont=cont).shape == (2, N_CELLS, 3)


def test_widths_load_into_scvi_tools_layers():
    ours, theirs = HiddenLayers(N_IN, (4, 4), [3]), FCLayers(N_IN, 4, [3], n_layers=2, n_hidden=4)
    theirs.load_state_dict(ours.state_dict())
    x, categories = inputs([3])
    assert torch.equal(ours.eval()(x, *categories), theirs.eval()(x, *categories))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", torch.relu),
        ("silu", torch.nn.functional.silu),
        ("tanh", torch.tanh),
        ("selu", torch.selu),
        ("elu", torch.nn.functional.elu),
    ],
)
@pytest.mark.parametrize("norm_after_activation", [False, True])
def test_order(name, function, norm_after_activation):
    layers = HiddenLayers(
        N_IN, (6, 3), dropout_rate=0.0, activation=name, norm_after_activation=norm_after_activation
    ).eval()
    for buffer in layers.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    x, _ = inputs([])
    expected = x
    for layer in layers.fc_layers:
        (norm,) = (part for part in layer if isinstance(part, torch.nn.BatchNorm1d))
        linear = layer[0](expected)
        expected = norm(function(linear)) if norm_after_activation else function(norm(linear))
    assert torch.equal(layers(x), expected)


def test_norm_after_activation_is_off_by_default_visible_and_keeps_names():
    x, categories = inputs([3])
    off, given, on = (
        seeded(lambda k=k: HiddenLayers(N_IN, (6, 3), [3], **k))
        for k in ({}, {"norm_after_activation": False}, {"norm_after_activation": True})
    )
    a, b, c = (seeded(lambda m=m: m(x, *categories)) for m in (off, given, on))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert set(off.state_dict()) == set(on.state_dict())
    assert all("Dropout" in str(layer[-1]) for layer in on.fc_layers)


@pytest.mark.parametrize("norm_after_activation", [False, True])
def test_layer_norm_keeps_its_place(norm_after_activation):
    layers = HiddenLayers(
        N_IN, (4,), use_batch_norm=False, use_layer_norm=True, norm_after_activation=norm_after_activation
    )
    kinds = [type(part).__name__ for part in layers.fc_layers[0] if part is not None]
    middle = ["ReLU", "LayerNorm"] if norm_after_activation else ["LayerNorm", "ReLU"]
    assert kinds == ["Linear", *middle, "Dropout"]


@pytest.mark.parametrize("hook_first_layer", [True, False])
@pytest.mark.parametrize("options", [{}, {"norm_after_activation": True}, {"inject_covariates": False}], ids=str)
def test_query_trains_the_columns_of_categories_only(options, hook_first_layer):
    layers = HiddenLayers(N_IN, (6, 4), [2, 3], **options)
    assert isinstance(layers, FCLayers)
    layers.set_online_update_hooks(hook_first_layer)
    x, categories = inputs([2, 3])
    (layers(x, *categories) ** 3).sum().backward()
    for i, layer in enumerate(layers.fc_layers):
        weight, bias = layer[0].weight.grad, layer[0].bias.grad
        if i == 0 and not hook_first_layer:
            assert (weight[:, :-5] != 0).any()
            continue
        assert (weight[:, :-5] == 0).all()
        assert (bias == 0).all()
        assert bool((weight[:, -5:] != 0).any()) == layers.inject_into_layer(i)


def test_codes_weights_and_mixtures_of_categories():
    layers = HiddenLayers(N_IN, (4, 3), [2, 1, 3], dropout_rate=0.0).eval()
    x, (two, one, three) = inputs([2, 1, 3])
    expected = layers(x, two, one, three)
    as_weights = [torch.nn.functional.one_hot(c.squeeze(1), n).float() for c, n in ((two, 2), (three, 3))]
    torch.testing.assert_close(layers(x, as_weights[0], one, as_weights[1]), expected)
    torch.testing.assert_close(layers(x, as_weights[0], torch.ones(N_CELLS, 1), as_weights[1]), expected)
    mixture = torch.full((N_CELLS, 3), 1 / 3, requires_grad=True)
    layers(x, two, one, mixture).sum().backward()
    assert (mixture.grad != 0).any()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"hidden_sizes": ()}, "at least one width"),
        ({"hidden_sizes": (3,), "activation": "gelu"}, "'relu', 'silu', 'tanh', 'selu', 'elu', not 'gelu'"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        HiddenLayers(N_IN, **arguments)


def test_sizes_are_not_changed():
    sizes, n_cat_list = [5, 4], [3, 1]
    HiddenLayers(N_IN, sizes, n_cat_list)
    assert (sizes, n_cat_list) == ([5, 4], [3, 1])
