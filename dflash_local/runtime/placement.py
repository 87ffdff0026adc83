"""Where layers lie: which devices a verifier is spread over, and how many of a drafter's."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp

from dflash_local.machine.ggml import default_gpus, gpus
from dflash_local.machine.rpc import devices_of

if TYPE_CHECKING:
    from .llama import Llama

ALL_LAYERS = 0x7FFFFFFF


@dataclass(frozen=True)
class Placement:
    """How libllama places a drafter; by default in the host's memory.

    Attributes:
        n_gpu_layers: layers on devices, counted as the verifier's: its output is one more.
        split_mode: how they are split over several; None: libllama's default.
        main_gpu: the device for all of them, with the split mode "none".
        tensor_split: shares of the devices; (): as they have room.
        devices: names of the devices that get them, in equal parts; (): all.
        rpc: the servers that hold a part of the verifier; the names of all their devices.
    """

    n_gpu_layers: int = 0
    split_mode: int | None = None
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()
    rpc: tuple[str, ...] = ()

    @property
    def on_device(self) -> bool:
        """Whether a device of this machine holds a part of it: layers are offloaded to one."""
        return self.n_gpu_layers != 0 and bool(gpus())

    def apply(self, params: Any) -> list[Any]:
        """Fills a ``llama_model_params``; what is returned has to live until the model is loaded.

        A drafter that borrows its verifier's head has to reach the device where that lies, or
        libllama ends the process: devices that are not named stay at hand, without layers.
        """
        params.n_gpu_layers = self.n_gpu_layers
        if self.devices or self.rpc:
            return self._apply_devices(params)
        if self.split_mode is not None:
            params.split_mode = self.split_mode
        params.main_gpu = self.main_gpu
        return [_set_split(params, self.tensor_split)] if self.tensor_split else []

    def _apply_devices(self, params: Any) -> list[Any]:
        local = {name: [device] for name, device in gpus().items()}
        found = {**local, **_servers(self.rpc)}
        names = self.devices or tuple(default_gpus())
        chosen = [device for name in names for device in found.pop(name)]
        others = [device for devices in found.values() for device in devices]
        if not chosen:
            params.n_gpu_layers = 0  # at home there is the host's memory alone
        params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_LAYER
        shares = [1.0] * len(chosen)
        return [set_devices(params, [*chosen, *others]), _set_split(params, shares)]


def verifier_devices(rpc: Sequence[str]) -> list[int]:
    """What a verifier on these servers is spread over, in libllama's own order: them, then GPUs.

    None where there is no server: libllama chooses.

    Raises:
        BackendError: a server cannot be used.
    """
    remote = [device for devices in _servers(rpc).values() for device in devices]
    return [*remote, *default_gpus().values()] if remote else []


def offloaded_layers(asked: int | None, rpc: Sequence[str]) -> int:
    """The verifier's layers on devices; None: all of them on servers, none on this machine's."""
    return (-1 if rpc else 0) if asked is None else asked


def placement_beside(
    llm: Llama,
    n_layer: int,
    gpu_layers: int | None,
    devices: Sequence[str],
    rpc: tuple[str, ...] = (),
) -> Placement:
    """The placement of a drafter of ``n_layer`` layers: as the verifier's where nothing is said.

    Of a verifier on servers, it is as on this machine's devices: the drafter stays at home.

    Args:
        gpu_layers: -1: all, None: the share of them that the verifier has there, or all on
            ``devices`` that are named. The head that most drafters borrow is the first of the
            verifier's layers that libllama offloads.
        rpc: the servers that hold a part of the verifier.
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
        rpc=rpc,
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


def _servers(rpc: Iterable[str]) -> dict[str, list[int]]:
    return {endpoint: devices_of(endpoint) for endpoint in rpc}


def checked_devices(
    devices: Sequence[str] | str | None, rpc: Sequence[str] = ()
) -> tuple[str, ...]:
    """Names of devices, each of which there is; a server's endpoint names all of its devices.

    Raises:
        ValueError: names one that there is not, and those that there are.
    """
    names = (devices,) if isinstance(devices, str) else tuple(devices or ())
    if not names:
        return ()
    found = [*gpus(), *rpc]
    for name in names:
        if name not in found:
            there = ", ".join(found) or "none: it was built for, or finds, the CPU alone"
            raise ValueError(
                f"drafter_devices: there is no device {name!r}; the devices of this "
                f"llama-cpp-python are {there}"
            )
    return names


def set_devices(params: Any, devices: Sequence[int]) -> Any:
    """Gives a ``llama_model_params`` its devices; what is returned lives until it has loaded."""
    array = (ctypes.c_void_p * (len(devices) + 1))(*devices, None)
    params.devices = ctypes.cast(array, ctypes.c_void_p)
    return array


def _set_split(params: Any, shares: Sequence[float]) -> Any:
    array = (ctypes.c_float * llama_cpp.LLAMA_MAX_DEVICES)(*shares)
    params.tensor_split = array
    return array
