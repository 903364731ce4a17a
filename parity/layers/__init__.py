"""How two networks are compared layer by layer: what is fed, what is read, and how far apart is too far."""
