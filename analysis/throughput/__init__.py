"""Speed of this suite against stable-baselines3 and against the floor of the machine.

`python -m analysis.throughput` measures, prints a table and writes Markdown and JSON.
"""
