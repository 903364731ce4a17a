"""MXNet/GluonCV weights: the ``.params`` format, its naming dialects and the mapping to the reference."""
