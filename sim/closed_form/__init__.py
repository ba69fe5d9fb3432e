"""What theory says, as formulas that share no code with the simulation."""
