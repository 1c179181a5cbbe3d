"""One file per optimizer; the file name is the optimizer's kind."""
