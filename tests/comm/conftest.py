"""Point mpi4py at the library of whichever launcher started the tests, before anything loads it."""

from silofl.launcher.environment import prepare_environment

prepare_environment()
