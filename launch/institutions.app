# One command per institution (MPMD): each names its own data, and could name its own device or directory.
# mpirun --app launch/institutions.app            (Open MPI; MPICH: mpiexec -configfile launch/institutions.app)
-n 1 silofl train launch/institutions.toml --set data.path=data/north.csv
-n 1 silofl train launch/institutions.toml --set data.path=data/harbour.parquet
-n 1 silofl train launch/institutions.toml --set data.path=data/valley.npz
