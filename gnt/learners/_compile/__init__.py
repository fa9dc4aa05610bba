"""A learner's whole step as one compiled graph: forward, loss, backward, optimizer and the engine's update.

1. The first step of each kind (shapes, modes, options) runs eagerly (cache.py, step_key.py).
2. guards.py refuses what a graph would leave out; inputs.py and tensor_slots.py list the tensors that a step reads and
   writes.
3. capture.py traces the step on these tensors, with functional_optimizers.py in place of the optimizer,
   functional_update.py in place of the engine's update, functional_penalties.py in place of the penalties of methods,
   and decompositions.py for small matrix products; repeated_values.py then finds values that the compiler would compute
   too often.
   If the optimizer's step cannot be part of the graph, or something else needs the gradients, the graph ends with them.
4. compiler.py compiles the graph. Learners with equal graphs share the result.
5. From then on compiled_step.py collects the tensors, calls the graph and reads its status. Units that are due are
   selected and replaced afterwards, eagerly, on the same tensors. recorded_features.py gives other readers of features
   what the graph returns for them. After a graph that ends with gradients, `TrainingStep.run_with` does the rest.

Every value that changes between steps (learning rate, betas, update count, ...) is a tensor that the graph reads, so
no graph is compiled again as training goes on.
"""

from gnt.learners._compile.cache import CompiledSteps
from gnt.learners._compile.compiler import compilation_count

__all__ = ["CompiledSteps", "compilation_count"]
