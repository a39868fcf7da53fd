"""From noise to latents along a velocity field: stochastic and deterministic samplers.

Time runs from 0 (noise) to 1 (data) on the linear path x_t = t x_1 + (1 - t) x_0, on which the
network's velocity also gives the score. `velocity(x, t)` takes a number t; `noise()` gives a fresh
standard normal of x's shape. Ma et al., "SiT", 2024, section 2; CoordTok, appendix A.2.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
DrawNoise = Callable[[], Tensor]
ErrorNorm = Callable[[Tensor], float]
SAMPLERS = ("euler-maruyama", "heun-sde", "euler", "heun", "dopri5")
STEPS = 250  # points in time of a path, unless told otherwise
LAST = 0.04
"""Length of the deterministic step that ends a stochastic path (CoordTok's and SiT's setting)."""


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def require_sampler(name: str) -> None:
    """ValueError for an unknown sampler."""
    if name not in SAMPLERS:
        raise ValueError(f"no sampler is called {name!r}: choose one of {', '.join(SAMPLERS)}")


def count_steps(sampler: str, steps: int | None) -> int:
    """Points in time of a path: those asked for, or the usual number.

    ValueError for too few of them, and for any where the sampler chooses its own.
    """
    require_sampler(sampler)
    if steps is not None and sampler == "dopri5":
        raise ValueError(
            f"steps={steps} was asked, but dopri5 chooses its own steps: leave it out, or choose "
            "another sampler"
        )
    if steps is not None and steps < 2:
        raise ValueError(f"steps={steps} was asked, but a path needs at least 2 points in time")
    return STEPS if steps is None else steps


def sample(
    velocity: Velocity,
    x: Tensor,
    noise: DrawNoise,
    *,
    sampler: str = "euler-maruyama",
    steps: int | None = None,
    norm: ErrorNorm = rms,
) -> Tensor:
    """Follow `velocity` from the noise `x` to data; ValueError for an unknown sampler.

    `steps` points in time (None: 250) for the samplers of fixed step; dopri5 takes none and chooses
    its own, by `norm` of its error. Euler-Maruyama calls the network `steps` times, the Heun ones
    about twice as often.
    """
    steps = count_steps(sampler, steps)
    if sampler in ("euler-maruyama", "heun-sde"):
        step = euler_maruyama_step if sampler == "euler-maruyama" else heun_sde_step
        return walk(velocity, x, noise, step=step, steps=steps)
    if sampler == "dopri5":
        return dopri5(velocity, x, norm=norm)
    return integrate(velocity, x, order=1 if sampler == "euler" else 2, steps=steps)


def drift(velocity: Velocity, x: Tensor, t: float) -> Tensor:
    """v + w score with w = sigma = 1 - t; the score on the linear path is (t v - x) / (1 - t)."""
    v = velocity(x, t)
    return v + (t * v - x)


def euler_maruyama_step(velocity: Velocity, x: Tensor, t: float, dt: float, kick: Tensor) -> Tensor:
    return x + drift(velocity, x, t) * dt + (2 * (1 - t)) ** 0.5 * kick


def heun_sde_step(velocity: Velocity, x: Tensor, t: float, dt: float, kick: Tensor) -> Tensor:
    kicked = x + (2 * (1 - t)) ** 0.5 * kick
    first = drift(velocity, kicked, t)
    second = drift(velocity, kicked + dt * first, t + dt)
    return kicked + 0.5 * dt * (first + second)


def walk(velocity: Velocity, x: Tensor, noise: DrawNoise, *, step: Callable, steps: int) -> Tensor:
    """`steps` - 1 stochastic steps up to t = 0.96, then one without noise."""
    times = torch.linspace(0, 1 - LAST, steps).tolist()
    dt = times[1] - times[0]
    for t in times[:-1]:
        x = step(velocity, x, t, dt, noise() * dt**0.5)
    return x + drift(velocity, x, 1 - LAST) * LAST


def integrate(velocity: Velocity, x: Tensor, *, order: Literal[1, 2], steps: int) -> Tensor:
    """Euler (1) or Heun (2) on `steps` evenly spaced points in [0, 1]."""
    for t, after in pairwise(torch.linspace(0, 1, steps).tolist()):
        dt, first = after - t, velocity(x, t)
        if order == 1:
            x = x + dt * first
        else:
            x = x + 0.5 * dt * (first + velocity(x + dt * first, after))
    return x


# Dormand and Prince (1980), RK5(4)7M: times, stages, and the difference of the two solutions.
TIMES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (
    35 / 384 - 1951 / 21600,
    0.0,
    500 / 1113 - 22642 / 50085,
    125 / 192 - 451 / 720,
    12231 / 42400 - 2187 / 6784,
    11 / 84 - 649 / 6300,
    -1 / 60,
)
# Shampine (1986): the solution in the middle of a step, from the same slopes.
MIDDLE = (
    6025192743 / 60171106304,
    0.0,
    51252292925 / 130801643196,
    -2691868925 / 90256659456,
    187940372067 / 3189068634112,
    -1776094331 / 39487288512,
    11237099 / 470086768,
)


def dopri5(
    velocity: Velocity,
    x: Tensor,
    *,
    norm: ErrorNorm = rms,
    atol: float = 1e-6,
    rtol: float = 1e-3,
) -> Tensor:
    """The adaptive fifth-order solver, on the whole batch at once.

    The last step may end behind t = 1, where the public solver's does; the solution at 1 is then
    interpolated. ValueError where the velocity is not finite.
    """
    t, slope = 0.0, velocity(x, 0.0)
    dt = first_step(velocity, x, slope, norm, atol, rtol)
    while True:
        slopes = [slope]
        for at, weights in zip(TIMES[1:], STAGES[1:], strict=True):
            moved = x + dt * weighted_sum(weights, slopes)
            slopes.append(velocity(moved, t + at * dt))
        allowed = atol + rtol * torch.maximum(x.abs(), moved.abs())
        ratio = norm(dt * weighted_sum(ERROR, slopes) / allowed)
        factor = min(10.0, max(0.2, 0.9 * max(ratio, 1e-12) ** -0.2))
        if ratio <= 1:
            if t + dt >= 1:
                return between(x, moved, slopes, dt, (1 - t) / dt)
            x, t, slope, factor = moved, t + dt, slopes[-1], max(1.0, factor)
        elif dt < 1e-8 or math.isnan(ratio):
            raise ValueError(
                f"dopri5 stopped at t = {t:.3f}: the velocity is not finite or too steep"
            )
        dt *= factor


def first_step(
    velocity: Velocity, x: Tensor, slope: Tensor, norm: ErrorNorm, atol: float, rtol: float
) -> float:
    """A first step length from the sizes of x, its slope and its curvature (Hairer, II.4)."""
    allowed = atol + rtol * x.abs()
    size, speed = norm(x / allowed), norm(slope / allowed)
    if not math.isfinite(speed):
        raise ValueError("dopri5 cannot start: the velocity is not finite at t = 0")
    small = 1e-6 if min(size, speed) < 1e-5 else 0.01 * size / speed
    bend = norm((velocity(x + small * slope, small) - slope) / allowed) / small
    if max(speed, bend) <= 1e-15:
        return min(100 * small, max(1e-6, small * 1e-3))
    return min(100 * small, (0.01 / max(speed, bend)) ** 0.2)


def between(x: Tensor, moved: Tensor, slopes: list[Tensor], dt: float, at: float) -> Tensor:
    """The quartic through both ends, their slopes and the middle, `at` in [0, 1] of the step."""
    start, end, middle = dt * slopes[0], dt * slopes[-1], x + dt * weighted_sum(MIDDLE, slopes)
    four = 2 * (end - start) - 8 * (moved + x) + 16 * middle
    three = 5 * start - 3 * end + 18 * x + 14 * moved - 32 * middle
    two = end - 4 * start - 11 * x - 5 * moved + 16 * middle
    return x + at * (start + at * (two + at * (three + at * four)))


def weighted_sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """The weighted sum of slopes."""
    terms = [w * k for w, k in zip(weights, slopes, strict=True) if w]
    return torch.stack(terms).sum(0)
