"""Floor 2: processes and jobs: how ranks start, are watched and end. Imports neither MPI nor NumPy."""
