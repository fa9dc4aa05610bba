"""Triton kernels for the element-wise work of a step on a GPU, compiled at first use.

``unit_statistics`` and ``running_averages`` have the kernels of an engine's update, ``replacement`` those of selection
and replacement, ``adam`` those of AdamGnT's step.

Importing this package does not import triton. For each kernel there is an equivalent in torch operations, which is used
wherever triton is not available.

A kernel processes all tensors in one launch. It reads their addresses from a table on the device (`DeviceTables`).
"""

from gnt._triton.availability import can_run, reason_against
from gnt._triton.device_tables import DeviceTables, is_capturing, on_device, upload

__all__ = ["DeviceTables", "can_run", "is_capturing", "on_device", "reason_against", "upload"]
