"""Why two networks that should be the same are not: known mistakes of conversion, tried one after the other."""
