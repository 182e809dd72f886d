"""A zygote: one process of a node that loads all libraries once and forks for every rank there.

Loading torch and what belongs to it takes seconds of processor time, and as much memory, for each rank of a
node. The process that a launcher starts for a rank (`stub.py`) has loaded nothing yet: it hands over all that
it is (`process_attributes.py`) to the zygote of its node (`server.py`), whose fork becomes the rank, while
the small process stands for it before the launcher. It starts the zygote where none is there, and goes on as
an ordinary rank where there can be none. One that is lost and started again, and a job that is restarted,
find the zygote as it is.

A zygote serves one user, and only processes that have in common with it what no fork can change
(`address.py`); it ends with the last that it serves. Before a fork it has one thread, and neither MPI nor a
GPU; nothing that it is told reaches it, only its forks.

`SILOFL_ZYGOTE=0` has every rank load everything itself. Linux only.
"""
