"""Split digits: the ten classes come in five tasks of two classes each, and the network should know all of them at the
end (van de Ven & Tolias, arXiv 1904.07734).

Three scenarios: the task is known when an image is classified (task), it is not known and not asked for (domain), or
the class among all of them is asked for (class). Measured is the accuracy on all tasks so far, after each task.
"""
