"""Agents: PPO and SAC, their buffers, returns and the one place where parameters change."""
