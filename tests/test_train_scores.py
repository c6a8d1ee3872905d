"""The score networks: what they are trained on, that training is reproducible, and the figure about them."""

import dataclasses
import json
import math
from functools import cache

import numpy as np
import pytest
import torch
import tyro

import gapbound as gb
from analysis import score_network, train_scores
from analysis.figure import Settings, plain
from analysis.programs import learned_scores
from analysis.score_network import SIGMA, TARGETS, WEIGHTS, data_std, file_of, load, new, provenance
from analysis.train_scores import Training, draw, export, initial, loss_of, train
from gapbound.bounds.certify import certify
from gapbound.bounds.score_error import score_error

SMALL = Training(2, steps=60, batch=64, seed=3)


@pytest.fixture(autouse=True)
def _one_thread():
    """As the command trains: small operations gain nothing from threads, and sums keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Posterior:
    """The exact F of a target, in the network's place."""

    def __init__(self, target, offset=0.0):
        """F less ``offset`` is exact."""
        self.target, self.data_std, self.offset = target, data_std(target), offset

    def residual(self, z, sigma):
        """See ``ScoreNetwork``."""
        total = (sigma**2 + self.data_std**2).sqrt()
        score = torch.stack([self.target.score(row, float(s)) for row, s in zip(z, sigma[:, 0], strict=True)])
        return (score + z / total**2) * sigma * total / self.data_std + self.offset


@pytest.mark.parametrize("dim", TARGETS)
def test_draws_are_those_of_the_target_at_stratified_levels(dim):
    x, noise, sigma = draw(TARGETS[dim], 20_000, torch.Generator().manual_seed(0))
    target = TARGETS[dim]
    error = np.sqrt(np.diag(np.atleast_2d(target.cov)) / 20_000)
    assert (np.abs(x.double().mean(0).numpy() - target.mean) < 4 * error).all()
    np.testing.assert_allclose(np.cov(x.T), np.squeeze(target.cov), atol=0.05)
    assert abs(float(noise.std()) - 1) < 4 / math.sqrt(2 * noise.numel())
    assert float(torch.corrcoef(torch.stack([x[:, 0], noise[:, 0]]))[0, 1]) == pytest.approx(
        0, abs=4 / math.sqrt(20_000)
    )
    share = (sigma[:, 0].log() - math.log(SIGMA[0])) / math.log(SIGMA[1] / SIGMA[0])
    np.testing.assert_allclose(share, (np.arange(20_000) + 0.5) / 20_000, atol=1e-4)


def test_the_score_is_the_denoiser_less_z_over_tau():
    network, z = initial(SMALL), torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(network.body[-1].weight)
    s = network.data_std
    for sigma in (0.05, 1.0, 8.0):
        level = torch.full((5, 1), sigma)
        total = math.hypot(sigma, s)
        D = s**2 / total**2 * z + sigma * s / total * network.residual(z, level)
        torch.testing.assert_close(network(z, sigma), (D - z) / sigma**2, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(network(z, level[:, 0]), network(z, sigma))


def test_an_untrained_network_is_the_gaussian_of_the_targets_size():
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    wide = gb.Gaussian(np.zeros(8), data_std(TARGETS[8]) ** 2)
    torch.testing.assert_close(new(8)(z, 0.7), wide.score(z, 0.7))


def test_the_exact_score_has_the_smallest_loss():
    target = TARGETS[2]
    batch = draw(target, 2000, torch.Generator().manual_seed(0))
    exact = float(loss_of(Posterior(target), *batch))
    for offset in (-0.1, 0.1):
        # the loss of F + offset exceeds that of F by offset^2, up to a mean of independent draws
        assert float(loss_of(Posterior(target, offset), *batch)) - exact == pytest.approx(0.01, abs=0.008)
    assert exact < float(loss_of(new(2).requires_grad_(False), *batch))


def test_training_lowers_the_score_error(tmp_path):
    run = dataclasses.replace(SMALL, steps=300, batch=512)
    trained = train(run, tmp_path / "run.pt").requires_grad_(False)
    before, after = (
        score_error(model, TARGETS[2], [0.5, 2.0]).value for model in (new(2).requires_grad_(False), trained)
    )
    assert (after < 0.7 * before).all()


def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    monkeypatch.setattr(train_scores, "KEEP", 20)
    whole = train(SMALL, tmp_path / "whole.pt")

    class Stop(Exception):
        pass

    def stop(step, loss):
        if step == 40:
            raise Stop

    with pytest.raises(Stop):
        train(SMALL, tmp_path / "stopped.pt", stop)
    made = []
    again = train(SMALL, tmp_path / "stopped.pt", lambda step, loss: made.append(step))
    assert made == [60]
    for name, one in (("a", whole), ("b", again)):
        export(one, SMALL, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_of_another_run_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(train_scores, "KEEP", 30)
    train(SMALL, tmp_path / "run.pt")
    steps = []
    other = dataclasses.replace(SMALL, seed=4)
    train(other, tmp_path / "run.pt", lambda step, loss: steps.append(step))
    assert steps == [30, 60]


def test_seeds_differ_by_seed_dimension_and_step():
    runs = [Training(1), Training(2), Training(1, seed=1)]
    seeds = [run.generator(step).initial_seed() for run in runs for step in (-1, 0, 1, 19_999)]
    assert len(set(seeds)) == len(seeds)


def test_training_leaves_torchs_own_generator_alone():
    state = torch.random.get_rng_state()
    initial(SMALL)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_command_writes_weights_that_can_be_loaded(tmp_path, capsys):
    arguments = ["--dim", "1", "--steps", "30", "--seed", "5", "--out", str(tmp_path), "--build", str(tmp_path / "b")]
    tyro.cli(train_scores.main, args=arguments)
    assert "d = 1: step 30 of 30" in capsys.readouterr().out
    found = provenance(1, tmp_path)
    assert (found["seed"], found["steps"], found["dim"], found["sigma"]) == (5, 30, 1, list(SIGMA))
    assert found["versions"]["torch"] == torch.__version__
    network = load(1, tmp_path)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(
        network.state_dict(), train(Training(1, steps=30, seed=5), tmp_path / "x.pt").state_dict()
    )
    for arguments, message in ((["--dim", "3"], "--dim must be one of 1, 2, 8"), (["--steps", "0"], "--steps must be")):
        with pytest.raises(SystemExit, match=message):
            tyro.cli(train_scores.main, args=arguments)
    with pytest.raises(FileNotFoundError, match=r"train them: python -m analysis\.train_scores --dim 2"):
        load(2, tmp_path)


@pytest.mark.parametrize("dim", TARGETS)
def test_the_committed_networks_know_their_targets(dim):
    sigmas = np.geomspace(*SIGMA, 7)
    network = load(dim)
    found = score_error(network, TARGETS[dim], sigmas, n=4000)
    blank = score_error(new(dim).requires_grad_(False), TARGETS[dim], sigmas, n=4000)
    assert (found.value < 0.3 * blank.value).all()
    assert (found.value * sigmas < 0.05 * math.sqrt(dim)).all()  # of the noise to be predicted
    assert provenance(dim)["steps"] == Training.steps


def test_the_committed_weights_are_small():
    assert sum(file_of(dim).stat().st_size for dim in TARGETS) < 2**20
    assert {path.name for path in WEIGHTS.iterdir()} == {file_of(dim).name for dim in TARGETS}


# the figure


@cache
def data():
    return plain(learned_scores.PROGRAM.compute(Settings(quick=True), lambda fraction: None))


def test_no_measured_gap_is_above_its_certificate_and_none_is_vacuous_with_the_law_known():
    for found in data()["targets"]:
        for gap, error, bound in zip(found["gap"], found["standard_error"], found["bound"], strict=True):
            assert abs(gap) - 3 * error < bound < found["range"]
        assert all(blind > found["range"] for blind in found["from_samples"])


def test_the_mass_of_the_figure_is_the_bound():
    for found in data()["targets"]:
        for w2, mass, bound in zip(found["w2"], found["mass"], found["bound"], strict=True):
            pieces = [mass["start, ODE"], mass["start, SDE"], *mass["bins"], mass["errors"]]
            assert min(pieces) > 0
            assert sum(pieces) == pytest.approx(sum(w2), rel=1e-9)
            assert bound == pytest.approx(sum(w2), rel=1e-9)  # Lipschitz constant 1


def test_the_rest_of_the_mass_is_the_errors_that_the_certificate_states():
    question = load(2), TARGETS[2], learned_scores.question(2)[0], learned_scores.reward_in(2), 1.0
    found = certify(*question, t_min=learned_scores.question(2)[1], n=500, points=8)
    stated = sum(one.value for one in found.ingredients if one.name.startswith("error added"))
    assert learned_scores.mass(found)["errors"] == pytest.approx(stated, rel=1e-6)


def test_the_steps_of_the_figure_leave_no_error_that_could_be_seen():
    process, t_min = learned_scores.question(1)
    sigmas = np.geomspace(learned_scores.SIGMA_T, SIGMA[0], learned_scores.STEPS + 1)
    sigmas[0] = process.sigma_T
    assert float(process.sigma(t_min)) == pytest.approx(SIGMA[0], rel=1e-12)
    for target in (gb.Gaussian(0.4, 0.5), gb.Gaussian(0.4, 1.3)):
        for eta in (0.0, *learned_scores.ETAS):
            steps = gb.discrete_law(target, process, "stochastic-heun", eta, sigmas=sigmas)
            exact = gb.terminal_law(target, process, eta, t_min=t_min)
            missed = [float(learned_scores.reward_in(1).expectation(law)) for law in (steps, exact)]
            assert missed[0] == pytest.approx(missed[1], abs=5e-4)


def test_the_figure_is_written_with_the_training_of_its_networks(tmp_path):
    program = type(learned_scores.PROGRAM)("learned_scores", lambda settings, progress: data(), learned_scores.draw)
    program.write(tmp_path, Settings(quick=True))
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".pdf", ".json"}
    kept = json.loads((tmp_path / "learned_scores.json").read_text())["data"]["targets"]
    assert [found["training"]["dim"] for found in kept] == list(TARGETS)
    assert score_network.WIDTH == 64
