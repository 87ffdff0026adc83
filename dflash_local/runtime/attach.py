"""Gives a verifier that is loaded its drafter, or says why decoding is plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dflash_local._api import _core
from dflash_local.errors import AllocationError
from dflash_local.files import pairing
from dflash_local.files.drafter_file import DrafterInfo
from dflash_local.files.fingerprint import fingerprint

from . import exact_check, seam
from .exact import ExactWidths, how_to_reach_further
from .learned import Learned
from .placement import placement_beside

if TYPE_CHECKING:
    from .llama import Llama

#: Positions of context that a drafter sees, where nothing else is said.
DRAFTER_CTX = 8192


@dataclass(frozen=True)
class DrafterOptions:
    """What the caller of ``Llama`` asked for; see there.

    Attributes:
        n_ctx: positions of context that the drafter sees.
        gpu_layers: of its layers those on devices; -1: all, None: as the verifier's.
        devices: names of the devices for it; (): as the verifier's.
        exact: True: exact widths only, None: they are preferred, False: they do not matter.
        may_switch: nobody chose the attention.
    """

    n_ctx: int
    gpu_layers: int | None
    devices: tuple[str, ...]
    exact: bool | None
    may_switch: bool

    def __post_init__(self) -> None:
        if self.n_ctx < 1:
            raise ValueError(f"drafter_ctx is {self.n_ctx}: expected 1 or more, or None")
        if self.gpu_layers is not None and self.gpu_layers < -1:
            raise ValueError(
                f"drafter_gpu_layers is {self.gpu_layers}: expected -1 or more, or None"
            )


@dataclass(frozen=True)
class Attached:
    """A drafter that works beside a verifier.

    Attributes:
        session: of both.
        drafter_id: tells this drafter from others.
        max_width: drafts that its block gives at most.
        exact: which widths are exact; None where nobody asked, or it was not found out in time.
        learned: where costs and acceptance are kept; None at a fixed width.
    """

    session: _core.Session
    drafter_id: str
    max_width: int
    exact: ExactWidths | None
    learned: Learned | None


def attach(
    llm: Llama, info: DrafterInfo, options: DrafterOptions, warn: Callable[[str], None]
) -> Attached | None:
    """Loads the drafter beside the verifier, whose context is made anew for blocks.

    Args:
        warn: is told what may surprise, and why decoding is plain.

    Returns:
        None where decoding is plain.

    Raises:
        ModelError: they do not fit, or exact widths are wanted and there are none.
    """
    for warning in pairing.check_pair(info, seam.verifier_info(llm)):
        warn(warning)
    placement = placement_beside(llm, info.n_layer, options.gpu_layers, options.devices, llm._rpc)
    prepared = exact_check.prepare(
        llm, info, placement, wanted=options.exact, may_switch=options.may_switch
    )
    if not prepared.rows:
        warn(_NO_ROOM_FOR_BLOCKS if prepared.rows is None else _NOTHING_GOES_BACK)
        return None
    try:
        session = seam.open_session(
            llm, info, prepared.rows, width=llm.width, n_ctx=options.n_ctx, placement=placement
        )
    except AllocationError as error:
        warn(_NO_ROOM_FOR_DRAFTER.format(error=error))
        return None
    if prepared.exact is not None:
        _set_exact(llm, session, prepared.exact, options, warn)
    learned = None
    if llm.width is None:
        learned = Learned(seam.pair_key(llm, info, placement))
        learned.begin(session)
    return Attached(session, fingerprint(info.path), info.max_width, prepared.exact, learned)


def _set_exact(
    llm: Llama,
    session: _core.Session,
    found: ExactWidths,
    options: DrafterOptions,
    warn: Callable[[str], None],
) -> None:
    session.set_exact(found.widths, up_to=found.up_to, only=bool(options.exact))
    if options.exact and (warning := how_to_reach_further(llm, found)):
        warn(warning)


def width_warning(attached: Attached, width: int | None) -> str | None:
    """What to say of a fixed width that is more than can be had; None where it is not."""
    if width is None:
        return None
    if width > attached.max_width:
        return f"width {width}: the drafter's block gives {attached.max_width} at most"
    most = attached.session.verifier.max_rows - 1
    if width > most:
        return (
            f"width {width}: this context verifies {most} drafts at most; load it with this "
            "width, and n_batch and n_ubatch of at least 2 more"
        )
    return None


_NO_ROOM_FOR_BLOCKS = (
    "there is no memory for what drafting needs of the verifier's context, so decoding is plain: "
    "a smaller n_ctx or n_batch leaves room"
)
_NOTHING_GOES_BACK = (
    "libllama cannot take back single tokens from the recurrent memory of this verifier, so drafts "
    "cannot be verified on it (its architecture keeps no snapshots, or n_batch or n_ubatch is "
    "below 3): decoding plainly"
)
_NO_ROOM_FOR_DRAFTER = (
    "the drafter does not fit the memory, so decoding is plain ({error}): a smaller drafter_ctx or "
    "n_ctx needs less, and drafter_gpu_layers=0 none of a device's"
)
