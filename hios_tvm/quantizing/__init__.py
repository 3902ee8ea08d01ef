"""Models in single precision become models of 8 bits, by ranges that real inputs show."""
