"""A short training of the dbm family in one of several processes: ``ddp_dbm.py OUT``; see test_training_dbm.py."""

import sys

import torch
from small_systems import small_dataset

from openmm_backmap.generators.dbm import DBMHyperparameters
from openmm_backmap.training.dbm import DBMTrainer
from openmm_backmap.training.dbm_settings import DBMTraining

SETTINGS = DBMTraining(steps=3, warm_steps=1, beads=8, warm_rate=1e-2, warmup=1, generator_rate=1e-3, critic_rate=1e-3,
                       n_critic=1, ramp_start=0, ramp_end=1, prior="min", prior_mass=0.1, jitter_nm=0.01, validation=1,
                       network=DBMHyperparameters(stem=4, width=8, blocks=1, noise=4))


def trained() -> DBMTrainer:
    data = small_dataset(2)
    trainer = DBMTrainer(data, data, SETTINGS)
    trainer.train()
    return trainer


if __name__ == "__main__":
    trainer = trained()
    torch.save({"network": trainer.network.state_dict(), "critic": trainer.critic.state_dict(),
                "loss": trainer.history[-1][1], "writes": trainer.writes, "state": trainer.state() is not None},
               f"{sys.argv[1]}.{trainer.ranks.rank}")
