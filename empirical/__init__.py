"""Measurements of reward gaps on text-to-image models: schedulers, rewards, the gap meter, the embedded model."""
