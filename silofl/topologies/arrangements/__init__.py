"""How ranks are arranged: one file for each topology that has keys or ranks of several kinds.

The configuration reads this folder, so that it imports neither communicators nor aggregators; what runs is in
`silofl/topologies`, whose registry has the class of each name.
"""
