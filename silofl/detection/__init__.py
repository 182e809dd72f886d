"""Detection: scores of silos' updates in every round, and which silos are left out for them."""
