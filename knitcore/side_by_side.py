"""Several images at a time: each goes its own way, but for the fits, which are done together."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from knitcore.events import relayed
from knitcore.recipe import Inpaint

if TYPE_CHECKING:
    import numpy as np
    import torch

    from knitcore.fit import Fitted, Target

MOST_VALUES = 2**22  # of the regions that wait for one fit, whatever their number
MOST_PIXELS = 2**25  # of the images they belong to; a larger one goes alone

T = TypeVar("T")


@dataclass(eq=False)
class _Seat:
    """A region that waits for a fit, or is in one.

    Attributes
    ----------
    image, pixels : int
        Which image it belongs to, and that image's values.
    target : Target
    kind : tuple
        Recipe but for its seed, device, previews: what the regions of a fit have in common.
    most : int
        Regions that fit side by side.
    state : Fitted
    members : ndarray or None
        What was fitted; None once `over` if nothing came of it.
    over : bool
    """

    image: int
    pixels: int
    target: Target
    kind: tuple[Inpaint, torch.device, bool]
    most: int
    state: Fitted
    members: np.ndarray | None = None
    over: bool = False


class SharedFits:
    """Where images that are worked on side by side meet, to have their regions fitted together.

    Attributes
    ----------
    turn : int
        The image that is worked on just now.
    """

    def __init__(self) -> None:
        self.turn = 0
        self._waiting: list[_Seat] = []

    def fit(
        self,
        targets: Sequence[Target],
        recipe: Inpaint,
        device: torch.device,
        previews: bool,
        pixels: int,
    ) -> Generator[list[Fitted], None, list[Fitted]]:
        """As `fit.fit_regions`, together with whatever regions of other images wait, too.

        Parameters
        ----------
        targets, recipe, device, previews
            As of `fit_regions`.
        pixels : int
            Values of the image.

        Yields
        ------
        list of Fitted

        Returns
        -------
        list of Fitted

        Raises
        ------
        FitError
            As `fit_regions`, for these regions alone.
        """
        from knitcore.fit import Fitted, fit_regions, most_together

        kind = (recipe.model_copy(update={"seed": 0}), device, previews)
        seats = []
        for target in targets:
            most = most_together(recipe, len(target.values), target.want.ndim, device)
            own = replace(target, seed=recipe.seed)
            seats.append(_Seat(self.turn, pixels, own, kind, most, Fitted()))
        self._waiting += seats
        try:
            while not all(seat.over for seat in seats):
                yield [seat.state for seat in seats]
        finally:  # who is cancelled waits no more
            self._waiting = [seat for seat in self._waiting if seat not in seats]
        left = [seat for seat in seats if seat.members is None]
        if left:
            alone = fit_regions([seat.target for seat in left], recipe, device, previews)

            def told(states: list[Fitted]) -> list[Fitted]:
                for seat, state in zip(left, states, strict=True):
                    seat.state = state
                return [seat.state for seat in seats]

            told((yield from relayed(alone, told)))
        for seat in seats:
            if seat.members is not None:
                seat.state.members = seat.members
        return [seat.state for seat in seats]

    def waits(self, image: int) -> bool:
        """Whether regions of an image wait for a fit."""
        return any(seat.image == image for seat in self._waiting)

    def room(self) -> bool:
        """Whether regions of one more image may join those that wait."""
        images = {seat.image: seat.pixels for seat in self._waiting}
        return (
            len(self._waiting) < min((seat.most for seat in self._waiting), default=1)
            and sum(seat.target.values.size for seat in self._waiting) < MOST_VALUES
            and sum(images.values()) < MOST_PIXELS
        )

    def run(self) -> Generator[None, None, None]:
        """Fit those that have waited longest, as many as go together.

        Yields
        ------
        None
            About ten times a second.
        """
        from knitcore.fit import fit_regions

        taken = self._take()
        if len({seat.image for seat in taken}) > 1:
            recipe, device, previews = taken[0].kind
            fit = fit_regions(
                [seat.target for seat in taken], recipe, device, previews, lenient=True
            )

            def told(states: list[Fitted]) -> None:
                for seat, state in zip(taken, states, strict=True):
                    seat.state = state

            # whatever goes wrong, such as memory that does not do for all: each image tries alone
            with suppress(Exception):
                told((yield from relayed(fit, told)))
                for seat in taken:
                    seat.members, seat.state.members = seat.state.members, None
        for seat in taken:  # those of one image are fitted by that image, as if there were no other
            seat.over = True

    def _take(self) -> list[_Seat]:
        alike = [seat for seat in self._waiting if seat.kind == self._waiting[0].kind]
        taken: list[_Seat] = []
        for seat in islice(alike, min((seat.most for seat in alike), default=0)):
            if taken and sum(one.target.values.size for one in taken) >= MOST_VALUES:
                break
            taken.append(seat)
        self._waiting = [seat for seat in self._waiting if seat not in taken]
        return taken


def side_by_side(
    works: Iterable[Generator[Any, None, T]], shared: SharedFits
) -> Iterator[tuple[int, T]]:
    """Work on several images at a time, as many as are needed to fill a fit.

    Parameters
    ----------
    works : iterable of generators
        One an image, made when there is room for it; their fits are those of `shared`. Whatever is
        wrong with an image, its generator returns: an error that it raises ends all.
    shared : SharedFits

    Yields
    ------
    number, result : int, object
        Which image, from 0 on, and what its generator returned; in the order they end.
    """
    coming, more = enumerate(works), True
    begun: dict[int, Generator[Any, None, T]] = {}

    def step(number: int) -> Iterator[tuple[int, T]]:
        shared.turn = number
        try:
            next(begun[number])
        except StopIteration as end:
            del begun[number]
            yield number, end.value

    def go_on(number: int) -> Iterator[tuple[int, T]]:
        """To its next fit, or to its end."""
        while number in begun and not shared.waits(number):
            yield from step(number)

    try:
        while more or begun:
            while more and shared.room():
                found = next(coming, None)
                if found is None:
                    more = False
                    break
                begun[found[0]] = found[1]
                yield from go_on(found[0])
            with closing(shared.run()) as fit:
                for _ in fit:
                    for number in list(begun):
                        yield from step(number)
            for number in list(begun):
                yield from go_on(number)
    finally:
        for work in begun.values():
            work.close()
