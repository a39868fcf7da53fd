"""Quantizers against their oracles, their plain forms and the stored public outputs."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
import vector_quantize_pytorch as oracle
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reeltok.nn.quantizers import (
    FSQConfig,
    GaussianConfig,
    LFQConfig,
    Quantizer,
    Usage,
    VQConfig,
    vector,
)

FIXTURES = ["fsq_causal_488_32768", "fsq_causal_488_262144", "fsq_causal_888_32768_v1_1"]
DISCRETE = [
    FSQConfig(levels=(8, 5, 3, 2)),
    LFQConfig(bits=9),
    VQConfig(codes=64, width=4),
    VQConfig(codes=64, width=4, ema=0.9),
]
ALL = [*DISCRETE, GaussianConfig(channels=4)]
kind = lambda config: config.kind


def noise(*shape: int, scale: float = 1.0, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def entropy_over_all(x: Tensor, codes: Tensor, temperature: float = 0.01) -> Tensor:
    """The plain form: each token's softmax over every code."""
    return spread((2 * x @ codes.T / temperature).log_softmax(-1))


def spread(logs: Tensor) -> Tensor:
    mean = logs.exp().mean(0)
    return -(logs.exp() * logs).sum(-1).mean() + (mean * mean.clamp(min=1e-5).log()).sum()


# -- ids and codes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "levels", [(8,) * 4, (8, 5, 3, 2), (2, 2, 2), (7,), (1000, 3), (16, 4, 4, 2)]
)
def test_fsq_ids_and_codes_are_a_bijection(levels: tuple[int, ...]) -> None:
    quantizer = FSQConfig(levels=levels).build().eval()
    ids = torch.arange(math.prod(levels)).unsqueeze(0)
    codes = quantizer.lookup(ids)
    assert len(codes[0].unique(dim=0)) == ids.numel()
    # The input that the bound maps to the middle of each level.
    half = (torch.tensor(levels) - 1) * 1.001 / 2
    offset = torch.where(torch.tensor(levels) % 2 == 0, 0.5, 0.0)
    shift = torch.where(torch.tensor(levels) > 2, torch.atanh(offset / half), 0.0)
    steps = codes.double() * (torch.tensor(levels) // 2)
    inside = ((steps + offset) / half).clamp(-0.99999, 0.99999)
    made = quantizer(torch.atanh(inside) - shift)
    assert torch.equal(made.ids, ids)
    assert torch.equal(made.z.float(), codes)


@pytest.mark.parametrize("config", [LFQConfig(bits=12), VQConfig(codes=512, width=6)], ids=kind)
def test_a_code_is_nearest_to_itself(config: LFQConfig | VQConfig) -> None:
    quantizer = config.build().eval()
    ids = torch.arange(config.vocabulary).reshape(2, -1, 4)
    made = quantizer(quantizer.lookup(ids).detach())
    assert torch.equal(made.ids, ids)
    assert torch.equal(made.z, quantizer.lookup(ids))


@pytest.mark.parametrize("levels", [(8, 8, 8, 8, 8), (8, 8, 8, 5, 5, 5), (3, 4, 5, 6, 7), (16, 9)])
def test_fsq_equals_its_oracle_bit_for_bit(levels: tuple[int, ...]) -> None:
    theirs = oracle.FSQ(list(levels))
    ours = FSQConfig(levels=levels).build().eval()
    near_boundaries = torch.linspace(-2.5, 2.5, 20_001).unsqueeze(-1).expand(-1, len(levels))
    for x in (noise(4, 500, len(levels), scale=2.0), near_boundaries.unsqueeze(0)):
        codes, ids = theirs(x)
        made = ours(x)
        assert made.ids.dtype == torch.int64
        assert torch.equal(made.ids, ids.long())
        torch.testing.assert_close(made.z, codes, rtol=0, atol=1e-6)
        assert torch.equal(ours.lookup(made.ids), theirs.indices_to_codes(ids))


def test_two_levels_part_at_zero() -> None:
    made = FSQConfig(levels=(2,)).build().eval()(torch.tensor([[[-0.1], [0.1], [-3.0], [3.0]]]))
    assert made.ids.tolist() == [[0, 1, 0, 1]]


def test_lfq_equals_its_oracle() -> None:
    theirs = oracle.LFQ(dim=10, entropy_loss_weight=0.1, commitment_loss_weight=0.25)
    ours = LFQConfig(bits=10).build()
    x = noise(2, 200, 10, scale=0.05)
    # Theirs counts the first channel as the most significant bit.
    codes, ids, loss = theirs(x.flip(-1))
    made = ours(x)
    assert torch.equal(made.ids, ids)
    torch.testing.assert_close(made.z, codes.flip(-1))
    torch.testing.assert_close(made.loss, loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        GaussianConfig(),
        *(VQConfig(codes=8, width=4, ema=ema) for ema in (None, 0.9)),
        VQConfig(codes=8, width=4, regularization=False),
        *(LFQConfig(bits=4, entropy=weight) for weight in (0.0, 0.1)),
        *(FSQConfig(levels=(4, 4), even=even) for even in (0.0, 0.1)),
        FSQConfig(levels=(4, 4), regularization=False),
    ],
)
def test_a_configuration_names_the_losses(config: Quantizer) -> None:
    made = config.build().train()(noise(2, 20, config.features))
    assert sorted(made.terms) == sorted(config.terms)


@pytest.mark.parametrize("decay", [0.8, 0.99])
def test_vq_with_running_means_follows_its_oracle(decay: float) -> None:
    theirs = oracle.VectorQuantize(dim=4, codebook_size=32, decay=decay, commitment_weight=0.25)
    ours = VQConfig(codes=32, width=4, ema=decay, regularization=False).build()
    ours.codebook.copy_(theirs.codebook)
    ours.sums.copy_(theirs.codebook)
    for step in range(4):
        x = noise(2, 40, 4, seed=step)
        codes, ids, _ = theirs(x)
        made = ours(x)
        assert torch.equal(made.ids, ids)
        torch.testing.assert_close(made.z, codes)
        torch.testing.assert_close(ours.codebook, theirs.codebook)


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_tokens_that_are_not_finite_move_no_running_mean(odd: float) -> None:
    quantizer = VQConfig(codes=8, width=4, ema=0.9, restart_below=0.5).build()
    before = {name: value.clone() for name, value in quantizer.named_buffers()}
    x = noise(2, 40, 4)
    x[0, 3, 1] = odd
    quantizer(x)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.named_buffers())
    quantizer(noise(2, 40, 4))
    assert not torch.equal(quantizer.sums, before["sums"])


def test_ids_are_counted_beyond_what_int32_or_float_hold() -> None:
    quantizer = LFQConfig(bits=40, regularization=False).build().eval()
    ids = torch.tensor([[0, 2**18 + 1, 2**31 + 1, 2**40 - 1]])
    assert torch.equal(quantizer(quantizer.lookup(ids)).ids, ids)


def test_vq_finds_the_nearest_a_few_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = VQConfig(codes=100, width=3).build().eval()
    x = noise(1, 57, 3)
    whole = quantizer(x).ids
    assert torch.equal(whole, torch.cdist(x, quantizer.codebook[None]).argmin(-1))
    monkeypatch.setattr(vector, "SCORES", 700)
    assert torch.equal(quantizer(x).ids, whole)


# -- losses -----------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.parametrize("name", FIXTURES)
def test_fsq_gives_the_public_ids_codes_and_losses(shared, name: str) -> None:
    path = shared / "parity" / "vidtok" / f"{name}.safetensors"
    with safe_open(path, "pt") as stored:
        arguments = json.loads(stored.metadata()["kwargs"])["regularizer"]["params"]
        x = stored.get_tensor("enc_out").movedim(1, -1)
        quantizer = FSQConfig(levels=tuple(arguments["levels"])).build()
        for step in (0, 5000):
            made = quantizer(x, step=step)
            loss = stored.get_tensor(f"aux_loss_step{step}").squeeze()
            torch.testing.assert_close(made.loss, loss, rtol=1e-5, atol=1e-6)
        assert torch.equal(made.ids, stored.get_tensor("indices").long())
        public = stored.get_tensor("z").movedim(1, -1)
        torch.testing.assert_close(made.z, public, rtol=0, atol=1e-6)
        torch.testing.assert_close(quantizer.lookup(made.ids), public, rtol=0, atol=1e-6)


@pytest.mark.weights
def test_gaussian_gives_the_public_mean_and_loss(shared) -> None:
    path = shared / "parity" / "vidtok" / "kl_causal_488_4chn.safetensors"
    with safe_open(path, "pt") as stored:
        x = stored.get_tensor("moments").movedim(1, -1)
        quantizer = GaussianConfig(channels=4).build()
        loss = quantizer(x).loss
        torch.testing.assert_close(loss, stored.get_tensor("kl_loss").squeeze(), rtol=1e-5, atol=0)
        assert torch.equal(quantizer.eval()(x).z.movedim(-1, 1), stored.get_tensor("z"))


@pytest.mark.parametrize("config", [FSQConfig(levels=(8, 5, 3, 2)), LFQConfig(bits=7)], ids=kind)
def test_lattice_entropy_equals_the_softmax_over_every_code(config) -> None:
    quantizer = config.build()
    x = noise(300, config.channels, scale=0.05).requires_grad_()
    codes = quantizer.lookup(torch.arange(config.vocabulary))
    fast, plain = quantizer.entropy(x), entropy_over_all(x, codes)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(each, x)[0] for each in (fast, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_vq_entropy_equals_the_softmax_over_every_code(ema, monkeypatch) -> None:
    quantizer = VQConfig(codes=50, width=3, ema=ema, temperature=0.1).build()
    x = noise(40, 3).requires_grad_()
    book = quantizer.codebook.detach().clone().requires_grad_()
    squared = (x.unsqueeze(1) - book).square().sum(-1)
    plain = spread((-squared / 0.1).log_softmax(-1))
    monkeypatch.setattr(vector, "SCORES", 350)
    fast = quantizer.entropy(x)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(
        torch.autograd.grad(fast, x, retain_graph=True)[0],
        torch.autograd.grad(plain, x, retain_graph=True)[0],
        rtol=1e-3,
        atol=1e-5,
    )
    if ema is None:
        ours = torch.autograd.grad(fast, quantizer.codebook)[0]
        torch.testing.assert_close(ours, torch.autograd.grad(plain, book)[0], rtol=1e-3, atol=1e-5)


def test_kl_of_a_hand_computed_case() -> None:
    z = torch.tensor([[[1.0, 2.0, 0.0, math.log(4.0)]], [[0.0, 0.0, 0.0, 0.0]]])
    loss = GaussianConfig(channels=2).build()(z).terms["kl"]
    assert loss.item() == pytest.approx(0.5 * (1 + (4 + 4 - 1 - math.log(4))) / 2)


def test_entropy_weight_falls_from_three_times_to_one() -> None:
    config = FSQConfig()
    weights = [config.entropy_weight(step) for step in (0, 1000, 2000, 9999, None)]
    assert weights == pytest.approx([0.3, 0.2, 0.1, 0.1, 0.1])
    assert FSQConfig(entropy_steps=0).entropy_weight(0) == 0.1


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_loss_is_the_sum_of_its_terms_and_zero_in_evaluation(config) -> None:
    quantizer = config.build()
    x = noise(2, 3, 5, config.features)
    made = quantizer(x, step=0)
    torch.testing.assert_close(made.loss, sum(made.terms.values(), torch.zeros(())))
    assert made.loss != 0
    quiet = quantizer.eval()(x)
    assert quiet.loss == 0
    assert quiet.terms == {}


def test_without_regularization_only_the_codebook_is_fitted() -> None:
    x = noise(2, 9, 4)
    for config, terms in [
        (FSQConfig(levels=(8,) * 4, regularization=False), set()),
        (LFQConfig(bits=4, regularization=False), set()),
        (VQConfig(codes=16, width=4, regularization=False), {"codebook"}),
        (VQConfig(codes=16, width=4, ema=0.9, regularization=False), set()),
        (FSQConfig(levels=(8,) * 4, entropy=0), {"commitment"}),
        (VQConfig(codes=16, width=4, ema=0.9, entropy=0), {"commitment"}),
    ]:
        assert set(config.build()(x).terms) == terms


@pytest.mark.parametrize("config", DISCRETE, ids=kind)
def test_gradients_pass_straight_through(config) -> None:
    quantizer = config.build().eval()
    x = noise(1, 6, config.features, scale=0.3).requires_grad_()
    quantizer(x).z.sum().backward()
    assert (x.grad > 0).all()
    if config.kind in ("lfq", "vq"):
        assert torch.equal(x.grad, torch.ones_like(x))


def test_vq_learns_its_codebook_by_gradients() -> None:
    quantizer = VQConfig(codes=16, width=4).build()
    x = noise(4, 64, 4)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=4.0)
    errors = []
    for _ in range(60):
        made = quantizer(x)
        errors.append(F.mse_loss(made.z, x).item())
        optimizer.zero_grad()
        made.terms["codebook"].backward()
        optimizer.step()
    assert errors[-1] < 0.7 * errors[0]


def test_dead_codes_start_anew_at_tokens() -> None:
    quantizer = VQConfig(codes=8, width=2, ema=0.5, restart_below=0.1).build()
    x = noise(1, 100, 2) + 20
    for _ in range(6):
        quantizer(x, sample=torch.Generator().manual_seed(0))
    nearest = torch.cdist(quantizer.codebook[None], x).min(-1).values
    assert nearest.max() < 2, "every code stands among the tokens"
    assert len(quantizer.eval()(x).ids.unique()) > 4


def test_early_steps_add_noise_instead_of_rounding() -> None:
    quantizer = FSQConfig(levels=(8, 8), rounding_from=10).build()
    x = noise(1, 1000, 2)
    draw = lambda step: quantizer(x, step=step, sample=torch.Generator().manual_seed(3))
    early = draw(9)
    assert torch.equal(early.z, draw(9).z)
    smooth = quantizer.bound(x) / 4
    assert 0.1 < (early.z - smooth).abs().max() <= 0.125, "half a step"
    assert torch.equal(draw(10).z, quantizer.lookup(early.ids))
    assert torch.equal(quantizer.eval()(x, step=9).z, quantizer.lookup(early.ids))


def test_a_gaussian_gives_its_mode_unless_asked_for_a_sample() -> None:
    quantizer = GaussianConfig(channels=3).build().eval()
    z = noise(2, 4, 5, 6)
    draw = lambda seed: quantizer(z, sample=torch.Generator().manual_seed(seed)).z
    assert torch.equal(quantizer(z).z, z[..., :3])
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    deviation = (draw(1) - z[..., :3]) / (0.5 * z[..., 3:]).exp()
    assert abs(deviation.std() - 1) < 0.2
    assert torch.equal(quantizer.train()(z).z, z[..., :3])
    with pytest.raises(ValueError, match="no ids"):
        quantizer.lookup(torch.zeros(1, 2, dtype=torch.int64))


# -- precision, size, devices -----------------------------------------------------------------


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_autocast_changes_nothing(config) -> None:
    quantizer = config.build().eval()
    x = noise(2, 30, config.features)
    exact = quantizer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(x)
        loss = quantizer.train()(x, step=0).loss
    assert cast.z.dtype == loss.dtype == torch.float32
    assert torch.equal(cast.z, exact.z)
    assert cast.ids is None or torch.equal(cast.ids, exact.ids)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return out


def largest(quantizer: torch.nn.Module, x: Tensor) -> int:
    with Largest() as seen:
        quantizer(x)
    return seen.elements


@pytest.mark.parametrize("config", [FSQConfig(levels=(8,) * 6), LFQConfig(bits=18)], ids=kind)
def test_evaluation_makes_nothing_as_large_as_the_codebook(config) -> None:
    quantizer = config.build()
    x = noise(1, 64, config.channels)
    assert largest(quantizer, x) >= config.vocabulary, "training holds one share per code"
    assert largest(quantizer, x) < 2 * config.vocabulary, "but not one per token and code"
    assert largest(quantizer.eval(), x) <= x.numel()


def test_vq_holds_few_distances_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = VQConfig(codes=4096, width=4).build()
    x = noise(1, 256, 4)
    monkeypatch.setattr(vector, "SCORES", 2**16)
    assert largest(quantizer, x) == 2**16
    assert largest(quantizer.eval(), x) == 2**16


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_builds_and_runs_on_the_meta_device(config) -> None:
    with torch.device("meta"):
        quantizer = config.build().eval()
    made = quantizer(torch.empty(1, 2, 3, config.features, device="meta"))
    assert made.z.shape == (1, 2, 3, config.channels)
    if made.ids is not None:
        assert quantizer.lookup(made.ids).shape == made.z.shape


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_half_precision_in_gives_half_precision_out(config) -> None:
    made = config.build().eval()(noise(1, 5, config.features).bfloat16())
    assert made.z.dtype == torch.bfloat16


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_a_clip_does_not_depend_on_its_batch(config) -> None:
    quantizer = config.build().eval()
    x = noise(3, 4, 5, config.features)
    assert torch.equal(quantizer(x).z[1:2], quantizer(x[1:2]).z)


@pytest.mark.parametrize("config", DISCRETE, ids=kind)
def test_lookup_names_the_id_that_is_out_of_range(config) -> None:
    quantizer = config.build()
    vocabulary = config.vocabulary
    for wrong in (vocabulary, -1):
        with pytest.raises(ValueError, match=rf"id {wrong} .* {vocabulary} ids"):
            quantizer.lookup(torch.tensor([[0, wrong]]))


# -- configurations ---------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_a_configuration_survives_json(config) -> None:
    adapter = TypeAdapter(Quantizer)
    assert adapter.validate_json(adapter.dump_json(config)) == config


def test_configurations_refuse_what_makes_no_sense() -> None:
    for wrong in (
        {"kind": "fsq", "levels": [8, 1]},
        {"kind": "fsq", "levels": []},
        {"kind": "fsq", "level": [8]},
        {"kind": "vq", "ema": 1.5},
        {"kind": "other"},
    ):
        with pytest.raises(ValidationError):
            TypeAdapter(Quantizer).validate_python(wrong)
    with pytest.raises(ValueError, match="entropy=0"):
        LFQConfig(bits=30).build()
    with pytest.raises(ValueError, match="int64"):
        FSQConfig(levels=(1000,) * 7, regularization=False).build()
    with pytest.raises(ValueError, match="5 channels"):
        FSQConfig().build()(noise(1, 2, 3, 4))


# -- over a set -------------------------------------------------------------------------------


def test_usage_is_exact_and_merges() -> None:
    usage, other = Usage(8), Usage(8)
    usage.update(torch.tensor([[0, 1], [2, 3]]))
    assert usage.utilization == 0.5
    assert usage.perplexity == pytest.approx(4)
    assert usage.entropy == pytest.approx(2)
    assert usage.commonest == 0.25
    other.update(torch.tensor([4, 4, 4, 4]))
    usage.merge(other)
    assert usage.counts.tolist() == [1, 1, 1, 1, 4, 0, 0, 0]
    assert usage.perplexity == pytest.approx(math.exp(math.log(8) * 0.5 + math.log(2) * 0.5))
    assert Usage(4).utilization == 0
    with pytest.raises(ValueError, match="id 8"):
        usage.update(torch.tensor([8]))


# -- two processes ----------------------------------------------------------------------------


def two_steps(x: Tensor) -> dict[str, Tensor]:
    """What depends on the tokens of all processes, for this process's tokens `x`."""
    x = x.clone().requires_grad_()
    torch.manual_seed(0)
    lattice = FSQConfig(levels=(8, 5, 3, 2), commitment=0).build()
    learned = VQConfig(codes=32, width=4, ema=0.9, commitment=0, restart_below=0.85).build()
    losses = torch.stack([quantizer(x, step=0).loss for quantizer in (lattice, learned)])
    losses.sum().backward()
    torch.manual_seed(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)
    codebook = learned.codebook.clone()
    learned(x.detach() + 50)  # far away: most codes starve and start anew
    usage = Usage(240)
    usage.update(lattice(x).ids)
    moved = {"codebook": codebook, "restarted": learned.codebook}
    return {"losses": losses, "gradient": x.grad, "counts": usage.over_ranks().counts, **moved}


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    torch.save(two_steps(noise(2, 50, 4, scale=0.3)[rank : rank + 1]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_what_one_sees(tmp_path) -> None:
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = two_steps(noise(2, 50, 4, scale=0.3))
    mean = (halves[0]["losses"] + halves[1]["losses"]) / 2
    torch.testing.assert_close(mean, whole["losses"])
    gradient = torch.cat([half["gradient"] for half in halves]) / 2
    torch.testing.assert_close(gradient, whole["gradient"], rtol=1e-4, atol=1e-7)
    for half in halves:
        assert torch.equal(half["counts"], whole["counts"])
        torch.testing.assert_close(half["codebook"], whole["codebook"])
    assert torch.equal(halves[0]["restarted"], halves[1]["restarted"])
    assert not torch.equal(halves[0]["restarted"], halves[0]["codebook"])
