"""Where a drafter's layers lie: how many of them on devices, and on which."""

from __future__ import annotations

import ctypes
import importlib
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp
from llama_cpp import _ctypes_extensions

if TYPE_CHECKING:
    from .llama import Llama

ALL_LAYERS = 0x7FFFFFFF
# ggml-backend.h: kinds of devices that hold a model's layers.
_GPUS = (1, 2)


@dataclass(frozen=True)
class Placement:
    """How libllama places a drafter; by default in the host's memory.

    Attributes:
        n_gpu_layers: layers on devices, counted as the verifier's: its output is one more.
        split_mode: how they are split over several; None: libllama's default.
        main_gpu: the device for all of them, with the split mode "none".
        tensor_split: shares of the devices; (): as they have room.
        devices: names of the devices that get them, in equal parts; (): all.
    """

    n_gpu_layers: int = 0
    split_mode: int | None = None
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()

    @property
    def on_device(self) -> bool:
        """Whether a device holds a part of it: there is one, and layers are offloaded."""
        return self.n_gpu_layers != 0 and bool(gpus())

    def apply(self, params: Any) -> list[Any]:
        """Fills a ``llama_model_params``; what is returned has to live until the model is loaded.

        A drafter that borrows its verifier's head has to reach the device where that lies, or
        libllama ends the process: devices that are not named stay at hand, without layers.
        """
        params.n_gpu_layers = self.n_gpu_layers
        if self.devices:
            found = gpus()
            others = [name for name in found if name not in self.devices]
            names = [*self.devices, *others]
            devices = (ctypes.c_void_p * (len(names) + 1))(*(found[name] for name in names), None)
            params.devices = ctypes.cast(devices, ctypes.c_void_p)
            params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_LAYER
            return [devices, _set_split(params, [1.0] * len(self.devices))]
        if self.split_mode is not None:
            params.split_mode = self.split_mode
        params.main_gpu = self.main_gpu
        return [_set_split(params, self.tensor_split)] if self.tensor_split else []


def placement_beside(
    llm: Llama, n_layer: int, gpu_layers: int | None, devices: Sequence[str]
) -> Placement:
    """The placement of a drafter of ``n_layer`` layers: as the verifier's where nothing is said.

    Args:
        gpu_layers: -1: all, None: the share of them that the verifier has there, or all on
            ``devices`` that are named. The head that most drafters borrow is the first of the
            verifier's layers that libllama offloads.
    """
    params = llm.model_params
    if gpu_layers is None and devices:
        gpu_layers = ALL_LAYERS
    if gpu_layers is None:
        n_verifier = llama_cpp.llama_model_n_layer(llm._model.model)
        gpu_layers = same_share(params.n_gpu_layers, n_verifier, n_layer)
    return Placement(
        n_gpu_layers=ALL_LAYERS if gpu_layers < 0 else gpu_layers,
        split_mode=params.split_mode,
        main_gpu=params.main_gpu,
        tensor_split=tuple(llm.tensor_split or ()),
        devices=tuple(devices),
    )


def same_share(n_offloaded: int, n_layer: int, n_drafter: int) -> int:
    """Of ``n_drafter`` layers the share that a verifier of ``n_layer`` has on devices.

    Both numbers count the output as one layer, the first that is offloaded.
    """
    if n_offloaded < 0 or n_offloaded > n_layer:
        return ALL_LAYERS
    if n_offloaded == 0:
        return 0
    return 1 + round(n_drafter * (n_offloaded - 1) / n_layer)


def gpus() -> dict[str, int]:
    """The devices that layers can be offloaded to: names, and the addresses libllama knows."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    name = _function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    devices = [get(i) for i in range(count())]
    return {name(device).decode(): device for device in devices if kind(device) in _GPUS}


def checked_devices(devices: Sequence[str] | str | None) -> tuple[str, ...]:
    """Names of devices, each of which there is.

    Raises:
        ValueError: names one that there is not, and those that there are.
    """
    names = (devices,) if isinstance(devices, str) else tuple(devices or ())
    if not names:
        return ()
    found = gpus()
    for name in names:
        if name not in found:
            there = ", ".join(found) or "none: it was built for, or finds, the CPU alone"
            raise ValueError(
                f"drafter_devices: there is no device {name!r}; the devices of this "
                f"llama-cpp-python are {there}"
            )
    return names


def _set_split(params: Any, shares: Sequence[float]) -> Any:
    array = (ctypes.c_float * llama_cpp.LLAMA_MAX_DEVICES)(*shares)
    params.tensor_split = array
    return array


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml, which is one library or two, beside libllama or within it."""
    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    libraries: tuple[Callable[[], Any], ...] = (
        lambda: llama_cpp.llama_cpp._lib,
        lambda: importlib.import_module("llama_cpp._ggml").libggml,
        lambda: _ctypes_extensions.load_shared_library("ggml-base", folder),
    )
    for library in libraries:
        try:
            function = getattr(library(), name)
        except (AttributeError, ImportError, OSError):
            continue
        function.restype, function.argtypes = result, list(arguments)
        return function
    raise ValueError(f"this llama-cpp-python does not tell its devices: it lacks {name}")
