"""Replay: methods against forgetting that keep a part of the past.

buffer              ReplayBuffer: a uniform random sample of all items seen
experience_replay   ExperienceReplay: each step learns from the current batch and from stored items
der                 DER and DER++: outputs on stored items stay near those of the time of storage
"""

from gnt.replay.buffer import ReplayBuffer, Samples
from gnt.replay.der import DER
from gnt.replay.experience_replay import ExperienceReplay

__all__ = ["DER", "ExperienceReplay", "ReplayBuffer", "Samples"]
