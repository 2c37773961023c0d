"""Megatron-Core for the stages that need it: the CPU shim, the model's one place of construction, checkpoints.

``architecture`` is pure and needs no torch; the other modules are imported only where a model really runs.
"""
