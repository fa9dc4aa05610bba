"""One graph: a learner's whole step, forward, loss, backward, optimizer and the engine's update, as one compiled graph.

plan       which tensors the step reads and writes              plan.py, sites.py
trace      the step of `gnt.learner`, on traced tensors         tracing.py, rules.py (optimizers), watch.py (the engine)
compile    by the compiler of `torch.compile`, shared by text   compiler.py
run        gather the tensors, call the graph, look at its      graphs.py
           status; what is due is known on the host, and
           only then is anything selected and replaced,
           operation by operation, on the same tensors

All values that change from step to step are tensors that the graph reads: the options of the optimizer, the number of
updates, the counts. So nothing is compiled anew with time, and what cannot be in a graph is refused (admission.py).
"""

from gnt.learners._compile.cache import Graphs, not_finite
from gnt.learners._compile.compiler import count
from gnt.learners._compile.functional_update import Watch

__all__ = ["Graphs", "Watch", "count", "not_finite"]
