"""A seeded simulated data centre: who is there (`world`), what they do (`workload`), what goes wrong
(`incidents`), all of it as messages (`simulator`), and the fixed mixture that benchmarks use (`bench`)."""
