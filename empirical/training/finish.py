"""The end of a run: weights that diffusers loads, and their model card."""

from __future__ import annotations

from analysis.files import write_text
from empirical.meter.pipelines import KINDS, denoiser, kind_of
from empirical.training import tune
from empirical.training.card import card
from empirical.training.log import EVALUATION
from empirical.training.run import Run


def write(run: Run) -> None:
    """Write what was trained and its card into ``weights`` of the run's folder, by the first process."""
    if run.accelerator.is_main_process:
        folder, lora = run.config.out / "weights", run.config.rank is not None
        folder.mkdir(exist_ok=True)
        with run.judged():
            tune.save(run.pipeline, folder, lora)
        last = [line for line in run.log.lines() if line["kind"] == EVALUATION][-1]
        settings = {key: value for key, value in run.config.record().items() if key != "model"}
        whole = None if lora else (kind_of(run.pipeline).network, type(denoiser(run.pipeline)).__name__)
        family = next(known.__name__ for known in KINDS if isinstance(run.pipeline, known))  # ours are subclasses
        text = card(settings, last, family, run.config.algorithm, whole)
        write_text(folder / "README.md", text)
        run.say(f"weights and card: {folder}")
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
