"""Methods, optimizers and diagnostics of plasticity."""
