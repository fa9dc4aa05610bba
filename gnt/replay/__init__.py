"""Replay: methods against forgetting that keep a part of the past.

buffer              ReplayBuffer: a uniform random sample of all items seen
_batch_checks       what a batch must have that is added to it
_step_batches       StepBatches: the batches of an optimizer step, until they are added
experience_replay   ExperienceReplay: each step learns from the current batch and from stored items
der                 DER and DER++: outputs on stored items stay near those of the time of storage
agem                A-GEM: no step raises the loss on stored items
gem                 GEM: no step raises the loss on the memory of any earlier task
generative_replay   GenerativeReplay: samples of a generative model stand for earlier tasks
lwf                 LwF: outputs for current inputs stay near those of the network of earlier tasks
"""

from gnt.replay.agem import AGEM
from gnt.replay.buffer import ReplayBuffer, Samples
from gnt.replay.der import DER
from gnt.replay.experience_replay import ExperienceReplay
from gnt.replay.gem import GEM
from gnt.replay.generative_replay import GenerativeReplay
from gnt.replay.lwf import LwF

__all__ = ["AGEM", "DER", "GEM", "ExperienceReplay", "GenerativeReplay", "LwF", "ReplayBuffer", "Samples"]
