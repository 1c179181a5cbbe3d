"""Configuration: values in YAML groups, types in dataclasses, one front end."""
