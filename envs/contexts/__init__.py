"""What a network is told about the world it acts in, as a layer around the environments.

`layer` keeps the contract of a step exact, `sources` say what is true, `controls` what is made of
it, `given` is the configuration. A file with `Config` and `provide` is a kind of context.
"""
