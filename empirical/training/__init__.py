"""What the trainers of image models share: policies, rollouts, guards, updates, checkpoints, evaluation, logs.

``train_ddpo`` is made of these, one idea a module, in the order in which they build on each other:

- ``condition``: what a pipeline tells its network; ``policy``: mean and std of a step; ``tune``: what is trained.
- ``memory``: what a pass holds, counted without running it; ``plan``: what a run would do.
- ``guards``: ratios that must be 1, numbers that must be finite; ``rollout``: trajectories and their images.
- ``update``: a step's share of the loss; ``prompts``: their order; ``checkpoint``, ``log``: what is kept.
- ``evaluate``: the gap meter on held-out prompts; ``card``: the model card.
"""
