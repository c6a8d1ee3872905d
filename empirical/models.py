"""The models that this repository brings, by name, and what they are meant to be sampled with; loads nothing."""

EMBEDDED = "embedded"  # captioned shapes, of Stable Diffusion's classes
EARLY = "embedded-early"  # the same kind after too little training, which leaves something to learn
FLOW = "embedded-flow"  # a flow-matching model, of Stable Diffusion 3's classes
BUNDLED = (EMBEDDED, EARLY, FLOW)
GUIDANCE = 4.0
ADAPTERS = "adapters"  # as the reference of a measurement: the model itself with its LoRA off
