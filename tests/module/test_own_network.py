"""Networks of the user's in the place of ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scdgd.module import ConvolutionalDecoder, ConvolutionalEncoder, Decoder, NetworkDecoder, OwnNetwork


class Perceptron(nn.Sequential):
    """One hidden layer."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(nn.Linear(n_in, 8), nn.SiLU(), nn.Dropout(0.5), nn.Linear(8, n_out))


class _Square(torch.autograd.Function):
    """A square without a derivative in forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class BackwardOnly(nn.Linear):
    """A network that autograd can differentiate backwards only."""

    def forward(self, x):
        return _Square.apply(super().forward(x))


class Linearised(BackwardOnly):
    """The same, which knows its slopes."""

    def linearise(self, inputs, n_latent):
        linear = nn.Linear.forward(self, inputs)
        return linear.square(), (2 * linear.unsqueeze(-1) * self.weight[:, :n_latent]).mT


@pytest.mark.parametrize("network", [Perceptron, Linearised])
@pytest.mark.parametrize("activation", ["softmax", "softplus", "identity"])
def test_linearised_is_the_jacobian(network, activation):
    torch.manual_seed(0)
    decoder = NetworkDecoder(network, 3, 6, n_cats_per_cov=[2], n_continuous=1, output_activation=activation).double()
    nn.init.normal_(decoder.offset)
    z, covariates = torch.randn(4, 3).double(), ([torch.tensor([[0], [1], [1], [0]])], torch.randn(4, 1).double())
    genes = torch.arange(6)
    linear = decoder.linearise(z, *covariates, genes=genes, gene_weights=torch.ones(6).double())
    decoder.eval()
    torch.testing.assert_close(linear.eta, decoder(z, *covariates))
    jacobian = torch.autograd.functional.jacobian(lambda z: decoder(z, *covariates).sum(0), z).permute(1, 0, 2)
    rows = linear.rows(slice(0, 4))
    torch.testing.assert_close(rows.mT, jacobian)
    step, change = torch.randn(4, 3).double(), torch.randn(4, 6).double()
    torch.testing.assert_close(linear.along(step), (jacobian @ step.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(linear.back(change), (jacobian.mT @ change.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(linear.rows(slice(0, 4)).mT, jacobian)  # what was read has not changed


def test_some_genes_stand_for_all():
    decoder = NetworkDecoder(Perceptron, 3, 6)
    decoder.eval()
    z, genes, weights = torch.randn(4, 3), torch.tensor([1, 4]), torch.tensor([2.0, 3.0])
    linear = decoder.linearise(z, genes=genes, gene_weights=weights)
    o = decoder.pre_activation(z)[:, genes]
    torch.testing.assert_close(linear.eta, o - (o + weights.log()).logsumexp(1, keepdim=True))
    assert linear.rows(slice(0, 4)).shape == (4, 3, 2)


def test_levels_have_vectors():
    """As in our decoder: offsets of outputs, and equal shares for levels that came later."""
    decoder = NetworkDecoder(Perceptron, 3, 6, n_cats_per_cov=[3], embeds_levels=True).eval()
    z, code = torch.randn(2, 3), torch.tensor([[1], [2]])
    before = decoder.pre_activation(z, [code])
    vectors = torch.randn(3, 6)
    decoder.levels[0].vectors.data.copy_(vectors)
    torch.testing.assert_close(decoder.pre_activation(z, [code]), before + (vectors - vectors.mean(0))[[1, 2]])
    decoder.levels[0].append(torch.randn(1, 6))
    new = decoder.last_hidden(z, [torch.tensor([[3], [3]])])
    shares = torch.cat([z, torch.full((2, 3), 1 / 3)], dim=1)
    torch.testing.assert_close(new, decoder.hidden.network(shares))


def test_parameters_and_mode_are_left_as_they_are():
    decoder = NetworkDecoder(Perceptron, 3, 6).train()
    decoder.linearise(torch.randn(2, 3), genes=torch.arange(6), gene_weights=torch.ones(6))
    decoder.directions(torch.randn(20, 3))
    assert all(part.training for part in decoder.modules())
    network = Perceptron(3, 6)
    copied = NetworkDecoder(network, 3, 6)
    copied.hidden.network[0].weight.data.zero_()
    assert network[0].weight.abs().sum() > 0


def test_directions_are_slopes_as_output_weights_are():
    """Of a linear network, whatever the representations: those that our decoder's last layer has."""
    network = nn.Linear(3, 6, bias=False)
    directions = NetworkDecoder(network, 3, 6).directions(torch.randn(2, 3))
    torch.testing.assert_close(directions, network.weight.repeat(1, 2).detach())
    assert Decoder(3, 6, n_hidden=4).directions(torch.randn(2, 3)).shape == (6, 4)


def test_covariates_are_codes_or_weights():
    own = OwnNetwork(nn.Identity(), 2, None, [3, 1])
    assert own.n_out == 5
    x, code, none = torch.randn(4, 2, 2), torch.tensor([[2], [0]]), torch.zeros(2, 1)
    codes = torch.tensor([[0.0, 0, 1], [1, 0, 0]])
    torch.testing.assert_close(own(x, code, none), torch.cat([x, codes.expand(4, -1, -1)], -1))
    torch.testing.assert_close(own(x, codes, none), own(x, code, none))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(4, 6), "does not take rows of 3 inputs"),
        (nn.Linear(3, 5), r"must make rows \(2, 6\) of rows \(2, 3\), and gave \(2, 5\)"),
        (nn.LSTM(3, 6), r"must make rows \(2, 6\) of rows \(2, 3\), and gave tuple"),
        (nn.Linear, None),
        (BackwardOnly, "has no derivative in forward mode, .* Give it a method `linearise"),
    ],
)
def test_networks_that_do_not_fit(network, message):
    if message is None:
        assert NetworkDecoder(network, 3, 6).n_genes == 6
        return
    with pytest.raises(ValueError, match=message):
        NetworkDecoder(network, 3, 6)


def test_slopes_of_other_shapes():
    class Wrong(Linearised):
        def linearise(self, inputs, n_latent):
            outputs, slopes = super().linearise(inputs, n_latent)
            return outputs, slopes.mT

    with pytest.raises(ValueError, match="must give shapes"):
        NetworkDecoder(Wrong, 3, 6)


@pytest.mark.parametrize("side", [12, 16, 28, 32])
def test_convolutions_for_square_images(side):
    decoder, encoder = ConvolutionalDecoder(5, side**2, n_channels=4), ConvolutionalEncoder(side**2, n_channels=4)
    pixels = decoder(torch.randn(2, 5))
    assert pixels.shape == (2, side**2)
    assert encoder(pixels).shape == (2, 100)
    # every pixel answers to the representation, and every feature of the encoder to pixels at the corners
    assert (decoder(torch.randn(20, 5)).std(0) > 0).all()
    corner = torch.zeros(1, side**2)
    corner[0, -1] = 5.0
    assert (encoder(corner) != encoder(torch.zeros(1, side**2))).any()


def test_images_of_other_forms():
    for n_pixels in (27**2, 28 * 30, 64):
        with pytest.raises(ValueError, match=f"there are {n_pixels} of them"):
            ConvolutionalDecoder(5, n_pixels)
