"""Networks: torsos of hidden layers, heads, initialisers and the producer/reader graph of units."""
