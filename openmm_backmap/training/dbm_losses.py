"""Losses of the ``dbm`` family: energy score, Wasserstein critic with gradient penalty, physical priors."""

from __future__ import annotations

import torch

from openmm_backmap.generators.dbm.network import DBMCritic

BONDED = ("bond", "angle", "torsion", "rb_torsion", "improper")


def energy_score(one: torch.Tensor, two: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean of (|x1 - y| + |x2 - y|) / 2 - |x1 - x2| / 2, in the unit of the points (..., 3).

    Two draws x1, x2 of one environment against the reference y: a strictly proper score, least for draws that are
    distributed as the reference is (Gneiting & Raftery, J. Am. Stat. Assoc. 102, 359 (2007), eq. 22).
    """
    def apart(a, b):
        # A bound keeps the gradient finite where points coincide.
        return (a - b).square().sum(-1).clamp(min=1e-12).sqrt()

    return (0.5 * (apart(one, reference) + apart(two, reference) - apart(one, two))).mean()


def critic_loss(critic: DBMCritic, real: tuple, fake: tuple, kind: torch.Tensor) -> torch.Tensor:
    """Mean of C(fake) - C(real) (thesis 4.14): minus the distance that the critic sees.

    ``real`` and ``fake`` are environments (N, F, cells) with the densities (N, cells) of the atoms placed in them.
    """
    n = len(kind)
    scores = critic(*(torch.cat(pair) for pair in (
        (real[0], fake[0]), (kind, kind), (real[1], fake[1]))))
    return (scores[n:] - scores[:n]).mean()


def gradient_penalty(critic: DBMCritic, real: tuple, fake: tuple, kind: torch.Tensor,
                     share: torch.Tensor) -> torch.Tensor:
    """Mean of (|grad C| - 1)^2 between real and fake, environment and atom alike (2021, eq. 5); ``share`` (N,)."""
    mixed = [(share.view(-1, *(1,) * (r.ndim - 1)) * r + (1 - share.view(-1, *(1,) * (r.ndim - 1))) * f)
             .detach().requires_grad_() for r, f in zip(real, fake)]
    score = critic(mixed[0], kind, mixed[1]).sum()
    gradients = torch.autograd.grad(score, mixed, create_graph=True)
    squares = sum(g.flatten(1).square().sum(1) for g in gradients)
    return ((squares + 1e-12).sqrt() - 1).square().mean()


def damped(energy: torch.Tensor, scale: float) -> torch.Tensor:
    """s asinh(e / s): the energy itself where it is small beside ``scale``, its logarithm where it is large.

    Atoms on top of each other have Lennard-Jones energies, and gradients, of any size; 0 leaves energies as they are.
    """
    return energy if scale == 0 else scale * torch.asinh(energy / scale)


def prior_loss(kind: str, generated: dict, reference: dict | None, weights: dict[str, float],
               scale: float) -> torch.Tensor:
    """Mean over beads of p1 (``min``) or p2 (``match``) (2021, eqs. 9 and 10; thesis 4.15, 4.16).

    ``generated`` and ``reference`` are energies by term, each (B,), kJ/mol; ``weights`` by term, others count nothing.
    """
    terms = [name for name in generated if weights.get(name)]
    if kind == "min":
        parts = [weights[name] * damped(generated[name], scale) for name in terms]
    else:
        parts = [weights[name] * damped((generated[name] - reference[name]).abs(), scale) for name in terms]
    return sum(part.mean() for part in parts)


def centre_of_mass_loss(generated: torch.Tensor, reference: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
    """Mean distance, nm, of the centres of mass of placed atoms (B, L, 3) with masses (B, L) (2020, eqs. 13, 14)."""
    share = (masses / masses.sum(1, keepdim=True))[..., None]
    return ((share * (generated - reference)).sum(1).square().sum(-1) + 1e-12).sqrt().mean()
