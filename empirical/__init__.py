"""Measurements of reward gaps on text-to-image models: schedulers, rewards, the gap meter, the embedded model."""

import os

# transformers otherwise announces at every start that it reads images by PIL, as torchvision is not there: nothing here
# needs it
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
