"""A guard against waiting for the device: what makes the host wait for a GPU fails here on a CPU too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# By the names of torch's operators: values that Python wants, results whose shape depends on values, and tensors made
# of Python or NumPy values (lift_fresh), which a device would have to be sent.
OPERATORS = {
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "is_nonzero",
    "lift_fresh",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
CALLS = {"tolist", "numpy", "cpu", "__array__"}  # free on a CPU, so that no operator shows them


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Inside, an AssertionError names whatever would read a device's values on the host, or send it host values.

    It covers backward passes too. Not seen is ``to(device)``, which does nothing on a CPU.
    """
    with _Calls(), _Operators():
        yield


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        assert name not in OPERATORS, f"{name} makes the host wait"
        if name in INDEXING:
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{name} with a mask makes the host wait: its size depends on values"
        if name == "repeat_interleave":
            assert kwargs.get("output_size") is not None, f"{name} makes the host wait: its size depends on values"
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        assert name not in CALLS, f"{name} makes the host wait"
        if name == "one_hot":
            return _one_hot(*args, **kwargs)
        return func(*args, **kwargs)


def _one_hot(labels: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """torch's, which reads the labels on a CPU to check them and on a GPU does not."""
    assert num_classes >= 0, "one_hot without a number of classes makes the host wait"
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).long()
