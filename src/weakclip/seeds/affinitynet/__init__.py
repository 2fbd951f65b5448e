"""AffinityNet (Ahn and Kwak, CVPR 2018): seeds refined by a random walk on learned affinities."""
