"""LinearDecoder: the formula written by hand, and what a decoder of FlexVAE must be able to."""

from __future__ import annotations

import pytest
import torch
from scvi import REGISTRY_KEYS

from scdgd.module import FlexVAE
from scdgd.module._linear_decoder import LinearDecoder
from tests.module.test_flex_vae import EVERYTHING, N_GENES, as_sparse, covered, run

D = 3
CASES = {
    "plain": {"n_batch": 1},
    "batches": {},
    "everything": EVERYTHING,
    "embedding": {**EVERYTHING, "batch_representation": "embedding"},
    "gene-cell": {"dispersion": "gene-cell"},
    "gene-batch": {"dispersion": "gene-batch", "gene_likelihood": "nb"},
    "gene-label": {"dispersion": "gene-label", "gene_likelihood": "nb"},
    "gene-cell-nb": {"dispersion": "gene-cell", "gene_likelihood": "nb", "n_continuous_cov": 1},
    "poisson": {"gene_likelihood": "poisson"},
    "zip": {"gene_likelihood": "zip"},
    "constrained": {"gene_likelihood": "constrained_poisson"},
    "normal": {"gene_likelihood": "normal"},
    "size-factor": {"use_size_factor_key": True, "gene_likelihood": "nb"},
    "exp": {"mean_activation": "exp", "gene_likelihood": "nb"},
    "latent-library": {"use_observed_lib_size": False, "gene_likelihood": "nb"},
    "vmm": {"prior": "vmm", "n_components": 4, "gene_likelihood": "nb", "encode_covariates": True},
    "iaf": {"prior": "vamp", "n_components": 4, "posterior": "iaf"},
    "wide-encoder": {"n_hidden": (16, 8), "activation": "silu"},
}


def make(case: str) -> tuple[FlexVAE, dict]:
    arguments, tensors = covered(CASES[case])
    torch.manual_seed(0)
    module = FlexVAE(**{**arguments, "decoder": "linear"}).eval()
    weight = module.decoder.px_decoder.fc_layers[0][0].weight
    torch.nn.init.normal_(weight, std=0.3)  # columns of categories start at zero
    return module, tensors


def covariates_of(module: FlexVAE, tensors: dict) -> torch.Tensor:
    """Continuous covariates and one-hot codes, columns in the order of the decoder, written by hand."""
    columns = [tensors[REGISTRY_KEYS.CONT_COVS_KEY]] if REGISTRY_KEYS.CONT_COVS_KEY in tensors else []
    batch, codes = tensors[REGISTRY_KEYS.BATCH_KEY], tensors.get(REGISTRY_KEYS.CAT_COVS_KEY)
    n_codes = [module.n_batch]
    codes = [batch] if codes is None else [batch, *codes.split(1, dim=1)]
    if module.batch_representation == "embedding":
        columns.append(module.get_embedding(REGISTRY_KEYS.BATCH_KEY).weight[batch.ravel()])
        codes, n_codes = codes[1:], []
    n_codes += EVERYTHING["n_cats_per_cov"][: len(codes) - len(n_codes)]
    columns += [torch.eye(n)[code.ravel()] for n, code in zip(n_codes, codes, strict=True) if n > 1]
    return torch.cat([torch.zeros(len(batch), 0), *columns], dim=1)


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_formula(case):
    module, tensors = make(case)
    with torch.no_grad():
        inference, generative = run(module, tensors, compute_loss=False)
    z, px, library = inference["z"], generative["px"], inference["library"]
    linear = module.decoder.px_decoder.fc_layers[0][0]
    inputs = torch.cat([z, covariates_of(module, tensors)], dim=1)
    assert linear.weight.shape[1] == inputs.shape[1]
    outputs = torch.einsum("bi,gi->bg", inputs, linear.weight) + linear.bias
    parts = list(outputs.split(N_GENES, dim=1))
    o = parts.pop(0)
    if module.use_size_factor_key:
        mu = tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] * o.exp()
    elif module.link.name == "exp":
        mu = (library.exp() / 1e4).clamp(min=1e-3) * o.exp()
    else:
        mu = library.exp() * o.exp() / o.exp().sum(1, keepdim=True)
    torch.testing.assert_close(px.mean if case == "normal" else px.get_normalized("mu"), mu, rtol=1e-4, atol=1e-5)
    if module.dispersion == "gene-cell":
        torch.testing.assert_close(px.theta, parts.pop(0).exp(), rtol=1e-4, atol=1e-5)
    if module.gene_likelihood in ("zinb", "zip"):
        torch.testing.assert_close(px.zi_logits, parts.pop(0), rtol=1e-4, atol=1e-5)
    assert not parts
    torch.testing.assert_close(module.decoder.loadings, linear.weight[:N_GENES, :D])


@pytest.mark.parametrize("case", [case for case in CASES if case != "latent-library"])  # whose prior is float32
def test_log_ratios_of_genes_are_affine_in_z(case):
    """Values at points on a line lie on a line, and the slope is the difference of the loadings."""
    module, tensors = make(case)
    batch, library = tensors[REGISTRY_KEYS.BATCH_KEY], torch.full((12, 1), 5.0)
    given = {
        "batch_index": batch,
        "cont_covs": tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        "cat_covs": tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
        "size_factor": tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY),
        "y": tensors[REGISTRY_KEYS.LABELS_KEY],
    }
    module.double()
    given = {key: v.double() if v is not None and v.is_floating_point() else v for key, v in given.items()}
    start, step = torch.randn(2, 12, D, dtype=torch.float64)
    z = start + torch.arange(4.0).reshape(4, 1, 1) * step  # several samples at once
    mean = module.generative(z, library.double().expand(4, -1, -1), **given)["px"]
    log_mean = (mean.mean if case == "normal" else mean.get_normalized("mu")).log()
    ratios = log_mean - log_mean[..., :1]
    slopes = ratios.diff(dim=0)
    torch.testing.assert_close(slopes[1:], slopes[:-1])
    loadings = module.decoder.loadings
    torch.testing.assert_close(slopes[0], step @ (loadings - loadings[:1]).T)


@pytest.mark.parametrize("case", CASES)
def test_sparse_counts_give_the_same_loss_and_all_parameters_a_gradient(case):
    module, tensors = make(case)
    losses = []
    for cells in (tensors, as_sparse(tensors)):
        module.zero_grad()
        _, _, output = run(module, cells)
        output.loss.backward()
        losses.append(output.loss.detach())
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-4)
    decoder = module.decoder.px_decoder.fc_layers[0][0]
    assert (decoder.weight.grad != 0).any(1).sum() >= (1 if case == "poisson" else N_GENES)


def test_start():
    """Categories change nothing at first; intercepts are those of the profile that is given."""
    decoder = LinearDecoder(D, N_GENES, [3, 1, 2], 2, has_zero_inflation=True)
    assert decoder.px_decoder.fc_layers[0][0].weight.shape == (2 * N_GENES, D + 2 + 5)
    z = torch.randn(4, D + 2)
    codes = [torch.randint(n, (4, 1)) for n in (3, 1, 2)]
    with torch.no_grad():
        torch.testing.assert_close(decoder.px_decoder(z, *codes), decoder.px_decoder(z, *(0 * c for c in codes)))
        profile = torch.rand(N_GENES) + 0.1
        assert not decoder.placed
        logits = decoder.px_dropout_decoder(decoder.px_decoder(z, *codes))
        decoder.start_at_profile(profile)
        assert decoder.placed
        outputs = decoder.px_decoder(torch.zeros(4, D + 2), *codes)
        torch.testing.assert_close(
            decoder.px_scale_decoder(outputs), (profile / profile.sum()).expand(4, -1), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(decoder.px_dropout_decoder(decoder.px_decoder(z, *codes)), logits)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"decoder": "quadratic"}, "decoder.*nonlinear.*quadratic"),
        ({"decoder": "linear", "decoder_dropout_rate": 0.1}, "decoder_dropout_rate.*hidden"),
        ({"decoder": "linear", "extra_decoder_kwargs": {"bias": False}}, "extra_decoder_kwargs.*hidden"),
    ],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        FlexVAE(N_GENES, **options)
