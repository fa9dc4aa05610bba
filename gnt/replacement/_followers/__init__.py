"""Followers: what keeps numbers per weight of an engine's units, or per unit, and takes part in each replacement.

protocol        Follower: what an object needs to follow
adapter         what the engine calls, for every kind of follower
averaged_model  copies with averaged parameters (torch.optim.swa_utils.AveragedModel)
other_engines   GnT, ReDo and others that keep ages or averages of the same units
collection      all followers of an engine: added, removed, checked, and told of a replacement
"""

from gnt.replacement._followers.adapter import FollowerAdapter
from gnt.replacement._followers.collection import Followers
from gnt.replacement._followers.other_engines import shared_units
from gnt.replacement._followers.protocol import Follower

__all__ = ["Follower", "FollowerAdapter", "Followers", "shared_units"]
